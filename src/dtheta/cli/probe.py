"""Find where a model keeps concepts: which value vectors of its MLPs write them and hold up its answers.

Every value vector is read through the unembedding, and by one backward pass a concept it is told which hold up the
answers about it. The best by both are then taken out together: how far do the concept's answers fall, how far others',
and how far without as many random vectors? Only concepts that the model knows are looked for.

  dtheta probe --concept France --concept Music
  dtheta probe --concepts own.jsonl --model DIR --out traces.json
  dtheta probe --concept France --corpus texts.csv --column text
  dtheta probe --scan 20 --corpus texts.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dtheta.cli.bases import base_path, local_place, model_name
from dtheta.cli.columns import require_columns
from dtheta.cli.concepts import (
    SOURCE,
    concept_called,
    concepts_place,
    drawn,
    read_concepts,
    recall_of,
    unknown_said,
    without,
)
from dtheta.cli.console import Console, Part, Table
from dtheta.cli.cost import Cost
from dtheta.cli.decoders import loaded_decoder, require_decoder, scanned_tokens, seconds
from dtheta.cli.idle import refuse_idle
from dtheta.cli.options import CommonOptions, Flag
from dtheta.cli.places import require_input, require_outputs
from dtheta.cli.plan import PROGRAM, Plan, size_of
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.data.concepts import Concept
    from dtheta.probe.scores import Score, VectorScores
    from dtheta.probe.trace import Trace, Traces

_SHARP = (5.5, 10.0)  # peaks between which the value vectors of a small model hold content, see docs/probe.md
_SHOWN = 10  # vectors of a concept in its table
_DETAILED = 3  # concepts up to which each has a table
_OF_TRACES = ("concept", "count", "draws", "others", "out")


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta probe``."""

    model: Annotated[str, Flag("a name of 'dtheta models', or a local Hugging Face folder", "NAME|DIR")] = "smollm2"
    concepts: Annotated[str, Flag(SOURCE, "SOURCE")] = "facts"
    concept: Annotated[
        tuple[str, ...], Flag("a concept to look for; may be given several times (default: all)", "NAME")
    ] = ()
    count: Annotated[int, Flag("value vectors of a concept")] = 32
    norm: Annotated[Literal["folded", "raw"], Flag("read vectors through the final norm, or not")] = "folded"
    draws: Annotated[int, Flag("random sets of vectors to take out for comparison")] = 9
    others: Annotated[int, Flag("known concepts beside those named, to contrast them with")] = 8
    corpus: Annotated[
        Path | None,
        Flag("texts (.csv, .tsv, .jsonl) that tell how well a vector's words belong together", "FILE"),
    ] = None
    column: Annotated[str, Flag("column of the texts in --corpus", "COLUMN")] = "text"
    scan: Annotated[int, Flag("list so many vectors with sharp tokens, whatever the concept, and stop")] = 0
    out: Annotated[
        Path | None, Flag("write the traces to a .json file, for 'dtheta unlearn' and 'compare'", "FILE")
    ] = None


def run(options: Options, console: Console) -> int:
    """Find, and save what was found if asked."""
    _check(options)
    reads = {"--config": options.config, "--model": local_place(options.model), "--corpus": options.corpus}
    require_outputs({"--out": options.out}, {**reads, "--concepts": concepts_place(options.concepts)})
    require_decoder(options.model)
    corpus = _corpus(options)
    concepts = read_concepts(options.concepts)
    if options.scan:
        return _scan(options, concepts, corpus, console)
    wanted = [concept_called(concepts, name, options.concepts) for name in dict.fromkeys(options.concept)]
    if options.dry_run:
        _plan(options, len(wanted) + options.others if wanted else len(concepts), len(concepts)).show(console)
        return 0
    traces, notes = _found(options, concepts, wanted, corpus, console)
    record: dict[str, Any] = {
        "model": model_name(options.model), **traces.to_dict(), "notes": notes, "settings": options.resolved()
    }  # fmt: skip
    if options.out is not None:
        record["out"] = str(traces.save(options.out))
    console.result(record, _parts(list(traces.values()), notes, record))
    return 0


