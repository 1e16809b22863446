"""Context of a class's name: vectors put into the text, before the name and behind it.

    end      SOS U name EOS        front      SOS name U EOS        middle      SOS U[:n/2] name U[n/2:] EOS

The name is all between the first and the last token of a text. Texts come as ordinary ids. A tower that takes ids gets
placeholders at the columns of U, whose embeddings are replaced, so masks, positions and pooling are those of the wider
text; one that takes embeddings gets them. The columns of U are cut out of states that come out, so a tower whose states
are averaged averages those of its own tokens.

Shape legend: B texts, T columns, n vectors of the context.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.adapt.prompts.forward import plain_mask
from dtheta.adapt.prompts.layout import Layout, order
from dtheta.adapt.prompts.tower_bundle import TowerBundle
from dtheta.adapt.prompts.towers import TextTower
from dtheta.errors import ConfigError


@dataclass(frozen=True)
class ContextLayout:
    """Widens texts by their context before and behind the name, and cuts it out again.

    Attributes:
        before: The layout of what stands before the name, in texts that have what stands behind it already.
        behind: The layout of what stands behind it.
    """

    before: Layout
    behind: Layout

    @classmethod
    def of(cls, start: Tensor, end: Tensor, columns: int, sides: tuple[int, int]) -> ContextLayout:
        """Return the layout.

        Args:
            start: Column of each text's first token (B, 1).
            end: Column of its last token (B, 1).
            columns: T.
            sides: Vectors before the name and behind it.
        """
        return cls(Layout(columns + sides[1], sides[0], start + 1), Layout(columns, sides[1], end))

    def widen(self, text: Tensor, context: Tensor) -> Tensor:
        """Return text (B, T, ...) with a context (B, n, ...)."""
        first = self.before.virtual
        return self.before.widen(self.behind.widen(text, context[:, first:]), context[:, :first])

    def cut(self, wide: Tensor) -> Tensor:
        """Return the columns of the text."""
        return self.behind.cut(self.before.cut(wide))

    def cut_output(self, output: Any) -> Any:
        """Return a model's output without the columns of the context."""
        return self.behind.cut_output(self.before.cut_output(output))


