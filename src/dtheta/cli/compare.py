"""Compare deltas of one base: the angles between them, and how often they pull an entry in opposite directions.

A cosine of 1 is the same direction, 0 unrelated. A sign conflict is an entry that two deltas move against each other,
told as a share of the entries that both move: about one half where they are unrelated, and what cancels in their sum.
Both over all parameters and layer by layer. The heads of classifiers are left out unless --select takes them: a head
starts at zero, so that it would outweigh what happened to the pretrained weights.

With --erasure it is said instead what one or more deltas of 'dtheta unlearn' took out of a model: what is still
answered, what attacks bring back, and what is left in the value vectors.

  dtheta compare dtheta-demo/deltas/*-pissa.delta
  dtheta compare a.delta b.delta c.delta --report likeness.html
  dtheta compare npo.delta repair.delta --erasure --report erasure.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dtheta.cli import compare_erasure
from dtheta.cli.bases import local_place, remembered
from dtheta.cli.concepts import SOURCE
from dtheta.cli.console import Console, Part, Table
from dtheta.cli.family import ENCODER, has_head, part_of, require_family
from dtheta.cli.idle import refuse_idle
from dtheta.cli.networks import bases_read, bound, require_models
from dtheta.cli.options import CommonOptions, Flag, Place
from dtheta.cli.places import require_input, require_outputs
from dtheta.cli.plan import PROGRAM, Plan, reading_time
from dtheta.cli.units import byte_size, count, percent
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.core.delta import Delta
    from dtheta.core.header import Header
    from dtheta.report.comparison import Alike, Comparison, Matrix

_OF_ERASURE = ("concept", "concepts", "traces", "attack")


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta compare``."""

    deltas: Annotated[tuple[Path, ...], Place("two or more .delta files of one base", "DELTA")] = ()
    select: Annotated[
        str | None, Flag("only changes that match this glob (default: all but the heads of classifiers)", "GLOB")
    ] = None
    report: Annotated[Path | None, Flag("write a page with heat maps", "FILE")] = None
    model: Annotated[
        str | None, Flag("the base, where it is needed (default: the one the deltas name)", "NAME|DIR")
    ] = None
    erasure: Annotated[bool, Flag("measure what the deltas took out of the model")] = False
    concept: Annotated[str | None, Flag("with --erasure: what should be gone (default: what they name)", "NAME")] = None
    concepts: Annotated[str | None, Flag(f"with --erasure: {SOURCE} (default: what they name)", "SOURCE")] = None
    traces: Annotated[
        Path | None, Flag("with --erasure: where the concept is, from 'dtheta probe --out' (default: found)", "FILE")
    ] = None
    attack: Annotated[
        tuple[str, ...],
        Flag(
            "with --erasure: Paraphrase, Persona, InContext, Relearning or Quantization, with fields in brackets, or "
            "none; may be given several times (default: all)",
            "ATTACK",
        ),
    ] = ()


def run(options: Options, console: Console) -> int:
    """Compare, and draw the page if asked."""
    from dtheta.core.files import load, read_header
    from dtheta.report.comparison import compare

    headers = [read_header(require_input(path)) for path in options.deltas]
    if options.erasure:
        if not headers:
            raise ConfigError("there is no delta to look at: dtheta compare DELTA ... --erasure")
        return compare_erasure.run(options, names(options.deltas), headers, console)
    refuse_idle(options, _OF_ERASURE, "goes with --erasure; add that, or leave it out")
    if len(headers) < 2:
        raise ConfigError(
            "comparing takes at least two deltas: dtheta compare DELTA DELTA ...; --erasure takes one or more"
        )
    reads = {"--config": options.config, **{f"DELTA {path}": path for path in options.deltas}}
    require_outputs({"--report": options.report}, {**reads, "--model": local_place(options.model)})
    select = require_family(headers, options.select or _default(headers))
    require_models(headers, options.model)
    if options.dry_run:
        total = sum(header.nbytes for header in headers)
        writes = {} if options.report is None else {str(options.report): 100_000}
        base = bases_read(headers, options.model)
        sizes = {str(header.path): header.nbytes for header in headers} | base
        memory = PROGRAM + 3 * total + 3 * sum(size or 0 for size in base.values())
        seconds = 4 * reading_time(total) + (1 if not base else 5)
        Plan(sizes, writes, memory, seconds, remembered(options, options.model)).show(console)
        return 0
    whole = [bound(load(path), options.model, path) for path in options.deltas]
    parts = [part_of(delta, select) for delta in whole]
    found = compare(names(options.deltas), parts)
    record = _record(found, headers, parts, select)
    if options.report is not None:
        record["report"] = str(_drawn(options, found, headers, parts, select))
    _tell(found, record, select, console)
    return 0


