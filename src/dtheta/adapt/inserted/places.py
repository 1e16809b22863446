"""Places: behind which modules of a model networks can be inserted.

By default two in every numbered block, as Houlsby et al. 2019 (arXiv 1902.00751) place them: behind the last layer of
attention and behind that of the MLP, after its dropout, before the residual is added. The last layers are known by
their names:

    BERT and its kin     attention.output.dense, output.dense         GPT-2         attn.c_proj, mlp.c_proj
    Llama and its kin    o_proj, down_proj                            ViT, CLIP     o_proj or out_proj, fc2
    torch's layers       self_attn, linear2                           T5            o, wo

A selection (see ``core.selection``) names other linear layers in their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from dtheta.core.selection import Site, layer_index, sites
from dtheta.core.selection import select as select_sites
from dtheta.core.tensors import modules
from dtheta.errors import UnsupportedLayer

Placement = Literal["both", "attention", "mlp"]

# The last layer of a part by the end of its path, and the dropout behind it where it is that layer's own; a first match
# counts. A dropout that several layers share (ViT's) is no place: what stands there would run for each of them.
_LAST: Sequence[tuple[Literal["attention", "mlp"], str, str]] = (
    ("attention", "attention.output.dense", "attention.output.dropout"),
    ("attention", "crossattention.output.dense", "crossattention.output.dropout"),
    ("mlp", "output.dense", "output.dropout"),
    ("attention", "attn.c_proj", "attn.resid_dropout"),
    ("mlp", "mlp.c_proj", "mlp.dropout"),
    ("attention", "attention.out_lin", ""),
    ("mlp", "ffn.lin2", "ffn.dropout"),
    ("attention", "o_proj", ""),
    ("attention", "out_proj", ""),
    ("attention", "attention.dense", ""),
    ("attention", "self_attn.dense", ""),
    ("attention", "Attention.o", ""),
    ("mlp", "down_proj", ""),
    ("mlp", "fc2", ""),
    ("mlp", "fc_out", ""),
    ("mlp", "dense_4h_to_h", ""),
    ("mlp", "wo", ""),
    ("mlp", "linear2", ""),
)
# torch's own layers hand the weights of their last layers to a function; the dropout behind it is called in any case
_OF_TORCH = {
    nn.TransformerEncoderLayer: {"self_attn.out_proj": "dropout1", "linear2": "dropout2"},
    nn.TransformerDecoderLayer: {
        "self_attn.out_proj": "dropout1", "multihead_attn.out_proj": "dropout2", "linear2": "dropout3",
    },
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Place:
    """Where a network can stand: behind a module, whose output is that of a linear layer.

    Attributes:
        path: Path of the module.
        module: The module: the layer, or the dropout behind it.
        width: Features of the output.
        site: The layer's weight.
    """

    path: str
    module: nn.Module
    width: int
    site: Site


def places(model: nn.Module, placement: Placement = "both", select: str | None = None) -> list[Place]:
    """Return where networks are to stand, in the order of the model.

    Args:
        model: Any module.
        placement: Behind attention, behind the MLP, or behind both.
        select: Linear layers to stand behind in place of these.

    Raises:
        UnsupportedLayer: If the last layers of attention or MLPs are not known by name, or a selected layer's output
            cannot be reached.
        ConfigError, UnknownParameter: As ``core.selection.select``.
    """
    table = dict(modules(model))
    if select is not None:
        return [_required(site, table) for site in select_sites(model, select)]
    found = [(site, part) for site in sites(model, matrices=True).values() if (part := _part(site))]
    for part in _meant(placement):
        if all(other != part for _, other in found):
            raise UnsupportedLayer(
                f"{type(model).__name__}: no layer is known to be the last one of {part} by its name; choose linear "
                "layers to stand behind: select='*.NAME'"
            )
    return [_required(site, table) for site, part in found if part in _meant(placement)]


def all_places(model: nn.Module) -> dict[str, Place]:
    """Return every place of a model by its path: behind all linear layers whose output can be reached."""
    table = dict(modules(model))
    found = (_behind(site, table) for site in sites(model, matrices=True).values())
    return {place.path: place for place in found if place is not None}


def _meant(placement: Placement) -> tuple[str, ...]:
    return ("attention", "mlp") if placement == "both" else (placement,)


def _part(site: Site) -> str | None:
    """Return the part of a block whose last layer this is, by its name."""
    path = site.owners[0].path
    if site.kind not in ("linear", "transposed") or layer_index(path) is None or "expert" in path:
        return None
    return next((part for part, end, _ in _LAST if _ends(path, end)), None)


def _ends(path: str, end: str) -> bool:
    """Tell whether a path ends so; what begins in lower case must be whole parts of it."""
    return path == end or path.endswith(end if end[0].isupper() else f".{end}")


def _required(site: Site, table: Mapping[str, nn.Module]) -> Place:
    """Return the place behind a linear layer.

    Raises:
        UnsupportedLayer: If it is no linear layer, or another module uses its weight past its forward.
    """
    place = _behind(site, table)
    if place is None:
        raise UnsupportedLayer(
            f"{site.key}: a network stands behind the output of a whole linear layer, and none ends here; select "
            f"others, or leave it out with select='...|!{site.name}'"
        )
    return place


def _behind(site: Site, table: Mapping[str, nn.Module]) -> Place | None:
    """Return the place behind a linear layer, or None where its output cannot be reached."""
    path, module = site.owners[0].path, site.owners[0].module
    if site.kind not in ("linear", "transposed") or site.window is not None:
        return None
    width = site.shape[1 if site.kind == "transposed" else 0]
    dropout = _of_torch(path, table)
    if dropout is None and _handed_over(path, table):
        return None
    dropout = dropout or next((path.removesuffix(end) + after for _, end, after in _LAST if _ends(path, end)), path)
    if isinstance(behind := table.get(dropout), nn.Dropout):
        return Place(dropout, behind, width, site)
    return Place(path, module, width, site)


def _of_torch(path: str, table: Mapping[str, nn.Module]) -> str | None:
    """Return the dropout behind a last layer of torch's own transformer layers."""
    for kind, known in _OF_TORCH.items():
        for end, dropout in known.items():
            layer = path.removesuffix(end).removesuffix(".")
            if _ends(path, end) and isinstance(table.get(layer), kind):
                return f"{layer}.{dropout}".removeprefix(".")
    return None


def _handed_over(path: str, table: Mapping[str, nn.Module]) -> bool:
    """Tell whether the module around a layer uses its weight and not its forward."""
    return isinstance(table.get(path.rpartition(".")[0]), nn.MultiheadAttention) and path.endswith("out_proj")
