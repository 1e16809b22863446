"""The ``.delta`` file: one safetensors file whose metadata holds one JSON document.

    metadata  {"dtheta": document}
    document  format, digest, base, changes, tensors, provenance, sha256      (docs/format.md describes each field)
    tensors   "PARAMETER:PART", such as "encoder.0.weight:left"

The document names the digest of every tensor, of the whole content (the identity of the delta), and of itself; the
header around it must be, byte for byte, what this version writes. So a change of any byte is noticed. No pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.apply import bind
from dtheta.core.delta import Delta, content_digest
from dtheta.core.fingerprint import tensor_digest
from dtheta.core.header import FORMAT as FORMAT
from dtheta.core.header import KEY, Opened, open_delta
from dtheta.core.header import Header as Header
from dtheta.core.header import read_header as read_header
from dtheta.core.kinds import parse
from dtheta.core.output import write_file
from dtheta.core.paths import expanded
from dtheta.core.spectral import Spectral
from dtheta.core.tensorfile import Replaced, data_of, encode, write_tensors
from dtheta.errors import ConfigError, FormatError, NonFinite

_ATTEMPTS = 8  # to read a file before it is replaced by another one


def save(delta: Delta, path: str | os.PathLike[str], include_basis: bool = False) -> Path:
    """Write a delta to a file, completely or not at all, and return its path.

    Args:
        delta: The delta.
        path: Where to; an existing file is replaced.
        include_basis: Store the singular vectors of spectral changes beside their shifts.

    Raises:
        OutputError: If the file cannot be written.
        NonFinite: If a change holds NaN or infinity, naming the parameter.
        ConfigError: If the path names the home of nobody, if the basis is to be included and the delta is not bound
            to its base, if the provenance holds something that JSON does not, or if changes are nested too deeply to
            be read again.
    """
    if not isinstance(delta, Delta):
        raise ConfigError(f"expected a Delta to save, found {type(delta).__name__}")
    if include_basis:
        _require_basis(delta)
    stored = {
        f"{name}:{part}": tensor.detach().cpu()
        for name, change in delta.changes.items()
        for part, tensor in change.stored(include_basis).items()
    }
    _require_finite(stored)
    digests = {name: tensor_digest(tensor) for name, tensor in stored.items()}  # of these bytes, whatever was cached
    document = _document(delta, digests)
    order = sorted(stored, key=lambda name: (-stored[name].element_size(), name))
    specs = {name: (stored[name].dtype, tuple(stored[name].shape)) for name in order}
    target = expanded(path)
    with write_file(target) as handle:
        write_tensors(handle, specs, {KEY: document.decode()}, lambda name: [data_of(stored[name])])
    return target


def _require_basis(delta: Delta) -> None:
    for name, change in delta.changes.items():
        if any(isinstance(leaf, Spectral) and not leaf.bound for leaf in change.leaves()):
            raise ConfigError(
                f"{name}: the singular vectors are not at hand, so they cannot be stored; call delta.bind(model) first"
            )


def _require_finite(stored: Mapping[str, Tensor]) -> None:
    for name, tensor in stored.items():
        if not bool(torch.isfinite(tensor).all()):
            parameter, part = name.rsplit(":", 1)
            raise NonFinite(f"{parameter}: the change holds NaN or infinity (in {part!r}); it cannot be saved")


def _document(delta: Delta, digests: Mapping[str, str]) -> bytes:
    """Return the document of a delta whose stored tensors have these digests."""
    content = {}
    for name, change in delta.changes.items():
        try:
            form = parse(change.meta())
        except FormatError as error:
            raise ConfigError(f"{name}: a file could not be read again: {error}") from None
        identity = {part: digests.get(f"{name}:{part}") or change.digests[part] for part in change.tensors()}
        content[name] = (form.meta, identity)
    record = {
        "format": FORMAT,
        "digest": content_digest(delta.base, content),
        "base": {"root": delta.base.root, "digests": dict(delta.base.digests)},
        "changes": {name: meta for name, (meta, _) in content.items()},
        "tensors": dict(digests),
        "provenance": _plain(delta.provenance.to_dict(), "provenance"),
    }
    return encode({**record, "sha256": hashlib.sha256(encode(record)).hexdigest()})


def _plain(value: Any, where: str) -> Any:
    """Return a value as JSON keeps it: tables with text keys, lists, text, finite numbers, booleans, None."""
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, f"{where}[{i}]") for i, inner in enumerate(value)]
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ConfigError(f"{where} of the delta is {value!r:.80}, which a file cannot hold; expected plain JSON values")


def load(
    path: str | os.PathLike[str], base: nn.Module | Mapping[str, Tensor] | None = None, *, strict: bool = True
) -> Delta:
    """Read a delta; every byte is verified.

    Args:
        path: A ``.delta`` file.
        base: The model (or its tensors by name) that the delta is for: it is checked, and spectral changes take
            their singular vectors from it. Without it they stay unbound until ``delta.bind(model)``.
        strict: Whether the touched tensors of ``base`` must be, bit for bit, those the delta was made on.

    Raises:
        ConfigError: If there is no such file.
        FormatError: If it is not a ``.delta`` file, was written by a newer dtheta, is damaged, or was edited.
        BaseMismatch: If ``base`` is another model, naming the first tensors that differ.
    """
    delta = _whole(path)
    return delta if base is None else bind(delta, base, strict=strict)


def _whole(path: str | os.PathLike[str]) -> Delta:
    """Read a file that other processes may replace meanwhile, each time in one piece, so that one version is whole."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(Replaced):
            return read(open_delta(path))
    return read(open_delta(path))


def read(opened: Opened) -> Delta:
    """Read the delta of a file that is open; every byte is verified.

    Raises:
        FormatError: If it is damaged, or is not the file any more that was opened (``Replaced``).
    """
    delta = Delta({name: opened.change(name) for name in opened.forms}, opened.header.base, opened.header.provenance)
    object.__setattr__(delta, "digest", opened.header.digest)  # verified just now: no need to take it again
    return delta


def check(path: str | os.PathLike[str]) -> Header:
    """Verify every byte of a ``.delta`` file, one change at a time, and return its header.

    Raises:
        ConfigError: If there is no such file.
        FormatError: If it is not a ``.delta`` file, was written by a newer dtheta, is damaged, or was edited.
    """
    opened = open_delta(path)
    for name in opened.forms:
        opened.change(name)
    return opened.header
