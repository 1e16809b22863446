"""The names of prompt vectors in a delta; what a vector does is in its name, so that only alike ones can be added.

    prompt.input                          (m, d)  virtual tokens
    prompt.input.offset                   (s, d)  added to the embedding of real token number i of a text
    prompt.input.offset.column            (s, d)  the same by column of the tensor, as DePT's released code does
    prompt.input.offset[.column].last     (s, d)  real tokens beyond s get the last row; without a suffix, nothing
    prompt.input.offset[.column].error    (s, d)  texts beyond s are refused
    prompt.input.offset.vocabulary        (V, d)  added to the embedding of every token, by its id
    prompt.input.network.down, .down_bias, .up, .up_bias      the same by a network; see token_wise.py
    prefix.LAYER.key, prefix.LAYER.value  (n, heads of keys * features of one)  entries of the cache

Those of image-text models are in image_names.py.

Shape legend: m virtual tokens, d features of an embedding, s positions of a text, n entries before it, V tokens of the
vocabulary.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from dtheta.adapt.prompts.image_names import is_image_prompt

Index: TypeAlias = Literal["token", "column"]
Beyond: TypeAlias = Literal["none", "last", "error"]

INPUT = "prompt.input"
TOKEN_TABLE = f"{INPUT}.offset.vocabulary"
NETWORK = tuple(f"{INPUT}.network.{part}" for part in ("down", "down_bias", "up", "up_bias"))
_OFFSET = re.compile(r"prompt\.input\.offset(\.column)?(\.last|\.error)?")
_PREFIX = re.compile(r"prefix\.(0|[1-9][0-9]{0,5})\.(key|value)")


@dataclass(frozen=True)
class OffsetRule:
    """Which row of the table a token gets.

    Attributes:
        index: By the number of real tokens before it, which no padding changes; or by its column.
        beyond: What tokens beyond the table get: nothing, the last row, or an error.
    """

    index: Index = "token"
    beyond: Beyond = "none"

    @property
    def name(self) -> str:
        """The name of the table in a delta."""
        column = ".column" if self.index == "column" else ""
        return f"{INPUT}.offset{column}{'' if self.beyond == 'none' else f'.{self.beyond}'}"


def offset_rule(name: str) -> OffsetRule | None:
    """Return the rule of an offset table by its name; None for other names."""
    found = _OFFSET.fullmatch(name)
    if found is None:
        return None
    beyond: Beyond = "last" if found[2] == ".last" else "error" if found[2] == ".error" else "none"
    return OffsetRule("column" if found[1] else "token", beyond)


def is_offset(name: str) -> bool:
    """Tell whether a vector displaces the embeddings of the text."""
    return name == TOKEN_TABLE or name in NETWORK or offset_rule(name) is not None


def prefix_place(name: str) -> tuple[int, Literal["key", "value"]] | None:
    """Return layer and part of an entry of the cache by its name; None for other names."""
    found = _PREFIX.fullmatch(name)
    return None if found is None else (int(found[1]), "key" if found[2] == "key" else "value")


def prefix_name(layer: int, part: str) -> str:
    """Return the name of an entry of the cache."""
    return f"prefix.{layer}.{part}"


def is_prompt(name: str) -> bool:
    """Tell whether a name is that of a prompt's vector."""
    return name == INPUT or is_offset(name) or prefix_place(name) is not None or is_image_prompt(name)
