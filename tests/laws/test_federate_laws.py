"""Laws of federations: sums of answers are exact, in whatever order, and both sides hold the same bits."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dtheta.core.change import Change, Dense
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.federate.codecs import Exact, Ternary, TopK
from dtheta.federate.frame import Frame
from dtheta.federate.message import Task
from dtheta.federate.party import Knowledge
from dtheta.federate.server.aggregate import Mean
from dtheta.federate.server.coordinatewise import Median, TrimmedMean
from dtheta.federate.server.downlink import Downlink
from dtheta.federate.server.krum import Krum
from dtheta.federate.total import compact, weighted

SHAPES = {"a": (5, 7), "b": (7,), "c": (4, 3)}
FRAME = Frame(SHAPES)


def _change(shape: tuple[int, ...], seed: int, rank: int) -> Change:
    draws = torch.Generator().manual_seed(seed)
    if rank and len(shape) == 2:
        return LowRank(torch.randn(shape[0], rank, generator=draws), torch.randn(rank, shape[1], generator=draws))
    return Dense(torch.randn(shape, generator=draws))


@st.composite
def deltas(draw: st.DrawFn) -> Delta:
    """Deltas of the frame, dense or factored, some of which leave parameters out."""
    seed = draw(st.integers(0, 2**20))
    kept = draw(st.sets(st.sampled_from(sorted(SHAPES)), min_size=1))
    return Delta(
        {n: _change(s, seed + i, draw(st.integers(0, 2))) for i, (n, s) in enumerate(SHAPES.items()) if n in kept}
    )


@given(st.lists(st.tuples(deltas(), st.integers(1, 1000)), min_size=1, max_size=5), st.randoms())
def test_a_mean_is_the_dense_mean_in_whatever_order(answers, random):
    found = Mean().join(*zip(*answers, strict=True), FRAME)  # type: ignore[arg-type]
    shuffled = list(answers)
    random.shuffle(shuffled)
    again = Mean().join(*zip(*shuffled, strict=True), FRAME)  # type: ignore[arg-type]
    total = sum(n for _, n in answers)
    for name in found:
        wanted = sum(n / total * d[name].dense().double() for d, n in answers if name in d)
        torch.testing.assert_close(found[name].dense().double(), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[name].dense(), again[name].dense(), rtol=1e-6, atol=1e-6)
        assert compact(found[name]) is found[name] and found[name].nbytes <= 4 * found[name].dense().numel()


@given(deltas(), st.integers(5, 8))
def test_what_all_say_is_what_robust_aggregates_say(delta, count):
    for aggregate in (Median(), TrimmedMean(0.2), Krum(bad=1)):
        found = aggregate.join([delta] * count, [1] * count, FRAME)
        for name in delta:
            torch.testing.assert_close(found[name].dense(), delta[name].dense(), rtol=1e-6, atol=1e-7)


@given(st.lists(deltas(), min_size=1, max_size=12), st.sampled_from([Exact(), Ternary(density=0.2), TopK(density=0.3)]),
       st.sets(st.integers(0, 11)))  # fmt: skip
def test_a_client_that_comes_and_goes_holds_the_server_s_bits_and_nothing_is_left_out_for_good(steps, codec, present):
    server, client, known = Downlink(codec, FRAME, 0, Delta({})), Knowledge(), Delta({})
    for number, step in enumerate(steps):
        server.advance(step)
        if number in present:
            origin, payloads = server.message("c")
            task = Task("c", number + 1, 0, "", origin, server.current.digest, server.current.number,
                        server.versions[0].number, {}, codec.to_dict(), payloads=payloads)  # fmt: skip
            known = client.brought_up(task, FRAME)
            server.learned("c", server.current.number)
            assert known == server.delta
    left = server.feedback.state()
    whole = [server.delta] if left is None else [server.delta, left]
    found, wanted = weighted(whole, [1.0] * len(whole), FRAME), weighted(steps, [1.0] * len(steps), FRAME)
    for name in wanted:
        torch.testing.assert_close(found[name].dense().double(), wanted[name].dense().double(), rtol=1e-4, atol=1e-4)
