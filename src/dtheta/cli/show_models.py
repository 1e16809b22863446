"""``dtheta show`` of weights: a checkpoint, a model folder, a peft adapter, and what 'dtheta merge' made of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.console import Part
from dtheta.cli.facts import SHORT, cut, facts_text, shape_text, versions_text
from dtheta.cli.plan import size_of
from dtheta.cli.units import byte_size, count
from dtheta.errors import FormatError

if TYPE_CHECKING:
    from dtheta.core.provenance import Provenance


def describe_peft(path: Path, limit: int) -> tuple[dict[str, Any], list[Part]]:
    """Return what a peft adapter folder is, as a record and in parts to print, its table of ``limit`` rows (0: all).

    Raises:
        FormatError: If it is damaged.
    """
    from dtheta.core.peft_config import read_config
    from dtheta.core.tensorfile import CODES, open_tensors

    config, weights = read_config(path), path / "adapter_model.safetensors"
    file = open_tensors(weights)
    rows = [
        {"tensor": name, "dtype": CODES[e.dtype], "shape": list(e.shape), "bytes": e.nbytes}
        for name, e in file.entries.items()
    ]
    record = {
        "file": path.name,
        "type": "peft",
        "rank": config.rank,
        "alpha": config.alpha,
        "rslora": config.rslora,
        "init": config.init,
        "base_name": config.raw.get("base_model_name_or_path"),
        "modules_to_save": list(config.modules_to_save),
        "weights": sum(math.prod(r["shape"]) for r in rows),
        "bytes": size_of(path),
        "tensors": rows,
    }
    record["provenance"], made = _merged(path)
    facts = {
        "rank": f"{config.rank}, alpha {config.alpha:g}" + (", rank-stabilized" if config.rslora else ""),
        "start": str(config.init),
        "base": f"{record['base_name'] or 'unnamed'} (a name only; peft folders carry no digest)",
        "weights": count(record["weights"]),
        "size": byte_size(record["bytes"] or 0),
        **made,
    }
    cells = [(r["tensor"], r["dtype"], shape_text(r["shape"]), byte_size(r["bytes"])) for r in rows]
    table = cut(("tensor", "dtype", "shape", "size>"), cells, limit)
    end = "'dtheta extract BASE " + path.name + " --out FILE.delta' turns it into a delta"
    return record, [f"{path.name}: a peft LoRA adapter", facts_text(facts), "", *table, "", end]


def describe_checkpoint(path: Path, limit: int) -> tuple[dict[str, Any], list[Part]]:
    """Return what a checkpoint is, as a record and in parts to print, its table of ``limit`` rows (0: all).

    Raises:
        ConfigError: If it is none.
        FormatError: If it is damaged.
    """
    from dtheta.core.checkpoints import open_checkpoint
    from dtheta.core.fingerprint import merkle_root, tensor_digest
    from dtheta.core.tensorfile import CODES

    rows, digests = [], {}
    checkpoint = open_checkpoint(path)
    for name, tensor in checkpoint.items():
        entry = checkpoint.info(name)
        digests[name] = tensor_digest(tensor)
        norm = float(tensor.double().norm()) if tensor.is_floating_point() else None
        code = CODES[entry.dtype]
        rows.append({"tensor": name, "dtype": code, "shape": list(entry.shape), "norm": norm, "bytes": entry.nbytes})
    kind, files = _architecture(path), list(checkpoint.shards)
    record = {
        "file": path.name,
        "type": "checkpoint",
        "architecture": kind,
        "digest": merkle_root(digests),
        "files": files,
        "weights": sum(math.prod(r["shape"]) for r in rows),
        "bytes": checkpoint.nbytes,
        "tensors": rows,
    }
    record["provenance"], made = _merged(path)
    dtypes = ", ".join(sorted({str(r["dtype"]) for r in rows}))
    facts = {
        **({"architecture": kind} if kind else {}),
        "digest": f"{record['digest'][: 4 * SHORT]} (of the tensors in the file{'s' if len(files) > 1 else ''})",
        "weights": f"{count(record['weights'])} in {len(rows)} tensors of {dtypes}",
        "size": f"{byte_size(record['bytes'])} in {len(files)} file{'s' if len(files) > 1 else ''}",
        **made,
    }
    cells = [
        (
            r["tensor"],
            r["dtype"],
            shape_text(r["shape"]),
            "" if r["norm"] is None else f"{r['norm']:.4g}",
            byte_size(r["bytes"]),
        )
        for r in rows
    ]
    table = cut(("tensor", "dtype", "shape", "norm>", "size>"), cells, limit)
    return record, [f"{path.name}: a checkpoint", facts_text(facts), "", *table]


def _merged(path: Path) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Return how 'dtheta merge' made a folder, as a record and in words; nothing where it made none."""
    from dtheta.cli.merge import RECORD
    from dtheta.core.jsonfile import read_json
    from dtheta.core.provenance import Provenance

    file = path / RECORD
    if not file.is_file():
        return None, {}
    record = read_json(file)
    try:
        return record, _made(Provenance.from_dict(record))
    except (FormatError, AttributeError, TypeError, ValueError) as error:
        raise FormatError(f"{file} does not say how the folder was made: {error}") from None


def _made(made: Provenance) -> dict[str, str]:
    weights, command = made.settings.get("weights", ()), made.settings.get("command", {})
    parents = zip(made.parents, weights, command.get("deltas", ()), strict=False)
    return {
        "made by": f"operation {made.operation!r} on {command.get('base', 'a base')}, {made.created}",
        "parents": ", ".join(f"{weight:g} * {name} ({digest[:SHORT]})" for digest, weight, name in parents),
        "versions": versions_text(made.versions),
        "seed": str(made.seed),
    }


def _architecture(path: Path) -> str | None:
    config = path / "config.json"
    if not config.is_file():
        return None
    try:
        record = json.loads(config.read_text(encoding="utf-8"))
        names = record.get("architectures") or [record.get("model_type")]
        name = str(names[0]) if names[0] else None
    except (OSError, ValueError, AttributeError, LookupError, TypeError, RecursionError) as error:
        raise FormatError(f"{config} is not a model configuration: {error}") from None
    return name
