"""A reproduction as a page of Markdown, for the documentation."""

from __future__ import annotations

from dtheta._version import __version__
from dtheta.reproduce.claim import Row, in_words
from dtheta.reproduce.reproduce import Reproduced, Reproduction, counted


def markdown(found: Reproduction) -> str:
    """Return a table a system: what is claimed, the paper's setting, what was run, the figure, whether it holds."""
    seconds, claims = sum(one.seconds for one in found.systems), sum(len(one.rows) for one in found.systems)
    head = [
        f"# Claims, {'small' if found.fast else 'full'} size: `{found.command}`",
        "",
        f"Of {claims} claims {counted(found)}.",
        "",
        f"dtheta {__version__}, {found.place}; {seconds / 60:.0f} CPU minutes.",
        "",
        "A claim holds where the whole 95 % interval lies on the claimed side; *not shown* means that the interval "
        "holds the bound. Intervals are not corrected for their number. Runs count as independent, also those of one "
        "task or draw; accuracies on few texts are coarse, and where runs agree by chance an interval is too narrow.",
    ]
    return "\n".join([*head, *(line for one in found.systems for line in _system(one))]) + "\n"


def _system(one: Reproduced) -> list[str]:
    lines = ["", f"## {one.system.title}", "", f"{one.system.paper}; {one.seconds:.0f} CPU seconds.", ""]
    lines += ["| claim | in the paper | run here | measured | claimed | outcome |", "|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(map(_cell, _cells(row)))} |" for row in one.rows]
    notes = [f"- *{row.claim.name}*: {row.note}" for row in one.rows if row.note and row.found is not None]
    return [*lines, "", *notes] if notes else lines


def _cells(row: Row) -> tuple[str, ...]:
    if row.found is None:
        return row.claim.says, row.claim.paper, row.note, "", "", row.outcome
    outcome = f"**{row.outcome}**" if row.outcome in ("holds", "does not hold") else row.outcome
    return row.claim.says, row.claim.paper, row.here, measured(row), f"{row.side} {row.bound:.4g}", outcome


def measured(row: Row) -> str:
    """Return the quantity of a row that was run, with its interval and unit, in words."""
    assert row.found is not None
    return f"{in_words(row.found, lambda value, digits: f'{value:.{digits}g}')} {row.unit}".strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
