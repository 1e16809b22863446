"""Methods on experts that stand in one tensor: one product each, of the base that they were given."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dtheta as dt
from dtheta.adapt.sorsa import orthonormality, orthonormality_gradient
from dtheta.adapt.stacked import StackedTerm
from dtheta.core.block import Block
from dtheta.core.change import Change
from dtheta.core.seeds import generator, normal
from dtheta.core.stacked import Stacked
from dtheta.errors import ConfigError, UnsupportedLayer
from dtheta.fit.loop import fit
from dtheta.kernels.tangent import tangent_kernel


class Experts(nn.Module):
    """Every input goes through all experts; slices are stored as (out, in), or as (in, out)."""

    def __init__(self, transposed: bool = False) -> None:
        super().__init__()
        self.is_transposed = transposed
        shape = (3, 6, 5) if transposed else (3, 5, 6)
        self.up = nn.Parameter(normal(shape, 0.5, generator(0, "up")))
        self.down = nn.Parameter(normal((3, shape[2], shape[1]), 0.5, generator(0, "down")))

    def forward(self, x_BI: Tensor) -> Tensor:
        through = torch.matmul if self.is_transposed else F.linear
        parts = zip(self.up, self.down, strict=True)
        return sum((through(torch.tanh(through(x_BI, up)), down) for up, down in parts), torch.zeros(()))


class Model(nn.Module):
    def __init__(self, transposed: bool = False) -> None:
        super().__init__()
        self.experts, self.head = Experts(transposed), nn.Linear(6, 2)

    def forward(self, x_BI: Tensor) -> Tensor:
        return self.head(self.experts(x_BI))


def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.mse_loss(net(batch["x_BI"]), batch["y"])


X = normal((7, 6), 1.0, generator(0, "x"))
METHODS = [dt.LoRA(rank=2, alpha=3.0), dt.LoRA(rank=2), dt.PiSSA(rank=2, alpha=3.0), dt.SORSA(rank=2), dt.Full()]


def trained(model: nn.Module, method: dt.Method) -> dt.Delta:
    adapter = dt.attach(model, method, select="experts.*")
    batches = [{"x_BI": X, "y": torch.ones(7, 2)}]
    fit(adapter, batches, steps=4, lr=1e-2, loss=loss, quiet=True)
    delta = adapter.delta()
    adapter.detach()
    return delta


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_life_of_a_delta_of_experts(method: dt.Method, transposed: bool, tmp_path: Path) -> None:
    model = Model(transposed)
    before = model(X)
    adapter = dt.attach(model, method, select="experts.*")
    assert torch.equal(model(X), before)
    adapter.detach()
    delta = trained(model, method)
    assert torch.equal(model(X), before)
    again = dt.load(delta.save(tmp_path / "a.delta"))
    assert again == delta
    with dt.applied(model, again):
        moved = model(X)
    assert (moved - before).abs().max() > 1e-3
    adapter = dt.attach(model, again)
    torch.testing.assert_close(model(X), moved)
    assert adapter.delta().changes.keys() == delta.changes.keys()
    assert all(torch.equal(adapter.delta()[name].dense(), delta[name].dense()) for name in delta)
    assert adapter.method == method
    adapter.detach()


def test_every_expert_has_a_product_of_its_own_with_few_numbers() -> None:
    adapter = dt.attach(Model(), dt.LoRA(rank=2), select="experts.*")
    assert {name: tuple(p.shape) for name, p in adapter.trainable().items()} == {
        "experts.up.left": (3, 5, 2),
        "experts.up.right": (3, 2, 6),
        "experts.down.left": (3, 6, 2),
        "experts.down.right": (3, 2, 5),
    }
    assert isinstance(adapter.term("experts.up"), StackedTerm)
    assert isinstance(adapter.delta()["experts.up"], Stacked)


@pytest.mark.parametrize("transposed", [False, True])
def test_lora_draws_the_side_of_the_inputs(transposed: bool) -> None:
    adapter = dt.attach(Model(transposed), dt.LoRA(rank=2), select="experts.up")
    drawn, zero = ("left", "right") if transposed else ("right", "left")
    factors = adapter.trainable()
    assert not factors[f"experts.up.{zero}"].any()
    assert 0.8 / math.sqrt(6) < factors[f"experts.up.{drawn}"].abs().max() <= 1 / math.sqrt(6)


def test_pissa_starts_at_the_best_product_of_every_expert() -> None:
    model = Model()
    term = dt.attach(model, dt.PiSSA(rank=2), select="experts.up").term("experts.up")
    assert isinstance(term, StackedTerm)
    for e, weight in enumerate(model.experts.up.detach()):
        U, S, Vh = torch.linalg.svd(weight)
        torch.testing.assert_close(
            (term.left @ term.right)[e].detach(), (U[:, :2] * S[:2]) @ Vh[:2], rtol=1e-4, atol=1e-5
        )


def test_sorsa_keeps_every_expert_orthonormal() -> None:
    matrices = normal((3, 2, 6), 1.0, generator(0, "rows"))
    expected = torch.stack([orthonormality_gradient(rows) for rows in matrices])
    assert torch.equal(orthonormality_gradient(matrices), expected)
    model, far = Model(), []
    for gamma in (0.0, 1e-2):
        adapter = dt.attach(model, dt.SORSA(rank=2, gamma=gamma), select="experts.*")
        assert orthonormality(adapter) < 1e-5
        fit(adapter, [{"x_BI": X, "y": torch.ones(7, 2)}], steps=20, lr=1e-2, loss=loss, quiet=True)
        far.append(orthonormality(adapter))
        adapter.detach()
    assert far[1] < far[0]


@pytest.mark.parametrize("method", [dt.LoRA(rank=2, alpha=3.0), dt.PiSSA(rank=2), dt.SORSA(rank=2)], ids=str)
def test_derivatives_are_those_of_autograd(method: dt.Method) -> None:
    model = Model()
    adapter = dt.attach(model, method, select="experts.*")
    with torch.no_grad():
        for i, p in enumerate(adapter.trainable().values()):
            p.add_(normal(p.shape, 0.1, generator(0, "move", i)).to(p))
    kernel = tangent_kernel(adapter, X, outputs="full", method="structured")
    moving = list(adapter.trainable().values())
    rows = []
    for n in range(len(X)):
        for o in range(2):
            found = torch.autograd.grad(model(X[n : n + 1])[0, o], moving)
            rows.append(torch.cat([g.flatten() for g in found]).double())
    J = torch.stack(rows).unflatten(0, (len(X), 2))
    expected = torch.einsum("nop,mqp->nmoq", J, J)
    torch.testing.assert_close(kernel.double(), expected, rtol=1e-4, atol=1e-6)


def test_a_sum_trains_on_in_factors_and_an_idle_adapter_is_noticed() -> None:
    model = Model()
    a, b = trained(model, dt.LoRA(rank=2)), trained(model, dt.PiSSA(rank=1))
    adapter = dt.attach(model, 0.5 * a + b)
    term = adapter.term("experts.up")
    assert isinstance(term, StackedTerm) and term.left.shape == (3, 5, 4) and not term.is_zero()
    torch.testing.assert_close(term.matrix().detach().view(3, 5, 6), (0.5 * a + b)["experts.up"].dense())
    adapter.detach()
    assert dt.attach(model, dt.PiSSA(rank=1), select="experts.up").term("experts.up").is_zero()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("experts.up", Stacked(torch.ones(3, 10, 2), torch.ones(3, 2, 3), None, (3, 5, 6))),
        ("experts.up", Block(Stacked(torch.ones(2, 5, 1), torch.ones(2, 1, 6), None, (2, 30)), 0, 1, (3, 5, 6))),
        ("head.weight", Stacked(torch.ones(2, 3, 1), torch.ones(2, 1, 2), None, (2, 6))),
    ],
    ids=["other slices", "some of the slices", "rows of a matrix"],
)
def test_slices_that_are_not_those_of_the_parameter_are_attached_as_well(name: str, change: Change) -> None:
    model, delta = Model(), dt.Delta({name: change})
    with dt.applied(model, delta, strict=False):
        expected = model(X)
    adapter = dt.attach(model, delta, strict=False)
    torch.testing.assert_close(model(X), expected)
    again = adapter.delta()
    adapter.detach()
    assert tuple(again[name].shape) == tuple(change.shape) and torch.equal(again[name].dense(), change.dense())


def test_ranks_are_those_of_a_slice_and_what_cannot_be_is_refused() -> None:
    model = Model()
    with pytest.raises(ConfigError, match="rank 6 does not fit 3 matrices of 5 x 6; expected 1 to 5"):
        dt.attach(model, dt.LoRA(rank=6), select="experts.up")
    with pytest.raises(UnsupportedLayer, match=r"experts\.up: the 3 matrices of this parameter have singular values"):
        dt.attach(model, dt.CLIPSVD(), select="experts.up")
    with pytest.raises(UnsupportedLayer, match="dropout"):
        dt.attach(model, dt.LoRA(rank=2, dropout=0.1), select="experts.up")
    with torch.no_grad():
        model.experts.up[1] = 0.0
    with pytest.raises(ConfigError, match=r"experts\.up: one of its matrices is all zeros"):
        dt.attach(model, dt.PiSSA(rank=2), select="experts.up")
