"""Fingerprint: which base is this? A digest of every tensor, and one root over all.

    digest(tensor) = sha256(dtype, shape, bytes)
    root           = sha256 over the lines "name digest", sorted by name

A delta carries the digests of the tensors it touches and the root of the base it was made on. Only the touched
tensors have to match for it to apply; the root says whether the whole base is the same. A tensor that cannot be read
(sparse, quantized, on the meta device) has no digest, and a base that holds one has no root: what nothing touches does
not stand in the way of a delta.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.tensorfile import data_of
from dtheta.core.tensors import base_tensors, why_unreadable
from dtheta.errors import BaseMismatch, UnknownParameter, UnsupportedLayer, did_you_mean

_EXPERTS = ".experts."
_EXPERT = re.compile(r"\.experts\.\d+\.")


def tensor_digest(tensor: Tensor) -> str:
    """Return the sha256 of a tensor's dtype, shape and bytes, as hex; the same on every device.

    Raises:
        UnsupportedLayer: For a tensor without plain data (meta device, sharded, sparse, quantized).
    """
    if why := why_unreadable(tensor):
        raise UnsupportedLayer(f"cannot take the digest of a tensor: {why}")
    digest = begun_digest(tensor.dtype, tuple(tensor.shape))
    digest.update(data_of(tensor))
    return digest.hexdigest()


def begun_digest(dtype: torch.dtype, shape: tuple[int, ...]) -> Any:
    """Return the sha256 that has taken a tensor's dtype and shape, and still has to take its bytes."""
    return hashlib.sha256(json.dumps([str(dtype).removeprefix("torch."), list(shape)]).encode())


def tensor_digests(tensors: Mapping[str, Tensor], names: Iterable[str] | None = None) -> dict[str, str]:
    """Return the digests of tensors by name, on all cores; a lazy mapping is read a few tensors at a time.

    Raises:
        UnsupportedLayer: For a tensor without plain data, naming it.
    """

    def digest(name: str) -> str:
        try:
            return tensor_digest(tensors[name])
        except UnsupportedLayer as error:
            raise UnsupportedLayer(f"{name}: {error}") from None

    names = list(tensors if names is None else names)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))


@dataclass(frozen=True)
class Fingerprint:
    """Digests by parameter name, and the root over the whole base (None when only some tensors are known).

    Attributes:
        digests: Digest by name.
        root: Over all tensors of the base.
        unreadable: Tensors that have no digest, by name, and why.
    """

    digests: Mapping[str, str]
    root: str | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The root over the whole base, as hex; over the tensors that are known, where not all are."""
        return self.root or merkle_root(self.digests)

    def diff(self, other: Fingerprint) -> list[str]:
        """Return the names, sorted, that only one side has or whose digests differ."""
        names = set(self.digests) | set(other.digests)
        return sorted(n for n in names if self.digests.get(n) != other.digests.get(n))

    def restrict(self, names: Iterable[str]) -> Fingerprint:
        """Return the same root and, of ``names``, the digests that are known: a new vector has none.

        Raises:
            UnsupportedLayer: If one of ``names`` is a tensor that cannot be read.
        """
        names = list(names)
        for name in names:
            if name in self.unreadable:
                raise UnsupportedLayer(f"{name}: cannot take the digest of a tensor: {self.unreadable[name]}")
        return Fingerprint({n: self.digests[n] for n in names if n in self.digests}, self.root)

    def check(self, model: nn.Module | Mapping[str, Tensor], names: Iterable[str] | None = None) -> None:
        """Raise unless the tensors of ``model`` are those of this fingerprint.

        Args:
            model: A module, or tensors by name.
            names: The names to compare, as far as this fingerprint knows them; all its digests by default.

        Raises:
            BaseMismatch: Naming the first tensors that differ or are missing.
        """
        tensors = model if isinstance(model, Mapping) else base_tensors(model)
        wanted = {n: self.digests[n] for n in (self.digests if names is None else names) if n in self.digests}
        missing = [n for n in wanted if n not in tensors]
        found = tensor_digests(tensors, (n for n in wanted if n in tensors))
        differ = [n for n, digest in found.items() if digest != wanted[n]]
        if missing or differ:
            raise BaseMismatch(_mismatch(missing, differ, len(wanted), tensors))


def _mismatch(missing: list[str], differ: list[str], total: int, tensors: Mapping[str, Tensor]) -> str:
    lines = [f"this delta was made for another base: of the {total} tensors it touches,"]
    if differ:
        lines.append(f"  {len(differ)} differ in content, first: {', '.join(differ[:3])}")
    if missing:
        stored = _stored_apart(missing, tensors)
        near = "" if stored else did_you_mean(missing[0], tensors)
        lines += [f"  {len(missing)} are missing, first: {', '.join(missing[:3])}{near}", *stored]
    lines.append("  load the base it was made on ('dtheta show FILE' names it), or ask for strict=False, knowing why")
    return "\n".join(lines)


def _stored_apart(missing: Iterable[str], tensors: Mapping[str, Tensor]) -> list[str]:
    """Say so where one side has experts one by one, as files do, and the other those of a layer in one tensor."""
    missing = [name for name in missing if _EXPERTS in name]
    apart, there_apart = (any(_EXPERT.search(name) for name in names) for names in (missing, tensors))
    if not missing or apart == there_apart or not any(_EXPERTS in name for name in tensors):
        return []
    if there_apart:
        return [
            "  it has all experts of a layer in one tensor, as the model has in memory, and these files store them one "
            "by one; load the model and save the sum: dt.merge(model, dt.load(DELTA)).save_pretrained(NEW)"
        ]
    return [
        "  it names experts one by one, as files store them, and this model has all of a layer in one tensor; add the "
        "delta to the files ('dtheta merge FOLDER DELTA --out NEW'), or extract it from two models in memory"
    ]


def merkle_root(digests: Mapping[str, str]) -> str:
    """Return the sha256 over the sorted lines ``name digest``, as hex."""
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def fingerprint(model: nn.Module | Mapping[str, Tensor], names: Iterable[str] | None = None) -> Fingerprint:
    """Return the fingerprint of a model's parameters and persistent buffers (tied ones once).

    Args:
        model: A module, with or without adapters attached, or tensors by name.
        names: Take only these digests (the root is then None); everything by default. Then a tensor without plain data
            (meta device, sharded, sparse, quantized) has no digest, ``unreadable`` says why, and the root is None;
            what asks for its digest is refused.

    Raises:
        UnknownParameter: If the model does not have one of the names.
        UnsupportedLayer: For one of ``names`` that is a tensor without plain data, or where the model has no others.
    """
    tensors = model if isinstance(model, Mapping) else base_tensors(model)
    if names is None:
        unreadable = _unreadable(tensors)
        readable = [name for name in tensors if name not in unreadable]
        digests = tensor_digests(tensors, readable or unreadable)  # which raises where there is nothing to be read
        return Fingerprint(digests, None if unreadable else merkle_root(digests), unreadable)
    names = list(names)
    for name in names:
        if name not in tensors:
            raise UnknownParameter(f"the model has no tensor {name!r}{did_you_mean(name, tensors)}")
    return Fingerprint(tensor_digests(tensors, names))


def _unreadable(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    if hasattr(tensors, "info"):  # a checkpoint holds plain tensors only, and reads them from disk
        return {}
    return {name: why for name, tensor in tensors.items() if (why := why_unreadable(tensor))}
