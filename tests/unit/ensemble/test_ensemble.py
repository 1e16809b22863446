"""The engine: members are what they are whoever else runs, streaming, replay, restarts, refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dtheta.core.extract import extract
from dtheta.core.files import load
from dtheta.core.tensorfile import TensorFile
from dtheta.data.flows.lorenz96 import Lorenz96
from dtheta.ensemble.bred import BredVectors
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.members import Member, cross
from dtheta.ensemble.noise import WhiteNoise
from dtheta.ensemble.perturbation import Advance, Perturbation, Rows, Start
from dtheta.ensemble.times import start_time
from dtheta.errors import ConfigError, FormatError, NonFinite, ShapeMismatch, UnknownParameter

FLOW = Lorenz96()
LEADS = 3


class Emulator(nn.Module):
    """A step of 256 variables that is wide enough for its bits to depend on the number of rows."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.inner, self.outer = nn.Linear(256, 512), nn.Linear(512, 256)
        for parameter in self.parameters():
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=draws)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(torch.tanh(self.inner(x)))


NETWORKS = [Emulator(seed) for seed in range(3)]
ANALYSES = torch.randn(4, 256, generator=torch.Generator().manual_seed(7))
BRED = BredVectors(0.1, WhiteNoise(0.1), cycles=3)


def ensemble(members: int | Sequence[Member] = 10, **settings: Any) -> Ensemble:
    settings = {"parameters": NETWORKS, "perturbation": BRED, "rows": 4} | settings
    return Ensemble(NETWORKS[0], members, **settings)


def run(found: Ensemble, **settings: Any) -> Tensor:
    """All leads (T, M, ...)."""
    return torch.stack([x for _, x in found.run(ANALYSES[-1], LEADS, past=ANALYSES[:-1], **settings)])


def plain(member: Member, sign_of_draw: Tensor) -> Tensor:
    """A member's leads (T, ...) by a loop without any engine, given its perturbation."""
    network, x = NETWORKS[member.parameters], ANALYSES[-1:] + sign_of_draw
    states = [x]
    with torch.no_grad():
        for _ in range(LEADS):
            states.append(network(states[-1]))
    return torch.cat(states)


def test_a_linear_layer_gives_other_bits_for_another_number_of_rows() -> None:
    """Why calls have a fixed number of rows; where this ever fails, they need it no more."""
    with torch.no_grad():
        x = torch.randn(64, 256)
        whole = NETWORKS[0](x)
        assert any(not torch.equal(NETWORKS[0](x[:rows]), whole[:rows]) for rows in range(1, 9))


def test_members_are_those_of_a_plain_loop() -> None:
    found = run(ensemble())
    for i, member in enumerate(ensemble().members):
        expected = plain(member, found[0, i : i + 1] - ANALYSES[-1:])
        assert torch.allclose(found[:, i], expected, atol=1e-5)
    assert torch.allclose((found[0] - ANALYSES[-1]).square().mean(1).sqrt(), torch.full((10,), 0.1), atol=1e-6)


def test_any_single_member_is_replayed_with_the_same_bits() -> None:
    whole = run(ensemble(cross(3, 5)))
    for i in (0, 7, 13, 29):
        alone = torch.stack([x for _, x in ensemble(cross(3, 5)).replay(i, ANALYSES[-1], LEADS, past=ANALYSES[:-1])])
        assert torch.equal(alone, whole[:, i])
    member = Member(parameters=2, draw=3, sign=-1)
    outside = torch.stack([x for _, x in ensemble(1).replay(member, ANALYSES[-1], LEADS, past=ANALYSES[:-1])])
    assert torch.equal(outside, whole[:, cross(3, 5).index(member)])


@pytest.mark.parametrize("stack", [1, 2])
def test_bits_depend_neither_on_the_number_of_members_nor_on_their_order(stack: int) -> None:
    whole = run(ensemble(13, stack=stack))
    assert torch.equal(run(ensemble(5, stack=stack)), whole[:, :5])
    assert torch.equal(run(ensemble(13, stack=stack).only([12, 3, 4])), whole[:, [12, 3, 4]])
    backward = list(reversed(ensemble(13).members))
    assert torch.equal(run(ensemble(backward, stack=stack)), whole.flip(1))


def test_rows_change_members_by_rounding_only() -> None:
    assert torch.allclose(run(ensemble(rows=1)), run(ensemble(rows=64)), atol=1e-5)


