"""Gradients equal those through the n-fold sum, layer by layer; nothing of the model is left changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from dtheta.compose.coefficients import blocks, changed
from dtheta.compose.gradient import Composition, composed
from dtheta.core.apply import applied
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.errors import ConfigError, UnsupportedLayer
from tests.unit.compose.examples import KINDS, Loss, bits, delta, normal, official, shared


@pytest.fixture(autouse=True, params=["stacked", "term by term"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parameters have a way of their own; the tests' are all small."""
    if request.param == "term by term":
        monkeypatch.setattr("dtheta.compose.subspace._SMALL", -1)


def open_(model: nn.Module, deltas: list[Delta]) -> AbstractContextManager[Composition]:
    names = blocks(deltas)
    return composed(model, deltas, names, changed(deltas, names))


def squares(model: nn.Module, batch: Tensor) -> Tensor:
    output = model(batch)
    return getattr(output, "last_hidden_state", output).square().mean()


def check(model: nn.Module, deltas: list[Delta], batch: Tensor, loss: Loss = squares) -> None:
    """The gradient is the official one to 1e-5 of its largest entry, and of each entry that is not tiny."""
    names = blocks(deltas)
    values = 0.5 * normal(len(deltas), len(names), name="values").double()
    wanted = official(model, deltas, values, loss, batch.double() if batch.is_floating_point() else batch)
    before = bits(model)
    with open_(model, deltas) as composition:
        composition.show(values[..., None])
        value = loss(composition.model, batch)
        composition.backward(value)
        found = composition.gradient[..., 0].clone()
        assert all(p.grad is None for p in model.parameters())  # freed as soon as they were used
    assert bits(model) == before
    assert float(wanted.abs().max()) > 0
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize("kind", [*KINDS, "every"])
def test_linear(tiny_mlp: nn.Module, kind: str) -> None:
    check(tiny_mlp, [delta(tiny_mlp, kind, i) for i in range(3)], normal(7, 12, name="batch"))


@pytest.mark.parametrize("kind", ["dense", "low-rank", "ternary", "every"])
def test_convolutions(tiny_conv: nn.Module, kind: str) -> None:
    check(tiny_conv, [delta(tiny_conv, kind, i) for i in range(3)], normal(2, 3, 8, 8, name="batch"))


@pytest.mark.parametrize("kind", ["dense", "low-rank", "ternary", "every"])
def test_embedding_norm_and_tied_weights(kind: str) -> None:
    model = shared()
    check(model, [delta(model, kind, i) for i in range(3)], torch.tensor([[1, 2, 2], [0, 10, 4]]))


@pytest.mark.parametrize("kind", ["dense", "every"])
def test_fused_attention(tiny_mha: nn.Module, kind: str) -> None:
    check(tiny_mha, [delta(tiny_mha, kind, i) for i in range(2)], normal(2, 5, 16, name="batch"))


@pytest.mark.parametrize("kind", ["dense", "low-rank", "ternary", "every"])
def test_bert(tiny_bert: nn.Module, kind: str) -> None:
    check(tiny_bert, [delta(tiny_bert, kind, i) for i in range(3)], torch.arange(14).reshape(2, 7))


def test_gpt2_with_tied_embeddings_and_deltas_of_different_blocks(tiny_gpt2: nn.Module) -> None:
    names = [n for n, _ in tiny_gpt2.named_parameters()]
    deltas = [delta(tiny_gpt2, "every", i, names[i::2]) for i in range(2)] + [delta(tiny_gpt2, "ternary", 2)]

    def loss(model: nn.Module, ids: Tensor) -> Tensor:
        return model(ids, labels=ids).loss

    check(tiny_gpt2, deltas, torch.arange(12).reshape(2, 6), loss)


