"""Attention layers of a model, and which rows and columns of which parameters belong to a head.

    head h of H writes    A_h x W_V[h]^T W_O[:, h]^T        A_h its attention pattern, biases left out
    W_V[h]     rows of head h of the value projection, which H / G heads share where queries are grouped (G value heads)
    W_O[:, h]  columns of head h of the output projection

Known are separate projections (CLIP, ViT, BERT, Llama, T5), fused ones (GPT-2, timm, ``nn.MultiheadAttention``, and so
open_clip), with the weight stored as (out, in) or, in GPT-2, as (in, out). Told by names and shapes, never by class.

Shape legend: H heads, G value heads, D features of a head, M features of the layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from dtheta.core.change import Change
from dtheta.core.selection import Site, layer_index, sites, windows
from dtheta.errors import UnsupportedLayer

# Value and output parameter below an attention module.
_PAIRS = (
    ("v_proj.weight", "out_proj.weight"),
    ("v_proj.weight", "o_proj.weight"),
    ("self.value.weight", "output.dense.weight"),
    ("attention.value.weight", "output.dense.weight"),
    ("v_lin.weight", "out_lin.weight"),
    ("v.weight", "o.weight"),
    ("c_attn.weight", "c_proj.weight"),
    ("qkv.weight", "proj.weight"),
    ("Wqkv.weight", "out_proj.weight"),
    ("in_proj_weight", "out_proj.weight"),
    ("v_proj_weight", "out_proj.weight"),
)
_FUSED = ("c_attn.weight", "qkv.weight", "Wqkv.weight", "in_proj_weight")
_COUNTS = ("num_attention_heads", "num_heads", "n_heads", "n_head")


@dataclass(frozen=True)
class Slice:
    """Rows (axis 0) or columns (axis 1) ``start:stop`` of a parameter; transposed where it is stored as (in, out)."""

    parameter: str
    axis: int
    start: int
    stop: int
    transposed: bool

    def of(self, weight: Tensor) -> Float64[Tensor, "rows columns"]:
        """Return this part of the parameter, as (out, in)."""
        return self._laid(weight.detach().narrow(self.axis, self.start, self.stop - self.start).double())

    def of_change(self, change: Change) -> Float64[Tensor, "rows columns"] | None:
        """Return this part of a displacement of the parameter, as (out, in), or None where it is zero by its form."""
        part = change.window(self.axis, self.start, self.stop)
        return None if part is None else self._laid(part.rows(torch.arange(part.shape[0], device=part.device)))

    def _laid(self, matrix: Tensor) -> Tensor:
        return matrix.mT if self.transposed else matrix


@dataclass(frozen=True)
class AttentionLayer:
    """The heads of one attention module.

    Attributes:
        name: The module's name in the model.
        value: Site of the value projection: a parameter, or the v window of a fused one.
        output: Site of the output projection.
        heads: H.
        value_heads: G, which divides H.
        width: D.
    """

    name: str
    value: Site
    output: Site
    heads: int
    value_heads: int
    width: int

    @property
    def index(self) -> int | None:
        """Number of the layer, the first in its name."""
        return layer_index(self.name)

    def value_slice(self, head: int) -> Slice:
        """Return where W_V[h] (D, M) is."""
        transposed = self.value.kind == "transposed"
        first = self.value.window.start if self.value.window else 0
        start = first + head // (self.heads // self.value_heads) * self.width
        return Slice(self.value.name, 1 if transposed else 0, start, start + self.width, transposed)

    def output_slice(self, head: int) -> Slice:
        """Return where W_O[:, h] (M, D) is."""
        transposed = self.output.kind == "transposed"
        return Slice(self.output.name, 0 if transposed else 1, head * self.width, (head + 1) * self.width, transposed)


def attention_layers(model: nn.Module) -> list[AttentionLayer]:
    """Return the attention layers of a model, in its order.

    Raises:
        UnsupportedLayer: If there is none whose projections are known by name, or the shapes of one make no heads.
    """
    table = {owner.name: site for site in sites(model, matrices=True).values() for owner in site.owners}
    found = [_layer(path, module, *pair) for path, module in model.named_modules() for pair in _pairs(path, table)]
    if not found:
        raise UnsupportedLayer(
            f"{type(model).__name__} has no attention whose value and output projections are known by name; known are "
            + ", ".join(f"{value} with {output}" for value, output in _PAIRS)
        )
    return found


def _pairs(path: str, table: Mapping[str, Site]) -> Iterator[tuple[Site, Site]]:
    for value, output in _PAIRS:
        names = [f"{path}.{leaf}".removeprefix(".") for leaf in (value, output)]
        if all(name in table for name in names):
            site = table[names[0]]
            yield (windows(site, "v")[0] if value in _FUSED else site), table[names[1]]


def _layer(path: str, module: nn.Module, value: Site, output: Site) -> AttentionLayer:
    inner = output.shape[0] if output.kind == "transposed" else output.shape[1]
    rows = value.shape[1] if value.kind == "transposed" else value.shape[0]
    heads = _heads(module)
    width = inner // heads if heads else 0
    grouped = bool(width) and inner == heads * width and rows % width == 0 and heads % (rows // width) == 0
    if not grouped:
        raise UnsupportedLayer(
            f"{path}: {rows} value and {inner} output features do not make {heads or 'an unknown number of'} heads"
        )
    return AttentionLayer(path, value, output, heads, rows // width, width)


def _heads(module: nn.Module) -> int:
    """Return the number of heads that an attention module, what is directly in it, or its configuration says; or 0."""
    places: list[Any] = [module, *module.children()]
    places += [place.config for place in places if hasattr(place, "config")]
    counts = (getattr(place, name, None) for place in places for name in _COUNTS)
    return next((count for count in counts if isinstance(count, int)), 0)