def test_stacked_networks_are_those_of_a_loop() -> None:
    looped, stacked = run(ensemble(cross(3, 4))), run(ensemble(cross(3, 4), stack=3))
    assert torch.allclose(looped, stacked, atol=1e-5)
    for stack in (2, 16):  # networks that are missing in a stack are stood in for
        assert torch.allclose(run(ensemble(cross(3, 4), stack=stack)), looped, atol=1e-5)


def test_pairs_are_centered_and_the_control_is_the_analysis() -> None:
    first = run(ensemble([Member(1, 2, 1), Member(1, 2, -1), Member(1, 2, 0)]))[0]
    assert torch.allclose((first[0] + first[1]) / 2, ANALYSES[-1], atol=1e-6)
    assert torch.equal(first[2], ANALYSES[-1])


def test_draws_differ_by_seed_start_network_and_draw() -> None:
    def noise(member: Member, seed: int = 0, time: Any = 0) -> Tensor:
        return run(ensemble([member], perturbation=WhiteNoise(1.0), seed=seed), time=time)[0, 0]

    drawn = [noise(Member()), noise(Member(1)), noise(Member(0, 1)), noise(Member(), 1), noise(Member(), time=1)]
    assert len({tuple(one.tolist()) for one in drawn}) == len(drawn)
    ways = ("2020-01-31", "2020-01-31T00:00", np.datetime64("2020-01-31T00:00:00", "ns"))
    assert len({tuple(noise(Member(), time=way).tolist()) for way in ways}) == 1


def test_only_the_leads_asked_for_are_given() -> None:
    whole = run(ensemble())
    some = dict(ensemble().run(ANALYSES[-1], [1, 3], past=ANALYSES[:-1]))
    assert list(some) == [1, 3]
    assert torch.equal(some[1], whole[1]) and torch.equal(some[3], whole[3])


def test_a_run_goes_on_from_a_lead_with_the_same_bits() -> None:
    whole = run(ensemble())
    rest = list(ensemble().run(ANALYSES[-1], LEADS, past=ANALYSES[:-1], since=(1, whole[1])))
    assert [lead for lead, _ in rest] == [2, 3]
    assert torch.equal(rest[-1][1], whole[-1])


