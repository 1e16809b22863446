"""The names of prompt vectors of image-text models; what a vector does is in its name, as in names.py.

    prompt.text[.front|.end][.classes.C]    (n_t, d_t) or (C n_t, d_t)  context around the name of a class
    prompt.visual.LAYER                     (n_v, d_v)  columns after [CLS] at the input of a layer
    prompt.mixed.text..., .visual.LAYER     the same before UPT's mixer, which makes the ones above of them
    prompt.mixer.PART                       weights of the mixer; see mixer.py
    prompt.meta.PART                        weights of CoCoOp's network; see cocoop.py

Shape legend: C classes, n_t and n_v vectors, d_t and d_v features of text and image embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Position: TypeAlias = Literal["end", "front", "middle"]

MIXER, META = "prompt.mixer.", "prompt.meta."
_LAYER = r"(?:0|[1-9][0-9]{0,3})"
_TEXT = re.compile(r"prompt\.(mixed\.)?text(?:\.(front|end))?(?:\.classes\.([1-9][0-9]{0,6}))?")
_VISUAL = re.compile(rf"prompt\.(mixed\.)?visual\.({_LAYER})")
_PART = re.compile(r"prompt\.(?:mixer|meta)\.[a-z_.]+")


@dataclass(frozen=True)
class TextPlace:
    """Where context vectors stand in a text.

    Attributes:
        position: Of the class's name: behind all vectors ("end"), before them ("front"), or in the middle of them.
        classes: C, where every class has vectors of its own; 0 where all share them.
        mixed: Whether a mixer makes the vectors of these.
    """

    position: Position = "middle"
    classes: int = 0
    mixed: bool = False

    @property
    def name(self) -> str:
        """The name of the vectors in a delta."""
        where = "" if self.position == "middle" else f".{self.position}"
        own = f".classes.{self.classes}" if self.classes else ""
        return f"prompt.{'mixed.' if self.mixed else ''}text{where}{own}"

    def split(self, rows: int) -> tuple[int, int]:
        """Return how many vectors of a text stand before the name, and how many behind it."""
        length = rows // (self.classes or 1)
        before = {"end": length, "front": 0, "middle": length // 2}[self.position]
        return before, length - before


def text_place(name: str) -> TextPlace | None:
    """Return where the vectors of a name stand in a text; None for other names."""
    found = _TEXT.fullmatch(name)
    if found is None:
        return None
    position: Position = "front" if found[2] == "front" else "end" if found[2] == "end" else "middle"
    return TextPlace(position, int(found[3] or 0), found[1] is not None)


def visual_name(layer: int, mixed: bool = False) -> str:
    """Return the name of the vectors at the input of a layer."""
    return f"prompt.{'mixed.' if mixed else ''}visual.{layer}"


def visual_layer(name: str) -> int | None:
    """Return the layer of visual vectors, mixed or not; None for other names."""
    found = _VISUAL.fullmatch(name)
    return None if found is None else int(found[2])


def settled(name: str) -> str:
    """Return the name under which vectors enter the model, after a mixer if there is one."""
    return name.replace("prompt.mixed.", "prompt.", 1)


def is_conditional(names: Iterable[str]) -> bool:
    """Tell whether vectors make a context that depends on the image."""
    return any(name.startswith(META) for name in names)


def is_mixed(name: str) -> bool:
    """Tell whether vectors enter the model through a mixer."""
    return name.startswith("prompt.mixed.")


def is_image_prompt(name: str) -> bool:
    """Tell whether a name is one of this file."""
    return text_place(name) is not None or visual_layer(name) is not None or _PART.fullmatch(name) is not None
