"""Safetensors files, read and written one tensor at a time, with every claim checked before anything is allocated.

    8 bytes   length of the header, little-endian
    header    JSON {"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets": [start, stop]}}, then spaces
    data      the tensors, one after the other, without gaps

A header may claim anything, so its length is held against the size of the file, each tensor's bytes against its dtype
and shape, and all tensors together against the data that is there. What passes cannot make a reader allocate more
than the file holds.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dtheta.core.paths import expanded
from dtheta.errors import ConfigError, FormatError, did_you_mean

MAX_HEADER = 100_000_000  # bytes; the same limit as in the safetensors library

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """Where a tensor is: dtype, shape, and the bytes ``start:stop`` of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.stop - self.start


class Replaced(FormatError):
    """Since the first look at it the file was removed, or another one came under its name."""


@dataclass(frozen=True)
class TensorFile:
    """A checked header: the metadata, and where each tensor is, in the order of the file."""

    path: Path
    metadata: Mapping[str, str]
    entries: Mapping[str, Entry]
    header: bytes = field(repr=False)
    identity: tuple[int, int, int, int] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Size of the file of which this is the header."""
        return self.identity[2]

    def read(self, name: str) -> Tensor:
        """Return one tensor.

        Raises:
            FormatError: If the file was replaced or has become shorter since its header was read, or cannot be read.
        """
        entry = self.entries[name]
        data = torch.empty(entry.nbytes, dtype=torch.uint8)
        view = memoryview(data.numpy())  # type: ignore[arg-type]
        with self.open() as handle:
            handle.seek(entry.start)
            done = 0
            while done < entry.nbytes:
                done += self._some(handle.readinto(view[done:]))  # type: ignore[attr-defined]
        if entry.dtype == torch.bool and entry.nbytes and int(data.max()) > 1:
            raise FormatError(f"{self.path}: tensor {name!r} holds bytes that are no booleans; the file is damaged")
        return data.view(entry.dtype).reshape(entry.shape)

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of one tensor, a few megabytes at a time."""
        entry = self.entries[name]
        with self.open() as handle:
            handle.seek(entry.start)
            left = entry.nbytes
            while left:
                block = handle.read(min(left, 1 << 24))
                left -= self._some(len(block))
                yield block

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file again, to read its data.

        Raises:
            Replaced: If it is not the file any more of which this is the header.
        """
        with _opened(self.path) as handle:
            if _identity(handle) != self.identity:
                raise Replaced(f"{self.path} was changed or replaced by another file while it was read; read it again")
            yield handle

    def _some(self, count: int) -> int:
        if not count:
            raise FormatError(f"{self.path}: the file became shorter while it was read")
        return count


def open_tensors(path: str | os.PathLike[str]) -> TensorFile:
    """Read and check the header of a safetensors file.

    Raises:
        ConfigError: If there is no such file.
        FormatError: If it is not a safetensors file, or a damaged one.
    """
    path = existing(path)
    with _opened(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        prefix = handle.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or not 2 <= length <= min(size - 8, MAX_HEADER):
            raise FormatError(f"{path}: {_not_safetensors(prefix, size, length)}")
        header = handle.read(length)
        identity = _identity(handle)
    if len(header) < length:
        raise FormatError(f"{path}: the file became shorter while it was read")
    if header[:1] != b"{":
        raise FormatError(f"{path}: {_not_safetensors(prefix, size, length)}")
    record = parse_json(header, f"{path}: the header")
    if not isinstance(record, dict):
        raise FormatError(f"{path}: the header is not a JSON object")
    metadata = _metadata(record.pop("__metadata__", {}), path)
    return TensorFile(path, metadata, _entries(record, 8 + length, size, path), header, identity)


def _identity(handle: BinaryIO) -> tuple[int, int, int, int]:
    """Return what tells an open file from one that was renamed to its place.

    The number of a file that is gone is given to the next one, so that size and time belong to it.
    """
    stat = os.fstat(handle.fileno())
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def existing(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that is there.

    Raises:
        ConfigError: If nothing is there, naming what is nearly called so; if there is no user of a leading ``~``.
    """
    path = expanded(path)
    folder = path.parent
    try:
        if path.exists():
            return path
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    except OSError as error:  # a name that is too long, a folder that may not be listed
        raise ConfigError(f"there is no file {path} to be read: {error.strerror or error}") from None
    where = "" if folder.is_dir() else f": there is no folder {folder}"
    raise ConfigError(f"there is no file {path}{where}{did_you_mean(path.name, names)}")


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """Return what a file holds.

    Args:
        path: The file.
        most: Bytes that it may have; None for any number.

    Raises:
        FormatError: If it cannot be read, as a folder, or is larger.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise FormatError(f"{path} has {size:,} bytes, and at most {most:,} can be meant; it is another file")
        return file.read()


def names_in(folder: Path) -> list[str]:
    """Return the names of what is in a folder, sorted.

    Raises:
        FormatError: If the folder may not be listed.
    """
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise FormatError(f"{folder} cannot be read: {error.strerror or error}") from None


class _opened:
    """A file opened for reading, whose system errors are format errors of ours."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> BinaryIO:
        try:
            self.handle = self.path.open("rb")
        except FileNotFoundError:  # it was there a moment ago
            raise Replaced(f"{self.path} was removed while it was read") from None
        except OSError as error:
            raise FormatError(f"{self.path} cannot be read: {error.strerror or error}") from None
        return self.handle

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.handle.close()
        if isinstance(error, OSError):
            raise FormatError(f"{self.path} cannot be read: {error.strerror or error}") from None


