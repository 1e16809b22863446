"""Frame: what may travel in a federation. Both sides know it, so a payload carries no names and no shapes.

    frame = (name, shape, new or not) in order  +  digests of the base's tensors of these names

    layout   sha256 over the names, shapes and which of them are new
    origin   sha256 over the digests of the base
    digest   sha256 over both
    tag      8 bytes of layout, 8 bytes of origin: what a payload carries

The tag guards against mistakes, such as a client that loaded another checkpoint; who means harm can copy it. All
changes of a frame, one after the other, are one vector of ``numel`` entries.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

from torch import Tensor

from dtheta.core.arguments import one_delta
from dtheta.core.change import Change, Dense, New
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import Fingerprint
from dtheta.core.tensorfile import encode
from dtheta.errors import (
    BaseMismatch,
    ConfigError,
    NonFinite,
    ShapeMismatch,
    UnknownParameter,
    UnsupportedLayer,
    did_you_mean,
)


@dataclass(frozen=True, eq=False)
class Frame:
    """The parameters that travel, in order, and the base that they belong to. Equal when the digests are.

    Attributes:
        shapes: Shape by name.
        new: The names of vectors that the base does not have, such as prompts.
        base: Digests of the base's tensors of these names.
        uses: How the base's layers use them, as an adapter records it, so that what arrives can be exported; not part
            of the identity.

    Raises:
        ConfigError: If there are no parameters.
        UnknownParameter: If ``new`` names something that has no shape.
    """

    shapes: Mapping[str, tuple[int, ...]]
    new: frozenset[str] = frozenset()
    base: Fingerprint = field(default_factory=lambda: Fingerprint({}))
    uses: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", {name: tuple(shape) for name, shape in self.shapes.items()})
        object.__setattr__(self, "new", frozenset(self.new))
        object.__setattr__(self, "base", self.base.restrict(self.shapes))
        if not self.shapes:
            raise ConfigError("a frame without parameters: nothing would be trained; attach a method that moves some")
        for name in sorted(self.new - set(self.shapes)):
            raise UnknownParameter(f"the new vector {name!r} has no shape{did_you_mean(name, self.shapes)}")

    @classmethod
    def of(cls, template: Delta) -> Frame:
        """Return the frame of a delta, such as ``dt.attach(model, method).delta()`` before training."""
        shapes = {name: tuple(change.shape) for name, change in one_delta(template).changes.items()}
        return cls(shapes, frozenset(template.new), template.base, template.provenance.settings.get("uses"))

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Frame) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def numel(self) -> int:
        """Number of entries of all parameters."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def spans(self) -> dict[str, tuple[int, int]]:
        """Where each parameter's entries start and stop in the vector of all of them."""
        ends = accumulate((math.prod(shape) for shape in self.shapes.values()), initial=0)
        return dict(zip(self.shapes, pairwise(ends), strict=True))

    @cached_property
    def digest(self) -> str:
        """Identity, as hex."""
        return hashlib.sha256(self._layout + self._origin).hexdigest()

    @cached_property
    def tag(self) -> bytes:
        """16 bytes that a payload carries."""
        return self._layout[:8] + self._origin[:8]

    @cached_property
    def _layout(self) -> bytes:
        rows = [[name, list(shape), name in self.new] for name, shape in self.shapes.items()]
        return hashlib.sha256(encode(rows)).digest()

    @cached_property
    def _origin(self) -> bytes:
        return hashlib.sha256(encode([self.base.digests.get(name) for name in self.shapes])).digest()

    def change(self, name: str, values: Tensor) -> Change:
        """Return dense values as the change of a parameter: a new vector where the frame says so."""
        shaped = values.reshape(self.shapes[name])
        return New(shaped) if name in self.new else Dense(shaped)

    def require(self, delta: Delta) -> None:
        """Check that a delta fits; it may leave parameters out.

        Raises:
            UnknownParameter: If it changes a parameter outside the frame.
            ShapeMismatch: If a shape differs.
            UnsupportedLayer: If a vector is new here and a change of the base there, or the other way round.
            BaseMismatch: If it was made on a base of other content.
            NonFinite: If it holds NaN or infinity.
        """
        for name, change in one_delta(delta).changes.items():
            self._require(name, change)
        differ = [name for name in delta if delta.base.digests.get(name) != self.base.digests.get(name)]
        if differ:
            raise BaseMismatch(
                f"the delta was made on another base than this federation's: {len(differ)} of {len(delta)} tensors "
                f"differ in content, first: {', '.join(differ[:3])}; load the model that the server has"
            )
        for name, change in delta.changes.items():
            if not change.is_finite():
                raise NonFinite(f"{name}: the change holds NaN or infinity; lower the learning rate, or check the data")

    def _require(self, name: str, change: Change) -> None:
        if name not in self.shapes:
            raise UnknownParameter(f"the federation does not train {name!r}{did_you_mean(name, self.shapes)}")
        if tuple(change.shape) != self.shapes[name]:
            raise ShapeMismatch(f"{name}: the change is {tuple(change.shape)}, expected {self.shapes[name]}")
        if change.is_new != (name in self.new):
            kinds = ("a change of the base", "a new vector")
            raise UnsupportedLayer(f"{name}: found {kinds[change.is_new]}, expected {kinds[name in self.new]}")
