"""Tree chart: what was made of what, from left to right; a node stands to the right of everything it was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from dtheta.errors import ConfigError
from dtheta.report.charts.palette import Style
from dtheta.report.charts.svg import WIDTH, Chart, chart, label, mark, node, shortened
from dtheta.report.quantity import plural

_ROW, _COLUMN, _EDGE = 34, 150, 14


@dataclass(frozen=True)
class Node:
    """A node: its ``key`` and ``name``, the keys of its ``parents``, a ``series`` for its look, a ``note`` to hover."""

    key: str
    name: str
    parents: Sequence[str] = ()
    series: str = ""
    note: str = ""


def tree_chart(title: str, nodes: Sequence[Node], style: Mapping[str, Style]) -> Chart:
    """Draw nodes in columns by generation, with a curve from each parent.

    Args:
        title: Title of the chart.
        nodes: Nodes with unique keys; parents that are no node are left out.
        style: Look of every series.

    Raises:
        ConfigError: If a node is its own ancestor.
    """
    depth = generations(nodes)
    columns = 1 + max(depth.values(), default=0)
    taken = [0] * columns
    places: dict[str, tuple[float, float]] = {}
    for one in nodes:
        column = depth[one.key]
        places[one.key] = (_EDGE + _COLUMN * column, 20 + _ROW * taken[column])
        taken[column] += 1
    width = max(WIDTH, _EDGE + _COLUMN * columns)
    edges = [_edge(places[p], places[one.key]) for one in nodes for p in one.parents if p in places]
    marks = [_node(one, *places[one.key], style[one.series]) for one in nodes]
    said = f"{plural(len(nodes), 'node')} in {plural(columns, 'generation')}: " + "; ".join(_said(one) for one in nodes)
    return chart(title, said + ".", 20 + _ROW * max(taken, default=1), [*edges, *marks], width)


def generations(nodes: Sequence[Node]) -> dict[str, int]:
    """Return the generation of every node: 0 without parents, else one more than that of its youngest parent.

    Raises:
        ConfigError: If a node is its own ancestor.
    """
    by_key = {one.key: one for one in nodes}
    found: dict[str, int] = {}
    waiting = dict.fromkeys(by_key)
    while waiting:
        ready = [key for key in waiting if all(p in found for p in by_key[key].parents if p in by_key)]
        if not ready:
            raise ConfigError(f"{by_key[next(iter(waiting))].name} is said to be made of itself, in some generations")
        for key in ready:
            parents = [found[p] for p in by_key[key].parents if p in by_key]
            found[key] = 1 + max(parents, default=-1)
            del waiting[key]
    return found


def _edge(start: tuple[float, float], end: tuple[float, float]) -> Element:
    (x0, y0), (x1, y1) = start, end
    middle = x1 - _EDGE
    return node("path", d=f"M{x0:.2f} {y0:.2f}C{middle:.2f} {y0:.2f} {middle:.2f} {y1:.2f} {x1:.2f} {y1:.2f}",
                class_="edge")  # fmt: skip


def _node(one: Node, x: float, y: float, style: Style) -> Element:
    hover = "\n".join(part for part in (one.name, one.series, one.note) if part)
    return mark(hover, style.point(x, y, 5), label(x + 10, y - 6, shortened(one.name, _COLUMN - 24)))


def _said(one: Node) -> str:
    return f"{one.name} of {plural(len(one.parents), 'parent')}" if one.parents else one.name