def _not_safetensors(prefix: bytes, size: int, length: int) -> str:
    if prefix[:4] == b"PK\x03\x04" or prefix[:1] == b"\x80":
        return (
            "this is a pickle (torch.save), which can run code when it is opened; dtheta reads safetensors only. "
            "Load it where you trust it and save it again with safetensors.torch.save_file or save_pretrained"
        )
    if prefix[:4] == b"GGUF":
        return "this is a GGUF model; dt.load_model reads it"
    if size < 8:
        return f"the file has {size} bytes, less than the 8 of a header length; it is damaged or empty"
    if length > MAX_HEADER:
        return f"this is no safetensors file: the first 8 bytes claim a header of {length:,} bytes"
    return f"the header claims {length:,} bytes, but the file has {size:,}; it is cut short, or no safetensors file"


def parse_json(text: bytes | str, what: str) -> Any:
    """Return a JSON value; duplicate keys, NaN, infinity, bad text and bottomless nesting are refused.

    Raises:
        FormatError: Saying what is wrong with ``what``.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise FormatError(f"{what} is nested too deeply; the file is damaged or hostile") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both
        raise FormatError(f"{what} is not valid JSON ({error}); the file is damaged") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:40]} is not a finite number")
    return float(text)


def _metadata(record: Any, path: Path) -> dict[str, str]:
    if not isinstance(record, dict) or not all(isinstance(value, str) for value in record.values()):
        raise FormatError(f"{path}: the metadata in the header is not a table of strings; the file is damaged")
    return record


def _entries(record: Mapping[str, Any], base: int, size: int, path: Path) -> dict[str, Entry]:
    """Return the tensors in the order of their bytes, which must be all bytes after the header, each once."""
    found = [(name, _entry(name, spec, base, path)) for name, spec in record.items()]
    found.sort(key=lambda item: (item[1].start, item[1].stop))
    reached = base
    for name, entry in found:
        if entry.start != reached:
            problem = "overlaps the one before it" if entry.start < reached else "leaves a gap before it"
            raise FormatError(f"{path}: tensor {name[:100]!r} {problem}; the file is damaged")
        reached = entry.stop
    if reached != size:
        problem = "is cut short" if reached > size else "has bytes that belong to no tensor"
        raise FormatError(f"{path}: the tensors end at byte {reached:,} of {size:,}: the file {problem}")
    return dict(found)


def _entry(name: str, spec: Any, base: int, path: Path) -> Entry:
    what = f"{path}: tensor {name[:100]!r}"
    if not isinstance(spec, dict) or set(spec) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{what} is not described by dtype, shape and data_offsets; the file is damaged")
    code, shape, offsets = spec["dtype"], spec["shape"], spec["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise FormatError(f"{what} is of dtype {str(code)[:20]}; expected one of {', '.join(DTYPES)}")
    if not is_shape(shape):
        raise FormatError(f"{what} has no valid shape; the file is damaged")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and 0 <= n for n in offsets):
        raise FormatError(f"{what} has no valid offsets; the file is damaged")
    entry = Entry(DTYPES[code], tuple(shape), base + offsets[0], base + offsets[1])
    if entry.nbytes != math.prod(shape) * entry.dtype.itemsize:
        raise FormatError(
            f"{what} of {code} {shape} needs {math.prod(shape) * entry.dtype.itemsize:,} bytes, "
            f"but has {entry.nbytes:,}; the file is damaged"
        )
    return entry


def is_shape(value: Any) -> bool:
    """Tell whether a JSON value is a list of at most 32 counts whose product torch can hold."""
    if not isinstance(value, list) or len(value) > 32 or not all(type(n) is int and n >= 0 for n in value):
        return False
    return math.prod(max(n, 1) for n in value) < 1 << 53


def header_bytes(specs: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """Return length and header of a file that holds tensors of these dtypes and shapes in this order.

    Raises:
        ConfigError: For a dtype that the format does not have.
    """
    record: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, (dtype, shape) in specs.items():
        if dtype not in CODES:
            raise ConfigError(f"{name}: a safetensors file cannot hold {dtype}")
        end = at + math.prod(shape) * dtype.itemsize
        record[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = encode(record)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def encode(record: Any) -> bytes:
    """Return a JSON value as compact ASCII, keys in their order."""
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode("ascii")


def data_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor; a copy only where it is not contiguous or not on the CPU."""
    host = tensor.detach().to("cpu").contiguous()
    if not host.numel():
        return memoryview(b"")
    return memoryview(host.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def write_tensors(
    handle: BinaryIO,
    specs: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    metadata: Mapping[str, str],
    data: Callable[[str], Iterable[bytes | memoryview]],
) -> int:
    """Write a whole file, asking ``data(name)`` for the bytes of one tensor after the other; return their number."""
    header = header_bytes(specs, metadata)
    handle.write(header)
    written = len(header)
    for name in specs:
        for block in data(name):
            handle.write(block)
            written += len(block)
    return written
