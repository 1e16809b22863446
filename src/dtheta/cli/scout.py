"""Predict which method will do best on your texts, before any of them is trained.

Methods are ranked by kernel regression with the tangent kernel of each, from a few passes over the texts, whatever
their number. A few real steps with the best one then tell whether the prediction is to be believed.

A method is written as its row in the table is: a name of 'dtheta methods', fields in brackets, and where it trains.

  dtheta scout --data bbc
  dtheta scout --data reviews.csv --text body --label stars --method "LoRA(rank=4)" --method BitFit --report scout.html
  dtheta scout --data bbc --method "LoRA(rank=8)" --method "LoRA(rank=8) on @attention#4-5"
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dtheta.cli.bases import local_place, model_name
from dtheta.cli.console import Console, Part, Table
from dtheta.cli.options import CommonOptions, Flag, fields_of
from dtheta.cli.places import require_outputs
from dtheta.cli.plan import Plan, size_of
from dtheta.cli.units import count, duration, percent
from dtheta.cli.written import written_method

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dtheta.adapt.method import Method
    from dtheta.cli.cost import Cost
    from dtheta.cli.labeled import Source
    from dtheta.data.text import TextTask
    from dtheta.scout.scouting import Proposal, Prospect, Refused, Scouting

#: What is compared where nothing is named: one of each way to move, and two ranks.
USUAL = ("LoRA(rank=2)", "LoRA(rank=16)", "PiSSA(rank=16)", "SORSA(rank=16)", "CLIPSVD", "BitFit", "Full")
_SHARED = ("text", "label", "encoding", "max_length", "pooling", "seed")  # options that 'dtheta adapt' takes as well
_CHUNK = 32  # texts a pass, as ``scout`` takes them
_SIDES = 9  # inputs of the matrices of a layer, in units of its width
_PASSES = 3  # forward and backward passes over the texts, about, that scouting takes beside the probe


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta scout``."""

    data: Annotated[str, Flag("a .csv, .tsv or .jsonl file, or the name of a packaged task", "FILE|TASK")]
    model: Annotated[str, Flag("a name of 'dtheta models', or a local Hugging Face folder", "NAME|DIR")] = "minilm"
    method: Annotated[
        tuple[str, ...],
        Flag(f"a method to compare; may be given several times (default: {', '.join(USUAL)})", "METHOD"),
    ] = ()
    text: Annotated[str, Flag("column of the texts", "COLUMN")] = "text"
    label: Annotated[str | None, Flag("column of the classes (default: 'label')", "COLUMN")] = None
    encoding: Annotated[str, Flag("encoding of the file: utf-8, latin-1, utf-16, ...", "NAME")] = "utf-8"
    examples: Annotated[int, Flag("how many training texts to look at, at most")] = 256
    outputs: Annotated[int, Flag("directions of the logits to differentiate, one backward pass each")] = 2
    probe: Annotated[
        Literal["best", "all", "none"], Flag("which methods take a few real steps, to check the prediction")
    ] = "best"
    max_length: Annotated[int, Flag("tokens kept of a text")] = 64
    pooling: Annotated[
        Literal["mean", "last"] | None, Flag("how a text's vector is pooled (default: by architecture)")
    ] = None
    report: Annotated[Path | None, Flag("write a page with the ranking and the layers", "FILE")] = None


def run(options: Options, console: Console) -> int:
    """Scout, and draw the page if asked."""
    from dtheta.cli.labeled import Source
    from dtheta.cli.posed import require_meant, task_of
    from dtheta.scout.candidates import entries_of

    source = Source.of(options)
    entries = [written_method(text) for text in options.method or USUAL]
    entries_of(entries)
    reads = {"--config": options.config, "--model": local_place(options.model), "--data": source.path}
    require_outputs({"--report": options.report}, reads)
    require_meant(options, source)
    if options.dry_run:
        _plan(options, entries, source).show(console)
        return 0
    task = task_of(source, options.seed)
    scouting = _scouted(options, entries, task, console)
    record: dict[str, Any] = {
        "model": model_name(options.model), "data": task.name, **scouting.to_dict(), "settings": options.resolved(),
    }  # fmt: skip
    if options.report is not None:
        from dtheta.report.scouted import scout_report

        record["report"] = str(scout_report(scouting, model_name(options.model), task.name, options.report))
    console.result(record, _parts(scouting, record, options))
    return 0


