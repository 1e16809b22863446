"""SFNO: the spherical Fourier neural operator, with the linear filter of Driscoll and Healy.

    x      <- encoder(input) + position
    x      <- x + MLP( norm( SHT^-1( W_l SHT(x)_lm ) ) )        a block; W_l complex C x C, one for each degree l
    output <- decoder([x, input])  (+ input)

A filter that depends on l alone commutes with rotations of the sphere; position embedding and static inputs are what
may break that symmetry. Bonev et al. 2023 (arXiv 2306.03838); the linear form as in Mahesh et al. 2024 (arXiv
2408.03100). With ``scale_factor`` s the blocks work on a Gauss grid that is s times coarser: the first block's
transform goes down to it, the last one's up again, residuals by the same pair.

The instance norm takes mean and variance over the sphere from the coefficients (Parseval): for the band-limited field
these are the area-weighted ones, exactly. Inside, the layout is that of the transform, longitude first and channels
last, so that every stage is one matrix product.

Shape legend: B batch, C channels, H latitudes, W longitudes, L degrees, O orders; 2 real and imaginary part.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.arguments import number, require_like, whole
from dtheta.core.seeds import generator, normal
from dtheta.core.sphere import Grid, SphericalTransform
from dtheta.errors import ConfigError, ShapeMismatch

Norm = Literal["none", "instance", "layer"]
_EPSILON = 1e-6
_SMALL = 1e-3  # std of the decoder's last weights: the first outputs are small, so a residual begins as persistence


class SFNO(nn.Module):
    """An operator on fields of a grid; parameters are drawn by key."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        grid: Grid,
        *,
        degree: int | None = None,
        embed: int = 24,
        layers: int = 4,
        scale_factor: int = 1,
        norm: Norm = "instance",
        mlp_ratio: float = 2.0,
        position_embedding: bool = True,
        residual_prediction: bool = False,
        seed: int = 0,
    ) -> None:
        """Make the operator.

        Args:
            inputs: channels that come in.
            outputs: channels that go out.
            grid: of both.
            degree: highest l of the filters; None for the highest that the blocks' grid resolves.
            embed: C, channels inside.
            layers: blocks.
            scale_factor: s; the blocks' grid has H / s x W / s points, whole numbers.
            norm: "instance", "layer" (over channels, point by point) or "none" (scale and shift alone).
            mlp_ratio: hidden over embedded channels of the blocks' MLPs.
            position_embedding: whether a learned map, zero at first, is added behind the encoder.
            residual_prediction: whether the output is the input plus what the decoder says.
            seed: of the draws.

        Raises:
            ConfigError: a setting that cannot be meant, or one that the grid cannot resolve.
        """
        super().__init__()
        self.inputs, self.outputs = whole(inputs, "inputs", least=1), whole(outputs, "outputs", least=1)
        width, depth = whole(embed, "embed", least=1), whole(layers, "layers", least=1)
        if norm not in get_args(Norm):
            raise ConfigError(f"norm must be one of {', '.join(get_args(Norm))}, got {norm!r}")
        if residual_prediction and inputs != outputs:
            raise ConfigError(
                f"residual_prediction adds input to output, and there are {inputs} and {outputs} channels"
            )
        hidden = round(number(mlp_ratio, "mlp_ratio") * width)
        if hidden < 1:
            raise ConfigError(f"mlp_ratio={mlp_ratio} leaves no hidden channel of {width} embedded ones")
        self.grid, self.residual_prediction = grid, bool(residual_prediction)
        coarse = _coarse(grid, whole(scale_factor, "scale_factor", least=1))
        degree = min(coarse.exact_degree, (coarse.nlon - 1) // 2) if degree is None else degree
        self.transform = SphericalTransform(coarse, degree)
        self.outer = None if coarse == grid else SphericalTransform(grid, degree)
        self.encoder = _Pointwise(inputs, width, width, "encoder", seed)
        self.position = nn.Parameter(torch.zeros(grid.nlon, grid.nlat, 1, width)) if position_embedding else None
        self.blocks = nn.ModuleList(Block(self.transform, width, hidden, norm, seed, index) for index in range(depth))
        self.decoder = _Pointwise(width + inputs, width, outputs, "decoder", seed, std=_SMALL)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, outputs, H, W) of an input (B, inputs, H, W).

        Raises:
            ShapeMismatch: an input of another grid or number of channels.
            ConfigError: an input of another dtype or device than the weights, or no tensor.
        """
        require_like(x, self.encoder.first.weight, "input")
        self.grid.check(x, "input")
        if x.ndim != 4 or x.shape[1] != self.inputs:
            raise ShapeMismatch(f"input has the shape {tuple(x.shape)}; expected (B, {self.inputs}, H, W)")
        out = self.apply_last(x.permute(3, 2, 0, 1)).permute(2, 3, 1, 0)
        return x + out if self.residual_prediction else out

    def apply_last(self, x_WHBC: Tensor) -> Tensor:
        """Return what the decoder says (W, H, B, outputs) of an input (W, H, B, inputs): ``forward`` in its layout."""
        hidden = self.encoder(x_WHBC)
        if self.position is not None:
            hidden = hidden + self.position
        outer, last = self.outer or self.transform, len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            hidden = block(hidden, outer if index == 0 else self.transform, outer if index == last else self.transform)
        return self.decoder(torch.cat((hidden, x_WHBC), -1))


class Block(nn.Module):
    """Filter, norm and MLP around a skip.

    It is told its transforms and does not hold them: a module under two names is one that ``functional_call`` cannot
    swap tensors of.
    """

    def __init__(
        self, transform: SphericalTransform, width: int, hidden: int, norm: Norm, seed: int, index: int
    ) -> None:
        """Draw the block's parameters by key."""
        super().__init__()
        self.filter = SpectralFilter(transform.degree + 1, width, seed, index)
        self.norm = SphericalNorm(transform, width, norm)
        self.mlp = _Pointwise(width, hidden, width, f"block{index}/mlp", seed)

    def forward(self, x_WHBC: Tensor, down: SphericalTransform, up: SphericalTransform) -> Tensor:
        """Return the block's output on the grid of ``up``, for an input on that of ``down``."""
        shape = x_WHBC.shape[2:]
        planes = down.to_planes(x_WHBC.flatten(2))
        scale, shift, filtered = self.norm.of(self.filter(planes.unflatten(-1, shape)))
        y = up.from_planes((filtered * scale).flatten(3)).unflatten(-1, shape)
        kept = x_WHBC if up is down else up.from_planes(planes).unflatten(-1, shape)
        return kept + self.mlp(self.norm.after(y + shift))