def test_recurrent_networks_see_the_composition() -> None:
    """They keep flat lists of their weights, which a swap of tensor objects would miss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.LSTM(5, 4, batch_first=True)
    names = blocks([delta(model)])
    values = normal(1, len(names), 1).double()
    batch = normal(2, 3, 5, name="batch")
    before = model(batch)[0]
    with open_(model, [delta(model)]) as composition:
        composition.show(values)
        moved = composition.model(batch)[0]
        composition.backward(moved.square().mean())
        assert (composition.gradient != 0).all()
    assert not torch.allclose(before, moved) and torch.equal(model(batch)[0], before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_bases_take_narrow_buffers(tiny_mlp: nn.Module, dtype: torch.dtype) -> None:
    model = tiny_mlp.to(dtype)
    deltas = [delta(model.float(), kind) for kind in ("dense", "ternary", "low-rank")]
    model = model.to(dtype)
    deltas = [Delta(d.changes, fingerprint(model).restrict(d)) for d in deltas]
    names = blocks(deltas)
    values = 0.3 * normal(3, len(names), name="values").double()
    batch = normal(7, 12, name="batch").to(dtype)

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        return net(x).float().square().mean() if x.dtype == dtype else net(x).square().mean()

    with open_(model, deltas) as composition:
        composition.show(values[..., None])
        assert all(p.dtype == dtype for p in model.parameters())
        composition.backward(loss(model, batch))
        found = composition.gradient[..., 0].clone()
    wanted = official(model.double(), deltas, values, loss, batch.double())
    assert float((found - wanted).norm()) <= 20 * torch.finfo(dtype).eps * float(wanted.norm())


def test_gradients_add_up_until_cleared(tiny_mlp: nn.Module) -> None:
    deltas, a, b = [delta(tiny_mlp, "every")], normal(3, 12), normal(5, 12, name="other")
    values = normal(1, 4, 1).double()
    with open_(tiny_mlp, deltas) as composition:
        composition.show(values)
        sums = []
        for batch, weight in ((a, 1.0), (b, -2.0)):
            composition.clear()
            composition.backward(squares(tiny_mlp, batch), weight)
            sums.append(composition.gradient.clone())
        composition.clear()
        composition.backward(squares(tiny_mlp, a))
        composition.backward(squares(tiny_mlp, b), -2.0)
        assert torch.equal(composition.gradient, sums[0] + sums[1])
    wanted = official(tiny_mlp, deltas, values[..., 0], squares, b.double())
    assert torch.allclose(sums[1][..., 0], -2 * wanted, rtol=1e-5, atol=1e-7)


def test_what_is_not_asked_for_is_not_differentiated(tiny_mlp: nn.Module) -> None:
    """Neither the other parameters of the model nor those of the loss collect gradients."""
    head = nn.Linear(8, 2)
    tiny_mlp[0].weight.grad = torch.ones(16, 12)
    tiny_mlp[2].bias.requires_grad_(False)
    before, of_head = bits(tiny_mlp), bits(head)
    with open_(tiny_mlp, [delta(tiny_mlp, names=["0.weight"])]) as composition:
        composition.backward(head(tiny_mlp(normal(3, 12))).square().mean())
        assert [p.requires_grad for p in tiny_mlp.parameters()] == [True, False, False, False]
        assert composition.gradient.any()
    assert bits(tiny_mlp) == before and bits(head) == of_head


@pytest.mark.parametrize("kind", ["dense", "ternary", "low-rank"])
def test_an_exception_restores_every_bit(tiny_bert: nn.Module, kind: str) -> None:
    deltas = [delta(tiny_bert, kind)]
    before = bits(tiny_bert)
    ids = torch.arange(6).reshape(2, 3)

    def interrupt() -> None:
        with open_(tiny_bert, deltas) as composition:
            composition.show(torch.ones(1, len(blocks(deltas)), 1, dtype=torch.float64))
            squares(tiny_bert, ids).backward()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert bits(tiny_bert) == before


def test_even_what_the_loss_writes_stays_out_of_the_base(tiny_mlp: nn.Module) -> None:
    before = bits(tiny_mlp)
    with open_(tiny_mlp, [delta(tiny_mlp)]) as composition, torch.no_grad():
        for parameter in composition.model.parameters():
            parameter.zero_()
    assert bits(tiny_mlp) == before


def test_a_graph_of_other_numbers_is_refused(tiny_mlp: nn.Module) -> None:
    old = squares(tiny_mlp, normal(3, 12))
    with open_(tiny_mlp, [delta(tiny_mlp)]) as composition:
        stale = squares(tiny_mlp, normal(3, 12))
        composition.show(torch.ones(1, 4, 1, dtype=torch.float64))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            composition.backward(stale)
        after = squares(tiny_mlp, normal(3, 12))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        after.backward()
    old.backward()  # the base is as it was, so this graph is still right
    assert tiny_mlp[0].weight.grad is not None


def test_losses_that_cannot_be_meant(tiny_mlp: nn.Module) -> None:
    with open_(tiny_mlp, [delta(tiny_mlp)]) as composition:
        with pytest.raises(ConfigError, match="must be a scalar"):
            composition.backward(tiny_mlp(normal(3, 12)))
        with pytest.raises(ConfigError, match="does not depend"):
            composition.backward(squares(tiny_mlp, normal(3, 12)).detach())


def enter(model: nn.Module, deltas: list[Delta]) -> None:
    with open_(model, deltas):
        pass


def test_places_that_take_no_gradient(tiny_mlp: nn.Module) -> None:
    norm = nn.BatchNorm1d(3)
    moved = Delta({"running_mean": Dense(normal(3))}, fingerprint(norm).restrict(["running_mean"]))
    with pytest.raises(UnsupportedLayer, match=r"running_mean: .*restrict"):
        enter(norm, [moved])
    model = shared()
    both = Delta({n: Dense(normal(11, 6)) for n in ("words.weight", "head.weight")})
    with pytest.raises(UnsupportedLayer, match="one tied tensor"):
        enter(model, [both])
    one = delta(tiny_mlp)
    with applied(tiny_mlp, one), pytest.raises(ConfigError, match="leave that block"):
        enter(tiny_mlp, [one])


def _inference() -> nn.Module:
    with torch.inference_mode():
        return nn.Linear(3, 3)


@pytest.mark.parametrize("make", [_inference])
def test_inference_tensors_are_named(make: Callable[[], nn.Module]) -> None:
    model = make()
    with pytest.raises(UnsupportedLayer, match="inference mode"):
        enter(model, [Delta({"weight": Dense(normal(3, 3))})])


def test_an_autocast_region_around_it_sees_every_composition(tiny_mlp: nn.Module) -> None:
    moved, x = delta(tiny_mlp, "dense", 0), normal(4, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        base = tiny_mlp(x)  # autocast keeps its casts of weights that take gradients
        with open_(tiny_mlp, [moved]) as composition:
            composition.show(torch.ones(1, len(blocks([moved])), 1, dtype=torch.float64))
            shown = composition.model(x)
        after = tiny_mlp(x)
    with torch.no_grad(), applied(tiny_mlp, moved), torch.autocast("cpu", torch.bfloat16):
        expected = tiny_mlp(x)
    assert torch.equal(after, base) and not torch.equal(shown, base)
    assert torch.allclose(shown, expected, atol=1e-2)


def test_a_loss_of_something_else_is_refused(tiny_mlp: nn.Module) -> None:
    other = torch.ones((), requires_grad=True)
    with open_(tiny_mlp, [delta(tiny_mlp)]) as composition:
        for loss in (other, other.detach(), (2 * other)):
            with pytest.raises(ConfigError, match="does not depend on any parameter that a delta changes"):
                composition.backward(loss)
        assert other.grad is None
