"""How peft lays a low-rank displacement out, for each way in which a module uses its weight.

    use         parameter W           displacement D = L R        lora_A             lora_B
    linear      (out, in)             B A                         (r, in)            (out, r)
    transposed  (in, out)             A^T B^T                     (r, in)            (out, r)
    embedding   (tokens, d)           A^T B^T                     (r, tokens)        (d, r)
    conv        (out, in, k...)       B A                         (r, in, k...)      (out, r, 1...)
    conv/g      (out, in / g, k...)   B_j A_j in group j          (g r, in, k...)    (out, r, 1...)
    in_proj     (3 d, d)              B A                         (r, d)             (3 d, r)
    bypassed, bare                    none: peft's LoRA does not move it, or not rightly

peft wraps ``nn.MultiheadAttention`` as a whole, always with factors of one rank for in_proj and out_proj; those of
out_proj it adds twice (0.21.2, its pull request 3774), so they must be zero. The linear layers inside
``nn.TransformerEncoderLayer`` are bypassed as well: its fast path reads their weights, past peft's wrappers.

peft's factor A of a grouped convolution reaches all input channels, a displacement of W only those of its own group:
what we write is zero outside the groups, and what we read must be.

A delta knows names, shapes and factors, not modules; a square matrix does not say whether it is stored as (out, in).
So ``uses`` records how every parameter is used, as far as that is not plain ``linear``.

Shape legend: D (m, n), L (m, r), R (r, n).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dtheta.core.change import Factors, Shape, matrix_shape
from dtheta.core.selection import Site, layer_kind, sites
from dtheta.core.tensors import Owner

_USE = re.compile(r"linear|transposed|embedding|conv(/[1-9][0-9]{0,8})?|in_proj|bypassed|bare")

#: Module path to use, for the parameters whose use is not that of a linear layer or that several modules share.
Uses = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Layout:
    """One module as peft addresses it.

    Attributes:
        path: Of the module that peft wraps.
        use: See the module's docstring.
        shape: Of the parameter.
    """

    path: str
    use: str
    shape: Shape

    @property
    def groups(self) -> int:
        """Groups of a convolution, 1 for everything else."""
        return int(self.use.partition("/")[2] or 1)

    @property
    def stem(self) -> str:
        """Start of the names of its tensors in peft's file."""
        return f"base_model.model.{self.path}"

    @property
    def companion(self) -> Layout | None:
        """The output projection, whose factors come with those of in_proj and are zero; None for all other uses."""
        d = self.shape[1]
        return Layout(f"{self.path}.base_layer.out_proj", "linear", (d, d)) if self.use == "in_proj" else None

    @property
    def names(self) -> tuple[str, str]:
        """Names of the two factors in peft's file."""
        if self.use == "embedding":
            return f"{self.stem}.lora_embedding_A", f"{self.stem}.lora_embedding_B"
        return f"{self.stem}.lora_A.weight", f"{self.stem}.lora_B.weight"

    def shapes(self, rank: int) -> tuple[Shape, Shape]:
        """Return the shapes of lora_A and lora_B of this rank, as peft counts it."""
        (m, n), kernel = matrix_shape(self.shape), self.shape[2:]
        if self.use in ("transposed", "embedding"):
            return (rank, m), (n, rank)
        if self.use.startswith("conv"):
            return (rank, self.shape[1] * self.groups, *kernel), (m, rank // self.groups, *[1 for _ in kernel])
        return (rank, n), (m, rank)

    def pack(self, left: Tensor, right: Tensor) -> Factors:
        """Return lora_A and lora_B of the displacement ``left @ right``."""
        if self.use in ("transposed", "embedding"):
            return left.T, right.T
        a_shape, b_shape = self.shapes(left.shape[1] * self.groups)
        if self.groups == 1:
            return right.reshape(a_shape), left.reshape(b_shape)
        spread = right.new_zeros(self.groups, len(right), self.groups, *self.shape[1:])
        for j in range(self.groups):
            spread[j, :, j] = right.reshape(-1, *self.shape[1:])
        return spread.reshape(a_shape), left.reshape(b_shape)

    def unpack(self, a: Tensor, b: Tensor) -> Factors | None:
        """Return L and R of the displacement, or None if it reaches across the groups of a convolution."""
        if self.use in ("transposed", "embedding"):
            return a.T, b.T
        if self.groups == 1:
            return b.reshape(len(b), -1), a.reshape(len(a), -1)
        g, rank = self.groups, len(a) // self.groups
        spread = a.reshape(g, rank, g, -1)
        outside = spread * (1 - torch.eye(g, dtype=a.dtype)).reshape(g, 1, g, 1)
        if bool((outside != 0).any()):
            return None
        own = torch.cat([spread[j, :, j] for j in range(g)])
        return torch.block_diag(*b.reshape(g, len(b) // g, rank)), own


def uses(model: nn.Module, names: Iterable[str] | None = None) -> Uses:
    """Return how modules use the named parameters (all of them by default), leaving plain linear layers out."""
    wanted = None if names is None else set(names)
    found = {}
    for name, site in sites(model).items():
        if wanted is not None and name not in wanted:
            continue
        # a module that is there under several paths is one to peft too, by its first path
        distinct = {id(owner.module): owner for owner in reversed(site.owners)}.values()
        entry = {owner.path: use(owner, site) for owner in reversed(distinct)}
        if entry != plain(name):
            found[name] = entry
    return found


def plain(name: str) -> dict[str, str]:
    """Return the entry of a parameter of one linear layer, which ``uses`` leaves out."""
    return {name.removesuffix(".weight"): "linear"}


def use(owner: Owner, site: Site) -> str:
    """Return how one module uses its parameter; see the module's docstring."""
    module = owner.module
    if isinstance(module, nn.MultiheadAttention):
        return "in_proj" if owner.attribute == "in_proj_weight" else "bare"
    if owner.attribute != "weight":
        return "bare"
    if site.bypassed:
        return "bypassed"
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        straight = module.padding_mode == "zeros" and all(d == 1 for d in module.dilation)
        # peft's factor A takes kernel, stride and padding from the layer, and neither dilation nor padding mode
        return "bare" if not straight else "conv" if module.groups == 1 else f"conv/{module.groups}"
    if isinstance(module, nn.Embedding):
        return "embedding"
    kind = layer_kind(owner, site.tensor)
    return kind if kind in ("linear", "transposed") else "bare"


def why_not_used(entry: object, shape: Shape) -> str:
    """Return why an entry of ``Uses``, as a file may hold it, is none of a parameter of this shape; else nothing."""
    if not isinstance(entry, Mapping) or not entry:
        return f"{str(entry)[:60]!r} is no table from module to use"
    for path, kind in entry.items():
        if not isinstance(kind, str) or not _USE.fullmatch(kind):
            return f"module {str(path)[:60]!r} has the unknown use {str(kind)[:60]!r}"
        groups = int(kind.partition("/")[2] or 1)
        dimensions = {"conv": (3, 4, 5), "bare": (), "bypassed": ()}.get(kind.partition("/")[0], (2,))
        if (dimensions and len(shape) not in dimensions) or shape[:1] == () or shape[0] % groups:
            return f"the use {kind!r} does not fit the shape {list(shape)}"
        if kind == "in_proj" and shape[0] != 3 * shape[1]:
            return f"the use {kind!r} does not fit the shape {list(shape)}"
    return ""


def layouts(name: str, shape: Shape, recorded: Mapping[str, Mapping[str, str]]) -> list[Layout]:
    """Return the modules to which peft has to attach the change of one parameter."""
    return [Layout(path, kind, shape) for path, kind in recorded.get(name, plain(name)).items()]
