"""Say what a file or folder is.

A .delta file, a peft adapter folder, a safetensors checkpoint (one file, or shards with an index) or a model folder:
made by what, on which base, how large, and what changed layer by layer. Every byte of a .delta file is verified.

  dtheta show news.delta
  dtheta show news.delta --tree
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dtheta.cli.console import Console, Part, Table
from dtheta.cli.options import CommonOptions, Flag, Place
from dtheta.cli.places import require_input
from dtheta.cli.plan import PROGRAM, Plan, reading_time, size_of
from dtheta.cli.units import byte_size, count
from dtheta.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from dtheta.core.files import Header

_SHORT = 12  # hex digits that are enough to tell digests apart by eye


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta show``."""

    file: Annotated[Path, Place("a .delta file, a checkpoint, or a folder with a model or a peft adapter")]
    tree: Annotated[bool, Flag("show its family: the deltas it was made of, as far as they lie in the same folder")] = (
        False
    )
    rows: Annotated[int, Flag("rows of the table at most; 0 for all of them")] = 40


def run(options: Options, console: Console) -> int:
    """Describe the file."""
    path = require_input(options.file)
    if options.dry_run:
        Plan(
            {str(path): size_of(path)}, memory=PROGRAM + (size_of(path) or 0), seconds=reading_time(size_of(path))
        ).show(console)
        return 0
    record, parts = _describe(path, options)
    console.result(record, parts)
    return 0


def _describe(path: Path, options: Options) -> tuple[dict[str, Any], list[Part]]:
    if path.is_dir() and (path / "adapter_config.json").exists():
        return _peft(path, options.rows)
    if path.is_file() and (path.suffix == ".delta" or _holds_delta(path)):
        return _delta(path, options)
    return _checkpoint(path, options.rows)


def _holds_delta(path: Path) -> bool:
    """Tell whether a file of another name is a delta: its first bytes say so, whatever its suffix."""
    from dtheta.core.tensorfile import open_tensors

    try:
        return "dtheta" in open_tensors(path).metadata
    except FormatError:
        return False


def _delta(path: Path, options: Options) -> tuple[dict[str, Any], list[Part]]:
    from dtheta.core.files import load, read_header

    header, delta = read_header(path), load(path)
    made = header.provenance
    rows = [
        {"parameter": n, "kind": c.kind, "shape": list(c.shape), "rank": c.rank, "norm": c.norm(), "bytes": c.nbytes}
        for n, c in delta.changes.items()
    ]
    record = {
        "file": path.name,
        "type": "delta",
        "format": header.version,
        "digest": header.digest,
        "base": {"digest": header.base.root, "tensors": dict(header.base.digests)},
        "method": dict(made.method),
        "operation": made.operation,
        "parents": list(made.parents),
        "settings": dict(made.settings),
        "seed": made.seed,
        "task": dict(made.task),
        "versions": dict(made.versions),
        "created": made.created,
        "norm": delta.norm(),
        "weights": delta.numel,
        "bytes": header.nbytes,
        "changes": rows,
    }
    facts = {
        "made by": _maker(header),
        "base": (header.base.root or "not named as a whole")[: 4 * _SHORT],
        "digest": header.digest[: 4 * _SHORT],
        "norm": f"{record['norm']:.4g}",
        "moves": f"{len(delta)} tensors of {count(delta.numel)} weights",
        "size": f"{byte_size(header.nbytes)} (dense float32: {byte_size(4 * delta.numel)})",
        **_task_facts(made.task),
        "made": f"{made.created}, seed {made.seed}, "
        + ", ".join(f"{name} {made.versions.get(name)}" for name in ("dtheta", "torch")),
    }
    cells = [
        (r["parameter"], r["kind"], _shape(r["shape"]), r["rank"] or "", f"{r['norm']:.4g}", byte_size(r["bytes"]))
        for r in rows
    ]
    table = _cut(("parameter", "change", "shape", "rank>", "norm>", "size>"), cells, options.rows)
    parts: list[Part] = [f"{path.name}: a delta", _facts(facts), "", *table]
    if options.tree:
        tree = _tree(header, path)
        record["tree"] = tree
        parts += ["", "\n".join(_tree_lines(tree))]
    return record, parts


def _maker(header: Header) -> str:
    made = header.provenance
    fields = ", ".join(f"{k}={v}" for k, v in made.method.items() if k != "name" and v is not None)
    method = f"{made.method['name']}({fields}), " if made.method.get("name") else ""
    return f"{method}operation {made.operation!r}"


def _task_facts(task: Mapping[str, Any]) -> dict[str, str]:
    """Return what is said about the task, in words."""
    facts = {}
    if task.get("kind"):
        facts["task"] = f"{task['kind']} on {task.get('data', 'unnamed data')}, model {task.get('model', 'unnamed')}"
    if task.get("classes"):
        facts["classes"] = ", ".join(map(str, task["classes"]))
    if task.get("templates"):
        facts["prompt"] = " | ".join(map(str, task["templates"]))
    shares = ("accuracy",) if task.get("kind") == "language-modeling" else ("accuracy", "baseline")
    for name in ("accuracy", "baseline", "loss", "base_loss"):
        value = task.get(name)
        if isinstance(value, Mapping):
            factor, unit = (100, " %") if name in shares else (1, " nats a token")
            low, high = factor * value["low"], factor * value["high"]
            facts[name.replace("_", " ")] = f"{factor * value['estimate']:.4g}{unit} [{low:.4g}, {high:.4g}]"
    return facts


