"""TowerBundle: what all prompts on one image-text model add up to at this moment.

Vectors of several prompts stand one after another, in the order of attachment. UPT's mixer runs once a forward of the
model: what it made is kept no longer, as writes to ``p.data`` leave no trace by which a change could be seen.

Shape legend: B texts, C classes, n vectors, d features, E joint features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.adapt.prompts.bundle import Bundle, Prompt, weighed
from dtheta.adapt.prompts.image_names import (
    META,
    MIXER,
    TextPlace,
    is_conditional,
    is_mixed,
    settled,
    text_place,
    visual_layer,
)
from dtheta.adapt.prompts.mixer import mixed
from dtheta.adapt.prompts.sources import length_of
from dtheta.errors import ConfigError


@dataclass(frozen=True, eq=False)
class TowerPrompt(Prompt):
    """The vectors of one adapter on an image-text model."""

    kept: dict[str, dict[str, Tensor]] = field(
        default_factory=dict
    )  # what the mixer made last, with and without gradients

    @property
    def place(self) -> tuple[TextPlace, int] | None:
        """Where the context stands, and its rows (C n or n)."""
        found = [(p, length_of(term)) for name, term in self.terms.items() if (p := text_place(name)) is not None]
        return found[0] if found else None

    @property
    def columns(self) -> int:
        """Columns of the vision tower that the prompt takes, n."""
        return next((length_of(term) for name, term in self.terms.items() if visual_layer(name) is not None), 0)

    @property
    def conditional(self) -> bool:
        """Whether the context depends on the image."""
        return is_conditional(self.terms)

    def entering(self) -> Mapping[str, Tensor]:
        """Return the vectors as they enter the model, by name."""
        return self._mixed() if any(map(is_mixed, self.terms)) else self.vectors(self.weight())

    def vectors(self, weight: float) -> dict[str, Tensor]:
        """Return all vectors at a weight, by the names under which they enter the model; a mixer's are made anew."""
        every = {name: weighed(term.matrix(), weight) for name, term in self.terms.items()}
        before = {name: values for name, values in every.items() if is_mixed(name)}
        plain = {name: v for name, v in every.items() if not is_mixed(name) and not name.startswith(MIXER)}
        if not before:
            return plain
        return plain | mixed(before, {name: v for name, v in every.items() if name.startswith(MIXER)})

    def forget(self) -> None:
        """Forget what the mixer made: its graph serves one backward pass, and its weights may change."""
        self.kept.clear()

    def _mixed(self) -> Mapping[str, Tensor]:
        slot = "live" if torch.is_grad_enabled() else "constant"
        if slot not in self.kept:
            self.kept[slot] = self.vectors(self.weight())
        return self.kept[slot]


@dataclass(eq=False)
class TowerBundle(Bundle):
    """The prompts on one image-text model."""

    image: Tensor | None = None  # features of the image (E,) whose logits are being made
    depth: int = 0  # forwards that are running, of the whole model and of its towers
    undo: list[Callable[[], None]] = field(default_factory=list)  # by which the last prompt leaves the model as it was

    def counting(self) -> list[TowerPrompt]:
        """Return the prompts that count."""
        return [p for p in self.prompts if isinstance(p, TowerPrompt) and p.weight() != 0.0]

    @property
    def conditional(self) -> bool:
        """Whether some context depends on the image."""
        return any(prompt.conditional for prompt in self.counting())

    @property
    def sides(self) -> tuple[int, int]:
        """Context vectors of a text before the name of its class, and behind it."""
        split = [place.split(rows) for prompt in self.counting() if prompt.place for place, rows in (prompt.place,)]
        return sum(before for before, _ in split), sum(behind for _, behind in split)

    @property
    def virtual(self) -> int:
        """Context vectors of a text in all."""
        return sum(self.sides)

    def tokens(self, batch: int, like: Tensor) -> Tensor:
        """Return the context (B, n, d): what stands before the name, then what stands behind it."""
        before: list[Tensor] = []
        behind: list[Tensor] = []
        for prompt in self.counting():
            if prompt.place is not None:
                place, rows = prompt.place
                values = self._context(prompt, place, batch).to(like.device, like.dtype)
                cut = place.split(rows)[0]
                before.append(values[:, :cut].expand(batch, -1, -1))
                behind.append(values[:, cut:].expand(batch, -1, -1))
        return torch.cat([*before, *behind], 1)

    def _context(self, prompt: TowerPrompt, place: TextPlace, batch: int) -> Tensor:
        """Return the context of one prompt (1 or B, n, d)."""
        vectors = prompt.entering()
        values = vectors[settled(place.name)]
        if place.classes and batch % place.classes:
            raise ConfigError(
                f"{place.name}: there is a context for each of {place.classes} classes, and the text tower got {batch} "
                "texts; give it as many texts of each class, class by class"
            )
        values = values.reshape(place.classes or 1, -1, values.shape[-1])
        if place.classes:  # several templates of a class follow one another
            values = values.repeat_interleave(batch // place.classes, 0)
        return values + self._shift(vectors) if prompt.conditional else values

    def _shift(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Return what CoCoOp's network makes of the image (d,)."""
        if self.image is None:
            raise ConfigError(
                "CoCoOp's context depends on the image, so there are no text features without one; call the "
                "ImageTextClassifier on images"
            )
        down, up = vectors[f"{META}down.weight"], vectors[f"{META}up.weight"]
        hidden = F.relu(F.linear(self.image.to(down.dtype), down, vectors[f"{META}down.bias"]))
        return F.linear(hidden, up, vectors[f"{META}up.bias"])

    def begin(self, *_: Any) -> None:
        """Say that the forward of a whole model begins, and any before it has ended, if only by an interrupt."""
        self.depth = 0
        self.enter()

    def enter(self, *_: Any) -> None:
        """Say that the forward of a whole model or of a tower begins; the mixer runs once in the outermost."""
        if self.depth == 0:
            self.forget()
        self.depth += 1

    def leave(self, *_: Any) -> None:
        """Say that it ended."""
        self.depth = max(0, self.depth - 1)
        if self.depth == 0:
            self.forget()

    def forget(self) -> None:
        """Forget what mixers made."""
        for prompt in self.prompts:
            if isinstance(prompt, TowerPrompt):
                prompt.forget()
