"""Ablation and noise: exact, alone, and undone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtheta.core.apply import applied
from dtheta.core.files import load
from dtheta.errors import ConfigError, NonFinite
from dtheta.probe.ablation import ablation, noise, silenced
from dtheta.probe.decoder import open_decoder
from dtheta.probe.value_vector import ValueVector
from tests.unit.probe.decoders import DECODERS, D, L, N, gpt2, llama

SOME = [ValueVector(2, 5), ValueVector(0, 7, -1), ValueVector(2, 1), ValueVector(2, 5, -1)]


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("keep", [0.0, -1.0])
def test_it_moves_these_and_no_others_and_is_undone(kind: str, keep: float) -> None:
    model = DECODERS[kind]()
    decoder = open_decoder(model)
    before = {l: decoder.values(l).clone() for l in range(L)}
    other = {n: p.clone() for n, p in model.named_parameters() if n not in {m.name for m in decoder.matrices.values()}}
    delta = ablation(model, SOME, keep=keep)
    with applied(model, delta):
        after = {l: open_decoder(model).values(l).clone() for l in range(L)}
        assert all(torch.equal(p, other[n]) for n, p in model.named_parameters() if n in other)
    want = {l: v.clone() for l, v in before.items()}
    for layer, column in [(2, 5), (0, 7), (2, 1)]:
        want[layer][column] *= keep
    assert all(torch.equal(after[l], want[l]) for l in range(L))
    assert all(torch.equal(open_decoder(model).values(l), before[l]) for l in range(L))


@pytest.mark.parametrize("make", [llama, gpt2])
def test_noise_is_relative_keyed_and_alone(make: object) -> None:
    model = make()  # type: ignore[operator]
    both, one = noise(model, SOME, strength=2.0, seed=3), noise(model, [SOME[0]], strength=2.0, seed=3)
    v = open_decoder(model).values(2)[5]
    with applied(model, both):
        from_both = open_decoder(model).values(2)[5] - v
    with applied(model, one):
        assert torch.allclose(open_decoder(model).values(2)[5] - v, from_both, atol=1e-6)
    draws = []
    for draw in range(200):
        with applied(model, noise(model, [SOME[0]], strength=2.0, draw=draw)):
            draws.append((open_decoder(model).values(2)[5] - v).norm() / v.norm())
    assert abs(torch.stack(draws).square().mean().sqrt() - 2.0) < 4 * 2.0 / (2 * D * 200) ** 0.5


@given(st.lists(st.tuples(st.integers(0, L - 1), st.integers(0, N - 1)), min_size=1, max_size=6))
def test_parts_add_up(places: list[tuple[int, int]]) -> None:
    """The ablation of a set is the sum of the ablations of its members, once each."""
    model = llama()
    vectors = [ValueVector(*place) for place in places]
    whole = ablation(model, vectors)
    parts = [ablation(model, [vector]) for vector in sorted(set(vectors))]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    for name in whole:
        assert torch.allclose(whole[name].dense(), total[name].dense(), atol=1e-7)
    assert set(whole) == set(total)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_nothing_is_left_in_any_dtype(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Of float64 weights no rest of their rounding to float32 stays, which would be read as a vector."""
    model = DECODERS[kind]().to(dtype)
    delta = load(ablation(model, SOME).save(tmp_path / "x.delta"), model)
    with applied(model, delta):
        decoder = open_decoder(model)
        assert not any(bool(decoder.value(layer, column).any()) for layer, column, _ in SOME)


def test_bad_input() -> None:
    model = llama()
    with pytest.raises(ConfigError, match="no value vectors"):
        ablation(model, [])
    with pytest.raises(ConfigError, match=r"3/0/\+: the model has MLP layers 0 to 2"):
        ablation(model, [ValueVector(3, 0)])
    with pytest.raises(ConfigError, match="layer 1 has columns 0 to 23"):
        noise(model, [ValueVector(1, 24)])
    with pytest.raises(NonFinite, match="strength"):
        noise(model, SOME, strength=float("nan"))
    with pytest.raises(ConfigError, match="strength is -1"):
        noise(model, SOME, strength=-1.0)
    with pytest.raises(ConfigError, match="'0/1' is no value vector"):
        ablation(model, ["0/1"])  # type: ignore[list-item]
    for place in (ValueVector(3, 0), ValueVector(1, 24), ValueVector(1, -1)):
        with (
            pytest.raises(ConfigError, match=r"the model has MLP layers|has columns 0 to 23"),
            silenced(model, [place]),
        ):
            pass
    assert not any(module._forward_pre_hooks for module in model.modules())
