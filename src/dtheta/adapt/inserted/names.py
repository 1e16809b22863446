"""The names of the vectors of inserted networks in a delta; what a network does is in its name.

    MODULE.snnk.FEATURES.psi          (d, f)  of what is added, psi phi(h): the gate times Psi, or a product
    MODULE.snnk.FEATURES.bias         (d,)
    MODULE.houlsby.FUNCTION.down      (r, d)  of up f(down h + down_bias) + up_bias
    MODULE.houlsby.FUNCTION.down_bias (r,)
    MODULE.houlsby.FUNCTION.up        (d, r)
    MODULE.houlsby.FUNCTION.up_bias   (d,)

MODULE is the module behind whose output the network stands. FEATURES and FUNCTION say which function of h the vectors
weigh, so vectors of other features have other names: deltas with them stand side by side in a sum, and do not mix.

Shape legend: d features of h, f random features, r hidden units.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PARTS = {"snnk": ("psi", "bias"), "houlsby": ("down", "down_bias", "up", "up_bias")}
_NAME = re.compile(rf"(?:(?P<place>.+)\.)?(?P<kind>{'|'.join(PARTS)})\.(?P<code>.+)\.(?P<part>[a-z_]+)")


@dataclass(frozen=True)
class Address:
    """Which network stands where.

    Attributes:
        place: Path of the module behind whose output it stands.
        kind: Of network: snnk or houlsby.
        code: What the kind needs to know to run it.
    """

    place: str
    kind: str
    code: str

    def name(self, part: str) -> str:
        """Return the name of one of its vectors in a delta."""
        return f"{self.place}.{self.kind}.{self.code}.{part}".removeprefix(".")


def address(name: str) -> tuple[Address, str] | None:
    """Return the network and the part that a vector is of, by its name; None for other names."""
    found = _NAME.fullmatch(name)
    if found is None or found["part"] not in PARTS[found["kind"]]:
        return None
    return Address(found["place"] or "", found["kind"], found["code"]), found["part"]


def is_inserted(name: str) -> bool:
    """Tell whether a name is that of a vector of an inserted network."""
    return address(name) is not None
