"""Singular vectors that are computed once: `truncated_svd` behind a cache on disk.

    key = xxh3_128(dtype, shape, bytes of the weight), device, rank, accuracy, seed, route, version of the algorithm

A weight is known by its content, so a renamed, reloaded or copied model finds its factors again, and a changed weight
never finds wrong ones. The digest is a fast one: it guards against accidents, and a cache of one's own needs no
more (a fingerprint of a base, core/fingerprint.py, is cryptographic).

A result does not depend on what was asked for before: the leading triplets of a larger rank are as accurate as those
of a smaller one, but not the same bits, so each rank has its own entry, and so has each kind of device. What remains is
what `truncated_svd` itself depends on: another number of threads or another build of torch may round otherwise, and an
entry keeps the bits of the one that wrote it.

The cache lives in the folder "factors" of $DTHETA_CACHE and holds at most $DTHETA_FACTOR_CACHE_BYTES, 4e9 by default;
0 turns it off. What was used longest ago goes first.

Shape legend: weight (m, n), rank r.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import torch
import xxhash
from torch import Tensor

from dtheta.core.cache import cache_dir
from dtheta.core.factorfile import load_stored, store, store_path
from dtheta.core.naming import naming
from dtheta.core.svd import Route, TruncatedSVD, check_arguments, truncated_svd
from dtheta.core.tensorfile import data_of
from dtheta.errors import ConfigError

VERSION = 2  # raised whenever the same request gives other numbers
_CAPACITY = 4_000_000_000
_T = TypeVar("_T")


def cached_svd(
    weight: Tensor, rank: int, *, accuracy: float | None = 1e-5, seed: int = 0, route: Route = "auto"
) -> TruncatedSVD:
    """Return ``truncated_svd(weight, rank, ...)``, from disk when the same matrix was factored before.

    Arguments and errors are those of `truncated_svd`. The tensors are on the device of ``weight`` and free to be
    written to; the cache is never changed by that.
    """
    check_arguments(weight, rank, accuracy, route)
    return _cached({"": weight}, rank, accuracy, seed, route)[""]


def cached_svds(
    weights: Mapping[str, Tensor],
    rank: int,
    *,
    accuracy: float | None = 1e-5,
    seed: int = 0,
    route: Route = "auto",
) -> dict[str, TruncatedSVD]:
    """Return `cached_svd` of every matrix by name; all of them are stored in one file, which is read at once.

    Equal matrices (tied weights) are factored once and share their tensors. Errors name the matrix.
    """
    for name, weight in weights.items():
        _naming(name, lambda w=weight: check_arguments(w, rank, accuracy, route))
    return _cached(weights, rank, accuracy, seed, route)


def _cached(
    weights: Mapping[str, Tensor], rank: int, accuracy: float | None, seed: int, route: Route
) -> dict[str, TruncatedSVD]:
    capacity, folder = _capacity(), cache_dir("factors")
    request = f"v{VERSION} accuracy={accuracy} seed={seed} route={route}"
    weights = dict(weights)  # all of them in memory at once: no two are in one place
    known_by = weight_digest if capacity else _place  # without a cache no weight has to cross to the host
    digests = {name: f"{known_by(weight)}-{weight.device.type}" for name, weight in weights.items()}
    first: dict[str, str] = {}
    for name, digest in digests.items():
        first.setdefault(digest, name)
    found = load_stored(folder, request, first, rank) if capacity else {}
    missing = {digest: name for digest, name in first.items() if digest not in found}
    for digest, name in missing.items():
        found[digest] = _naming(
            name, lambda w=weights[name]: truncated_svd(w, rank, accuracy=accuracy, seed=seed, route=route)
        )
    if missing and capacity:
        store(store_path(folder, request, first, rank), request, {d: found[d] for d in first}, capacity)
    return {name: _on(weights[name].device, found[digest]) for name, digest in digests.items()}


def _naming(name: str, run: Callable[[], _T]) -> _T:
    """Return ``run()``; an error of ours gets the name of the matrix, if it has one."""
    return naming(name, run) if name else run()


def _on(device: torch.device, found: TruncatedSVD) -> TruncatedSVD:
    if found.U.device == device:
        return found
    return replace(found, U=found.U.to(device), S=found.S.to(device), Vh=found.Vh.to(device))


def weight_digest(weight: Tensor) -> str:
    """Return the xxh3_128 of dtype, shape and bytes of a tensor, as hex; the same on every device."""
    digest = xxhash.xxh3_128(f"{weight.dtype}{tuple(weight.shape)}".encode())
    digest.update(data_of(weight))
    return digest.hexdigest()


def _place(weight: Tensor) -> str:
    """Return what tells a tensor from others that are in memory beside it."""
    return f"{weight.data_ptr()} {weight.dtype} {tuple(weight.shape)} {weight.stride()}"


def _capacity() -> int:
    """Bytes that the cache may hold; 0 when it is off."""
    text = os.environ.get("DTHETA_FACTOR_CACHE_BYTES", "")
    if not text:
        return _CAPACITY
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"DTHETA_FACTOR_CACHE_BYTES={text!r} is not a number of bytes; 0 turns the cache off")
    return int(text)
