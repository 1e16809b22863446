"""Files of singular triplets in the cache: format, lookup, eviction.

    $DTHETA_CACHE/factors/<key of the request>-r<rank>.safetensors
    one tensor a matrix, its name the digest of the weight: U, S, Vh one after the other, row by row;
    the largest element size first, so that every tensor starts at a multiple of it
    metadata: request (accuracy, seed, route, version), checksum of the data, and for each matrix its
              [m, n, rank, error, residual, route]

One file holds all matrices of one request, because opening 210 files costs more than reading them. Files appear
complete or not at all (core/output.py) and are mapped, not read: pages that nobody looks at cost nothing, and writing
to a tensor changes a private copy, never the file. What does not match its checksum is not used.

Shape legend: U (m, r), S (r,), Vh (r, n).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from dtheta.core.output import write_file
from dtheta.core.svd import TruncatedSVD
from dtheta.core.tensorfile import Replaced, TensorFile, data_of, encode, open_tensors, parse_json, write_tensors
from dtheta.errors import ConfigError, DthetaWarning, FormatError, OutputError

_SEARCHED = 64  # newest files whose headers are searched for single matrices
_told: set[Path] = set()  # folders whose being unwritable has been said


def store_path(folder: Path, request: str, digests: Iterable[str], rank: int) -> Path:
    """Return where the triplets of these matrices are, or go."""
    key = xxhash.xxh3_128_hexdigest("\n".join([request, *sorted(digests)]).encode())
    return folder / f"{key}-r{rank}.safetensors"


def load_stored(folder: Path, request: str, digests: Iterable[str], rank: int) -> dict[str, TruncatedSVD]:
    """Return what is stored of the matrices with these digests at this rank."""
    wanted, found = set(digests), {}
    for path in _candidates(folder, store_path(folder, request, wanted, rank)):
        found |= _read(path, request, wanted - found.keys(), rank)
        if len(found) == len(wanted):
            break
    return found


def _candidates(folder: Path, exact: Path) -> Iterator[Path]:
    """Yield the file of exactly this request, then the others of its rank, newest first."""
    if exact.exists():
        yield exact
    rank = exact.name.rpartition("-")[2]
    files = sorted(_stats(folder, f"*-{rank}"), key=lambda item: -item[1].st_mtime)
    yield from (path for path, _ in files[:_SEARCHED] if path != exact)


def _stats(folder: Path, pattern: str = "*.safetensors") -> list[tuple[Path, os.stat_result]]:
    found = []
    with contextlib.suppress(OSError):
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):  # another process may have evicted it
                found.append((path, path.stat()))
    return found


def _read(path: Path, request: str, wanted: set[str], rank: int) -> dict[str, TruncatedSVD]:
    """Return the wanted triplets of one file; a damaged file is said to be so and removed."""
    try:
        file = open_tensors(path)
        if file.metadata.get("request") != request or not wanted & file.entries.keys():
            return {}
        table = parse_json(file.metadata["factors"], f"{path}: the table of factors")
        useful = {d: table[d] for d in wanted & file.entries.keys() if table[d][2] == rank}
        if not useful:
            return {}
        data = _checked(file)
        found = {d: _triplets(data, file, d, row) for d, row in useful.items()}
    except (ConfigError, Replaced):  # evicted or written anew by another process since it was listed
        return {}
    except (FormatError, KeyError, IndexError, TypeError, ValueError, RuntimeError, OSError) as error:
        warnings.warn(f"{path} is damaged and its factors are computed anew ({error})", DthetaWarning, stacklevel=4)
        with contextlib.suppress(OSError):
            path.unlink()
        return {}
    with contextlib.suppress(OSError):
        os.utime(path)  # used last, evicted last
    return found


def _checked(file: TensorFile) -> Tensor:
    """Return the bytes of the whole file, mapped, after comparing it with its checksum."""
    with file.open() as handle:
        data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
    start = min(entry.start for entry in file.entries.values())
    checksum = _checksum(file.entries, file.metadata["factors"])
    with memoryview(data) as whole, whole[start:] as payload:
        checksum.update(payload)
    if checksum.hexdigest() != file.metadata["checksum"]:
        raise FormatError("the checksum does not match")
    return torch.frombuffer(data, dtype=torch.uint8)


def _checksum(names: Iterable[str], table: str) -> xxhash.xxh3_128:
    """Return the checksum of everything but the data, which is still to be added in the order of the names."""
    return xxhash.xxh3_128("\n".join([*names, table]).encode())


def _triplets(data: Tensor, file: TensorFile, digest: str, row: list[Any]) -> TruncatedSVD:
    m, n, r, error, residual, route = row
    entry = file.entries[digest]
    flat = data[entry.start : entry.stop].view(entry.dtype)
    U, S, Vh = flat.split([m * r, r, r * n])
    return TruncatedSVD(U.view(m, r), S, Vh.view(r, n), float(error), float(residual), str(route))


def store(path: Path, request: str, factors: Mapping[str, TruncatedSVD], capacity: int) -> None:
    """Write the triplets by digest, and evict the files used longest ago until at most ``capacity`` bytes are left.

    A folder that cannot be written is said to be so once, and nothing else happens.
    """
    # in an order of their own, so that processes that write one request at once write the same file
    factors = dict(sorted(factors.items(), key=lambda item: (-item[1].U.element_size(), item[0])))
    parts = {digest: [data_of(t) for t in (f.U, f.S, f.Vh)] for digest, f in factors.items()}
    if sum(len(p) for three in parts.values() for p in three) > capacity:
        return
    rows = {d: [f.U.shape[0], f.Vh.shape[1], f.rank, f.error, f.residual, f.route] for d, f in factors.items()}
    table = encode(rows).decode()
    checksum = _checksum(factors, table)
    for three in parts.values():
        for part in three:
            checksum.update(part)
    metadata = {"request": request, "checksum": checksum.hexdigest(), "factors": table}
    specs = {d: (f.U.dtype, (f.U.numel() + f.rank + f.Vh.numel(),)) for d, f in factors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_file(path) as handle:
            write_tensors(handle, specs, metadata, lambda digest: parts[digest])
    except (OSError, OutputError) as error:
        _say_unwritable(path.parent, error)
    else:
        _evict(path, capacity)


def _say_unwritable(folder: Path, error: Exception) -> None:
    if folder not in _told:
        _told.add(folder)
        warnings.warn(
            f"singular vectors are not kept for next time: {error}. Make {folder} writable, set DTHETA_CACHE to "
            "another folder, or DTHETA_FACTOR_CACHE_BYTES=0 to do without",
            DthetaWarning,
            stacklevel=5,
        )


def _evict(newest: Path, capacity: int) -> None:
    files = sorted(_stats(newest.parent), key=lambda item: (item[0] == newest, item[1].st_mtime), reverse=True)
    kept = 0
    for path, stat in files:
        kept += stat.st_size
        if kept > capacity and path != newest:
            with contextlib.suppress(OSError):
                path.unlink()
