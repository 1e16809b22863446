"""Which attention heads a delta changed: the value-output product of each, before and after.

    OV_h  = W_O[:, h] W_V[h]                                      (M, M), rank D
    dOV_h = (W_O + dW_O)[:, h] (W_V + dW_V)[h] - OV_h = [dW_O  W_O + dW_O] [W_V; dW_V]      rank 2 D
    rank the heads by ||dOV_h||_F / ||OV_h||_F

The product is what a head writes, whatever basis its D features are in: turning W_V[h] and turning W_O[:, h] back
changes nothing, and nothing is measured. Neither product is formed; the norms come from QR of the factors in float64,
so a small change is not lost behind a large product. The values' biases add the same vector to every token; they are
left out, and so is where a head looks (queries, keys).

CLIP-SVD (arXiv 2509.03740) means to do this, but its released code cuts the sorted singular values of the whole W_V and
W_O into as many chunks as there are heads. Such a chunk is a band of the spectrum, which all heads share, and no head.

Shape legend: D features of a head, M features of the layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dtheta.adapt.interpret.layers import AttentionLayer, Slice, attention_layers
from dtheta.core.apply import bind, originals
from dtheta.core.arguments import one_delta
from dtheta.core.delta import Delta
from dtheta.core.linalg import lowrank_norm
from dtheta.errors import ConfigError


@dataclass(frozen=True)
class HeadChange:
    """How far one head moved.

    Attributes:
        layer: Name of the attention module.
        head: Number of the head in it, from 0.
        change: ||dOV_h||_F.
        size: ||OV_h||_F of the base.
    """

    layer: str
    head: int
    change: float
    size: float

    @property
    def relative(self) -> float:
        """``change / size``; infinite where a head that wrote nothing now does."""
        if self.size > 0:
            return self.change / self.size
        return math.inf if self.change > 0 else 0.0

    @property
    def place(self) -> tuple[str, int]:
        """Layer and head, as ``describe_heads`` takes them."""
        return self.layer, self.head


def changed_heads(model: nn.Module, delta: Delta) -> list[HeadChange]:
    """Return all heads of a model, most changed first; equal ones in the order of the model.

    Exact for every kind of change. A head of a layer that the delta leaves alone has a change of 0.

    Args:
        model: The base of the delta, with or without it attached.
        delta: Any delta of it.

    Raises:
        BaseMismatch: If the model is not the base.
        UnsupportedLayer: If the model has no attention that is known.
        ConfigError: If the delta changes no value and no output projection.
    """
    found, layers = bind(one_delta(delta), model), attention_layers(model)
    if not any(site.name in found for layer in layers for site in (layer.value, layer.output)):
        raise ConfigError(
            f"this delta changes no value and no output projection, so what the heads write is as it was; expected one "
            f"that changes parameters such as {layers[0].value.name!r} or {layers[0].output.name!r}"
        )
    tensors = originals(model)
    heads = [_measured(layer, head, tensors, found) for layer in layers for head in range(layer.heads)]
    return sorted(heads, key=lambda head: -head.relative)


def _measured(layer: AttentionLayer, head: int, tensors: Mapping[str, Tensor], delta: Delta) -> HeadChange:
    output, value = layer.output_slice(head), layer.value_slice(head)
    O_MD, V_DM = (part.of(tensors[part.parameter]) for part in (output, value))
    dO_MD, dV_DM = (_displacement(part, delta, base) for part, base in ((output, O_MD), (value, V_DM)))
    change = 0.0
    if bool(dO_MD.any()) or bool(dV_DM.any()):
        change = lowrank_norm(torch.cat([dO_MD, O_MD + dO_MD], 1), torch.cat([V_DM, dV_DM]))
    return HeadChange(layer.name, head, change, lowrank_norm(O_MD, V_DM))


def _displacement(part: Slice, delta: Delta, base: Tensor) -> Tensor:
    found = part.of_change(delta[part.parameter]) if part.parameter in delta else None
    return torch.zeros_like(base) if found is None else found.to(base.device)
