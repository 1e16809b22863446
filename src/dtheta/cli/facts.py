"""Facts: lines of name and value, shapes, and tables of some rows, as ``dtheta show`` prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dtheta.cli.console import Part, Table

SHORT = 12  # hex digits that are enough to tell digests apart by eye


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as 3 x 4."""
    return " x ".join(map(str, shape)) or "scalar"


def versions_text(versions: Mapping[str, str]) -> str:
    """Return by which versions of dtheta and torch something was made."""
    return ", ".join(f"{name} {versions.get(name)}" for name in ("dtheta", "torch"))


def facts_text(facts: Mapping[str, str]) -> str:
    """Return a line for each fact, values below one another."""
    width = max(map(len, facts))
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in facts.items())


def cut(headings: tuple[str, ...], cells: Sequence[tuple[Any, ...]], limit: int) -> list[Part]:
    """Return a table of at most ``limit`` rows, 0 for all, and a line that says how many were left out."""
    shown = cells if limit <= 0 else cells[:limit]
    table = Table(headings, [[str(cell) for cell in row] for row in shown])
    more = len(cells) - len(shown)
    return [table, f"... and {more} more; --rows 0 shows all"] if more else [table]