class ContextForward:
    """The forward of a text tower with contexts; the contexts belong to their adapters."""

    is_dtheta_term = True

    def __init__(self, tower: TextTower, bundle: TowerBundle) -> None:
        self.tower = tower
        self.bundle = bundle
        self.inner: Callable[..., Any] | None = tower.core.__dict__.get(tower.call)  # such as accelerate's
        self.own: Any = getattr(type(tower.core), tower.call)
        self.names = [name for name in inspect.signature(self.own).parameters if name != "self"]
        self.__signature__ = inspect.signature(self.own.__get__(tower.core))
        self.layout: ContextLayout | None = None  # of the texts that are being embedded
        self.hook = None if tower.family else tower.embedding.register_forward_hook(self.embedded)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the tower's output with the contexts at work."""
        self.bundle.enter()
        try:
            if self.bundle.virtual == 0:
                return self.plain(*args, **kwargs)
            given = {**dict(zip(self.names, args, strict=False)), **kwargs}
            return self._by_ids(given) if self.tower.family is None else self._by_embeddings(given)
        finally:
            self.layout = None
            self.bundle.leave()

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the tower returns by itself."""
        return self.inner(*args, **kwargs) if self.inner else self.own(self.tower.core, *args, **kwargs)

    def embedded(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        """Put the context where the placeholders are, in the embeddings (B, T + n, d) of a widened text."""
        if self.layout is None:
            return None
        text = self.layout.cut(output)
        return self.layout.widen(text, self.bundle.tokens(len(text), text))

    def remove(self) -> None:
        """Give the tower its own forward back."""
        del self.tower.core.__dict__[self.tower.call]
        if self.inner is not None:
            self.tower.core.__dict__[self.tower.call] = self.inner
        if self.hook is not None:
            self.hook.remove()

    def _by_ids(self, given: dict[str, Any]) -> Any:
        name, mask = self.names[0], plain_mask(given)
        if given.get("position_ids") is not None:
            raise ConfigError("position_ids cannot be given to a text tower with a context, which moves positions")
        if not isinstance(given.get(name), Tensor):
            raise ConfigError(f"the text tower of {type(self.tower.core).__name__} with a context needs {name}")
        ids = given[name].view(-1, given[name].shape[-1])
        if mask is not None and not bool((mask[:, :1] != 0).all()):
            raise ConfigError("texts of an image-text model must be padded on the right; found padding on the left")
        end = self._end(ids)
        self._require_length(int(end.max()) + 1)
        columns = self._columns(ids.shape[1])
        ids, mask = ids[:, :columns], None if mask is None else mask[:, :columns]  # what is gone is behind every end
        layout = ContextLayout.of(torch.zeros_like(end), end, columns, self.bundle.sides)
        n = self.bundle.virtual
        given[name] = layout.widen(ids, ids.new_full((len(ids), n), self.tower.placeholder))
        if mask is not None:
            given["attention_mask"] = layout.widen(mask, mask.new_ones(len(ids), n))
        self.layout = layout
        return layout.cut_output(self.plain(**given))

    def _columns(self, given: int) -> int:
        """Return how many columns of a text stay: all, where they and the context fit."""
        limit = self.tower.limit
        assert limit is not None, "a tower that takes ids has a table of positions"
        return min(given, limit - self.bundle.virtual)

    def _end(self, ids: Tensor) -> Tensor:
        """Return the column (B, 1) at which the tower pools.

        Raises:
            ConfigError: If a text has no end, or begins with it.
        """
        end = ids.int().argmax(1, keepdim=True) if self.tower.end is None else _first(ids == self.tower.end)
        if not bool((end > 0).all()):
            wanted = "the largest id" if self.tower.end is None else f"id {self.tower.end}"
            row = int((end[:, 0] <= 0).long().argmax())
            raise ConfigError(
                f"text {row} has no end ({wanted}) behind its first token: {ids[row].tolist()[:12]}; expected ids of "
                "the model's tokenizer with its special tokens"
            )
        return end

    def _by_embeddings(self, given: dict[str, Any]) -> Any:
        found = self.tower.family
        assert found is not None
        ids, x, mask = given.pop("input_ids", None), given.pop("inputs_embeds", None), plain_mask(given)
        if (ids is None) == (x is None):
            raise ConfigError("expected exactly one of input_ids and inputs_embeds")
        if given.get("position_ids") is not None:
            raise ConfigError("position_ids cannot be given to a text tower with a context, which moves positions")
        x = found.embedding(ids) if x is None else x
        real = torch.ones(x.shape[:2], dtype=torch.long, device=x.device) if mask is None else (mask != 0).long()
        self._require_length(int(real.sum(1).max()))
        start = real.argmax(1, keepdim=True)
        end = real.shape[1] - 1 - real.flip(1).argmax(1, keepdim=True)
        if not bool((end > start).all()):
            raise ConfigError("a text has fewer than two tokens; a context stands between its first and its last")
        layout, n = ContextLayout.of(start, end, x.shape[1], self.bundle.sides), self.bundle.virtual
        wide = layout.widen(real, real.new_ones(len(x), n))
        given |= {"inputs_embeds": layout.widen(x, self.bundle.tokens(len(x), x)), "attention_mask": wide}
        if "position_ids" in self.names:
            given["position_ids"] = order(wide) + found.first
        if (types := given.get("token_type_ids")) is not None:
            given["token_type_ids"] = layout.widen(types, types.new_zeros(len(x), n))
        return layout.cut_output(self.plain(**given))

    def _require_length(self, longest: int) -> None:
        """Raise unless the longest text and the context fit into the positions."""
        n, limit = self.bundle.virtual, self.tower.limit
        if limit is not None and longest + n > limit:
            raise ConfigError(
                f"a text of {longest} tokens and {n} vectors of context take {longest + n} positions, and "
                f"{type(self.tower.core).__name__} has {limit}; use a shorter template or names, or a smaller length"
            )


def _first(found: Tensor) -> Tensor:
    """Return the first column (B, 1) that is true, -1 where none is."""
    column = found.int().argmax(1, keepdim=True)
    return torch.where(found.any(1, keepdim=True), column, -1)
