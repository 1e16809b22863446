"""Training a network whole: every parameter moves, frozen ones do not, and a checkpoint ends the run where it was."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dtheta.fit.loop import fit
from dtheta.fit.whole import Whole


def loss(model: Whole, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (model(x) - y).square().mean()


def data() -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(32, 3)
    return [(x, x @ torch.tensor([[1.0], [-2.0], [0.5]]))]


def test_it_is_ordinary_training() -> None:
    network = nn.Sequential(nn.Linear(3, 1))
    record = fit(Whole(network), data(), steps=300, loss=loss, lr=0.05, quiet=True)
    assert record.losses[-1][1] < 1e-3 < record.losses[0][1]
    torch.testing.assert_close(network[0].weight, torch.tensor([[1.0, -2.0, 0.5]]), atol=0.05, rtol=0)


def test_what_wants_no_gradient_stays() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    whole = Whole(network)
    assert set(whole.trainable()) == {"network.1.weight", "network.1.bias"} and whole.network is network
    fit(whole, data(), steps=5, loss=loss, quiet=True)
    assert torch.equal(network[0].weight, before)


def test_a_finished_run_is_loaded(tmp_path: Path) -> None:
    batches, trained, fresh = data(), nn.Linear(3, 1), nn.Linear(3, 1)
    arguments = {"steps": 20, "loss": loss, "quiet": True, "checkpoint": tmp_path, "resume": True}
    first = fit(Whole(trained), batches, **arguments)
    second = fit(Whole(fresh), batches, **arguments)
    assert first.losses == second.losses and torch.equal(trained.weight, fresh.weight)
