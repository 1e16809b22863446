"""The report of an erasure: what was forgotten and what was not, what attacks bring back, what is left in the weights.

The plane holds all methods: to the left what is gone of the concept, upward what stayed of other things.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dtheta.errors import ConfigError
from dtheta.probe.erasure.behavior import Behavior
from dtheta.probe.erasure.goals import TARGET, UNRELATED, Goal
from dtheta.probe.erasure.result import Erasure
from dtheta.report.blocks import (
    Block,
    Cell,
    Column,
    Finding,
    Findings,
    Outcome,
    Panels,
    Prose,
    Table,
    Tile,
    Tiles,
    number,
    word,
)
from dtheta.report.charts.palette import styles
from dtheta.report.charts.plane import Spot, plane_chart
from dtheta.report.erasure_attacks import attack_section
from dtheta.report.erasure_traces import checkup_sections, trace_section
from dtheta.report.page import Page, Section
from dtheta.report.quantity import count, fixed, listed, percent, plural, signed
from dtheta.score.interval import Interval

_OUTCOMES: dict[bool | None, tuple[Outcome, str]] = {
    True: ("holds", "erased"),
    False: ("fails", "not erased"),
    None: ("unclear", "not known before"),
}
_LEAD = (
    "How much of the known questions is answered still: about the concept, which should go, to the left; about other "
    "things, which should stay, upward. The shaded corner is the goal. Whiskers are 95 % intervals over questions."
)


def erasure_report(erasures: Mapping[str, Erasure], model: str, path: str | os.PathLike[str]) -> Path:
    """Write the report of erasures of one concept to ``path`` and return it.

    Args:
        erasures: By the name of what was done.
        model: Name of the model.
        path: Of the page.

    Raises:
        ConfigError: If there are none, or of two concepts.
        OutputError: If the page cannot be written; nothing half-written is left.
    """
    return erasure_page(erasures, model).render(path)


def erasure_page(erasures: Mapping[str, Erasure], model: str) -> Page:
    """The page, before it is written; arguments and errors as ``erasure_report``."""
    concepts = sorted({found.concept for found in erasures.values()})
    if len(concepts) != 1:
        raise ConfigError(f"a page shows one concept, found {', '.join(concepts) if concepts else 'no erasure'}")
    sections = [_goals(erasures)]
    if scored := {name: found.behavior for name, found in erasures.items() if found.behavior is not None}:
        sections += [_plane(erasures, scored), *attack_section(erasures), _texts(scored)]
    sections += [trace_section(erasures), *checkup_sections(erasures)]
    seeds = sorted({found.seed for found in erasures.values()})
    footer = f"{plural(len(erasures), 'delta')}, seed {', '.join(map(str, seeds))}"
    return Page(f"What is left of {concepts[0]} in {model}", _verdict(erasures), sections, "dtheta compare", footer)


def _verdict(erasures: Mapping[str, Erasure]) -> str:
    if len(erasures) == 1:
        return next(iter(erasures.values())).verdict
    first = next(iter(erasures.values()))
    if not first.known:
        return first.verdict
    gone = [name for name, found in erasures.items() if found.erased]
    number = f"{len(gone) or 'None'} of {len(erasures)} deltas"
    named = f": {listed(gone)}" if gone else ""
    return f"{number} {'take' if len(gone) > 1 else 'takes'} {first.concept} out by every measure taken here{named}."


def _goals(erasures: Mapping[str, Erasure]) -> Section:
    recall = next(iter(erasures.values())).recall
    tiles = [Tile("known before", percent(recall.estimate, 0), f"of the questions, {_range(recall)}")]
    if len(erasures) == 1:
        (found,) = erasures.values()
        tiles += _tiles(found)
        findings = _each(found)
    else:
        findings = [Finding(f"{name}: {found.verdict}", *_OUTCOMES[found.erased]) for name, found in erasures.items()]
    lead = (
        "What is asked of a concept that is gone. A goal that is met by the estimate alone may be luck: with ten "
        "questions, none of ten is anything from 0 to 28 %. And what was tried here is not all that can be tried."
    )
    return Section("Whether it is gone", [Tiles(tiles), Findings(findings)], lead)


def _tiles(found: Erasure) -> list[Tile]:
    if found.behavior is None:
        return []
    sides = (("of the concept", found.behavior.target), ("of other things", found.behavior.unrelated))
    shares = [(name, change.kept) for name, change in sides if change.kept is not None]
    return [Tile(f"answered still, {name}", percent(kept.estimate, 0), _range(kept)) for name, kept in shares]


def _each(found: Erasure) -> list[Finding]:
    return [Finding(_said(one), *_outcome(one)) for one in found.goals]


def _said(one: Goal) -> str:
    texts = {
        "target": "Known questions about the concept that are answered still",
        "unrelated": "Other known questions that are answered still",
        "traces": "Likeness of the best tokens of the concept's value vectors (Jaccard)",
    }
    said = texts.get(one.name, f"What {one.name.removeprefix('attack: ')} brings back of what went")
    value, bound = (fixed(v, 2) if one.name == "traces" else _in_percent(v) for v in (one.value, one.bound))
    return f"{said}: {value}, wanted {one.side} {bound}."


def _in_percent(value: float) -> str:
    """Return a share in percent, with a digit after the point unless it is whole: 10.3 % is not "at most 10 %"."""
    return percent(value, 0 if math.isclose(100 * value, round(100 * value), abs_tol=1e-9) else 1)


def _outcome(one: Goal) -> tuple[Outcome, str]:
    if one.met:
        return ("holds", "met") if one.clear else ("partly", "met by the estimate")
    return ("fails", "missed") if one.clear else ("unclear", "missed by the estimate")


def _plane(erasures: Mapping[str, Erasure], scored: Mapping[str, Behavior]) -> Section:
    style = styles(list(erasures))
    spots = [
        Spot(name, behavior.target.kept, behavior.unrelated.kept, erasures[name].verdict)
        for name, behavior in scored.items()
        if behavior.target.kept is not None and behavior.unrelated.kept is not None
    ]
    blocks: list[Block] = [Prose("The original answers none of the other questions, so there is no plane to draw.")]
    if spots:
        chart = plane_chart(
            "Forgotten and kept", spots, style, x_name="concept, answered still", y_name="other things, answered still",
            corner=(TARGET, UNRELATED),
        )  # fmt: skip
        blocks = [Panels([chart], styles={spot.name: style[spot.name] for spot in spots}, tables=[_answers(scored)])]
    return Section("Forgotten and kept", blocks, _LEAD)


def _answers(scored: Mapping[str, Behavior]) -> Table:
    names = ("Concept, %", "Interval, %", "Log-prob., nats", "Others, %", "Interval, %", "Log-prob., nats")
    rows = []
    for name, behavior in scored.items():
        cells = [cell for change in (behavior.target, behavior.unrelated) for cell in (
            *_share(change.kept), number(change.logprob.change.estimate, signed(change.logprob.change.estimate, 2)),
        )]  # fmt: skip
        rows.append([word(name), *cells])
    asked = next(iter(scored.values()))
    caption = (
        f"Answered still of {asked.target.known} known questions about the concept and {asked.unrelated.known} others, "
        "and by how much the log-probability of all answers changed"
    )
    return Table(caption, [Column("Delta"), *(Column(name, True) for name in names)], rows)


def _texts(scored: Mapping[str, Behavior]) -> Section:
    names = ("Prompts", "BLEU", "ROUGE-L", "Word for word, %")
    rows = [
        [word(name), word(group), number(like.prompts, count(like.prompts)), *map(_plain, (like.bleu, like.rouge_l)),
         number(like.same, fixed(100 * like.same, 0))]
        for name, behavior in scored.items()
        for group, like in behavior.likeness.items()
    ]  # fmt: skip
    columns = [Column("Delta"), Column("Prompts about"), *(Column(name, True) for name in names)]
    blocks: list[Block] = [Table("Greedy texts against the original's own", columns, rows)]
    if ppl := {name: b.perplexity for name, b in scored.items() if b.perplexity is not None}:
        heads = [Column("Delta"), *(Column(name, True) for name in ("Before", "After", "After over before"))]
        cells = [
            [word(name), number(p.before, fixed(p.before, 2)), number(p.after, fixed(p.after, 2)),
             _plain(p.ratio) if p.ratio is not None else number(p.after / p.before, fixed(p.after / p.before, 3))]
            for name, p in ppl.items()
        ]  # fmt: skip
        some = next(iter(ppl.values()))
        blocks.append(Table(f"Perplexity on {plural(some.texts, 'text')}, {count(some.tokens)} tokens", heads, cells))
    lead = (
        "What the changed model writes after the same prompts, scored against what the original writes there: 1 is the "
        "same text. About the concept it should differ, elsewhere not."
    )
    return Section("What is written", blocks, lead)


def _share(found: Interval | None) -> Sequence[Cell]:
    if found is None:
        return (word("–"), word("–"))
    return (
        number(found.estimate, fixed(100 * found.estimate, 1)),
        number(found.low, f"{fixed(100 * found.low, 0)} to {fixed(100 * found.high, 0)}"),
    )


def _plain(found: Interval) -> Cell:
    return number(found.estimate, f"{fixed(found.estimate, 3)} ({fixed(found.low, 2)} to {fixed(found.high, 2)})")


def _range(found: Interval) -> str:
    return f"{percent(found.low, 0)} to {percent(found.high, 0)}"
