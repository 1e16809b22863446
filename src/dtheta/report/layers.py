"""Layer names for people: prefixes that all names share are dropped, and names with a block number become a grid.

encoder.layer.3.attention.self.query.weight   ->   row "attention.self.query", column "3"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dtheta.report.charts.svg import WIDTH

_MANY = 14  # columns above which cells would be too narrow to hit


@dataclass(frozen=True)
class LayerGrid:
    """Values laid out as ``cells[row][column]``: roles by blocks, or names by one column."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]

    @property
    def drawing_width(self) -> float:
        """One panel, or two where there are many blocks."""
        return 2 * WIDTH if len(self.columns) > _MANY else WIDTH


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name without the dotted parts that all names start or end with; a single name loses only ``.weight``."""
    parts = {name: name.split(".") for name in names}
    if len(parts) < 2:
        return {name: name.removesuffix(".weight") for name in names}
    shortest = min(map(len, parts.values()))
    start = next((k for k in range(shortest - 1) if len({p[k] for p in parts.values()}) > 1), shortest - 1)
    room = shortest - 1 - start
    end = next((k for k in range(room) if len({p[-1 - k] for p in parts.values()}) > 1), room)
    return {name: ".".join(p[start : len(p) - end]) for name, p in parts.items()}


def layer_grid(values: Mapping[str, float]) -> LayerGrid:
    """Roles x blocks when every name holds one number (its first) and the grid is mostly full, else one column."""
    short = short_names(list(values))
    places = {name: _place(name, text) for name, text in short.items()}
    columns = sorted({block for place in places.values() if place for _, block in [place]})
    rows = list(dict.fromkeys(role for place in places.values() if place for role, _ in [place]))
    full = len(set(places.values())) == len(values) and None not in places.values()
    if not full or len(columns) < 2 or len(rows) * len(columns) > 2 * len(values):
        return LayerGrid(tuple(short.values()), ("",), tuple((value,) for value in values.values()))
    by_place = {places[name]: value for name, value in values.items()}
    cells = tuple(tuple(by_place.get((role, block)) for block in columns) for role in rows)
    return LayerGrid(tuple(rows), tuple(str(block) for block in columns), cells)


def _place(name: str, short: str) -> tuple[str, int] | None:
    """(role, block number) of a shortened name."""
    parts = short.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if number is None:
        return None
    role = ".".join(parts[:number] + parts[number + 1 :]) or name.removesuffix(".weight").split(".")[-1]
    return role, int(parts[number])
