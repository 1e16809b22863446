"""A value vector: what one neuron of an MLP writes into the residual stream, by the place where it is stored.

    MLP_l(x) = sum over neurons j of  a_lj(x) v_lj,     v_lj = column j of the down-projection of layer l

Read through the unembedding, v promotes the tokens on one side (sign +1) and suppresses them on the other; where the
neuron's activation is negative it is the side of -v that it promotes, so a concept may stand on either side.
Source: ConceptVectors (arXiv 2406.11614), which reads +v alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from dtheta.errors import ConfigError

_WRITTEN = re.compile(r"(\d+)/(\d+)(?:/([+-]))?")


class ValueVector(NamedTuple):
    """The address of a value vector.

    Attributes:
        layer: Layer, from 0.
        column: Neuron of that layer's MLP, from 0.
        sign: Which side is read: +1 or -1.
    """

    layer: int
    column: int
    sign: int = 1

    def __str__(self) -> str:
        return f"{self.layer}/{self.column}/{'+' if self.sign > 0 else '-'}"

    @classmethod
    def parse(cls, text: str) -> ValueVector:
        """Read ``"29/864/-"``, layer, column and side; without a side it is +.

        Raises:
            ConfigError: If it is written otherwise.
        """
        if not isinstance(text, str) or not (found := _WRITTEN.fullmatch(text.strip())):
            raise ConfigError(f"value vector {text!r}: expected layer/column/side, such as 29/864/-")
        layer, column, side = found.groups()
        return cls(int(layer), int(column), -1 if side == "-" else 1)


def value_vectors(given: Iterable[Any]) -> list[ValueVector]:
    """Return addresses as a list.

    Raises:
        ConfigError: If there is none, or something else is among them.
    """
    found = list(given)
    if not found:
        raise ConfigError("no value vectors were given; expected some, such as ValueVector(29, 864)")
    for one in found:
        if not isinstance(one, ValueVector):
            raise ConfigError(f"{one!r} is no value vector; expected such as ValueVector(29, 864)")
    return found
