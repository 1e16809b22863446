"""SNNK layers: where Psi starts, the refit's optimum, the projection through casts and state dicts, uptraining."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import dtheta as dt
from dtheta.core.features import RandomFeatures, features_of
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, FormatError, NotConverged, ShapeMismatch, UnsupportedLayer
from dtheta.kernels.head import SNNKHead
from dtheta.kernels.snnk import SNNKLayer


def draw(*shape: int, name: str = "snnk") -> Tensor:
    return torch.randn(*shape, generator=generator(0, name))


def linear(d: int = 6, rows: int = 10, bias: bool = True, scale: float = 0.3) -> nn.Linear:
    layer = nn.Linear(d, rows, bias=bias)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(scale * draw(*parameter.shape, name=name))
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("function", ["relu", "gelu", "sin", "exp"])
def test_psi_starts_as_the_features_of_the_weights(function: str, bias: bool) -> None:
    layer = linear(bias=bias)
    found = SNNKLayer.of(layer, function, 32, seed=3)
    x = 0.4 * draw(5, 4, 6)
    features = RandomFeatures(function, 6, 32, seed=3)
    expected = features.phi(x) @ features.psi(layer.weight, layer.bias).mT
    torch.testing.assert_close(found(x), expected, rtol=1e-4, atol=1e-5)


def test_the_start_estimates_the_layer_it_replaces() -> None:
    layer, x = linear(), 0.5 * draw(200, 6)
    wanted = torch.sin(layer(x))
    found = SNNKLayer.of(layer, features_of("sin", x, layer.weight, 4096, projection="orthogonal"))
    assert (F.mse_loss(found(x), wanted) / wanted.var()).item() < 0.02


@pytest.mark.parametrize(("bias", "skip"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("function", ["relu", "gelu"])
def test_the_gradient_vanishes_after_a_refit(function: str, bias: bool, skip: bool) -> None:
    layer, x = linear().double(), draw(300, 6).double()
    found = SNNKLayer.of(layer, function, 12, bias=bias, skip=skip and function == "relu")
    fit = found.refit((x[i : i + 50] for i in range(0, 300, 50)), lambda z: F.gelu(layer(z)), ridge=0.1)
    weights = [found.psi] + ([found.skip] if found.skip is not None else [])
    missed = (F.gelu(layer(x)).detach() - found(x)).square().sum()
    (missed + fit.ridge * sum(w.square().sum() for w in weights)).backward()
    for parameter in found.parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) < 1e-8 * float(x.square().sum())
    varying = F.gelu(layer(x)) - F.gelu(layer(x)).mean(0) * bias
    assert fit.error == pytest.approx(missed.item() / varying.square().sum().item(), rel=1e-6)


def test_a_refit_is_far_better_than_the_start() -> None:
    layer, x = linear(scale=1.0), draw(2000, 6)

    def wanted(z: Tensor) -> Tensor:
        return F.gelu(layer(z))

    found = SNNKLayer.of(layer, "relu", 64)
    before = (found(x) - wanted(x)).square().sum().item()
    found.refit(x[:1000], wanted)
    total = (wanted(x) - wanted(x).mean(0)).square().sum().item()
    assert (found(x[1000:]) - wanted(x[1000:])).square().sum().item() < 0.05 * total < before


def test_pairs_are_examples_too_and_data_without_targets_is_refused() -> None:
    layer, x = linear(), draw(3, 20, 6)
    pairs, function = SNNKLayer.of(layer, "relu", 8), SNNKLayer.of(layer, "relu", 8)
    pairs.refit([(x, torch.relu(layer(x)))], ridge=1.0)
    function.refit(x, lambda z: torch.relu(layer(z)), ridge=1.0)
    assert torch.equal(pairs.psi, function.psi)
    with pytest.raises(ConfigError, match="holds no targets"):
        pairs.refit(x)
    with pytest.raises(ConfigError, match="no examples"):
        pairs.refit([])
    with pytest.raises(ShapeMismatch, match=r"expected \(\.\.\., 6\)"):
        pairs.refit(draw(4, 5), layer)


@pytest.mark.parametrize("projection", ["gaussian", "orthogonal", "sobol"])
def test_a_state_dict_keeps_no_projection_and_meets_the_same_one(projection: str, tmp_path: Path) -> None:
    layer, x = linear(), draw(7, 6)
    found = SNNKLayer.of(layer, "relu", 9, projection=projection)
    state = found.state_dict()
    assert set(state) == {"psi", "bias", "projection.probe"}
    save_file(state, tmp_path / "layer.safetensors")
    again = SNNKLayer(found.features, 10)
    again.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    assert torch.equal(again(x), found(x))
    other = SNNKLayer(RandomFeatures("relu", 6, 9, seed=1, projection=projection), 10)
    with pytest.raises(FormatError, match="another projection"):
        other.load_state_dict(state)
    assert not bool(other.psi.any())


def test_casts_make_the_projection_anew() -> None:
    layer, x = linear(), draw(3, 5, 6)
    found = SNNKLayer.of(layer, "relu", 16, projection="orthogonal")
    exact = found.features.draws()
    half = copy.deepcopy(found).to(torch.bfloat16)
    assert torch.equal(half.projection.rows, exact.rows.float()) and half.psi.dtype == torch.bfloat16
    y = half(x.to(torch.bfloat16))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), found(x), rtol=0.05, atol=0.05)
    double = copy.deepcopy(half).double()
    assert torch.equal(double.projection.rows, exact.rows)
    assert torch.equal(copy.deepcopy(half).state_dict()["projection.probe"], found.state_dict()["projection.probe"])


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="need count"):
        SNNKLayer.of(linear(), "relu")
    with pytest.raises(ConfigError, match="leave them out"):
        SNNKLayer.of(linear(), RandomFeatures("relu", 6, 3), seed=1)
    with pytest.raises(UnsupportedLayer, match="LayerNorm"):
        SNNKLayer.of(nn.LayerNorm(6), "relu", 4)
    twice = draw(40, 3).repeat(1, 2)
    with pytest.raises(NotConverged, match="singular"):
        SNNKLayer.of(linear(), "relu", 4, skip=True).refit(twice, linear(), ridge=0)


def test_a_head_is_solved_on_the_features_of_pooled_vectors() -> None:
    labels = torch.arange(60) % 2
    angle = 6.28 * torch.rand(60, generator=generator(0, "rings"))
    pooled = torch.stack([angle.cos(), angle.sin()], 1) * (1 + labels[:, None])  # rings: no linear head can tell them
    features = RandomFeatures("relu", 2, 32)
    for loss in ("mse", "logistic"):
        head, found = SNNKHead.solved(features, pooled, labels, loss)  # type: ignore[arg-type]
        assert float((head(pooled).argmax(1) == labels).float().mean()) > 0.95
        torch.testing.assert_close(head(pooled), found(features.phi(pooled)).float(), rtol=1e-3, atol=1e-3)


def test_a_model_with_snnk_layers_trains_by_fit() -> None:
    up, down, x = linear(6, 16, scale=1.0), linear(16, 4), draw(256, 6)
    with torch.no_grad():
        targets = down(F.gelu(up(x)))
    model = nn.Sequential(SNNKLayer.of(up, "relu", 64), copy.deepcopy(down))

    def loss(net: nn.Module, batch: Tensor) -> Tensor:
        return F.mse_loss(net(x[batch]), targets[batch])

    adapter = dt.attach(model, dt.Full(), select="0.psi|0.bias")
    everything = torch.arange(256)
    before = model[0].psi.detach().clone()
    start = float(loss(adapter, everything))
    dt.fit(adapter, [everything], steps=80, lr=0.1, loss=loss, quiet=True)
    assert float(loss(adapter, everything)) < 0.2 * start
    delta = adapter.delta()
    assert set(delta) == {"0.psi", "0.bias"}
    adapter.detach()
    assert torch.equal(model[0].psi, before)
    assert float(loss(dt.merge(model, delta), everything)) < 0.2 * start


def test_a_head_of_no_examples_is_refused() -> None:
    for targets in (torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2)):
        with pytest.raises(ConfigError, match="no examples"):
            SNNKHead.solved(RandomFeatures("relu", 4, 8), torch.zeros(0, 4), targets)