class SpectralFilter(nn.Module):
    """y_lm = W_l x_lm: one complex matrix for each degree."""

    def __init__(self, degrees: int, width: int, seed: int, index: int) -> None:
        """Draw real and imaginary parts with standard deviation 0.7 / sqrt(C)."""
        super().__init__()
        draws = generator(seed, f"sfno/block{index}/filter")
        weight = normal((degrees, 2, width, width), 1.0, draws) * (0.7 / math.sqrt(width))
        self.weight = nn.Parameter(weight)

    def forward(self, x_O2LBC: Tensor) -> Tensor:
        """Return the filtered coefficients (O, 2, L, B, C): for each degree one real product of [re, im]."""
        orders, _, degrees, batch, width = x_O2LBC.shape
        real, imaginary = self.weight[:, 0], self.weight[:, 1]
        matrix = torch.cat((torch.cat((real, imaginary), 2), torch.cat((-imaginary, real), 2)), 1)  # (L, 2C, 2C)
        rows = x_O2LBC.permute(2, 0, 3, 1, 4).reshape(degrees, orders * batch, 2 * width)
        return torch.bmm(rows, matrix).view(degrees, orders, batch, 2, width).permute(1, 3, 0, 2, 4)


class SphericalNorm(nn.Module):
    """Scale and shift of channels, behind a normalization over the sphere, over channels, or none."""

    power_O2L11: Tensor

    def __init__(self, transform: SphericalTransform, width: int, kind: Norm) -> None:
        """Begin with scale 1 and shift 0."""
        super().__init__()
        self.kind = kind
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        degrees, orders = transform.shape
        power = torch.full((orders, 2, degrees, 1, 1), 2.0)  # of orders m > 0, which stand for m and -m
        power[0, 0], power[0, 1], power[:, :, 0] = 1, 0, 0  # nor do imaginary parts of m = 0 count, nor the mean
        self.register_buffer("power_O2L11", power, persistent=False)

    def of(self, c_O2LBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return factor (B, C) and summand (B, C) of the field of some coefficients, and the coefficients."""
        if self.kind == "none":
            return self.scale, self.shift, c_O2LBC
        if self.kind == "layer":
            return torch.ones_like(self.scale), torch.zeros_like(self.shift), c_O2LBC
        variance = torch.tensordot(self.power_O2L11[..., 0, 0], c_O2LBC.square(), 3)
        scale = self.scale * torch.rsqrt(variance + _EPSILON)
        return scale, self.shift - scale * c_O2LBC[0, 0, 0], c_O2LBC

    def after(self, x_WHBC: Tensor) -> Tensor:
        """Return a field, normalized over its channels where that is the kind."""
        if self.kind != "layer":
            return x_WHBC
        return F.layer_norm(x_WHBC, x_WHBC.shape[-1:], self.scale, self.shift, _EPSILON)


class _Pointwise(nn.Module):
    """A perceptron of the channels of every point: linear, GELU, linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int, name: str, seed: int, std: float | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
        draws = generator(seed, f"sfno/{name}")
        with torch.no_grad():
            for layer, deviation in ((self.first, None), (self.second, std)):
                deviation = deviation or 1 / math.sqrt(3 * layer.in_features)
                layer.weight.copy_(normal(layer.weight.shape, 1.0, draws) * deviation)
                layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(x)))


def _coarse(grid: Grid, factor: int) -> Grid:
    if factor == 1:
        return grid
    if grid.nlat // factor < 2 or grid.nlon % factor:
        raise ConfigError(
            f"scale_factor={factor} does not divide the {grid.nlon} longitudes, or leaves fewer than 2 of the "
            f"{grid.nlat} latitudes"
        )
    return Grid(grid.nlat // factor, grid.nlon // factor)
