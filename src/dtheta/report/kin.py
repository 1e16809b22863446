"""Kin: which deltas were made of which, and a map on which like deltas lie near one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dtheta.report.blocks import Column, Panels, Table, word
from dtheta.report.charts import Chart, Point, scatter_chart, styles
from dtheta.report.charts.palette import NEUTRAL
from dtheta.report.charts.tree import Node, tree_chart
from dtheta.report.page import Section
from dtheta.report.quantity import listed, percent
from dtheta.report.survey import DeltaSummary, Survey

_AWAY = "not among these files"
_MAPPED = 3  # deltas from which on a map says more than a number


def family(found: Survey) -> list[Section]:
    """The family tree; nothing where no delta was made of others."""
    if not any(delta.parents for delta in found.deltas):
        return []
    nodes = _nodes(found.deltas)
    series = list(dict.fromkeys(one.series for one in nodes if one.series != _AWAY))
    style = styles(series)
    chart = tree_chart("Family tree", nodes, style | {_AWAY: NEUTRAL})
    lead = "Left: what deltas were made of; a curve leads from each to what was made of it."
    table = Table("Parents as a table", [Column("Delta"), Column("Made by"), Column("Of")], _rows(found), folded=True)
    return [Section("Family", [Panels([chart], styles=style, tables=[table])], lead)]


def _nodes(deltas: Sequence[DeltaSummary]) -> list[Node]:
    """A node a delta, and one for every parent that is no file here; copies of one delta are one node.

    What was made of itself, as ``-(-d)`` was, is drawn as it was made first: a parent that closes a circle is left out.
    """
    known: dict[str, DeltaSummary] = {}
    for delta in deltas:
        known[delta.digest] = min(known.get(delta.digest, delta), delta, key=lambda one: len(one.parents))
    parents = _without_circles({digest: delta.parents for digest, delta in known.items()})
    away = dict.fromkeys(p for given in parents.values() for p in given if p not in known)
    nodes = [Node(digest, digest[:12], series=_AWAY) for digest in away]
    for digest, delta in known.items():
        names = [one.name for one in deltas if one.digest == digest]
        nodes.append(Node(digest, listed(names), parents[digest], _made_by(delta), f"identity {digest[:12]}"))
    return nodes


def _without_circles(parents: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the parents of each, added one after the other, without those that would make one its own ancestor."""
    kept: dict[str, list[str]] = {key: [] for key in parents}
    for key, given in parents.items():
        kept[key] += [parent for parent in given if key not in _line(parent, kept)]
    return kept


def _line(key: str, parents: Mapping[str, Sequence[str]]) -> set[str]:
    """Return a node and its ancestors."""
    found: set[str] = set()
    waiting = [key]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += parents.get(one, ())
    return found


def _made_by(delta: DeltaSummary) -> str:
    return delta.method or delta.origin.get("operation", "") or "unknown"


def _rows(found: Survey) -> list[list]:
    names = {delta.digest: delta.name for delta in found.deltas}
    return [
        [word(delta.name), word(_made_by(delta)), word(listed([names.get(p, p[:12]) for p in delta.parents]) or "-")]
        for delta in found.deltas
    ]


def similarity_map(found: Survey) -> tuple[list[Chart], str]:
    """A map of the deltas between all of which there are angles, and what it shows; no chart for less than three.

    Classical multidimensional scaling (Torgerson 1952) of the chords between unit deltas, d = sqrt(2 - 2 cosine).
    """
    chosen = _comparable(found)
    if len(chosen) < _MAPPED:
        return [], ""
    cosines_NN = torch.tensor([[found.cosines[i][j] for j in chosen] for i in chosen], dtype=torch.float64)
    places_N2, share = scaled(2.0 - 2.0 * cosines_NN)
    deltas = [found.deltas[i] for i in chosen]
    style = styles([_made_by(delta) for delta in deltas])
    points = [Point(_made_by(d), d.name, float(x), float(y)) for d, (x, y) in zip(deltas, places_N2, strict=True)]
    chart = scatter_chart("Map", points, style, x_name="first direction", y_name="second direction", logarithmic=False,
                          named=True)  # fmt: skip
    said = f"On the map deltas lie near one another that point in like directions; it shows {percent(share)} of the "
    return [chart], said + "squared distances."


def scaled(squares_NN: Tensor) -> tuple[Tensor, float]:
    """Return places (N, 2) whose squared distances are nearest to those given, and the share that they show.

    Args:
        squares_NN: Squared distances, symmetric with a zero diagonal.
    """
    centered = squares_NN - squares_NN.mean(0) - squares_NN.mean(1, keepdim=True) + squares_NN.mean()
    values, vectors = torch.linalg.eigh(-0.5 * centered)
    values = values.clamp_min(0.0)
    places = vectors[:, -2:].flip(1) * values[-2:].flip(0).sqrt()
    turned = places * torch.where(places.sum(0) < 0, -1.0, 1.0)  # signs of eigenvectors are free: fix them
    total = float(values.sum())
    return turned, float(values[-2:].sum()) / total if total else 1.0


def _comparable(found: Survey) -> list[int]:
    """Return the largest set of deltas, grown from each in turn, between all of which there are angles."""
    everyone = range(len(found.deltas))
    sets = []
    for start in everyone:
        chosen: list[int] = []
        for i in (start, *everyone):
            if i not in chosen and all(found.cosines[i][j] is not None for j in (i, *chosen)):
                chosen.append(i)
        sets.append(sorted(chosen))
    return max(sets, key=len, default=[])