def _check(options: Options) -> None:
    from dtheta.core.arguments import whole

    for name, least in (("count", 1), ("draws", 0), ("others", 0)):
        whole(getattr(options, name), name, least=least)
    if options.scan:
        why = "does not go with --scan, which lists vectors whatever the concept; leave it out"
        refuse_idle(options, _OF_TRACES, why)
    if options.corpus is None:
        refuse_idle(options, ("column",), "names a column of --corpus, which is not given")
    if not options.concept:
        refuse_idle(options, ("others",), "contrasts each --concept with others, and without one all are looked for")


def _corpus(options: Options) -> list[str] | None:
    """Return the texts of the corpus.

    Raises:
        ConfigError, FormatError: If there is no such file or column, or it is damaged.
    """
    from dtheta.data.corpus import columns, table_column

    if options.corpus is None:
        return None
    file = require_input(options.corpus)
    require_columns(file, columns(file), {"--column": options.column})
    return table_column(file, options.column)


def _found(
    options: Options,
    concepts: Sequence[Concept],
    wanted: Sequence[Concept],
    corpus: Sequence[str] | None,
    console: Console,
) -> tuple[Traces, list[str]]:
    from dtheta.probe.concept_vectors import concept_vectors

    model, tokenizer = loaded_decoder(options.model)
    found = recall_of(model, tokenizer, concepts, console)
    known = {one.name for one in found.concepts}
    names = [one.name for one in wanted] or [one.name for one in found.concepts]
    notes = [f"{unknown_said(found, one.name)}; left out" for one in wanted if one.name not in known]
    chosen = [one for one in found.concepts if one.name in names]
    if not chosen:
        raise ConfigError("; ".join(notes) or f"{found}; there is nothing to look for")
    beside = drawn(without(found.concepts, names), options.others if wanted else 0, options.seed, "probe")
    if len(chosen) + len(beside) < 2:
        raise ConfigError(f"{found}; a concept is found by what sets it apart, so it takes another one that is known")
    traces = concept_vectors(
        model, [*chosen, *beside], tokenizer=tokenizer, only=[one.name for one in chosen], count=options.count,
        norm=options.norm, draws=options.draws, corpus=corpus, seed=options.seed, progress=console.note,
    )  # fmt: skip
    return traces, notes


def _parts(traces: Sequence[Trace], notes: Sequence[str], record: dict[str, Any]) -> list[Part]:
    heads = ("concept", "falls by>", "others by>", "random at most>", "p>", "its trace", "words of its first vectors")
    parts: list[Part] = [Table(heads, [_row(trace) for trace in traces])]
    parts.append("falls: of the mean log-probability of answers, in nats, when the vectors are taken out")
    parts.append(f"holds: it falls beyond its interval, {_more_than(traces)}")
    if len(traces) <= _DETAILED:
        for trace in traces:
            parts += ["", _vectors(trace)]
    parts += [f"note: {note}" for note in notes]
    return parts + ([f"wrote {record['out']}"] if "out" in record else [])


def _more_than(traces: Sequence[Trace]) -> str:
    if any(trace.effect.null for trace in traces):
        return "more than others', and more than without any random set"
    return "and more than others'; no random set was drawn to compare it with (--draws)"


def _row(trace: Trace) -> tuple[str, ...]:
    effect = trace.effect
    words = dict.fromkeys(word for one in trace.candidates[:4] for word in one.words[:3])
    null = f"{max(effect.null):+.2f}" if effect.null else "-"
    p = "-" if effect.p is None else f"{effect.p:.2g}"
    return (
        trace.concept, f"{effect.target.estimate:+.2f}", f"{effect.others.estimate:+.2f}", null, p,
        "holds" if effect.holds else "does not hold", " ".join(list(words)[:6]),
    )  # fmt: skip


