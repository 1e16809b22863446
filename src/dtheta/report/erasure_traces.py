"""Traces and checkups on the page of an erasure: the value vectors before and after, and how it went along training."""

from __future__ import annotations

from collections.abc import Mapping

from dtheta.probe.erasure.intrinsic import Intrinsic
from dtheta.probe.erasure.result import Erasure
from dtheta.probe.unlearning.watch import Checkup
from dtheta.report.blocks import Cell, Column, Panels, Table, number, word
from dtheta.report.charts import Chart
from dtheta.report.charts.line import Line, line_chart
from dtheta.report.charts.palette import styles
from dtheta.report.page import Section
from dtheta.report.quantity import count, fixed, plural

_SHOWN = 16  # vectors of a delta whose tokens are shown
_TARGET, _UNRELATED = "about the concept", "about other things"


def trace_section(erasures: Mapping[str, Erasure]) -> Section:
    """Return the section on value vectors."""
    names = ("Jaccard", "Cosine", "Distance", "Overlap of spans", "Rank before", "Rank after")
    rows = [[word(name), *_numbers(found.intrinsic)] for name, found in erasures.items()]
    table = Table(_caption(erasures), [Column("Delta"), *(Column(name, True) for name in names)], rows)
    tokens = [_tokens(name, found.intrinsic) for name, found in erasures.items()]
    lead = (
        "The value vectors that hold the concept, read through the unembedding. Jaccard, cosine and overlap of 1 and a "
        "distance of 0 say that nothing moved, however the model behaves. Rank: the median over the concept's words of "
        "a word's best rank among all tokens."
    )
    return Section("What is left in the weights", [table, *tokens], lead)


def checkup_sections(erasures: Mapping[str, Erasure]) -> list[Section]:
    """Return the section on what was seen while the deltas were made, or nothing where that is not at hand."""
    charts = [_line(name, found.checkups) for name, found in erasures.items() if len(found.checkups) > 1]
    if not charts:
        return []
    lead = (
        "Shares of the known questions that were answered still at each look, the original first; the best state that "
        "held other things was kept. Other things are here the questions that training watched, and not those above."
    )
    shown = styles([_TARGET, _UNRELATED])
    return [Section("Along the way", [Panels(charts, styles=shown, lines=True)], lead)]


def _caption(erasures: Mapping[str, Erasure]) -> str:
    numbers = sorted({len(found.intrinsic.vectors) for found in erasures.values()})
    words = next(iter(erasures.values())).intrinsic.words
    said = f"; words: {', '.join(words[:8])}" if words else "; no token stands for one of its words"
    return f"Means over {plural(numbers[0], 'value vector')}{said}"


def _numbers(found: Intrinsic) -> list[Cell]:
    means = (found.jaccard, found.cosine, found.distance, found.overlap)
    ranks = (found.rank_before, found.rank_after)
    return [number(v, fixed(v, 3)) for v in means] + [word("–") if r is None else number(r, count(r)) for r in ranks]


def _tokens(name: str, found: Intrinsic) -> Table:
    rows = [
        [
            word(str(one.vector)),
            number(one.jaccard, fixed(one.jaccard, 2)),
            word(_said(one.before)),
            word(_said(one.after)),
        ]
        for one in found.vectors[:_SHOWN]
    ]
    more = f", the first {_SHOWN} of {len(found.vectors)}" if len(found.vectors) > _SHOWN else ""
    columns = [Column("Vector"), Column("Jaccard", True), Column("Best tokens before"), Column("Best tokens after")]
    return Table(f"Tokens with {name}{more}", columns, rows, folded=True)


def _said(tokens: tuple[str, ...]) -> str:
    return ", ".join(token.strip() or repr(token) for token in tokens) if tokens else "nothing: the vector is zero"


def _line(name: str, seen: tuple[Checkup, ...]) -> Chart:
    lines = [
        Line(_TARGET, [(float(i), 100 * one.target) for i, one in enumerate(seen)]),
        Line(_UNRELATED, [(float(i), 100 * one.unrelated) for i, one in enumerate(seen)]),
    ]
    style = styles([_TARGET, _UNRELATED])
    return line_chart(
        name, lines, style, x_name="look", y_name="answered still, %", zero=True, logarithmic=False, bounds=(0.0, 100.0)
    )
