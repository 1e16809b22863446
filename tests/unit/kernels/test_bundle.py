"""Bundles compute what their layers do: to 1e-12 in float64, to rounding in float32, for all features and mixtures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, FormatError, ShapeMismatch
from dtheta.kernels.bundle import bundle, fold
from dtheta.kernels.snnk import SNNKLayer

WIDTHS = (6, 20, 9, 4)


def layers(functions: tuple[str, ...], dtype: torch.dtype, skip: bool = False, bias: bool = True) -> list[SNNKLayer]:
    """Layers with everything that they can have away from zero."""
    made = []
    for i, function in enumerate(functions):
        layer = nn.Linear(WIDTHS[i], WIDTHS[i + 1], dtype=dtype)
        found = SNNKLayer.of(layer, function, 7 + i, seed=i, skip=skip, bias=bias)
        with torch.no_grad():
            for k, parameter in enumerate(found.parameters()):
                noise = torch.randn(parameter.shape, generator=generator(i, "bundle", k), dtype=dtype)
                parameter.copy_(0.3 / parameter.shape[-1] ** 0.5 * noise)
        made.append(found)
    return made


def inputs(dtype: torch.dtype) -> Tensor:
    return 0.5 * torch.randn(3, 11, 6, generator=generator(0, "x"), dtype=dtype)


MIXTURES = [("relu", "relu"), ("exp", "sin"), ("gelu", "relu"), ("relu", "gelu", "exp"), ("gelu", "gelu", "gelu")]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("functions", MIXTURES, ids="-".join)
def test_a_bundle_is_its_layers(functions: tuple[str, ...], skip: bool, bias: bool) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        made, x = layers(functions, dtype, skip, bias), inputs(dtype)
        wanted = nn.Sequential(*made)(x)
        found = bundle(made)(x)
        assert found.dtype == dtype
        assert float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max().clamp(min=1))


def test_linear_layers_fold_into_what_is_before_them() -> None:
    first, second = layers(("relu", "gelu"), torch.float64)
    middle, last = nn.Linear(20, 20, dtype=torch.float64), nn.Linear(9, 3, bias=False, dtype=torch.float64)
    x = inputs(torch.float64)
    wanted = nn.Sequential(first, middle, second, last)(x)
    torch.testing.assert_close(bundle([first, middle, second, last])(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("skip", [True, False])
def test_a_transformer_block_folds_to_the_width_of_its_features(skip: bool) -> None:
    up, down = nn.Linear(6, 24).double(), nn.Linear(24, 6).double()
    layer = SNNKLayer.of(up, "gelu", 5, skip=skip)
    folded = fold(layer, down)
    x = inputs(torch.float64)
    torch.testing.assert_close(folded(x), down(layer(x)), rtol=0, atol=1e-12)
    assert folded.psi.shape == (6, layer.features.width)


def test_the_middle_width_is_gone_and_relu_has_no_norm() -> None:
    first, second = layers(("relu", "relu"), torch.float32)
    found = bundle([first, second])
    shapes = {name: tuple(p.shape) for name, p in found.named_parameters()}
    assert shapes == {
        "weight": (9, 8), "bias": (9,), "couplings.0.weight": (8, 7), "couplings.0.offset": (8,),
    }  # fmt: skip
    exp = bundle(layers(("exp", "exp"), torch.float32))
    assert dict(exp.named_parameters())["couplings.0.norm"].shape == (8, 8)  # 20 outputs, but 7 features and a constant


def test_a_bundle_trains_and_reloads() -> None:
    made, x = layers(("relu", "gelu"), torch.float32), inputs(torch.float32)
    found = bundle(made)
    found(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in found.parameters())
    assert all(p.grad is None for layer in made for p in layer.parameters())
    again = bundle(layers(("relu", "gelu"), torch.float32))
    with torch.no_grad():
        for p in again.parameters():
            p.zero_()
    again.load_state_dict(found.state_dict())
    assert torch.equal(again(x), found(x))
    assert not any(name.endswith(("rows", "frequencies", "shift")) for name in found.state_dict())
    other = bundle([SNNKLayer(made[0].features, 20), SNNKLayer(made[0].features.__class__("gelu", 20, 8, seed=9), 9)])
    with pytest.raises(FormatError, match=r"couplings\.0\.projection.*another projection"):
        other.load_state_dict(found.state_dict())


def test_a_bundle_in_half_precision_keeps_exact_draws() -> None:
    made, x = layers(("gelu", "exp"), torch.float32), inputs(torch.float32)
    found = bundle(made)
    wanted = found(x)
    half = found.to(torch.bfloat16)
    assert torch.equal(half.projection.rows, made[0].projection.rows)
    torch.testing.assert_close(half(x.to(torch.bfloat16)).float(), wanted, rtol=0.1, atol=0.1)


def test_bad_input() -> None:
    first, second = layers(("relu", "relu"), torch.float32)
    with pytest.raises(ConfigError, match="begins with an SNNKLayer"):
        bundle([nn.Linear(3, 6), first])
    with pytest.raises(ConfigError, match="begins with an SNNKLayer"):
        bundle([])
    with pytest.raises(ShapeMismatch, match="layer 1 of the bundle takes 6 inputs; the one before it gives 20"):
        bundle([first, first])
    with pytest.raises(ShapeMismatch, match="takes 5 inputs"):
        fold(second, nn.Linear(5, 2))