def _default(headers: Sequence[Header]) -> str | None:
    """Return the encoder's parameters where every delta has some, and one of them a head."""
    heads = any(has_head(header.changes) for header in headers)
    inner = all(any(name.startswith("encoder.") for name in header.changes) for header in headers)
    return ENCODER if heads and inner else None


def names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each file: its stem, or its path where stems are alike, or its number where files are."""
    stems = [path.stem for path in paths]
    found = [s if stems.count(s) == 1 else str(p.with_suffix("")) for s, p in zip(stems, paths, strict=True)]
    return [name if found.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(found, 1)]


def _record(found: Comparison, headers: Sequence[Header], parts: Sequence[Delta], select: str | None) -> dict[str, Any]:
    deltas = [
        {
            "name": name,
            "digest": header.digest,
            "method": header.provenance.method.get("name", header.provenance.operation),
            "norm": norm,
            "tensors": len(part),
            "weights": part.numel,
            "file_bytes": header.nbytes,
        }
        for name, header, part, norm in zip(found.names, headers, parts, found.whole.norms, strict=True)
    ]
    return {
        "compared": select or "all",
        "base": headers[0].base.root,
        "deltas": deltas,
        **_alike(found.whole),
        "layers": [{"layer": layer.name, **_alike(layer)} for layer in found.layers],
    }


def _alike(found: Alike) -> dict[str, Any]:
    return {
        "norms": found.norms,
        "cosines": found.cosines,
        "sign_conflicts": found.conflicts,
        "entries_both_move": found.both,
    }


def _drawn(
    options: Options, found: Comparison, headers: Sequence[Header], parts: Sequence[Delta], select: str | None
) -> Path:
    from dtheta.report.compared import comparison_report
    from dtheta.report.survey import summary

    assert options.report is not None, "asked for"
    rows = [
        replace(summary(name, replace(part, provenance=header.provenance), header.nbytes), digest=header.digest)
        for name, part, header in zip(found.names, parts, headers, strict=True)
    ]
    note = "" if select is None else f"Compared is `{select}`."
    return comparison_report(found, rows, options.report, note)


def _tell(found: Comparison, record: dict[str, Any], select: str | None, console: Console) -> None:
    rows = [
        (each["name"], each["method"], f"{each['norm']:.4g}", str(each["tensors"]), count(each["weights"]),
         byte_size(each["file_bytes"]))
        for each in record["deltas"]
    ]  # fmt: skip
    parts: list[Part] = [Table(("delta", "made by", "norm>", "tensors>", "weights in them>", "file>"), rows)]
    if select is not None:
        parts += ["", f"compared is {select}"]
    parts += ["", _matrix("cosine", found, found.whole.cosines, lambda v: f"{v:+.3f}")]
    parts += ["", _matrix("sign conflicts", found, found.whole.conflicts, percent)]
    if len(found.layers) > 1:
        parts += ["", _layers(found)]
    if "report" in record:
        parts += ["", f"wrote {record['report']}"]
    console.result(record, parts)


def _matrix(title: str, found: Comparison, matrix: Matrix, text: Any) -> Table:
    cells = [
        (name, *("" if value is None else text(value) for value in row))
        for name, row in zip(found.names, matrix, strict=True)
    ]
    return Table((title, *(f"{name}>" for name in found.names)), cells)


def _layers(found: Comparison) -> Table:
    rows = [
        (
            layer.name,
            *(f"{norm:.4g}" for norm in layer.norms),
            _mean(layer.pairs(layer.cosines), lambda v: f"{v:+.3f}"),
            _mean(layer.pairs(layer.conflicts), percent),
        )
        for layer in found.layers
    ]
    norms = (f"norm of {name}>" for name in found.names)
    pairs = "" if len(found.names) == 2 else "mean "
    return Table(("layer", *norms, f"{pairs}cosine>", f"{pairs}conflicts>"), rows)


def _mean(values: Sequence[float], text: Any) -> str:
    return text(sum(values) / len(values)) if values else ""
