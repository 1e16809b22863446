"""The ``.delta`` file: one safetensors file whose metadata holds one JSON document.

    metadata  {"dtheta": document}
    document  format, digest, base, changes, tensors, provenance, sha256      (docs/format.md describes each field)
    tensors   "PARAMETER:PART", such as "encoder.0.weight:left"

The document names the digest of every tensor, of the whole content (the identity of the delta), and of itself; the
header around it must be, byte for byte, what this version writes. So a change of any byte is noticed. No pickle.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.apply import bind
from dtheta.core.change import Change
from dtheta.core.delta import Delta, content_digest
from dtheta.core.fingerprint import Fingerprint, tensor_digest
from dtheta.core.kinds import Form, Part, parse
from dtheta.core.output import write_file
from dtheta.core.provenance import Provenance
from dtheta.core.spectral import Spectral
from dtheta.core.tensorfile import (
    CODES,
    Replaced,
    TensorFile,
    data_of,
    encode,
    existing,
    header_bytes,
    open_tensors,
    parse_json,
    write_tensors,
)
from dtheta.errors import ConfigError, FormatError, NonFinite, ShapeMismatch, UnsupportedLayer, did_you_mean

FORMAT = 1
_KEY = "dtheta"
_FIELDS = ("format", "digest", "base", "changes", "tensors", "provenance", "sha256")


@dataclass(frozen=True)
class Header:
    """What a ``.delta`` file says of itself; checked for consistency, no tensor read.

    Attributes:
        path: The file.
        version: Format version.
        digest: Identity of the delta.
        base: Root of the base and digests of the touched tensors.
        provenance: How the delta was made.
        changes: Description of each change (kind, shape, rank, ...), by parameter.
        nbytes: Size of the file.
    """

    path: Path
    version: int
    digest: str
    base: Fingerprint
    provenance: Provenance
    changes: Mapping[str, Mapping[str, Any]]
    nbytes: int


def save(delta: Delta, path: str | os.PathLike[str], include_basis: bool = False) -> Path:
    """Write a delta to a file, completely or not at all, and return its path.

    Args:
        delta: The delta.
        path: Where to; an existing file is replaced.
        include_basis: Store the singular vectors of spectral changes beside their shifts.

    Raises:
        OutputError: If the file cannot be written.
        NonFinite: If a change holds NaN or infinity, naming the parameter.
        ConfigError: If the basis is to be included and the delta is not bound to its base, if the provenance holds
            something that JSON does not, or if changes are nested too deeply to be read again.
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
    with write_file(path) as handle:
        write_tensors(handle, specs, {_KEY: document.decode()}, lambda name: [data_of(stored[name])])
    return Path(path)


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


def read_header(path: str | os.PathLike[str]) -> Header:
    """Return what a ``.delta`` file says of itself, checked as far as it can be without reading a tensor.

    Raises:
        ConfigError: If there is no such file.
        FormatError: If it is not a ``.delta`` file, was written by a newer dtheta, is damaged, or was edited.
    """
    return _open(path).header


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
    try:
        delta = _read(path)
    except Replaced:  # by another process, in one piece: the file that is there now is whole
        delta = _read(path)
    return delta if base is None else bind(delta, base, strict=strict)


def _read(path: str | os.PathLike[str]) -> Delta:
    opened = _open(path)
    delta = Delta({name: opened.change(name) for name in opened.forms}, opened.header.base, opened.header.provenance)
    object.__setattr__(delta, "digest", opened.header.digest)  # verified just now: no need to take it again
    return delta


def check(path: str | os.PathLike[str]) -> Header:
    """Verify every byte of a ``.delta`` file, one change at a time, and return its header.

    Raises:
        ConfigError: If there is no such file.
        FormatError: If it is not a ``.delta`` file, was written by a newer dtheta, is damaged, or was edited.
    """
    opened = _open(path)
    for name in opened.forms:
        opened.change(name)
    return opened.header


@dataclass(frozen=True)
class _Opened:
    """A checked header, and where and what the tensors of each change are."""

    header: Header
    file: TensorFile
    table: Mapping[str, str]
    forms: Mapping[str, Form]
    parts: Mapping[str, list[str]]

    def change(self, name: str) -> Change:
        """Read and verify the tensors of one change."""
        path, tensors, digests = self.file.path, {}, {}
        for part in self.parts.get(name, []):
            stored = f"{name}:{part}"
            tensor = self.file.read(stored)
            digest = tensor_digest(tensor)
            if digest != self.table[stored]:
                raise FormatError(f"{path}: the content of {stored!r} is not what was written; the file is damaged")
            if not bool(torch.isfinite(tensor).all()):
                raise FormatError(f"{path}: {stored!r} holds NaN or infinity, which dtheta never writes")
            tensors[part], digests[part] = tensor, digest
        try:
            return self.forms[name].build(tensors, digests)
        except (ShapeMismatch, UnsupportedLayer) as error:  # such as row numbers that are not increasing
            raise FormatError(f"{path}: the change of {name!r} cannot be: {error}") from None


def _open(path: str | os.PathLike[str]) -> _Opened:
    """Open a file and check everything but the content of the tensors."""
    path = existing(path)
    if path.is_dir():
        raise FormatError(f"{path} {_what_folder(path)}")
    file = open_tensors(path)
    if _KEY not in file.metadata:
        raise FormatError(f"{path} {_what_tensors(file)}")
    text = file.metadata[_KEY]
    record = parse_json(text, f"{path}: the document")
    if not isinstance(record, dict):
        raise FormatError(f"{path}: the document is not a JSON object")
    try:
        _check_version(record)
        _check_seal(record, text, file)
        return _parsed(record, file)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    except RecursionError:
        raise FormatError(f"{path}: the document is nested too deeply; the file is damaged or hostile") from None


