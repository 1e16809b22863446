"""Smaller blocks in place of a pretrained feed-forward block, fitted in closed form to what the block does on data.

    own-neurons   V f(W_S x + b_S) + L x + c    S chosen among the block's neurons for the outputs (neurons.py)
    own-random    the same with S drawn at random
    random        Psi Phi(x) + L x + c          random features (snnk.py)
    low-rank      its matrices cut to a rank (low_rank.py)

For all but random features one pass over the data suffices for every width: the sums over all neurons hold those over
any of them.

Shape legend: d inputs, h hidden neurons, D outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dtheta.core.arguments import whole
from dtheta.core.features import RandomFeatures
from dtheta.core.seeds import generator, permutation
from dtheta.errors import ConfigError, did_you_mean
from dtheta.kernels.feed_forward import FeedForward
from dtheta.kernels.low_rank import LowRankBlock
from dtheta.kernels.neurons import OwnNeurons, choose_neurons
from dtheta.kernels.ridge import Ridge, require_memory, rows
from dtheta.kernels.snnk import SNNKLayer

Variant = Literal["own-neurons", "own-random", "random", "low-rank"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

#: Inputs of a block (..., d); or inputs and targets (..., D), where the targets are not the block's own outputs.
Examples = Iterable[Tensor | tuple[Tensor, Tensor]]

_ROWS = 4096  # examples at a time: what is held of the neurons' activations


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a block does on calibration data.

    Attributes:
        joint: Sums with the h neurons, then the d inputs, as features and the outputs as targets.
    """

    joint: Ridge

    @property
    def examples(self) -> int:
        """How many inputs were seen."""
        return self.joint.count


@dataclass(frozen=True, eq=False)
class FittedMLP:
    """A block in place of another one.

    Attributes:
        module: (..., d) to (..., D), in the dtype of the block; its parameters can train further.
        calibration_error: Relative squared error on the calibration data: sum |y - y'|^2 over sum |y - mean y|^2;
            None for low rank, which is not fitted to the outputs.
        error: The same on held-out data, or None where none was given.
        ridge: The penalty of the closed-form fit; 0 for low rank, which has none.
        examples: Calibration inputs.
    """

    module: nn.Module
    calibration_error: float | None
    error: float | None
    ridge: float
    examples: int

    @property
    def parameters(self) -> int:
        """Numbers that the module holds; a random projection is regenerated from its seed and does not count."""
        return sum(p.numel() for p in self.module.parameters())


