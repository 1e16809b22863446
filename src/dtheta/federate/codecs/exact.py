"""Exact: every change in the form that it has. Factors stay factors, and not a bit is lost.

    body     bytes of the packed description (4), description, tensors one after the other
    description, packed by zlib: JSON list in the order of the frame, null for a parameter that does not change, else
    [what kinds.py says of the change, [[name of a tensor, dtype, shape], ...]]

What a change is made of is checked as a file's is (core/kinds.py), and what it takes in memory is claimed before a
tensor is read: planes of signs are larger than their code. A spectral change arrives without its singular vectors, as
from a file; ``delta.bind(model)`` takes them from the base.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import tensor_digest
from dtheta.core.kinds import NEW_KINDS, Form, fits, parse
from dtheta.core.tensorfile import CODES, DTYPES, data_of, encode, is_shape, parse_json
from dtheta.errors import ConfigError, DthetaError, FormatError
from dtheta.federate.codecs.codec import BitCodec
from dtheta.federate.codecs.reader import Reader
from dtheta.federate.frame import Frame

_TEXT = 64  # a Python value takes at most so many bytes for a byte of its JSON


@dataclass(frozen=True)
class Exact(BitCodec):
    """Every change in the form that it has."""

    name: ClassVar[str] = "exact"
    code: ClassVar[int] = 0x20
    exact: ClassVar[bool] = True

    def _body(self, delta: Delta, frame: Frame) -> bytes:
        found = {name: delta[name].stored() for name in frame.shapes if name in delta}
        described = [_described(delta[name], found[name], name) if name in found else None for name in frame.shapes]
        text = zlib.compress(encode(described), 9)
        tensors = [bytes(data_of(tensor)) for stored in found.values() for tensor in stored.values()]
        return b"".join([len(text).to_bytes(4, "little"), text, *tensors])

    def _changes(self, body: Reader, frame: Frame) -> dict[str, Change]:
        text = _unpacked(body.take(body.whole(4)), body)
        described = parse_json(text, "the description in a payload")
        if not isinstance(described, list) or len(described) != len(frame.shapes):
            raise FormatError(f"a payload describes no list of {len(frame.shapes)} changes")
        rows = dict(zip(frame.shapes, described, strict=True))
        return {name: _naming(name, row, body, frame) for name, row in rows.items() if row is not None}


def _described(change: Change, stored: dict[str, Tensor], name: str) -> list[Any]:
    """Return the description of a change, known to be readable again."""
    meta = change.meta()
    try:
        parse(meta)
    except FormatError as error:
        raise ConfigError(f"{name}: the receiver could not read it: {error}") from None
    return [meta, [[part, CODES[tensor.dtype], list(tensor.shape)] for part, tensor in stored.items()]]


def _unpacked(packed: memoryview, body: Reader) -> bytes:
    """Return the text of a description that leaves room for what is made of it."""
    unpacker = zlib.decompressobj()
    most = body.room // _TEXT
    try:
        text = unpacker.decompress(packed, most + 1)
    except zlib.error as error:
        raise FormatError(f"the description in a payload cannot be unpacked: {error}") from None
    body.claim(len(text) * _TEXT)
    if not unpacker.eof or unpacker.unused_data:
        raise FormatError("the description in a payload does not end where it should")
    return text


def _naming(name: str, row: Any, body: Reader, frame: Frame) -> Change:
    """Return a change; whatever cannot be is an error of format that says which parameter it is about."""
    try:
        return _change(name, row, body, frame)
    except DthetaError as error:  # such as row numbers that do not increase
        raise FormatError(f"{name}: {error}") from None


def _change(name: str, row: Any, body: Reader, frame: Frame) -> Change:
    if not isinstance(row, list) or len(row) != 2 or not isinstance(row[1], list):
        raise FormatError("a payload does not say what the change is made of")
    form = parse(row[0])
    if form.shape != frame.shapes[name] or (form.meta["kind"] in NEW_KINDS) != (name in frame.new):
        raise FormatError(f"a change of kind {form.meta['kind']!r} for {list(form.shape)}; the frame has another")
    tensors = _tensors(row[1], form, body)
    return form.build(tensors, {part: tensor_digest(tensor) for part, tensor in tensors.items()})


def _tensors(rows: list[Any], form: Form, body: Reader) -> dict[str, Tensor]:
    """Read the tensors of a change, each of a dtype and shape that it must have."""
    specs = dict(_spec(row) for row in rows)
    needed = form.needed(specs)
    if len(specs) != len(rows) or set(specs) != set(needed):
        raise FormatError(f"the tensors are {sorted(specs)[:9]}, expected {sorted(needed)[:9]}")
    for part, (dtype, shape) in specs.items():
        if not fits(needed[part], dtype, shape):
            raise FormatError(f"tensor {part!r} is {dtype} {list(shape)}, which its kind does not have")
    body.claim(2 * sum(_plane_bytes(form)))
    return {part: _tensor(dtype, shape, body) for part, (dtype, shape) in specs.items()}


def _spec(row: Any) -> tuple[str, tuple[torch.dtype, tuple[int, ...]]]:
    if not isinstance(row, list) or len(row) != 3 or not all(isinstance(text, str) for text in row[:2]):
        raise FormatError("a payload does not describe a tensor by name, dtype and shape")
    if row[1] not in DTYPES or not is_shape(row[2]):
        raise FormatError(f"a tensor of dtype {row[1][:20]!r} and shape {row[2]!r:.80} cannot be")
    return row[0], (DTYPES[row[1]], tuple(row[2]))


def _plane_bytes(form: Form) -> Iterator[int]:
    """Yield the bytes of the planes of every ternary change that a change is made of."""
    for child in form.children.values():
        yield from _plane_bytes(child)
    if form.meta["kind"] == "ternary":
        yield 2 * ((math.prod(form.shape) + 7) // 8)


def _tensor(dtype: torch.dtype, shape: tuple[int, ...], body: Reader) -> Tensor:
    nbytes = math.prod(shape) * dtype.itemsize
    data = body.take(nbytes)
    body.claim(nbytes)
    tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype) if nbytes else torch.empty(0, dtype=dtype)
    if not bool(torch.isfinite(tensor).all()):
        raise FormatError("a payload holds NaN or infinity, which no sender of ours writes")
    return tensor.reshape(shape)
