"""What ``dtheta federate`` leaves: a delta with its command, a page, a record, and the result in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.bases import model_name
from dtheta.cli.console import Part, Table
from dtheta.cli.federated import Divided
from dtheta.cli.federated_parts import Parts
from dtheta.cli.units import byte_size, count, duration, percent, plural

if TYPE_CHECKING:
    from dtheta.cli.federate import Options
    from dtheta.core.delta import Delta
    from dtheta.federate.baselines import Baseline
    from dtheta.federate.federation import Federation
    from dtheta.report.federated import Party
    from dtheta.score import Interval

_SHOWN = 10  # rounds in the table on the console
_OF_TEXTS, _OF_ROWS = {"max_length", "pooling", "head_lr", "text", "n_train"}, {"standardize"}
_OUTPUTS = {"out", "report", "baselines", "encoding", "label"}


@dataclass(frozen=True)
class Done:
    """What came out.

    Attributes:
        federation: Of the run.
        centralized: One party with all the data; None where it was not asked for.
        alone: Each party by itself; empty likewise.
        parties: Who took part.
    """

    federation: Federation
    centralized: Baseline | None
    alone: Sequence[Baseline]
    parties: Sequence[Party]


def called(options: Options, cut: Divided) -> str:
    """Return what the model is called."""
    return options.model or "quantum" if cut.kind == "rows" else model_name(options.model or "minilm")


def remembered(options: Options) -> dict[str, Any]:
    """Return the options that a result remembers: of files the names, and not their places."""
    found = {name: value for name, value in options.resolved().items() if name not in ("folder", "resume")}
    if options.data is not None:
        found["data"] = Path(options.data).name
    if options.model is not None:
        found["model"] = model_name(options.model)
    return found


def _score(cut: Divided, federation: Federation) -> Interval:
    from dtheta.score import wilson

    test = len(cut.task.test.labels)
    return wilson(round(federation.scores["accuracy"] * test), test)


def save(options: Options, cut: Divided, done: Done) -> Delta:
    """Save the delta, with what it is for and the resolved command in its provenance, and return it."""
    from dtheta.adapt.tasks import CLASSIFICATION

    delta = done.federation.delta
    task: dict[str, Any] = {
        "kind": CLASSIFICATION if cut.kind == "texts" else "row-classification",
        "model": called(options, cut),
        "data": cut.task.name,
        "classes": list(cut.task.classes),
        "train": len(cut.task.train.labels),
        "test": len(cut.task.test.labels),
        "clients": len(cut.parts),
        "accuracy": dataclasses.asdict(_score(cut, done.federation)),
    }
    if cut.kind == "texts":
        task |= {"pooling": options.pooling, "max_length": options.max_length}
    else:
        task |= {"features": list(cut.task.features), "scale": dict(cut.scale)}  # type: ignore[union-attr]
    settings = {**delta.provenance.settings, "command": {"verb": "federate", **remembered(options)}}
    delta = replace(delta, provenance=replace(delta.provenance, settings=settings, task=task, seed=options.seed))
    delta.save(options.out)
    return delta


def record_of(options: Options, cut: Divided, done: Done, delta: Delta) -> dict[str, Any]:
    """Return the result as JSON keeps it."""
    found = done.federation
    record: dict[str, Any] = {
        "out": str(options.out),
        "digest": delta.digest,
        "model": called(options, cut),
        "data": cut.task.name,
        "classes": list(cut.task.classes),
        "test": len(cut.task.test.labels),
        "accuracy": dataclasses.asdict(_score(cut, found)),
        "figures": found.figures,
        "history": [row.to_dict() for row in found.history],
        "parties": [dataclasses.asdict(one) for one in done.parties],
    }
    if done.centralized is not None:
        each = [one.scores["accuracy"] for one in done.alone]
        record["baselines"] = {
            "centralized": done.centralized.to_dict(),
            "alone": [one.to_dict() for one in done.alone],
            "alone_mean": sum(each) / len(each),
        }
    return {**record, "settings": remembered(options)}


def draw(options: Options, parts: Parts, cut: Divided, done: Done) -> Path:
    """Draw the page and return its place."""
    from dtheta.core.provenance import versions
    from dtheta.report.federated import Federated
    from dtheta.report.federation import federation_report

    assert options.report is not None
    of_others = _OF_TEXTS if cut.kind == "rows" else _OF_ROWS
    given = {**remembered(options), "standardize": bool(cut.scale)}  # never done to digits, whatever is asked for
    kept = {name: value for name, value in given.items() if name not in of_others | _OUTPUTS}
    settings = {name: _plain(value) for name, value in kept.items() if value not in (None, [], "")}
    channel = parts.settings["channel"]
    found = Federated(
        done.federation, called(options, cut), cut.task.name, "accuracy", len(cut.task.test.labels), done.parties,
        cut.task.classes, done.centralized, done.alone, getattr(channel, "threshold", None),
        getattr(channel, "error", None), {**settings, "seed": str(options.seed), **versions()},
    )  # fmt: skip
    return federation_report(found, options.report)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def told(options: Options, cut: Divided, done: Done, record: dict[str, Any]) -> list[Part]:
    """Return the result in words."""
    from dtheta.cli.results import share

    found, figures = done.federation, done.federation.figures
    rows = [
        ("accuracy", f"{share(_score(cut, found))} on {len(cut.task.test.labels)} test examples"),
        *_compared(done),
        ("sent", f"{byte_size(figures['bits_up'] / 8)} up, {byte_size(figures['bits_down'] / 8)} down"
         + (f", {count(figures['qubits'])} qubits" if figures["qubits"] else "")),
        *_trouble(done),
    ]  # fmt: skip
    if figures["qber"] is not None:
        rows.append(("QBER", f"{percent(figures['qber'], 2)} at most"))
    if figures["epsilon"] is not None:
        rows.append(("privacy", f"epsilon {figures['epsilon']:.3g}"))
    rows += [("wrote", record[name]) for name in ("report",) if name in record]
    first = (
        f"{options.out}: {plural(figures['parameters'], 'entry', 'entries')} over "
        f"{plural(len(cut.parts), 'party', 'parties')} and {plural(figures['rounds'], 'round')} in "
        f"{duration(figures['seconds'])}"
    )
    return [_rounds(done), "", "\n".join([first, *(f"{name:<12} {text}" for name, text in rows)])]


def _compared(done: Done) -> list[tuple[str, str]]:
    if done.centralized is None:
        return []
    each = [one.scores["accuracy"] for one in done.alone]
    return [
        ("centralized", f"{percent(done.centralized.scores['accuracy'])}, one party with all the data"),
        ("alone", f"{percent(sum(each) / len(each))} on average, {percent(min(each))} to {percent(max(each))}"),
    ]


def _trouble(done: Done) -> list[tuple[str, str]]:
    figures = done.federation.figures
    found = [("excluded", ", ".join(f"{reason} {plural(n, 'time')}" for reason, n in figures["excluded"].items()))]
    found = found if figures["excluded"] else []
    first = next((f"{name} {why}" for row in done.federation.history for name, why in row.excluded.items()), None)
    found += [("the first", first)] if first is not None else []
    liars = [one.name for one in done.parties if one.lies]
    found += [("lied", ", ".join(liars))] if liars else []
    return found + ([("skipped", plural(figures["skipped"], "round"))] if figures["skipped"] else [])


def _rounds(done: Done) -> Table:
    rows = done.federation.history
    every = max(1, -(-len(rows) // _SHOWN))
    shown = [row for row in rows if row.round % every == 0 or row.round == len(rows)]
    cells = [
        (
            str(row.round), f"{len(row.answered)}/{len(row.asked)}",
            percent(row.scores["accuracy"]) if "accuracy" in row.scores else "",
            byte_size(row.bits_up / 8), byte_size(row.bits_down / 8), row.skipped or "",
        )
        for row in shown
    ]  # fmt: skip
    return Table(("round>", "answered>", "accuracy>", "up>", "down>", "skipped"), cells)
