"""Ternary vectors of all parameters together: chosen, coded as one, and cut along the frame again.

Shape legend: N entries of all parameters.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dtheta.compress.signs import Signs, signs
from dtheta.core.change import Change, Dense
from dtheta.core.codec.payload import decode, encode
from dtheta.core.delta import Delta
from dtheta.core.planes import Planes, concatenate, trusted
from dtheta.core.ternary import ternary
from dtheta.federate.codecs.reader import Reader
from dtheta.federate.frame import Frame


def kept(rows: Mapping[str, Tensor], frame: Frame, density: float) -> Signs:
    """Return the signs of the largest of all N entries, as ``dt.compress`` chooses them; new vectors count as well.

    Args:
        rows: The entries of every parameter, by name; what ``entries`` yields.
        frame: What travels.
        density: Share that is kept.
    """
    whole = Delta({name: Dense(values.reshape(frame.shapes[name])) for name, values in rows.items()})
    return signs(whole, density, of="product")


def together(found: Signs, frame: Frame) -> Planes:
    """Return the signs of all parameters as one vector (N), in the order of the frame."""
    planes = {vector.name: vector.planes for vector in found.vectors}
    return concatenate([planes[name] for name in frame.shapes])


def coded(planes: Planes) -> bytes:
    """Return signs as bytes, near their entropy."""
    return encode(planes.mask, planes.negative, planes.length).tobytes()


def decoded(body: Reader, nbytes: int, frame: Frame) -> Planes:
    """Return the signs (N) that the next bytes of a body hold.

    Raises:
        FormatError: If they are damaged, or hold another number of signs.
    """
    body.claim(6 * ((frame.numel + 7) // 8))  # mask and two planes, and two more where they are cut to parameters
    mask, negative = decode(body.take(nbytes), frame.numel)
    return trusted(mask ^ negative, negative, frame.numel)


def ternary_changes(planes: Planes, scales: Tensor, frame: Frame) -> dict[str, Change]:
    """Return the changes of signs (N) and scales (one, or one a parameter); new vectors hold numbers."""
    changes: dict[str, Change] = {}
    for (name, (start, stop)), scale in zip(frame.spans.items(), scales.expand(len(frame.spans)), strict=True):
        found = ternary(planes.part(start, stop), scale.clone(), frame.shapes[name])
        changes[name] = frame.change(name, found.dense()) if name in frame.new else found
    return changes


def new_bytes(frame: Frame) -> int:
    """Return the bytes of the new vectors as numbers."""
    return sum(torch.float32.itemsize * (stop - start) for n, (start, stop) in frame.spans.items() if n in frame.new)
