"""A forward of ours on a model: widens what comes in, calls the model's own, and cuts the virtual columns out again.

The model sees public inputs only: inputs_embeds, attention_mask, position_ids, token_type_ids, and its cache. What
comes out is aligned with what came in, so labels, heads and poolings need no change. The forward is set on the instance
and taken away with the last prompt, as ``wiring`` does with those of layers.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.adapt.prompts.bundle import Bundle, Place
from dtheta.adapt.prompts.family import Family
from dtheta.adapt.prompts.layout import Layout
from dtheta.adapt.prompts.uneven import UnevenLayout
from dtheta.errors import ConfigError

CACHES = ("cache", "past_key_values")  # the name changed in transformers 5


class PromptForward(ABC):
    """The forward of a model with prompts; the prompts belong to their adapters."""

    is_dtheta_term = True

    def __init__(self, module: nn.Module, found: Family, bundle: Bundle, inner: Callable[..., Any] | None) -> None:
        self.module = module
        self.family = found
        self.bundle = bundle
        self.reached = False  # whether it was ever called
        self.inner = inner  # what the instance had before, such as accelerate's
        self.__signature__ = inspect.signature(type(module).forward.__get__(module))  # what callers look inputs up in

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the model's output with the prompts at work."""
        self.reached = True
        if not self.bundle.works:
            return self.plain(*args, **kwargs)
        return self.prompted(self.bound(args, kwargs))

    @abstractmethod
    def prompted(self, given: dict[str, Any]) -> Any:
        """Return the output for inputs by name."""

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model returns by itself."""
        return self.inner(*args, **kwargs) if self.inner else type(self.module).forward(self.module, *args, **kwargs)

    def bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return all inputs by name."""
        names = [name for name in parameters(type(self.module)) if name != "self"]
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def embedded(self, given: dict[str, Any]) -> Tensor:
        """Take the text out of the inputs, as embeddings (B, T, d)."""
        ids, embeds = given.pop("input_ids", None), given.pop("inputs_embeds", None)
        if (ids is None) == (embeds is None):
            raise ConfigError("expected exactly one of input_ids and inputs_embeds")
        return self.family.embedding(ids) if embeds is None else embeds

    def widened(
        self, x: Tensor, mask: Tensor | None, index: Tensor | None, ids: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Layout]:
        """Return embeddings and mask with the virtual tokens, and where those stand."""
        require_mask_of(mask, x)
        column = torch.arange(x.shape[1], device=x.device)
        x = self.bundle.displaced(x, Place(column, index, mask, ids))
        layout = self.layout(mask, x.shape[0], x.shape[1])
        mask = self.masked(mask, layout, x)
        return layout.widen(x, self.bundle.tokens(x.shape[0], x)), widened_mask(mask, layout), layout

    def layout(self, mask: Tensor | None, batch: int, columns: int, expanded: bool = False) -> Layout:
        """Return where the virtual tokens stand in texts of so many columns."""
        found = Layout.of(mask, columns, self.bundle.virtual, self.family.after)
        lengths = self.bundle.lengths(batch, expanded)
        if lengths is None:
            return found
        device = self.family.embedding.weight.device if mask is None else mask.device
        left = self.family.kind == "decoder"
        return UnevenLayout(found.columns, found.virtual, found.at, lengths.to(device), left)  # type: ignore[arg-type]

    def masked(self, mask: Tensor | None, layout: Layout, x: Tensor) -> Tensor | None:
        """Return the mask of a text, made of ones where there is none and virtual tokens leave padding."""
        if mask is not None or not isinstance(layout, UnevenLayout):
            return mask
        return torch.ones(len(x), layout.columns, dtype=torch.long, device=x.device)

    def require_positions(self, mask: Tensor | None, columns: int) -> None:
        """Raise unless the model has as many positions as the longest text needs.

        Args:
            mask: Of the text and its virtual tokens (B, T + m), or None where all are real.
            columns: Its columns, and the entries of a prefix.

        Raises:
            ConfigError: If it has fewer.
        """
        limit = self.family.limit
        if limit is None or columns <= limit:
            return
        longest = columns if mask is None else int((mask != 0).sum(1).max()) + self.bundle.prefixed
        if longest > limit:
            extra = self.bundle.virtual + self.bundle.prefixed
            raise ConfigError(
                f"{longest} tokens, {extra} of them virtual, do not fit into the {limit} positions of "
                f"{type(self.module).__name__}; cut texts at {limit - extra} tokens, generated ones among them"
            )

    def accepts(self, name: str) -> bool:
        """Tell whether the model has an input of this name."""
        return name in parameters(type(self.module))


@functools.cache
def parameters(kind: type[nn.Module]) -> tuple[str, ...]:
    """Return the names of a forward's parameters, in order."""
    return tuple(inspect.signature(kind.forward).parameters)


def plain_mask(given: dict[str, Any], name: str = "attention_mask") -> Tensor | None:
    """Return the mask (B, T) of the inputs.

    Raises:
        ConfigError: If it is of another form, into which no virtual tokens can be put.
    """
    mask = given.get(name)
    if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2):
        return mask
    form = f"of {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
    raise ConfigError(
        f"{name} must be (batch, tokens) where a prompt is attached, found {form}; virtual tokens have no place in it"
    )


def require_mask_of(mask: Tensor | None, x: Tensor) -> None:
    """Raise unless a mask is that of a text (B, T, d): columns are taken by it, so another would drop some in silence.

    Raises:
        ConfigError: If it has other rows or columns.
    """
    if mask is not None and mask.shape != x.shape[:2]:
        raise ConfigError(
            f"attention_mask must have a row for each text and a column for each token, {tuple(x.shape[:2])}, where a "
            f"prompt is attached; found {tuple(mask.shape)}"
        )


def widened_mask(mask: Tensor | None, layout: Layout) -> Tensor | None:
    """Return a mask with the virtual tokens; none stays none, since all are real."""
    return None if mask is None else layout.widen(mask, layout.virtual_mask(mask))
