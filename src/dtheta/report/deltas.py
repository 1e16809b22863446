"""The report of delta files: what each is, made by what, of which base, how large layer by layer, and how alike."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from dtheta.report.blocks import Block, Cell, Column, KeyValues, Panels, Prose, Table, Tile, Tiles, number, word
from dtheta.report.charts import Bar, Chart, bar_chart, heat_map
from dtheta.report.charts.svg import WIDTH
from dtheta.report.kin import family, similarity_map
from dtheta.report.layers import LayerGrid, layer_grid
from dtheta.report.page import Page, Section
from dtheta.report.quantity import byte_size, count, fixed, listed, plural, significant
from dtheta.report.survey import DeltaSummary, Survey, survey

_NORM = "norm of the change"
_UNIT = "in units of the weights"
_UNRELATED = 0.05  # cosines below this are not called alike


def delta_report(source: Survey | Sequence[str | os.PathLike[str]], path: str | os.PathLike[str]) -> Path:
    """Write the report of one or several deltas (files, or a `Survey` of them) to ``path`` and return it.

    Raises:
        FormatError: If a file is no delta.
        OutputError: If the page cannot be written; nothing half-written is left.
    """
    return delta_page(source if isinstance(source, Survey) else survey(source)).render(path)


def delta_page(found: Survey, links: Mapping[str, str] | None = None, kicker: str = "dtheta report") -> Page:
    """The page, before it is written; ``links`` lead from the names of deltas to pages of their own."""
    several = len(found.deltas) > 1
    sections = [Section("In short", [_tiles(found), *([_overview(found, links or {})] if several else [])])]
    if several:
        sections.append(_similarity(found))
    sections += [*family(found), _layers(found), _changes(found), _origins(found)]
    title = plural(len(found.deltas), "delta") if several else found.deltas[0].name
    return Page(title, delta_verdict(found), sections, kicker)


def delta_verdict(found: Survey) -> str:
    """One sentence: what this is, or which of these are alike."""
    if len(found.deltas) == 1:
        delta = found.deltas[0]
        kind = f"{_article(delta.method)} {delta.method} delta" if delta.method else "A delta"
        base = f"the base `{delta.base[:12]}`" if delta.base else "a base that it does not name"
        return (
            f"{kind} of {base}: it moves "
            f"{plural(len(delta.changes), 'tensor')} of {count(_weights(delta))} weights by a norm of "
            f"{significant(delta.norm, 3)}, in {byte_size(delta.file_bytes)}."
        )
    bases = 1 if found.one_base else len({delta.base for delta in found.deltas})
    whole = f"{len(found.deltas)} deltas of {'one base' if bases == 1 else f'{bases} bases'}"
    pairs = _pairs(found)
    if not pairs:
        return f"{whole}, no two of which can be compared."
    cosines = [cosine for _, cosine in pairs]
    if max(map(abs, cosines)) < _UNRELATED:
        least, most = significant(min(cosines), 2), significant(max(cosines), 2)
        return f"{whole}; no two point in a like direction (cosines from {least} to {most})."
    (a, b), nearest = max(pairs, key=lambda pair: pair[1])
    text = f"{whole}; the most alike are {a} and {b} (cosine {fixed(nearest, 2)})"
    if len(pairs) > 1:
        (c, d), farthest = min(pairs, key=lambda pair: pair[1])
        text += f", the least alike {c} and {d} ({fixed(farthest, 2)})"
    return text + "."


def _pairs(found: Survey) -> list[tuple[tuple[str, str], float]]:
    indices = combinations(range(len(found.deltas)), 2)
    known = [(i, j, cosine) for i, j in indices if (cosine := found.cosines[i][j]) is not None]
    return [((found.deltas[i].name, found.deltas[j].name), cosine) for i, j, cosine in known]


def _article(method: str) -> str:
    return "An" if method[:1] in "AEIOaeio" else "A"


def _weights(delta: DeltaSummary) -> int:
    return sum(math.prod(change.shape) for change in delta.changes)


def _tiles(found: Survey) -> Tiles:
    if len(found.deltas) > 1:
        norms = [delta.norm for delta in found.deltas]
        return Tiles(
            [
                Tile(
                    "Deltas",
                    count(len(found.deltas)),
                    listed(list(dict.fromkeys(d.method for d in found.deltas if d.method))),
                ),
                Tile("Norms", " to ".join(significant(n, 3, pad=True) for n in (min(norms), max(norms))), _UNIT),
                Tile("Files", byte_size(sum(d.file_bytes for d in found.deltas)), "all together"),
            ]
        )
    delta = next(iter(found.deltas))
    dense = 4 * _weights(delta)
    return Tiles(
        [
            Tile("Norm", significant(delta.norm, 3), _UNIT),
            Tile("Tensors", count(len(delta.changes)), f"{count(_weights(delta))} weights moved"),
            Tile("File", byte_size(delta.file_bytes), f"{byte_size(dense)} as dense float32"),
        ]
    )


def _overview(found: Survey, links: Mapping[str, str]) -> Table:
    columns = [Column("Delta"), Column("Method"), *([] if found.one_base else [Column("Base")])]
    columns += [Column(name, True) for name in ("Norm", "Tensors", "Weights in them", "File")]
    rows = [
        [
            Cell(delta.name, delta.name.lower(), links.get(delta.name, "")),
            word(delta.method or delta.origin.get("operation", "")),
            *([] if found.one_base else [word(f"`{delta.base[:12]}`" if delta.base else "not named")]),
            number(delta.norm, significant(delta.norm, pad=True)),
            number(len(delta.changes), count(len(delta.changes))),
            number(_weights(delta), count(_weights(delta))),
            number(delta.file_bytes, byte_size(delta.file_bytes)),
        ]
        for delta in found.deltas
    ]
    return Table("Deltas", columns, rows)


def _similarity(found: Survey) -> Section:
    names = [delta.name for delta in found.deltas]
    wide = 2 * WIDTH if len(names) > 8 else WIDTH
    chart = heat_map("Cosines", names, names, found.cosines, value_name="cosine", top=1.0, signed=True, full_width=wide)
    rows = [[word(a), word(b), number(cosine, fixed(cosine, 4))] for (a, b), cosine in _pairs(found)]
    table = Table("Cosines as a table", [Column("Delta"), Column("Delta"), Column("Cosine", True)], rows, folded=True)
    lead = "Cosine of the angle between two deltas, over all parameters; 1 is the same direction, 0 unrelated."
    caption = f"Empty cells have no angle: {'; '.join(found.notes)}." if found.notes else ""
    maps, said = similarity_map(found)
    return Section(
        "Similarity", [Panels([chart, *maps], " ".join(filter(None, (caption, said))), tables=[table])], lead
    )


def _layers(found: Survey) -> Section:
    top = max((change.norm for delta in found.deltas for change in delta.changes), default=0.0)
    charts = [_layer_chart(delta, top) for delta in found.deltas if delta.changes]
    shared = " All panels share one scale." if len(charts) > 1 else ""
    lead = f"Euclidean norm of the change of every tensor, in units of the weights.{shared}"
    blocks: list[Block] = [Panels(charts)] if charts else [Prose("These deltas change no tensor.")]
    return Section("Norm by layer", blocks, lead)


def _layer_chart(delta: DeltaSummary, top: float) -> Chart:
    """A grid of roles by blocks where the names have one; else bars, the largest 24."""
    norms = {change.name: change.norm for change in delta.changes}
    grid: LayerGrid = layer_grid(norms)
    if len(grid.columns) > 1:
        return heat_map(
            delta.name,
            grid.rows,
            grid.columns,
            grid.cells,
            value_name=_NORM,
            column_name="block",
            top=top or None,
            full_width=grid.drawing_width,
        )
    largest = sorted(zip(grid.rows, norms.values(), strict=True), key=lambda row: -row[1])[:24]
    left_out = len(norms) - len(largest)
    name = f"{_NORM}, {f'the largest {len(largest)} of {len(norms)}' if left_out else 'every tensor'}"
    return bar_chart(delta.name, [Bar(row, value) for row, value in largest], x_name=name)


def _changes(found: Survey) -> Section:
    columns = [Column("Parameter"), Column("Stored as")]
    columns += [Column(name, True) for name in ("Shape", "Rank", "Norm", "Share of energy, %", "Bytes")]
    tables = [
        Table(
            f"{delta.name}: {plural(len(delta.changes), 'parameter')}",
            columns,
            [
                [
                    word(change.name),
                    word(change.kind),
                    number(math.prod(change.shape), " \u00d7 ".join(map(str, change.shape))),
                    number(change.rank or 0, "" if change.rank is None else str(change.rank)),
                    number(change.norm, significant(change.norm, pad=True)),
                    number(change.norm, fixed(100 * change.norm**2 / (delta.norm**2 or 1.0), 1)),
                    number(change.nbytes, count(change.nbytes)),
                ]
                for change in delta.changes
            ],
            folded=len(found.deltas) > 1 or len(delta.changes) > 12,
        )
        for delta in found.deltas
    ]
    return Section("Changes", tables, "Every parameter that is moved; energy is the square of the norm.")


def _origins(found: Survey) -> Section:
    several = len(found.deltas) > 1
    blocks = [
        KeyValues(
            [
                *delta.origin.items(),
                ("base", f"`{delta.base}`" if delta.base else "not named"),
                ("identity", f"`{delta.digest}`"),
            ],
            delta.name if several else "",
        )
        for delta in found.deltas
    ]
    return Section("Provenance", blocks)
