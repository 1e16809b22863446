"""The emulator: its first step, its loss against fields on the grid, files, the zoo, and training through fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dtheta.core.tensorfile import data_of, open_tensors, write_tensors
from dtheta.data.flows.quasi_geostrophic import QuasiGeostrophic
from dtheta.data.flows.windows import Windows
from dtheta.errors import ConfigError, FormatError, ShapeMismatch
from dtheta.fit.loop import fit
from dtheta.fit.whole import Whole
from dtheta.models.emulator import TwoLayerEmulator, rollout_loss
from dtheta.models.emulator_file import read_emulator, write_emulator
from dtheta.models.load import load_model
from dtheta.models.zoo import EMULATORS

FLOW = QuasiGeostrophic(truncation=10)


@pytest.fixture(scope="module")
def states() -> Tensor:
    """Trajectories (4, 25, 2, H, W)."""
    return FLOW.run(FLOW.spin_up(4, steps=80), 24).transpose(0, 1)


@pytest.fixture
def emulator(states: Tensor) -> TwoLayerEmulator:
    found = TwoLayerEmulator(FLOW, embed=6, layers=2, seed=1)
    found.set_statistics(torch.stack((states[:, :-1], states[:, 1:]), 2).flatten(0, 1))
    return found


def test_it_begins_near_persistence_and_stays_within_the_truncation(emulator: TwoLayerEmulator, states: Tensor) -> None:
    x = states[:, 0]
    with torch.no_grad():
        after = emulator(x)
    assert after.shape == x.shape and 0 < (after - x).abs().max() < 20
    torch.testing.assert_close(FLOW.balance.scalar.truncate(after), after, rtol=1e-5, atol=0.02)
    assert FLOW.grid.mean(after).abs().max() < 0.02


def test_statistics_are_area_means_of_fields_and_differences(emulator: TwoLayerEmulator, states: Tensor) -> None:
    before, after = states[:, :-1], states[:, 1:]
    std = (before - FLOW.grid.mean(before).mean((0, 1))[:, None, None]).square()
    torch.testing.assert_close(emulator.std_8[2:4], FLOW.grid.mean(std).mean((0, 1)).sqrt(), rtol=1e-4, atol=0)
    step = FLOW.grid.mean((after - before).square()).mean((0, 1)).sqrt()
    torch.testing.assert_close(emulator.step_std_8[2:4], step, rtol=1e-4, atol=0)
    u = torch.stack([FLOW.balance.winds(x)[0] for x in before.unbind(1)])
    torch.testing.assert_close(emulator.mean_8[4:6], FLOW.grid.mean(u).mean((0, 1)), rtol=1e-3, atol=1e-3)


def test_the_loss_is_the_error_of_height_and_winds_on_the_grid(emulator: TwoLayerEmulator, states: Tensor) -> None:
    a, b = states[:, 0], states[:, 3]
    found = emulator.error(FLOW.balance.psi_of(a) - FLOW.balance.psi_of(b))
    squares = [FLOW.grid.mean((x - y).square()).mean(0) for x, y in zip(fields(a), fields(b), strict=True)]
    z, u, v = (emulator.step_std_8[i : i + 2].square() for i in (2, 4, 6))
    expected = (squares[0] / z + (squares[1] + squares[2]) * 2 / (u + v)).sum() / 6
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def fields(heights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return heights, *FLOW.balance.winds(heights)


def test_persistence_has_loss_one(emulator: TwoLayerEmulator, states: Tensor) -> None:
    psi = [FLOW.balance.psi_of(part.flatten(0, 1)) for part in (states[:, :-1], states[:, 1:])]
    assert emulator.error(psi[1] - psi[0]).item() == pytest.approx(1, abs=0.01)


def test_the_loss_of_a_rollout_feeds_steps_with_steps(emulator: TwoLayerEmulator, states: Tensor) -> None:
    batch = states[:, 2:5]
    one = emulator(batch[:, 0])
    errors = [
        emulator.error(FLOW.balance.psi_of(a) - FLOW.balance.psi_of(b))
        for a, b in ((one, batch[:, 1]), (emulator(one), batch[:, 2]))
    ]
    torch.testing.assert_close(rollout_loss(emulator, batch), sum(errors) / 2, rtol=1e-3, atol=0)
    with pytest.raises(ShapeMismatch, match="expected \\(B, steps \\+ 1"):
        rollout_loss(emulator, batch[:, :1])


def test_fit_trains_it_and_an_interrupted_run_goes_on_bit_by_bit(states: Tensor, tmp_path: Path) -> None:
    def trained(folder: Path, stop_at: int | None = None) -> tuple[TwoLayerEmulator, list[float]]:
        net = TwoLayerEmulator(FLOW, embed=6, layers=2)
        net.set_statistics(torch.stack((states[:, :-1], states[:, 1:]), 2).flatten(0, 1))
        windows = Windows(states, [(40, 1), (10, 2)], batch_size=4)
        record = fit(
            Whole(net), windows, steps=50, loss=rollout_loss, lr=1e-2, warmup=5, checkpoint=folder, checkpoint_every=10,
            resume=True, quiet=True, callbacks=[lambda step: step.step == stop_at],
        )  # fmt: skip
        return net, [loss for _, loss in record.losses]

    net, losses = trained(tmp_path / "whole")
    assert sum(losses[30:40]) < 0.5 * sum(losses[:10])
    checkpoint = tmp_path / "parts"
    trained(checkpoint, stop_at=23)
    restarted = restart(checkpoint)
    again, resumed = trained(restarted)
    assert resumed == losses
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_stacked_parameters_under_vmap_are_the_loop(states: Tensor) -> None:
    nets, x = [TwoLayerEmulator(FLOW, embed=6, layers=2, seed=s) for s in range(3)], states[:, 0]
    stacked = torch.func.stack_module_state(nets)

    def call(parameters: dict, buffers: dict) -> Tensor:
        return torch.func.functional_call(nets[0], (parameters, buffers), (x,))

    for _ in range(2):  # the second call meets what the first one left
        torch.testing.assert_close(torch.vmap(call)(*stacked), torch.stack([net(x) for net in nets]))


def restart(folder: Path) -> Path:
    """A checkpoint as a killed run leaves it: not ended, so that it goes on."""
    from dtheta.fit import checkpoint as checkpoints

    path = folder / checkpoints.NAME
    found = checkpoints.load(path)
    state = {**found.state, "record": {**found.state["record"], "stop": ""}}
    checkpoints.save(path, checkpoints.Checkpoint(found.tensors, state))
    return folder


def test_a_file_holds_it_to_half_precision(emulator: TwoLayerEmulator, states: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    write_emulator(emulator, path, torch.float32)
    with torch.no_grad():
        assert torch.equal(read_emulator(path)(states[:, 0]), emulator(states[:, 0]))
        write_emulator(emulator, path)
        back = read_emulator(path)
        assert (back(states[:, 0]) - emulator(states[:, 0])).abs().max() < 0.05
    assert torch.equal(back.std_8, emulator.std_8) and not back.training and back.flow == FLOW
    assert path.stat().st_size < 2.2 * sum(p.numel() for p in emulator.parameters()) + 4000


def damaged(path: Path, **change: object) -> Path:
    """The file with one of its parts changed."""
    file = open_tensors(path)
    tensors = {name: file.read(name) for name in file.entries if name != change.get("without")}
    metadata = {"dtheta.emulator": str(change.get("settings", file.metadata["dtheta.emulator"]))}
    with path.open("wb") as handle:
        specs = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
        write_tensors(handle, specs, metadata, lambda name: [data_of(tensors[name])])
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"without": "std_8"}, "'std_8' is missing"),
        ({"settings": '{"format": 2}'}, "settings of the emulator cannot be read"),
        ({"settings": '{"format": 1, "flow": {"truncation": 100000}, "network": {}}'}, "sizes beyond reason"),
        ({"settings": '{"format": 1, "flow": {"gravity": 3}, "network": {}}'}, "settings of the emulator"),
        ({"settings": "[]"}, "settings of the emulator"),
        ({"settings": '{"format": 1, "flow": {"truncation": 10}, "network": {"embed": 7}}'}, "another shape"),
    ],
)
def test_damaged_files_are_refused(
    emulator: TwoLayerEmulator, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "e.safetensors"
    write_emulator(emulator, path)
    with pytest.raises(FormatError, match=message):
        read_emulator(damaged(path, **change))


def test_files_without_an_emulator_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    with path.open("wb") as handle:
        write_tensors(handle, {}, {}, lambda _: [])
    with pytest.raises(FormatError, match="holds no emulator"):
        read_emulator(path)
    with pytest.raises(ConfigError):
        read_emulator(tmp_path / "none.safetensors")


def test_the_shipped_ones_forecast(states: Tensor) -> None:
    """A day ahead of a flow just developed: far better than persistence, each its own."""
    assert sorted(EMULATORS) == [f"qg-sfno-{seed}" for seed in range(8)]
    flow = QuasiGeostrophic()
    truth = flow.run(flow.spin_up(4, seed=7, steps=240), 4)
    ahead = []
    for name in ("qg-sfno-0", "qg-sfno-7"):
        emulator, x = load_model(name), truth[0]
        with torch.no_grad():
            for _ in range(4):
                x = emulator(x)
        ahead.append(x)
        persistence, error = (flow.grid.mean((y - truth[-1]).square()).mean(0).sqrt()[0] for y in (truth[0], x))
        assert error < 0.25 * persistence
    assert not torch.allclose(ahead[0], ahead[1], atol=1)
    with pytest.raises(ConfigError, match="leave layers out"):
        load_model("qg-sfno-0", layers=2)
    with pytest.raises(ConfigError, match="float32 or float64"):
        load_model("qg-sfno-0", dtype=torch.bfloat16)
    assert load_model("qg-sfno-0", dtype=torch.float64)(truth[0].double()).dtype == torch.float64
