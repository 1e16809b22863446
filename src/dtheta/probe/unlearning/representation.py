"""RMU: the stream at one layer is pushed to a random direction where the concept is read, and held elsewhere.

    |h_l(x_f) - c s u|^2 + alpha |h_l(x_r) - h0_l(x_r)|^2       means over tokens and features

u is a random unit vector with positive entries, s the mean length of the original's h_l on the forget examples, so that
c means the same in every model: the released code's c = 2 to 20 are absolute. Source: Li et al. 2024 (WMDP).
Shape legend: B sequences, T tokens, D features of the stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.seeds import generator, uniform
from dtheta.probe.decoder import open_decoder
from dtheta.probe.unlearning.objective import Side, Unlearning
from dtheta.probe.unlearning.stream import caught, layer_module


@dataclass(frozen=True)
class RMU(Unlearning):
    """Representation misdirection.

    Attributes:
        layer: The layer after which the stream is taken; None for the middle one.
        scale: c, length of the target over the mean length of the stream.
        alpha: Weight of the retain examples.
        seed: Of the direction.
    """

    layer: int | None = None
    scale: float = 1.0
    alpha: float = 10.0
    seed: int = 0

    def loss(self, forget: Side, retain: Side) -> Tensor:
        """Not defined on logits; RMU reads the stream."""
        raise NotImplementedError

    def __call__(self, model: Any, batch: Mapping[str, dict[str, Tensor]]) -> Tensor:
        """Return the loss of paired batches."""
        block = self._block(model)
        now_f, now_r = (_stream(model, block, batch[side]) for side in ("forget", "retain"))
        with torch.no_grad(), model.disabled():
            then_f, then_r = (_stream(model, block, batch[side]) for side in ("forget", "retain"))
        read_f, read_r = (batch[side]["attention_mask"].bool() for side in ("forget", "retain"))
        drawn_D = uniform((now_f.shape[-1],), 0.0, 1.0, generator(self.seed, "probe/rmu")).to(now_f)
        target_D = self.scale * then_f[read_f].norm(dim=-1).mean() * drawn_D / drawn_D.norm()
        scale = then_f[read_f].square().mean()  # in units of the stream, whose size differs between models and layers
        pushed = (now_f[read_f] - target_D).square().mean() / scale
        return pushed + self.alpha * (now_r[read_r] - then_r[read_r]).square().mean() / scale

    def _block(self, model: Any) -> nn.Module:
        """Return the layer, by where its value vectors are."""
        decoder = open_decoder(model.model)
        layer = decoder.layers[len(decoder.layers) // 2] if self.layer is None else self.layer
        return layer_module(model.model, decoder, layer, "RMU")


def _stream(model: Any, block: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return what a layer passes on, (B, T, D)."""
    with caught(block) as held:
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    return held[0].float()
