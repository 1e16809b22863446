"""Prompts of encoders: virtual tokens after [CLS], or before the source of an encoder-decoder.

    encoder            [CLS] P a b c [SEP]     the columns of P are cut out of what comes out
    encoder-decoder    P a b c </s>            they stay: the decoder reads them, its mask widened alike

Positions follow the mask, so that padding on either side leaves a text where it was.
"""

from __future__ import annotations

from typing import Any

import torch

from dtheta.adapt.prompts.bundle import Bundle
from dtheta.adapt.prompts.family import Family
from dtheta.adapt.prompts.forward import PromptForward, plain_mask, widened_mask
from dtheta.adapt.prompts.layout import Layout, order


class EncoderForward(PromptForward):
    """The forward of an encoder."""

    def prompted(self, given: dict[str, Any]) -> Any:
        """Return the output for inputs by name."""
        mask = plain_mask(given)
        ids = given.get("input_ids")
        x = self.embedded(given)
        index = None if mask is None else order(mask)
        wide, wide_mask, layout = self.widened(x, mask, index, ids)
        self.require_positions(wide_mask, wide.shape[1])
        given |= {"inputs_embeds": wide, "attention_mask": wide_mask}
        if self.accepts("position_ids"):
            given["position_ids"] = self._positions(given.get("position_ids"), wide_mask, layout)
        if (types := given.get("token_type_ids")) is not None:
            given["token_type_ids"] = layout.widen(types, types.new_zeros(types.shape[0], layout.virtual))
        output = self.plain(**given)
        return output if self.family.decoder is not None else layout.cut_output(output)

    def _positions(self, positions: Any, mask: Any, layout: Layout) -> Any:
        """Return positions by mask, or those that were given with room for the virtual tokens."""
        if positions is None:
            return None if mask is None else order(mask) + self.family.first
        return shifted(positions, layout)


class CrossForward(PromptForward):
    """The forward of a decoder that reads what a prompted encoder made."""

    def prompted(self, given: dict[str, Any]) -> Any:
        """Return the output; the mask of the source grows with the source."""
        states, mask = given.get("encoder_hidden_states"), plain_mask(given, "encoder_attention_mask")
        if states is not None:
            columns = states.shape[1] - self.bundle.virtual
            if mask is None or mask.shape[1] == columns:
                layout = self.layout(mask, len(states), columns, expanded=True)
                given["encoder_attention_mask"] = widened_mask(self.masked(mask, layout, states), layout)
        return self.plain(**given)


def shifted(positions: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return positions (B or 1, T) of a text as those of a widened one: virtual tokens count on where they stand."""
    if isinstance(layout.at, torch.Tensor):
        positions = positions.expand(len(layout.at), -1)
    start = positions[:, layout.at] if isinstance(layout.at, int) else positions.gather(1, layout.at)[:, 0]
    virtual = start[:, None] + torch.arange(layout.virtual, device=positions.device)
    column = torch.arange(layout.columns, device=positions.device)[None]
    return layout.widen(positions + layout.own * (column >= layout.at), virtual)


def encoder_forwards(found: Family, bundle: Bundle) -> list[PromptForward]:
    """Return the forwards that prompts of an encoder or encoder-decoder need."""
    made: list[PromptForward] = [EncoderForward(found.core, found, bundle, found.core.__dict__.get("forward"))]
    if found.decoder is not None:
        made.append(CrossForward(found.decoder, found, bundle, found.decoder.__dict__.get("forward")))
    return made