def _tree(header: Header, path: Path) -> dict[str, Any]:
    """Return the family of a delta: itself and, below it, its parents, found by digest among the files beside it."""
    from dtheta.core.files import read_header

    known: dict[str, Header] = {}
    for file in sorted(path.parent.glob("*.delta")):
        try:
            found = read_header(file)
        except (FormatError, ConfigError):  # a damaged neighbor is not what was asked about
            continue
        known.setdefault(found.digest, found)
    known[header.digest] = header

    def grow(digest: str, above: frozenset[str]) -> dict[str, Any]:
        found = known.get(digest)
        if found is None or digest in above:
            return {"digest": digest, "file": None, "operation": None, "parents": []}
        parents = [grow(parent, above | {digest}) for parent in found.provenance.parents]
        method = found.provenance.method.get("name")
        return {
            "digest": digest,
            "file": found.path.name,
            "operation": f"{found.provenance.operation} {method}" if method else found.provenance.operation,
            "parents": parents,
        }

    return {**grow(header.digest, frozenset()), "base": header.base.root}


def _tree_lines(node: Mapping[str, Any], indent: str = "") -> list[str]:
    name = node["file"] or "not in this folder"
    lines = [f"{indent}{node['digest'][:_SHORT]}  {name}" + (f"  ({node['operation']})" if node["operation"] else "")]
    for parent in node["parents"]:
        lines += _tree_lines(parent, indent + "  ")
    if "base" in node:
        lines.append(f"base {str(node['base'] or 'not named')[:_SHORT]}")
    return lines


def _peft(path: Path, limit: int) -> tuple[dict[str, Any], list[Part]]:
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
    cells = [(r["tensor"], r["dtype"], _shape(r["shape"]), byte_size(r["bytes"])) for r in rows]
    table = _cut(("tensor", "dtype", "shape", "size>"), cells, limit)
    end = "'dtheta extract BASE " + path.name + " --out FILE.delta' turns it into a delta"
    return record, [f"{path.name}: a peft LoRA adapter", _facts(facts), "", *table, "", end]


def _checkpoint(path: Path, limit: int) -> tuple[dict[str, Any], list[Part]]:
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
        "digest": f"{record['digest'][: 4 * _SHORT]} (of the tensors in the file{'s' if len(files) > 1 else ''})",
        "weights": f"{count(record['weights'])} in {len(rows)} tensors of {dtypes}",
        "size": f"{byte_size(record['bytes'])} in {len(files)} file{'s' if len(files) > 1 else ''}",
        **made,
    }
    cells = [
        (
            r["tensor"],
            r["dtype"],
            _shape(r["shape"]),
            "" if r["norm"] is None else f"{r['norm']:.4g}",
            byte_size(r["bytes"]),
        )
        for r in rows
    ]
    table = _cut(("tensor", "dtype", "shape", "norm>", "size>"), cells, limit)
    return record, [f"{path.name}: a checkpoint", _facts(facts), "", *table]


def _merged(path: Path) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Return how 'dtheta merge' made a folder, as a record and in words; nothing where it made none."""
    from dtheta.cli.merge import RECORD
    from dtheta.core.provenance import Provenance
    from dtheta.core.tensorfile import parse_json

    file = path / RECORD
    if not file.is_file():
        return None, {}
    record = parse_json(file.read_bytes(), str(file))
    try:
        made = Provenance.from_dict(record)
    except (FormatError, AttributeError) as error:
        raise FormatError(f"{file} does not say how the folder was made: {error}") from None
    weights, command = made.settings.get("weights", ()), made.settings.get("command", {})
    parents = zip(made.parents, weights, command.get("deltas", ()), strict=False)
    facts = {"made by": f"operation {made.operation!r} on {command.get('base', 'a base')}, {made.created}"}
    facts["parents"] = ", ".join(f"{weight:g} * {name} ({digest[:_SHORT]})" for digest, weight, name in parents)
    facts["versions"] = ", ".join(f"{name} {made.versions.get(name)}" for name in ("dtheta", "torch"))
    return record, {**facts, "seed": str(made.seed)}


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


def _shape(shape: list[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _facts(facts: Mapping[str, str]) -> str:
    width = max(map(len, facts))
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in facts.items())


def _cut(headings: tuple[str, ...], cells: list[tuple[Any, ...]], limit: int) -> list[Part]:
    """Return a table of at most ``limit`` rows, and a line that says how many were left out."""
    shown = cells if limit <= 0 else cells[:limit]
    table = Table(headings, [[str(cell) for cell in row] for row in shown])
    more = len(cells) - len(shown)
    return [table, f"... and {more} more; --rows 0 shows all"] if more else [table]