def test_parameters_may_be_state_dicts_paths_and_functions(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    save_file(NETWORKS[2].state_dict(), tmp_path / "two.safetensors")
    sets = [None, NETWORKS[1].state_dict(), tmp_path / "two.safetensors", lambda x: x]
    found = run(ensemble(cross(4, 2), parameters=sets))
    expected = run(ensemble(cross(3, 2)))
    assert torch.allclose(found[:, :12], expected, atol=1e-6)
    assert torch.equal(found[0, 12:], found[-1, 12:])


def test_files_of_parameters_are_digested_once_and_a_delta_is_read_once(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    files = [tmp_path / "one.safetensors", tmp_path / "two.delta"]
    save_file(NETWORKS[1].state_dict(), files[0])
    extract(NETWORKS[0], NETWORKS[2]).save(files[1])
    seen: Counter[str] = Counter()
    read = TensorFile.read
    monkeypatch.setattr(TensorFile, "read", lambda self, name: (seen.update([self.path.name]), read(self, name))[1])
    made = ensemble(cross(2, 2), parameters=files)
    digests = [made.to_dict()["parameters"] for _ in range(3)][-1]
    found = run(made)
    assert seen == {"one.safetensors": 4 + 4, "two.delta": 4}  # to digest it, and to run it; to run it
    same = ensemble(cross(2, 2), parameters=[NETWORKS[1], load(files[1])])
    assert same.to_dict()["parameters"] == digests and torch.equal(run(same), found)


@pytest.mark.parametrize("name", ["one.safetensors", "two.delta"])
def test_another_file_under_the_name_of_the_one_that_was_digested_does_not_run(tmp_path: Any, name: str) -> None:
    from safetensors.torch import save_file

    def write(network: Emulator) -> None:
        if name.endswith(".delta"):
            extract(NETWORKS[0], network).save(tmp_path / name)
        else:
            save_file(network.state_dict(), tmp_path / name)

    write(NETWORKS[1])
    made = ensemble([Member()], parameters=[tmp_path / name])
    before = made.to_dict()["parameters"]
    write(NETWORKS[2])
    with pytest.raises(FormatError, match="changed or replaced"):
        run(made)
    made.release()
    assert made.to_dict()["parameters"] != before and len(run(made))


def test_without_parameters_or_perturbation_every_member_is_the_forecast() -> None:
    x = FLOW.spin_up(1)[0]
    found = dict(Ensemble(FLOW.step, 3).run(x, 5))
    assert torch.equal(found[5], FLOW.run(x, 5)[-1].expand(3, -1))


def test_modules_run_in_eval_mode_and_get_their_mode_back() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    found = Ensemble(network, 2).run(torch.ones(4), 1)
    _, x = next(found)
    assert network.training and torch.equal(next(found)[1], network.eval()(x))


def test_a_step_that_takes_the_time_gets_that_of_its_states_also_before_the_start() -> None:
    seen = []

    class Clock:
        takes_time = True

        def __call__(self, x: Tensor, time: np.datetime64) -> Tensor:
            seen.append(time)
            return x

    found = Ensemble(Clock(), 1, perturbation=BredVectors(0.1, WhiteNoise(0.1), cycles=2), hours=6)
    list(found.run(torch.ones(4), 2, past=torch.ones(2, 4), time="2020-01-01"))
    first = [time for i, time in enumerate(seen) if i == 0 or time != seen[i - 1]]
    assert first == [np.datetime64(t) for t in ("2019-12-31T12", "2019-12-31T18", "2020-01-01T00", "2020-01-01T06")]
    with pytest.raises(ConfigError, match="takes the time"):
        list(found.run(torch.ones(4), 2, past=torch.ones(2, 4)))


def test_channels_that_must_not_be_negative_are_clipped_at_the_start_alone() -> None:
    state = torch.full((2, 3), 0.1)
    found = Ensemble(lambda x: x - 1, 8, perturbation=WhiteNoise(1.0), nonnegative=[1])
    first, second = (x for _, x in found.run(state, 1))
    assert float(first[:, 1].min()) == 0 and float(first[:, 0].min()) < 0
    assert float(second[:, 1].min()) == -1


def test_a_member_that_blows_up_is_named() -> None:
    class Blown(Perturbation):
        def vectors(self, start: Start, rows: Rows, advance: Advance) -> Tensor:
            return torch.tensor([float(member.draw == 5) for member in rows.members])[:, None].expand(-1, 4)

    found = Ensemble(lambda x: x / (1 - x), 8, perturbation=Blown(), rows=4)
    with pytest.raises(NonFinite, match=r"member 5, Member\(parameters=0, draw=5, sign=1\), .* at lead 1: 4 values"):
        list(found.run(torch.zeros(4), 1))
    list(found.only([0, 1, 2, 3, 4, 6, 7]).run(torch.zeros(4), 1))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"members": []}, ConfigError, "at least one member"),
        ({"members": 0}, ConfigError, "1 or more"),
        ({"members": [Member(3)]}, ConfigError, "parameters 3, and there are 3 sets"),
        ({"members": [Member(), Member()]}, ConfigError, "twice among the members"),
        ({"members": ["a"]}, ConfigError, r"expected Member\(parameters"),
        ({"parameters": []}, ConfigError, "expected a list of checkpoints"),
        ({"parameters": NETWORKS[0]}, ConfigError, "expected a list of checkpoints"),
        ({"parameters": [3]}, ConfigError, "parameter set 0 is 3"),
        ({"perturbation": 0.1}, ConfigError, "expected one such as BredVectors"),
        ({"rows": 0}, ConfigError, "rows is 0"),
        ({"hours": 0}, ConfigError, "hours is 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ensemble(**settings)


@pytest.mark.parametrize(
    ("state", "settings", "error", "message"),
    [
        (torch.ones(256, dtype=torch.int64), {}, ConfigError, "floating-point"),
        (torch.full((256,), torch.nan), {}, NonFinite, r"256 gaps .* the first at \(0,\)"),
        (torch.ones(256), {"past": ANALYSES[:2]}, ConfigError, "needs 3 analyses before the start"),
        (torch.ones(256), {"past": torch.ones(3, 4)}, ShapeMismatch, "the analysis 3 steps before the start"),
        (torch.ones(256), {"past": ANALYSES[:3] / 0}, NonFinite, "the analysis 3 steps before the start has"),
        (torch.ones(256), {"leads": [2, 1]}, ConfigError, "ascending"),
        (torch.ones(256), {"leads": -1}, ConfigError, "leads is -1"),
        (torch.ones(256), {"time": "yesterday"}, ConfigError, "expected a date"),
        (torch.ones(256), {"time": 1.5}, ConfigError, "expected a date"),
    ],
)
def test_a_run_that_cannot_be_right_is_refused_before_it_begins(
    state: Tensor, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ensemble().run(state, **({"leads": 2, "past": ANALYSES[:3]} | settings))


class Short(Perturbation):
    """Gives states of three variables."""

    def states(self, start: Start, rows: Rows, advance: Advance) -> Tensor:
        return self.vectors(start, rows, advance)

    def vectors(self, start: Start, rows: Rows, advance: Advance) -> Tensor:
        return torch.zeros(len(rows), 3)


def test_networks_and_perturbations_that_do_not_fit_are_refused() -> None:
    def first(**settings: Any) -> None:
        next(ensemble(perturbation=None, **settings).run(ANALYSES[-1], [1]))

    with pytest.raises(UnknownParameter, match=r"'inner.wieght', which the step has not; did you mean 'inner.weight'"):
        first(parameters=[{"inner.wieght": torch.ones(1)}])
    with pytest.raises(UnknownParameter, match=r"has no 'inner.weight'"):
        first(parameters=[{}])
    with pytest.raises(ShapeMismatch, match=r"inner.weight: parameter set 0"):
        first(parameters=[NETWORKS[0].state_dict() | {"inner.weight": torch.ones(1)}])
    with pytest.raises(ShapeMismatch, match="the step made"):
        next(Ensemble(lambda x: x[:, :3], 2).run(ANALYSES[-1], [1]))
    with pytest.raises(ShapeMismatch, match=r"the perturbation made states \(16, 3\)"):
        next(Ensemble(lambda x: x, 2, perturbation=Short()).run(ANALYSES[-1], [0]))
    with pytest.raises(ConfigError, match="give stack=1"):
        Ensemble(lambda x: x, 2, stack=2)
    with pytest.raises(ConfigError, match="cannot be stacked"):
        first(parameters=[NETWORKS[0], lambda x: x], stack=2)


def test_the_record_says_what_makes_the_bits() -> None:
    record = ensemble().to_dict()
    assert record["perturbation"]["noise"]["name"] == "WhiteNoise" and record["rows"] == 4
    assert len(set(record["parameters"])) == 3
    assert record != ensemble(seed=1).to_dict()
    assert record != ensemble(parameters=[NETWORKS[0]] * 3).to_dict()
    assert "10 members, parameter sets: 3, calls a step: 3" in repr(ensemble())
    one, other = (Ensemble(Lorenz96(forcing=forcing).step, 1).to_dict() for forcing in (8, 9))
    assert one["parameters"] != other["parameters"]


def test_parameters_in_another_precision_run_in_that_of_the_step() -> None:
    half = {name: tensor.half() for name, tensor in NETWORKS[1].state_dict().items()}
    rounded = {name: tensor.float() for name, tensor in half.items()}
    for stack in (1, 2):
        found, expected = (
            dict(Ensemble(NETWORKS[0], 4, parameters=[sets, None], stack=stack).run(ANALYSES[-1], 2))[2]
            for sets in (half, rounded)
        )
        assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.mark.parametrize(
    ("time", "hour"), [("2020-01-31T06:00+02:00", 4), ("2020-01-31t06:00z ", 6), ("2020-01-31 23:30:00-0530", 29)]
)
def test_a_date_with_a_time_zone_is_brought_to_utc(time: str, hour: int) -> None:
    expected = np.datetime64("2020-01-31T00:00:00") + np.timedelta64(hour, "h")
    assert start_time(time) == start_time(datetime.fromisoformat(time.strip().upper())) == expected
    assert str(start_time(time)) == str(expected)  # what enters the keys of draws


@pytest.mark.parametrize("time", ["2020-01-31T06:00+99:00", "2020-13-31T06Z", "0001-01-01T00:00+05:00", "Z", "T06Z"])
def test_a_zone_that_is_none_is_refused(time: str) -> None:
    with pytest.raises(ConfigError, match="expected a date, such as"):
        start_time(time)


def test_digits_without_hyphens_are_no_year() -> None:
    with pytest.raises(ConfigError, match="time is '20200131'; expected a date"):
        start_time("20200131")
    assert str(start_time("2020-01-31T06")) == "2020-01-31T06:00:00" and start_time(20200131) == 20200131
