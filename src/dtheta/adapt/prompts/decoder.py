"""Prompts of decoders: virtual tokens before the text, and prefixes in the cache of keys and values.

    first call        [P ; E(x) + offsets], mask and positions of the widened text; its columns are cut out again
    with a cache      that holds the prompt: only the new tokens go in, mask and positions as if widened
    in generate       the caller has widened text and mask once (generate.py); new tokens only get their offsets
    prefix            keys and values go into the empty cache; masks grow in front, positions count on

Shape legend: B texts, T columns, m virtual tokens, n entries of a prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dtheta.adapt.prompts.bundle import Bundle, Place, real_order
from dtheta.adapt.prompts.encoder import shifted
from dtheta.adapt.prompts.family import Family
from dtheta.adapt.prompts.forward import CACHES, PromptForward, plain_mask, widened_mask
from dtheta.adapt.prompts.layout import Layout, order
from dtheta.adapt.prompts.prefix import cut_cache, filled, require_dynamic
from dtheta.errors import ConfigError

_STATES = ("state", "mems", "past_buckets_states")  # what some models keep in place of a cache


class DecoderForward(PromptForward):
    """The forward of a decoder."""

    widened_outside = False  # whether generate has put the virtual tokens in already

    def prompted(self, given: dict[str, Any]) -> Any:
        """Return the output for inputs by name."""
        if given.get("token_type_ids") is not None:
            raise ConfigError("token_type_ids cannot be given to a decoder with a prompt: virtual tokens have no type")
        name, cache = next(((n, given[n]) for n in CACHES if given.get(n) is not None), (self._cache_name(), None))
        if self.bundle.prefixed:
            require_dynamic(self.module, cache)
        layout = None
        if self.widened_outside:
            self._offset_only(given, cache)
        else:
            layout = self._put_in(given, cache)
        keep = given.get("use_cache") is not False
        if self.bundle.prefixed:
            given[name] = self._with_prefix(given, cache)
        output = self.plain(**given)
        if self.bundle.prefixed and not keep:
            output = cut_cache(output)
        return output if layout is None else layout.cut_output(output)

    @contextmanager
    def widening_outside(self) -> Iterator[None]:
        """Run a block whose first call gets a text with its virtual tokens."""
        before, self.widened_outside = self.widened_outside, True
        try:
            yield
        finally:
            self.widened_outside = before

    def enlarged(self, given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Return embeddings and mask of a text with its virtual tokens."""
        mask = plain_mask(given)
        ids = given.get("input_ids")
        x = self.embedded(given)
        wide, wide_mask, _ = self.widened(x, mask, real_order(mask, None), ids)
        self.require_positions(wide_mask, wide.shape[1] + self.bundle.prefixed)
        return wide, wide_mask

    def _cache_name(self) -> str:
        return next((name for name in CACHES if self.accepts(name)), CACHES[0])

    def _put_in(self, given: dict[str, Any], cache: Any) -> Layout | None:
        """Put the virtual tokens into the inputs, unless the cache holds them; return where they stand."""
        _require_counted(given)
        mask, positions = plain_mask(given), given.get("position_ids")
        ids = given.get("input_ids")
        x = self.embedded(given)
        held = cache_length(cache)
        if held:
            self._go_on(given, x, ids, mask, positions, held - self.bundle.prefixed)
            return None
        counted = None if positions is None else positions - self.family.first
        wide, wide_mask, layout = self.widened(x, mask, real_order(mask, counted), ids)
        self.require_positions(wide_mask, wide.shape[1] + self.bundle.prefixed)
        given |= {"inputs_embeds": wide, "attention_mask": wide_mask}
        if positions is not None:
            given["position_ids"] = shifted(positions, layout)
        else:
            self._number(given, wide_mask, 0)
        return layout

    def _go_on(
        self, given: dict[str, Any], x: Tensor, ids: Tensor | None, mask: Tensor | None, positions: Any, held: int
    ) -> None:
        """Put new tokens behind those in the cache, ``held`` of them with the virtual ones."""
        virtual, new = self.bundle.virtual, x.shape[1]
        past = held - virtual
        if past < 0 or (mask is not None and mask.shape[1] != past + new):
            seen = "" if mask is None else f" and attention_mask has {mask.shape[1]} columns"
            raise ConfigError(
                f"the cache holds {held} tokens{seen}; expected one that the prompted model filled: {virtual} virtual "
                f"tokens and the text so far, with a mask over that text and the {new} new tokens"
            )
        column = torch.arange(past, past + new, device=x.device)
        index = column[None] if mask is None else order(mask)[:, -new:]
        if positions is not None:
            index = positions - self.family.first
        given["inputs_embeds"] = self.bundle.displaced(
            x, Place(column, index, None if mask is None else mask[:, -new:], ids)
        )
        layout = self.layout(mask, len(x), past + new)
        wide = widened_mask(self.masked(mask, layout, x), layout)
        if wide is not None:
            given["attention_mask"] = wide
            self.require_positions(wide, wide.shape[1] + self.bundle.prefixed)
        else:
            self.require_positions(None, held + new + self.bundle.prefixed)
        if positions is not None:
            given["position_ids"] = positions + layout.own
        else:
            self._number(given, wide, held)

    def _number(self, given: dict[str, Any], mask: Tensor | None, held: int) -> None:
        """Give the embeddings their positions by the mask of all tokens so far, ``held`` of them in the cache.

        Without a mask the model counts by itself, but RoBERTa's, which count embeddings from the first at every call.
        """
        if not self.accepts("position_ids"):
            return
        new: Tensor = given["inputs_embeds"]
        if mask is not None:
            given["position_ids"] = order(mask)[:, -new.shape[1] :] + self.family.first
        elif self.family.first:
            columns = torch.arange(held, held + new.shape[1], device=new.device)
            given["position_ids"] = columns[None] + self.family.first

    def _offset_only(self, given: dict[str, Any], cache: Any) -> None:
        """Give new tokens of a generation their offsets; their positions say how many tokens came before."""
        self._require_within(given.get("position_ids"))
        if not self.bundle.displaces or given.get("inputs_embeds") is not None:  # the text has its own already
            return
        _require_counted(given)
        ids = given.get("input_ids")
        x = self.embedded(given)
        past = cache_length(cache) - self.bundle.virtual - self.bundle.prefixed if self._counts_columns(given) else 0
        column = torch.arange(past, past + x.shape[1], device=x.device)
        index = self._widened_order(given, *x.shape[:2])
        given["inputs_embeds"] = self.bundle.displaced(x, Place(column, index, None, ids), expanded=True)

    def _require_within(self, positions: Tensor | None) -> None:
        """Raise unless new tokens of a generation have positions; an accelerator is not waited for at every token."""
        if self.family.limit is not None and positions is not None and positions.is_cpu and positions.numel():
            self.require_positions(None, int(positions.max()) + 1 + self.bundle.prefixed)

    def _counts_columns(self, given: dict[str, Any]) -> bool:
        """Tell whether the cache has to be asked for its length, for which an accelerator has to be waited for."""
        by_column = any(rule.index == "column" for rule in self.bundle.offset_rules())
        return by_column or (given.get("position_ids") is None and given.get("attention_mask") is None)

    def _widened_order(self, given: dict[str, Any], batch: int, new: int) -> Tensor | None:
        """Return the number of real tokens before new ones, by positions or mask of the widened text, if any."""
        positions, mask = given.get("position_ids"), given.get("attention_mask")
        if positions is None and mask is not None:
            wide = plain_mask(given)
            assert wide is not None
            positions = order(wide)[:, -new:]
        if positions is None:
            return None
        lengths = self.bundle.lengths(batch, expanded=True)
        own = self.bundle.virtual if lengths is None else lengths.to(positions.device)
        return (positions - own).clamp(min=0)

    def _with_prefix(self, given: dict[str, Any], cache: Any) -> Any:
        """Put the prefix into an empty cache, and room for it into mask and positions; return the cache."""
        n, x = self.bundle.prefixed, given.get("inputs_embeds")
        batch = (given["input_ids"] if x is None else x).shape[0]
        if cache_length(cache) == 0:
            cache = filled(self.bundle, self.family, cache, batch)
        mask, positions = plain_mask(given), given.get("position_ids")
        if mask is not None:
            given["attention_mask"] = torch.cat([mask.new_ones(batch, n), mask], 1)
        if positions is not None:
            given["position_ids"] = positions + n
        return cache


def _require_counted(given: dict[str, Any]) -> None:
    """Raise for a state that does not say how many tokens it holds: no prompt can be found in it."""
    if (name := next((name for name in _STATES if given.get(name) is not None), None)) is not None:
        raise ConfigError(
            f"{name} does not say how many tokens it holds, so a prompt cannot be found in it; give the whole text "
            "without it, or generate with PromptTuning, which has no offsets"
        )


def cache_length(cache: Any) -> int:
    """Return how many tokens a cache holds."""
    try:
        return 0 if cache is None else int(cache.get_seq_length())
    except (AttributeError, ValueError) as error:  # no such method, or layers that keep a state only, as Mamba's do
        raise ConfigError(
            f"this {type(cache).__name__} keeps no keys and values by token, so a prompt cannot be found in it; give "
            "the whole text without a cache, or generate with PromptTuning, which has no offsets"
        ) from error


def decoder_forwards(found: Family, bundle: Bundle) -> list[PromptForward]:
    """Return the forward that prompts of a decoder need."""
    return [DecoderForward(found.core, found, bundle, found.core.__dict__.get("forward"))]