def _check_version(record: Mapping[str, Any]) -> None:
    version = record.get("format")
    if type(version) is not int or version < 1:
        raise FormatError("the document names no valid format version")
    if version > FORMAT:
        raise FormatError(
            f"written by a newer dtheta (format {version}; this one reads up to {FORMAT}); upgrade dtheta"
        )


def _check_seal(record: Mapping[str, Any], text: str, file: TensorFile) -> None:
    """Raise unless document and header are, byte for byte, what dtheta wrote."""
    for name in file.metadata:
        if name != _KEY:
            raise FormatError(f"unknown metadata {name[:40]!r}; dtheta writes {_KEY!r} only")
    for name in record:
        if name not in _FIELDS:
            raise FormatError(f"unknown field {name[:40]!r}{did_you_mean(name[:40], _FIELDS)}")
    missing = [name for name in _FIELDS if name not in record]
    if missing:
        raise FormatError(f"the document has no field {missing[0]!r}")
    body = {name: value for name, value in record.items() if name != "sha256"}
    specs = {name: (entry.dtype, entry.shape) for name, entry in file.entries.items()}
    sealed = hashlib.sha256(encode(body)).hexdigest() == record["sha256"] and encode(record).decode("ascii") == text
    if not sealed or header_bytes(specs, file.metadata)[8:] != file.header:
        raise FormatError(
            "the header is not as dtheta wrote it: the file was edited, damaged, or rewritten by another program; "
            "get a fresh copy of it"
        )


def _parsed(record: Mapping[str, Any], file: TensorFile) -> _Opened:
    base, table, changes = record["base"], record["tensors"], record["changes"]
    if not isinstance(base, dict) or set(base) != {"root", "digests"} or not _is_digests(base["digests"]):
        raise FormatError("the base is not described by a root and digests")
    if not (base["root"] is None or _is_digest(base["root"])) or not _is_digest(record["digest"]):
        raise FormatError("a digest in the document is not valid")
    if not _is_digests(table) or not isinstance(changes, dict):
        raise FormatError("the tables of tensors and changes are not valid")
    if not isinstance(record["provenance"], dict):
        raise FormatError("the provenance is not a table")
    forms = {}
    for name, meta in changes.items():
        try:
            forms[name] = parse(meta)
        except FormatError as error:
            raise FormatError(f"{name[:100]!r}: {error}") from None
    _check_tensors(forms, table, file)
    fingerprint = Fingerprint(base["digests"], base["root"])
    content = {n: (form.meta, {part: table[f"{n}:{part}"] for part in form.parts()}) for n, form in forms.items()}
    if content_digest(fingerprint, content) != record["digest"]:
        raise FormatError("the content does not have the digest that the file names")
    header = Header(
        file.path,
        record["format"],
        record["digest"],
        fingerprint,
        Provenance.from_dict(record["provenance"]),
        changes,
        file.path.stat().st_size,
    )
    parts: dict[str, list[str]] = {}
    for stored in file.entries:
        name, _, part = stored.rpartition(":")
        parts.setdefault(name, []).append(part)
    return _Opened(header, file, table, forms, parts)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_digests(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_digest(digest) for digest in value.values())


def _check_tensors(forms: Mapping[str, Form], table: Mapping[str, str], file: TensorFile) -> None:
    """Raise unless the file has exactly the tensors that the changes need, each of a right dtype and shape."""
    if set(table) != set(file.entries):
        odd = sorted(set(table) ^ set(file.entries))[0]
        raise FormatError(f"tensor {odd[:100]!r} is {'missing' if odd in table else 'not in the document'}")
    needed: dict[str, Part] = {}
    for name, form in forms.items():
        needed |= {f"{name}:{part}": spec for part, spec in form.parts().items()}
        for groups in form.besides():
            # the group of which the file has a tensor; the others of that group must then be there as well
            for group in groups:
                if any(f"{name}:{part}" in table for part in group):
                    needed |= {f"{name}:{part}": spec for part, spec in group.items()}
                    break
    for stored, entry in file.entries.items():
        if stored not in needed:
            raise FormatError(f"tensor {stored[:100]!r} belongs to no change")
        dtypes, shape = needed[stored]
        if entry.dtype not in dtypes or entry.shape != shape:
            raise FormatError(
                f"tensor {stored[:100]!r} is {CODES[entry.dtype]} {list(entry.shape)}, expected "
                f"{' or '.join(CODES[d] for d in dtypes)} {list(shape)}"
            )
    for stored in needed:
        if stored not in file.entries:
            raise FormatError(f"tensor {stored[:100]!r} is missing")


def _what_folder(path: Path) -> str:
    names = {p.name for p in path.iterdir()}
    if "adapter_config.json" in names:
        return f"is a peft adapter folder, not a .delta file; dt.from_peft({path.name!r}, model) reads it"
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        return (
            "is a model checkpoint, not a .delta file; its change relative to a base is dt.extract(base, tuned), "
            f"or 'dtheta extract BASE {path.name}'"
        )
    deltas = sorted(name for name in names if name.endswith(".delta"))
    return f"is a folder; give the name of a .delta file{f', such as {deltas[0]!r}' if deltas else ''}"


def _what_tensors(file: TensorFile) -> str:
    if any(".lora_" in name for name in file.entries):
        return "holds the tensors of a peft adapter; dt.from_peft(folder, model) reads the folder it is in"
    return (
        "is a plain safetensors file, not a .delta file; if it is a checkpoint, its change relative to a base is "
        f"dt.extract(base, tuned), or 'dtheta extract BASE {file.path.name}'"
    )