def fit_mlp(
    mlp: FeedForward,
    data: Examples | Calibration,
    width: int,
    *,
    variant: Variant = "own-neurons",
    skip: bool = True,
    ridge: float | None = None,
    seed: int = 0,
    held_out: Examples | None = None,
) -> FittedMLP:
    """Fit a smaller block to a pretrained one.

    Args:
        mlp: The block.
        data: Calibration inputs, read once; what ``calibrate`` returned serves several widths.
        width: Neurons, random features, or rank.
        variant: One of ``VARIANTS``, see the module's docstring.
        skip: Whether a linear path of d x D parameters stands beside the neurons or features; no matter for low rank.
        ridge: lambda of the closed-form fit; None chooses it by generalized cross-validation.
        seed: Key of the random choice, or of the random features.
        held_out: Inputs to measure the error on.

    Raises:
        ConfigError: For an unknown variant, a width that the block does not have or no memory holds, or no data.
        ShapeMismatch, NonFinite: For data that does not fit the block, or is not finite.
        NotConverged: If ``ridge`` leaves the fit singular.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"no variant {variant!r}; known: {', '.join(VARIANTS)}{did_you_mean(variant, VARIANTS)}")
    if variant == "random":
        module, penalty, error, examples = _random(mlp, data, width, skip, ridge, seed)
    else:
        found = data if isinstance(data, Calibration) else calibrate(mlp, data)
        examples = found.examples
        if variant == "low-rank":
            module, penalty, error = LowRankBlock(mlp, found.joint, width), 0.0, None
        else:
            module, penalty, error = _own(mlp, found.joint, width, variant, skip, ridge, seed)
    measured = None if held_out is None else relative_error(module, mlp, held_out)
    return FittedMLP(module, error, measured, penalty, examples)


def calibrate(mlp: FeedForward, data: Examples) -> Calibration:
    """Gather the sums that ``fit_mlp`` needs; one pass, O((h + d)^2) memory.

    Raises:
        ConfigError: If there is no data.
        ShapeMismatch, NonFinite: As ``Ridge.add``.
    """
    joint = Ridge(mlp.hidden_width + mlp.inputs, mlp.outputs, device=mlp.up.weight.device)
    for x, y in examples(mlp, data):
        joint.add(torch.cat([mlp.hidden(x), x], 1), y)
    if joint.count == 0:
        raise ConfigError("no calibration inputs were given; expected tensors (..., d)")
    return Calibration(joint)


@torch.no_grad()
def relative_error(module: nn.Module, mlp: FeedForward, data: Examples) -> float:
    """Return sum |y - module(x)|^2 over sum |y - mean y|^2: 0 is exact, 1 is what the mean of the outputs does.

    Raises:
        ConfigError: If there is no data.
    """
    missed, squares, total, count = 0.0, 0.0, torch.zeros(mlp.outputs, dtype=torch.float64), 0
    for x, y in examples(mlp, data):
        y = y.double()
        missed += float((y - module(x)).square().sum())
        squares += float(y.square().sum())
        total += y.sum(0).cpu()
        count += len(y)
    if count == 0:
        raise ConfigError("no inputs were given to measure the error on; expected tensors (..., d)")
    varying = squares - float(total.square().sum()) / count
    return missed / varying if varying > 0 else float(missed > 0)


@torch.no_grad()
def examples(mlp: FeedForward, data: Examples) -> Iterator[tuple[Float[Tensor, "N d"], Float[Tensor, "N D"]]]:
    """Yield inputs and targets as rows, in the dtype of the block, some thousands at a time.

    Raises:
        ShapeMismatch: For inputs or targets of another width.
    """
    for item in data:
        inputs, targets = item if isinstance(item, (tuple, list)) else (item, None)
        x_Nd = rows(inputs, mlp.inputs, "inputs").to(mlp.up.weight)
        y_ND = None if targets is None else rows(targets, mlp.outputs, "targets").to(mlp.up.weight)
        for i in range(0, len(x_Nd), _ROWS):
            x = x_Nd[i : i + _ROWS]
            yield x, mlp(x) if y_ND is None else y_ND[i : i + _ROWS]


def _own(
    mlp: FeedForward, joint: Ridge, width: int, variant: str, skip: bool, ridge: float | None, seed: int
) -> tuple[OwnNeurons, float, float]:
    h = mlp.hidden_width
    if variant == "own-neurons":
        neurons = choose_neurons(joint, h, width, skip=skip)
    elif 1 <= whole(width, "width") <= h:
        neurons = permutation(h, generator(seed, "snnk/own-random"))[:width].sort().values
    else:
        raise ConfigError(f"width={width} must lie between 1 and {h}, the neurons of the block")
    neurons = neurons.to(mlp.up.weight.device)
    inputs = torch.arange(h, h + mlp.inputs if skip else h, device=neurons.device)
    fit = joint.take(torch.cat([neurons, inputs])).solve(ridge)
    return OwnNeurons(mlp, neurons, fit, skip), fit.ridge, fit.error


def _random(
    mlp: FeedForward, data: Examples | Calibration, width: int, skip: bool, ridge: float | None, seed: int
) -> tuple[SNNKLayer, float, float, int]:
    if isinstance(data, Calibration):
        raise ConfigError("variant='random' has features of its own: give the calibration inputs, not their sums")
    require_memory(whole(width, "width", 1) + skip * mlp.inputs)
    like = mlp.up.weight
    features = RandomFeatures("relu", mlp.inputs, width, seed=seed, projection="orthogonal", name="snnk/mlp")
    layer = SNNKLayer(features, mlp.outputs, skip=skip, dtype=like.dtype, device=like.device)
    count = 0

    def counted() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal count
        for x, y in examples(mlp, data):
            count += len(x)
            yield x, y

    fit = layer.refit(counted(), ridge=ridge)
    return layer, fit.ridge, fit.error, count
