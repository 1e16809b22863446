"""Deltas as a hostile hand makes them: every digest in the file is that of what the file holds.

Without this, damage to a ``.delta`` ends at the first digest, and what comes behind it sees valid records alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from dtheta.core.delta import Delta, content_digest
from dtheta.core.files import load, save
from dtheta.core.fingerprint import Fingerprint, tensor_digest
from dtheta.core.header import KEY
from dtheta.core.kinds import parse
from dtheta.core.tensorfile import CODES, DTYPES, encode, open_tensors
from dtheta.errors import DthetaError, FormatError
from tests.golden.write import every_kind

DOCUMENT, TENSORS, DATA = "document.json", "tensors.json", "data"
_NOT_WHAT_IT_WAS = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, RecursionError)


def write_pieces(folder: Path) -> None:
    """Write what a delta is put together from: the document, dtype and shape of every tensor, and their bytes."""
    whole = save(every_kind(), folder / "whole.delta")
    file = open_tensors(whole)
    (folder / DOCUMENT).write_text(file.metadata[KEY])
    (folder / TENSORS).write_bytes(encode({name: [CODES[e.dtype], list(e.shape)] for name, e in file.entries.items()}))
    (folder / DATA).write_bytes(whole.read_bytes()[8 + len(file.header) :])
    whole.unlink()


def load_pieces(folder: Path) -> Delta:
    """Put a delta together, and load it."""
    try:
        document, tensors = (json.loads((folder / name).read_bytes()) for name in (DOCUMENT, TENSORS))
        whole = _forged(document, tensors, (folder / DATA).read_bytes())
    except _NOT_WHAT_IT_WAS as error:
        raise FormatError(f"no file can be made of this: {error!r:.200}") from None
    (folder / "forged.delta").write_bytes(whole)
    return load(folder / "forged.delta")


def _forged(document: dict[str, Any], tensors: dict[str, Any], data: bytes) -> bytes:
    header, at = {}, 0
    for name, (code, shape) in tensors.items():
        found = torch.empty(shape, dtype=DTYPES[code], device="meta")
        end = at + found.numel() * found.element_size()
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [at, end]}
        if name in document["tensors"] and at < end <= len(data):
            values = torch.frombuffer(bytearray(data[at:end]), dtype=found.dtype).reshape(shape)
            document["tensors"][name] = tensor_digest(values)
        at = end
    with contextlib.suppress(DthetaError, *_NOT_WHAT_IT_WAS):
        document["digest"] = _digest(document)
    document.pop("sha256", None)
    document["sha256"] = hashlib.sha256(encode(document)).hexdigest()
    text = encode({"__metadata__": {KEY: encode(document).decode()}, **header})
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def _digest(document: dict[str, Any]) -> str:
    forms = {name: parse(meta) for name, meta in document["changes"].items()}
    table = document["tensors"]
    content = {
        name: (form.meta, form.identity({part: table[f"{name}:{part}"] for part in form.parts()}))
        for name, form in forms.items()
    }
    return content_digest(Fingerprint(document["base"]["digests"], document["base"]["root"]), content)
