"""Network: what is added behind a module, as a function of its output h and of vectors that a delta holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from dtheta.errors import ShapeMismatch


class Network(ABC):
    """A function of h (..., d) and of vectors by part; it holds no parameter of its own."""

    @abstractmethod
    def __call__(self, h: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """Return what is added to h (..., d), in the dtype of the vectors."""

    @abstractmethod
    def shapes(self, width: int, found: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes that the parts must have behind an output of d features, by part.

        Args:
            width: d.
            found: The shapes that there are; they say how large the network is, and which optional parts it has.
        """

    def check(self, name: str, width: int, found: Mapping[str, tuple[int, ...]]) -> None:
        """Raise unless the parts are complete and fit an output of so many features.

        Args:
            name: What the names of all parts begin with.
            width: d.
            found: The shapes that there are, by part.

        Raises:
            ShapeMismatch: Naming the part.
        """
        expected = self.shapes(width, found)
        for part in {**expected, **found}:
            if found.get(part) != expected.get(part):
                raise ShapeMismatch(
                    f"{name}{part}: expected {expected.get(part, 'no such part')} behind an output of {width} "
                    f"features, found {found.get(part, 'none')}; the network was made for another model, or a part of "
                    "the delta is missing"
                )
