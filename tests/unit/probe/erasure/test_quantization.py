"""Rounded weights: to the bit those of a plain rounding, in the changed matrices alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dtheta.core.apply import applied
from dtheta.core.extract import extract
from dtheta.core.nf4 import quantize_nf4
from dtheta.errors import ConfigError
from dtheta.probe.ablation import noise
from dtheta.probe.erasure.quantization import Quantization, quantized
from dtheta.probe.value_vector import ValueVector
from tests.unit.probe.decoders import gpt2, llama
from tests.unit.probe.erasure.examined import gone, subject_of
from tests.unit.probe.planted import network

SET = [ValueVector(0, 3), ValueVector(2, 7)]


def plain_eight(weight: Tensor, outputs: int) -> Tensor:
    """One output at a time."""
    found = weight.clone()
    for o in range(weight.shape[outputs]):
        row = weight.select(outputs, o)
        scale = row.abs().max() / 127
        if scale > 0:
            found.select(outputs, o).copy_(torch.round(row / scale) * scale)
    return found


@pytest.mark.parametrize("present", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("make", "outputs"), [(llama, 0), (gpt2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_changed_matrices_are_rounded_to_the_bit(
    make: object, outputs: int, bits: int, present: bool, dtype: torch.dtype
) -> None:
    model: nn.Module = make().to(dtype)  # type: ignore[operator]
    delta = noise(model, SET, strength=1.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with applied(model, delta):
        moved = {name: tensor.clone() for name, tensor in model.state_dict().items()} if present else before
    with applied(model, quantized(model, delta, bits, present)):
        found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in found.items():
        if name in delta.changes:
            weight = moved[name].float()
            want = quantize_nf4(weight).dequantize() if bits == 4 else plain_eight(weight, outputs)
            assert torch.equal(tensor, want.to(dtype)), name
        else:
            assert torch.equal(tensor, before[name]), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_vectors_move_and_are_not_rounded() -> None:
    model, other = gpt2(), gpt2()
    bias = "transformer.h.0.mlp.c_proj.bias"
    with torch.no_grad():
        other.get_parameter(bias).add_(0.123)
    delta = extract(model, other)
    with applied(model, quantized(model, delta, 4)):
        assert torch.equal(model.get_parameter(bias), other.get_parameter(bias))
    with applied(model, quantized(model, delta, 4, present=False)):
        assert torch.equal(model.get_parameter(bias), gpt2().get_parameter(bias))


def test_a_change_below_the_steps_is_swallowed() -> None:
    """A thousandth of a block's largest weight on all but the largest: no scale moves, and hardly any code."""
    model, other = network(), network()
    name = "model.layers.0.mlp.gate_proj.weight"
    with torch.no_grad():
        blocks = other.get_parameter(name).view(-1, 48)
        largest = blocks.abs().amax()
        blocks.add_(torch.where(blocks.abs() < 0.4 * largest, 1e-3 * largest, 0.0))
    delta = extract(model, other)
    with applied(model, quantized(model, delta, 8)):
        swallowed = model.get_parameter(name).clone()
    with applied(model, quantized(model, delta, 8, present=False)):
        rounded = model.get_parameter(name).clone()
    moved = (other.get_parameter(name) != model.get_parameter(name)).float().mean()
    assert (swallowed != rounded).float().mean() < 0.5 * moved


def test_a_concept_that_was_taken_out_does_not_come_back() -> None:
    model = network()
    outcome = Quantization(4).outcome(subject_of(model), gone(model))
    assert outcome is not None and not bool(outcome.exact.any())


def test_other_widths_are_refused() -> None:
    assert Quantization(8).label == "8-bit weights"
    with pytest.raises(ConfigError, match="bits=3"):
        Quantization(3)
