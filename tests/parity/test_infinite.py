"""Infinite kernels against neural-tangents 0.6.5, whose values `bench/peers/neural_tangents.py golden` wrote."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dtheta.kernels.infinite import (
    Abs,
    Attention,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Erf,
    Exp,
    Flatten,
    Gaussian,
    Gelu,
    GlobalAvgPool,
    Layer,
    LayerNorm,
    LeakyRelu,
    Relu,
    SigmoidLike,
    Sign,
    Sin,
    fully_connected,
    infinite_kernel,
    residual,
    serial,
)

FILE = Path(__file__).parents[1] / "golden" / "neural-tangents.json"
STD = {"W_std": 1.2, "b_std": 0.3}
DENSE, READOUT = Dense(**STD), (GlobalAvgPool(), Dense(**STD))


def plain(activation: Layer) -> Layer:
    return fully_connected(3, activation, **STD)


def conv(window: int | tuple[int, ...] = 3, padding: Any = "same", strides: int = 1) -> Conv:
    return Conv(window, strides, padding, **STD)


NETWORKS = {
    "relu": plain(Relu()),
    "leaky-relu": plain(LeakyRelu(0.2)),
    "abs": plain(Abs()),
    "erf": plain(Erf()),
    "sigmoid-like": plain(SigmoidLike()),
    "gelu": plain(Gelu()),
    "sin": plain(Sin(1.3, 0.4)),
    "exp": plain(Exp(0.4)),
    "gaussian": plain(Gaussian(1.0)),
    "sign": plain(Sign()),
    "layer-norm": serial(DENSE, LayerNorm(1e-3), Relu(), DENSE),
    "dropout": serial(DENSE, Relu(), Dropout(0.25), DENSE, Relu(), DENSE),
    "residual": serial(DENSE, residual(Relu(), DENSE), Relu(), DENSE),
    "conv-flatten": serial(conv(), Relu(), conv((3, 2), "valid"), Erf(), Flatten(), DENSE),
    "conv-strides": serial(conv(3, "circular"), Relu(), conv(2, "valid", 2), Gelu(), Flatten(), DENSE),
    "conv-pool": serial(conv(), Relu(), AvgPool(2), conv(3, "circular"), Relu(), *READOUT),
    "conv-norm": serial(conv(), LayerNorm(1e-3), residual(Relu(), conv()), Relu(), *READOUT),
    "attention": serial(DENSE, Relu(), Attention(0.9, 1.1, 1.2, 0.3), Relu(), *READOUT),
}


@cache
def golden() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def inputs(name: str) -> tuple[Tensor, Tensor]:
    x, x2 = golden()["inputs"][golden()["networks"][name]["inputs"]]
    return torch.tensor(x, dtype=torch.float64), torch.tensor(x2, dtype=torch.float64)


def test_every_reference_is_compared():
    assert set(golden()["networks"]) == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_agree(name):
    x, x2 = inputs(name)
    for label, other in (("same", None), ("other", x2)):
        found = infinite_kernel(NETWORKS[name], x, other, get="both")
        for which, values in found._asdict().items():
            expected = torch.tensor(golden()["networks"][name][f"{which} {label}"], dtype=torch.float64)
            torch.testing.assert_close(
                values, expected, **tolerance(name, other is None), msg=lambda m, w=which: f"{w}: {m}"
            )


def tolerance(name: str, same: bool) -> dict[str, float]:
    """Their angle of an example with itself is good to half of the digits, behind a second sign to a quarter."""
    return {"rtol": (1e-3 if name == "sign" else 1e-7) if same else 1e-11, "atol": 1e-11}
