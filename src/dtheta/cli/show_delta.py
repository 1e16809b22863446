"""``dtheta show`` of a delta: made by what, on which base, what changed, and of which other deltas it was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.console import Part
from dtheta.cli.facts import SHORT, cut, facts_text, shape_text, versions_text
from dtheta.cli.units import byte_size, count
from dtheta.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from dtheta.core.files import Header


def describe_delta(path: Path, limit: int, tree: bool) -> tuple[dict[str, Any], list[Part]]:
    """Return what a .delta file is, as a record and in parts to print; all of it is read and verified.

    Args:
        path: The file.
        limit: Rows of the table at most; 0 for all.
        tree: Whether to look for the deltas that it was made of.

    Raises:
        FormatError: If it is damaged, or its header says what cannot be meant.
    """
    from dtheta.core.files import load, read_header

    header, delta = read_header(path), load(path)
    made = header.provenance
    rows = [
        {
            "parameter": n,
            "kind": c.kind,
            "shape": list(c.shape),
            "rank": c.shown_rank,
            "norm": c.norm(),
            "bytes": c.nbytes,
        }
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
        "base": (header.base.root or "not named as a whole")[: 4 * SHORT],
        "digest": header.digest[: 4 * SHORT],
        "norm": f"{record['norm']:.4g}",
        "moves": f"{len(delta)} tensors of {count(delta.numel)} weights",
        "size": f"{byte_size(header.nbytes)} (dense float32: {byte_size(4 * delta.numel)})",
        **_task_facts(made.task, path),
        "made": f"{made.created}, seed {made.seed}, {versions_text(made.versions)}",
    }
    cells = [
        (r["parameter"], r["kind"], shape_text(r["shape"]), r["rank"] or "", f"{r['norm']:.4g}", byte_size(r["bytes"]))
        for r in rows
    ]
    table = cut(("parameter", "change", "shape", "rank>", "norm>", "size>"), cells, limit)
    parts: list[Part] = [f"{path.name}: a delta", facts_text(facts), "", *table]
    if tree:
        record["tree"] = family = _tree(header, path)
        parts += ["", "\n".join(_tree_lines(family))]
    return record, parts


def _maker(header: Header) -> str:
    made = header.provenance
    fields = ", ".join(f"{k}={v}" for k, v in made.method.items() if k != "name" and v is not None)
    method = f"{made.method['name']}({fields}), " if made.method.get("name") else ""
    return f"{method}operation {made.operation!r}"


def _task_facts(task: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Return what is said about the task, in words."""
    facts = {}
    if task.get("kind"):
        facts["task"] = f"{task['kind']} on {task.get('data', 'unnamed data')}, model {task.get('model', 'unnamed')}"
    for name, key, mark in (("classes", "classes", ", "), ("prompt", "templates", " | ")):
        if isinstance(said := task.get(key), list) and said:
            facts[name] = mark.join(map(str, said))
    shares = ("accuracy",) if task.get("kind") == "language-modeling" else ("accuracy", "baseline")
    for name in ("accuracy", "baseline", "loss", "base_loss"):
        if isinstance(value := task.get(name), Mapping):
            facts[name.replace("_", " ")] = _interval(value, name in shares, f"{path}: the {name} of the task")
    return facts


def _interval(value: Mapping[str, Any], share: bool, where: str) -> str:
    """Return an estimate with its interval: a share in percent, or a loss."""
    factor, unit = (100, " %") if share else (1, " nats a token")
    try:
        middle, low, high = (factor * float(value[key]) for key in ("estimate", "low", "high"))
    except (KeyError, TypeError, ValueError):
        raise FormatError(f"{where} is {dict(value)!r:.80}; expected estimate, low and high: it was edited") from None
    return f"{middle:.4g}{unit} [{low:.4g}, {high:.4g}]"


def _tree(header: Header, path: Path) -> dict[str, Any]:
    """Return the family of a delta: itself and, below it, its parents, found by digest among the files beside it.

    One that several were made of has its own parents where it stands first; further down it is only named, as one that
    is above. Spelled out each time, the sums of sums of n deltas would have 2^n lines.
    """
    from dtheta.core.files import read_header

    known: dict[str, Header] = {}
    for file in sorted(path.parent.glob("*.delta")):
        try:
            found = read_header(file)
        except (FormatError, ConfigError):  # a damaged neighbor is not what was asked about
            continue
        known.setdefault(found.digest, found)
    known[header.digest] = header

    seen: set[str] = set()

    def grow(digest: str) -> dict[str, Any]:
        found, above = known.get(digest), digest in seen
        if found is None:
            return {"digest": digest, "file": None, "operation": None, "above": False, "parents": []}
        seen.add(digest)
        method = found.provenance.method.get("name")
        return {
            "digest": digest,
            "file": found.path.name,
            "operation": f"{found.provenance.operation} {method}" if method else found.provenance.operation,
            "above": above,
            "parents": [] if above else [grow(parent) for parent in found.provenance.parents],
        }

    return {**grow(header.digest), "base": header.base.root}


def _tree_lines(node: Mapping[str, Any], indent: str = "") -> list[str]:
    name, said = node["file"] or "not in this folder", "above" if node["above"] else node["operation"]
    lines = [f"{indent}{node['digest'][:SHORT]}  {name}" + (f"  ({said})" if said else "")]
    for parent in node["parents"]:
        lines += _tree_lines(parent, indent + "  ")
    if "base" in node:
        lines.append(f"base {str(node['base'] or 'not named')[:SHORT]}")
    return lines
