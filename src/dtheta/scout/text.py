"""A scouting as plain text."""

from __future__ import annotations

from dtheta.core.aligned import aligned
from dtheta.scout.scouting import Prospect, Scouting

_COLUMNS = ("method", "predicted accuracy", "gain", "loss", "weights", "dimension", "alignment", "rate up to")


def table(scouting: Scouting) -> str:
    """Return the rows as a table, what was refused, the proposal and the verdicts."""
    lines = [*aligned(_COLUMNS, [_cells(row) for row in scouting.rows]), ""]
    lines.append(f"head alone: {_share(scouting.head.estimate)} on {scouting.examples} examples")
    lines += [f"not scouted: {one.name}: {one.reason}" for one in scouting.refused]
    lines += [f"note: {row.name}: {row.note}" for row in scouting.rows if row.note]
    lines += [_proposed(scouting), *(check.verdict for check in scouting.checks)]
    return "\n".join(lines)


def _cells(row: Prospect) -> tuple[str, ...]:
    accuracy = f"{_share(row.accuracy.estimate)} [{_share(row.accuracy.low)}, {_share(row.accuracy.high)}]"
    return (
        row.name, accuracy, f"{100 * row.gain.estimate:+.1f}", f"{row.loss:.4f}", f"{row.parameters:,}",
        f"{row.effective_dimension:.1f}", f"{row.alignment:.2f}", f"{row.sign_rate:.1e}",
    )  # fmt: skip


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _proposed(scouting: Scouting) -> str:
    found = scouting.proposal
    layers = f"; layers {', '.join(found.layers)} bring four fifths of it" if found.layers else ""
    return (
        f"proposal: {found.name}, AdamW rate about {found.learning_rate:.1e}, about {found.steps} steps{layers}; "
        f"a rank of {found.rank_rule} is enough for so many examples"
    )