def _scouted(options: Options, entries: list[tuple[Method, str | None]], task: TextTask, console: Console) -> Scouting:
    from dtheta.cli.posed import posed
    from dtheta.scout.scout import scout

    found = posed(options, task, console)
    return scout(
        found.net, found.train, entries, outputs=options.outputs, examples=options.examples, probe=options.probe,
        seed=options.seed,
    )  # fmt: skip


def _parts(scouting: Scouting, record: dict[str, Any], options: Options) -> list[Part]:
    heads = ("method", "predicted accuracy>", "gain>", "loss>", "weights>", "alignment>", "rate up to>", "steps>")
    parts: list[Part] = [Table(heads, [_row(row) for row in scouting.rows])]
    parts.append(f"head alone {percent(scouting.head.estimate)} on {scouting.examples} texts, in {_spent(scouting)}")
    parts += _left_out(scouting.refused)
    parts += [f"note: {row.name}: {row.note}" for row in scouting.rows if row.note]
    parts += ["", proposed(scouting.proposal), *(check.verdict for check in scouting.checks)]
    parts += ["", f"train it:  {command(scouting, options)}"]
    return parts + ([f"wrote {record['report']}"] if "report" in record else [])


def _left_out(refused: Iterable[Refused]) -> list[str]:
    return [f"not scouted: {one.name}: {one.reason}" for one in refused]


def _row(row: Prospect) -> tuple[str, ...]:
    from dtheta.cli.results import share

    return (
        row.name, share(row.accuracy), f"{100 * row.gain.estimate:+.1f}",
        f"{row.loss:.4f}", count(row.parameters), f"{row.alignment:.2f}", f"{row.sign_rate:.1e}", str(row.sign_steps),
    )  # fmt: skip


def proposed(found: Proposal) -> str:
    """Return a proposal in words."""
    layers = f"; layers {', '.join(found.layers)} bring four fifths of the first step" if found.layers else ""
    return f"proposal: {found.name}, AdamW at about {found.learning_rate:.1e} for about {found.steps} steps{layers}"


def command(scouting: Scouting, options: Options) -> str:
    """Return the command that trains what is proposed."""
    import shlex

    row = scouting[scouting.proposal.name]
    parts = ["dtheta", "adapt", "--data", options.data, "--model", options.model]
    if row.method is not None:
        parts += ["--method", row.method.name]
        parts += [part for name, value in _changed(row.method) for part in ("--set", f"{name}={value}")]
    parts += [] if row.select is None else ["--select", row.select]
    fields = fields_of(Options)
    for name in _SHARED:
        if (value := getattr(options, name)) != fields[name].default:
            parts += [fields[name].called, str(value)]
    return shlex.join([*parts, "--lr", f"{scouting.proposal.learning_rate:.1e}"])


def _changed(method: Method) -> list[tuple[str, Any]]:
    import dataclasses

    fields = ((f.name, getattr(method, f.name), f.default) for f in dataclasses.fields(method))
    return [(name, value) for name, value, default in fields if value != default]


def _spent(scouting: Scouting) -> str:
    return f"{duration(sum(scouting.seconds.values()))} of one core"


def _plan(options: Options, entries: list[tuple[Method, str | None]], source: Source) -> Plan:
    """Return what would be done, after every check that needs no weights."""
    from dtheta.cli.cost import Cost
    from dtheta.cli.posed import rehearsed
    from dtheta.scout.candidates import require_candidates

    found, notes = rehearsed(options, source)
    if found is not None:
        notes += _left_out(require_candidates(found.net, entries, "head"))
    cost = Cost.of_model(options.model)
    tokens = options.examples * options.max_length
    reads = {f"model {options.model}": cost.nbytes}
    if source.path is not None:
        reads[options.data] = size_of(source.path)
    writes = {} if options.report is None else {str(options.report): 100_000}
    seconds = cost.seconds(trained=tokens * (1 + options.outputs) // 2, run=_PASSES * tokens)
    return Plan(reads, writes, _memory(cost, options), seconds, options.resolved(), notes)


def _memory(cost: Cost, options: Options) -> int | None:
    """Return about how many bytes are needed: a pass, and inputs and gradients of layers, within a budget."""
    from dtheta.scout.derivatives import BUDGET

    passed = cost.memory(min(options.examples, _CHUNK) * options.max_length)
    captured = 4 * _SIDES * cost.width * cost.layers * (1 + options.outputs) * options.examples * options.max_length
    return None if passed is None else passed + min(BUDGET, captured)