def _vectors(trace: Trace) -> Table:
    shown = trace.candidates[:_SHOWN]
    rows = [
        (
            str(one.vector), f"{one.projection:.2f}", f"{one.p:.2g}", f"{one.contrast:+.3f}",
            *(() if one.npmi is None else (f"{one.npmi:.2f}",)), " ".join(one.words[:8]),
        )
        for one in shown
    ]  # fmt: skip
    npmi = ("NPMI>",) if any(one.npmi is not None for one in shown) else ()
    more = f", the first {_SHOWN} of {len(trace.candidates)}" if len(trace.candidates) > _SHOWN else ""
    return Table(("vector", "projection>", "p>", "contrast>", *npmi, "words"), rows, f"{trace.concept}{more}")


def _scan(options: Options, concepts: Sequence[Concept], corpus: Sequence[str] | None, console: Console) -> int:
    """List vectors whose best tokens stand out, read from the file one layer at a time, each scored against chance."""
    from dtheta.core.arguments import whole
    from dtheta.core.record import record_of
    from dtheta.models.load import load_tokenizer
    from dtheta.probe.scan import scan
    from dtheta.probe.scores import vector_scores

    wanted = whole(options.scan, "scan", least=1)
    if options.dry_run:
        _plan(options, 0, 0).show(console)
        return 0
    tokenizer, folder = load_tokenizer(options.model), base_path(options.model)
    seen = scan(folder, top=20, norm=options.norm)
    vectors = seen.ranked(wanted, *_SHARP)
    found: Sequence[VectorScores] = ()
    if vectors:
        found = vector_scores(
            folder, vectors, tokenizer=tokenizer, concepts=concepts, corpus=corpus, norm=options.norm, seed=options.seed
        )
    tokens = [tokenizer.batch_decode([[int(token)] for token in seen.tokens(vector)]) for vector in vectors]
    rows = [{**record_of(one), "tokens": texts} for one, texts in zip(found, tokens, strict=True)]
    record = {"model": model_name(options.model), "value_vectors": len(seen), "vectors": rows}
    low, high = _SHARP
    said = f"{len(rows)} of {2 * len(seen):,} sides of value vectors, the sharpest with peaks from {low} to {high}"
    console.result(record, [_scores(found, tokens), said, "in brackets: how often shuffled directions score as high"])
    return 0


def _scores(found: Sequence[VectorScores], tokens: Sequence[Sequence[str]]) -> Table:
    def told(score: Score | None, digits: int = 2) -> str:
        return "-" if score is None else f"{score.value:.{digits}f} ({score.p:.2g})"

    npmi = any(one.npmi is not None for one in found)
    rows = [
        (
            str(one.vector), told(one.peak, 1), told(one.coherence), *((told(one.npmi),) if npmi else ()),
            f"{one.concept} {told(one.projection)}" if one.concept else "-",
            " ".join(text.strip() for text in texts[:8]),
        )
        for one, texts in zip(found, tokens, strict=True)
    ]  # fmt: skip
    heads = ("vector", "peak>", "coherence>", *(("NPMI>",) if npmi else ()), "nearest concept", "tokens")
    return Table(heads, rows)


def _plan(options: Options, looked: int, asked: int) -> Plan:
    """Return what would be done, after every check that needs no weights."""
    cost = Cost.of_model(options.model)
    reads = {f"model {options.model}": cost.nbytes}
    if (place := concepts_place(options.concepts)) is not None:
        reads[options.concepts] = size_of(place)
    if options.corpus is not None:
        reads[str(options.corpus)] = size_of(options.corpus)
    writes = {} if options.out is None else {str(options.out): 4000 * looked}
    rounds = looked * (options.draws + 2) * 10 + looked * 2 * 50 + asked * 10  # questions: own, others', recall
    memory = None if cost.nbytes is None else PROGRAM + 4 * cost.nbytes
    time = seconds(cost, rounds, 10 * looked, scanned_tokens(options.model, cost))
    return Plan(reads, writes, memory, time, options.resolved())
