"""What a ``.delta`` file says of itself: read and checked as far as it can be before any tensor is.

In this order: header and data (tensorfile.py), the version, unknown fields, the document against its own sha256 and the
header against what dtheta writes, the description of every change (kinds.py), the tensors that they need, and the
digest of the content. docs/format.md describes each field.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dtheta.core.change import Change
from dtheta.core.delta import content_digest
from dtheta.core.fingerprint import Fingerprint, tensor_digest
from dtheta.core.kinds import Form, Part, fits, parse
from dtheta.core.provenance import Provenance
from dtheta.core.tensorfile import (
    CODES,
    TensorFile,
    encode,
    existing,
    header_bytes,
    names_in,
    open_tensors,
    parse_json,
)
from dtheta.errors import FormatError, ShapeMismatch, UnsupportedLayer, did_you_mean

FORMAT = 1
KEY = "dtheta"
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


@dataclass(frozen=True)
class Opened:
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
        except (FormatError, ShapeMismatch, UnsupportedLayer) as error:  # such as row numbers that are not increasing
            raise FormatError(f"{path}: the change of {name!r} cannot be: {error}") from None


def read_header(path: str | os.PathLike[str]) -> Header:
    """Return what a ``.delta`` file says of itself, checked as far as it can be without reading a tensor.

    Raises:
        ConfigError: If there is no such file.
        FormatError: If it is not a ``.delta`` file, was written by a newer dtheta, is damaged, or was edited.
    """
    return open_delta(path).header


def open_delta(path: str | os.PathLike[str]) -> Opened:
    """Open a file and check everything but the content of the tensors.

    Raises:
        ConfigError: If there is no such file.
        FormatError: If it is not a ``.delta`` file, was written by a newer dtheta, is damaged, or was edited.
    """
    path = existing(path)
    if path.is_dir():
        raise FormatError(f"{path} {_what_folder(path)}")
    file = open_tensors(path)
    if KEY not in file.metadata:
        raise FormatError(f"{path} {_what_tensors(file)}")
    text = file.metadata[KEY]
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
        if name != KEY:
            raise FormatError(f"unknown metadata {name[:40]!r}; dtheta writes {KEY!r} only")
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


def _parsed(record: Mapping[str, Any], file: TensorFile) -> Opened:
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
    parts: dict[str, list[str]] = {}
    for entry in file.entries:
        name, _, part = entry.rpartition(":")
        parts.setdefault(name, []).append(part)
    _check_tensors(forms, table, file, parts)
    fingerprint = Fingerprint(base["digests"], base["root"])
    stored = {n: {part: table[f"{n}:{part}"] for part in form.parts()} for n, form in forms.items()}
    content = {n: (form.meta, form.identity(stored[n])) for n, form in forms.items()}
    if content_digest(fingerprint, content) != record["digest"]:
        raise FormatError("the content does not have the digest that the file names")
    header = Header(
        file.path,
        record["format"],
        record["digest"],
        fingerprint,
        Provenance.from_dict(record["provenance"]),
        changes,
        file.nbytes,
    )
    return Opened(header, file, table, forms, parts)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_digests(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_digest(digest) for digest in value.values())


def _check_tensors(
    forms: Mapping[str, Form], table: Mapping[str, str], file: TensorFile, parts: Mapping[str, list[str]]
) -> None:
    """Raise unless the file has exactly the tensors that the changes need, each of a right dtype and shape."""
    if set(table) != set(file.entries):
        odd = sorted(set(table) ^ set(file.entries))[0]
        raise FormatError(f"tensor {odd[:100]!r} is {'missing' if odd in table else 'not in the document'}")
    needed: dict[str, Part] = {}
    for name, form in forms.items():
        needed |= {f"{name}:{part}": spec for part, spec in form.needed(parts.get(name, ())).items()}
    for stored, entry in file.entries.items():
        if stored not in needed:
            raise FormatError(f"tensor {stored[:100]!r} belongs to no change")
        dtypes, shape = needed[stored]
        if not fits(needed[stored], entry.dtype, entry.shape):
            raise FormatError(
                f"tensor {stored[:100]!r} is {CODES[entry.dtype]} {list(entry.shape)}, expected "
                f"{' or '.join(CODES[d] for d in dtypes)} {['any' if n is None else n for n in shape]}"
            )
    for stored in needed:
        if stored not in file.entries:
            raise FormatError(f"tensor {stored[:100]!r} is missing")


def _what_folder(path: Path) -> str:
    names = names_in(path)
    if "adapter_config.json" in names:
        return f"is a peft adapter folder, not a .delta file; dt.from_peft({path.name!r}, model) reads it"
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        return (
            "is a model checkpoint, not a .delta file; its change relative to a base is dt.extract(base, tuned), "
            f"or 'dtheta extract BASE {path.name}'"
        )
    deltas = [name for name in names if name.endswith(".delta")]
    return f"is a folder; give the name of a .delta file{f', such as {deltas[0]!r}' if deltas else ''}"


def _what_tensors(file: TensorFile) -> str:
    if any(".lora_" in name for name in file.entries):
        return "holds the tensors of a peft adapter; dt.from_peft(folder, model) reads the folder it is in"
    return (
        "is a plain safetensors file, not a .delta file; if it is a checkpoint, its change relative to a base is "
        f"dt.extract(base, tuned), or 'dtheta extract BASE {file.path.name}'"
    )
