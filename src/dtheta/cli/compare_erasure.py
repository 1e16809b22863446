"""``dtheta compare --erasure``: what deltas took out of a model, side by side.

Model, concept, what was retained and what was seen on the way are those that 'dtheta unlearn' wrote into the deltas.
The questions about other things are of concepts that none of the deltas was trained on or watched for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.bases import local_place, model_name, remembered
from dtheta.cli.concepts import concept_called, concepts_place, digest_of, drawn, read_concepts, recall_of, without
from dtheta.cli.console import Console, Part, Table
from dtheta.cli.cost import Cost
from dtheta.cli.decoders import loaded_decoder, require_decoder, seconds
from dtheta.cli.idle import refuse_idle
from dtheta.cli.networks import require_model
from dtheta.cli.places import require_input, require_outputs
from dtheta.cli.plan import PROGRAM, Plan, size_of
from dtheta.cli.units import percent, plural
from dtheta.cli.written import built
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.cli.compare import Options
    from dtheta.core.header import Header
    from dtheta.data.concepts import Concept
    from dtheta.probe.erasure.attack import Attack
    from dtheta.probe.erasure.result import Erasure
    from dtheta.probe.recall import Known
    from dtheta.probe.value_vector import ValueVector
    from dtheta.score import Interval

_UNRELATED = 50  # questions about other things, as many as ConceptVectors asks
_TEXTS = 8  # documents whose perplexity is told
_VECTORS = 16  # value vectors of the concept
_CONTRASTED = 8  # concepts beside it, by which they are found


@dataclass(frozen=True)
class _Job:
    """What is to be measured, every default settled."""

    model: str
    source: str
    concepts: Sequence[Concept]
    concept: Concept
    retained: frozenset[str]
    notes: tuple[str, ...]
    vectors: tuple[ValueVector, ...] | None
    attacks: tuple[Attack, ...]


def run(options: Options, names: Sequence[str], headers: Sequence[Header], console: Console) -> int:
    """Measure, and draw the page if asked."""
    job = _job(options, headers)
    reads = {"--config": options.config, "--concepts": concepts_place(job.source), "--traces": options.traces}
    deltas = {f"DELTA {path}": path for path in options.deltas}
    require_outputs({"--report": options.report}, {**reads, **deltas, "--model": local_place(job.model)})
    require_decoder(job.model)
    if options.dry_run:
        _plan(options, job, headers).show(console)
        return 0
    found, notes = _measured(options, job, dict(zip(names, headers, strict=True)), console)
    record: dict[str, Any] = {
        "model": model_name(job.model), "concept": job.concept.name,
        "erasures": {name: one.to_dict() for name, one in found.items()}, "notes": notes,
        "settings": remembered(options, options.model),
    }  # fmt: skip
    if options.report is not None:
        from dtheta.report.erasure import erasure_report

        record["report"] = str(erasure_report(found, model_name(job.model), options.report))
    console.result(record, _parts(found, notes, record))
    return 0


def _job(options: Options, headers: Sequence[Header]) -> _Job:
    refuse_idle(options, ("select",), "does not go with --erasure, which measures a delta as a whole; leave it out")
    models = {require_model(header, options.model, whole=True) for header in headers}
    concept = _same("--concept", options.concept, [h.provenance.settings.get("concept") for h in headers], headers)
    commands = [header.provenance.settings.get("command", {}) for header in headers]
    source = _same("--concepts", options.concepts, [one.get("concepts", "facts") for one in commands], headers)
    concepts = read_concepts(source)
    retained = frozenset(name for command in commands for name in command.get("retained", ()))
    if len(models) > 1:
        raise ConfigError(f"the deltas name the models {', '.join(sorted(models))}; give the one they share as --model")
    chosen = concept_called(concepts, concept, source)
    vectors = _traces(options.traces, chosen.name)
    notes = tuple(_other_concepts(source, concepts, headers))
    return _Job(models.pop(), source, concepts, chosen, retained, notes, vectors, _attacks(options.attack))


def _other_concepts(source: str, concepts: Sequence[Concept], headers: Sequence[Header]) -> Iterator[str]:
    """Yield a note for each delta that was made with other concepts than these, though in a file of this name."""
    now = digest_of(concepts)
    for header in headers:
        if header.provenance.settings.get("command", {}).get("concepts_digest", now) != now:
            yield (
                f"{header.path} was unlearned with other concepts than are in {source} now, so what it was trained on "
                "and what it was not are told apart by name alone; give its own with --concepts"
            )


def _same(flag: str, given: str | None, named: Sequence[str | None], headers: Sequence[Header]) -> str:
    """Return what was given, or what all deltas name."""
    if given is not None:
        return given
    for name, header in zip(named, headers, strict=True):
        if name is None:
            raise ConfigError(f"{header.path} does not say which concept it takes out; give it with {flag}")
    if len(set(named)) > 1:
        raise ConfigError(f"the deltas are of {', '.join(sorted(set(map(str, named))))}; give one of them with {flag}")
    return str(named[0])


def _traces(path: Path | None, concept: str) -> tuple[ValueVector, ...] | None:
    from dtheta.probe.trace import load_traces

    return None if path is None else load_traces(require_input(path))[concept].vectors


def _attacks(written: Sequence[str]) -> tuple[Attack, ...]:
    from dtheta.probe.erasure.attacks import ATTACKS, USUAL

    if any(text.lower() == "none" for text in written):
        if len(written) > 1:
            raise ConfigError("--attack none goes with no other attack")
        return ()
    return tuple(built(text, ATTACKS, "--attack", "Quantization(bits=4)") for text in written) or USUAL


def _measured(
    options: Options, job: _Job, headers: Mapping[str, Header], console: Console
) -> tuple[dict[str, Erasure], list[str]]:
    from dtheta.core.files import load
    from dtheta.probe.erasure.erasure import Examination
    from dtheta.probe.unlearning.watch import Checkup

    model, tokenizer = loaded_decoder(job.model)
    known = recall_of(model, tokenizer, job.concepts, console)
    others, notes = _others(job, known)
    vectors = job.vectors or _located(model, tokenizer, job, known, options.seed, console)
    asked = [question for other in others for question in other.questions]
    examined = Examination(
        model, job.concept, tokenizer=tokenizer, unrelated=_some(asked, options.seed),
        texts=[text for other in others for text in other.documents][:_TEXTS], attacks=job.attacks,
        progress=console.note, seed=options.seed,
    )  # fmt: skip
    found = {}
    for name, header in headers.items():
        console.note(f"{name}:")
        seen = header.provenance.settings.get("command", {}).get("seen", ())
        found[name] = examined.report(load(header.path), vectors, checkups=[Checkup(**look) for look in seen])
    return found, notes


def _others(job: _Job, known: Known) -> tuple[tuple[Concept, ...], list[str]]:
    """Return concepts that no delta was trained on or watched for; all others, with a note, where there are none."""
    others = without(known.concepts, {job.concept.name})
    fresh = without(others, job.retained)
    if fresh:
        return fresh, [*job.notes]
    if not others:
        raise ConfigError(f"{known}; there are no other things to ask about")
    said = "all other concepts that the model knows were retained, so what was kept is overrated"
    return others, [*job.notes, f"{said}; unlearn with a smaller --retain"]


def _located(
    model: Any, tokenizer: Any, job: _Job, known: Known, seed: int, console: Console
) -> tuple[ValueVector, ...]:
    from dtheta.probe.concept_vectors import concept_vectors

    beside = drawn(without(known.concepts, {job.concept.name}), _CONTRASTED, seed, "erasure")
    if not beside:
        raise ConfigError(f"{known}; value vectors are found by what sets a concept apart, so give them with --traces")
    found = concept_vectors(
        model, [job.concept, *beside], tokenizer=tokenizer, only=[job.concept.name], count=_VECTORS, draws=0, seed=seed,
        progress=console.note,
    )  # fmt: skip
    return found[job.concept.name].vectors


def _some(questions: Sequence[Any], seed: int) -> list[Any]:
    from dtheta.data.text import keyed_order

    return [questions[i] for i in sorted(keyed_order(len(questions), seed, "cli/erasure")[:_UNRELATED])]


def _parts(found: Mapping[str, Erasure], notes: Sequence[str], record: Mapping[str, Any]) -> list[Part]:
    parts: list[Part] = []
    if any(one.behavior is not None for one in found.values()):
        heads = ("delta", "concept>", "others>", "log-prob.>", "BLEU>", "perplexity>", "Jaccard>", "cosine>")
        said = "answered still, of the known questions; what else changed; value vectors"
        parts += [Table(heads, [_row(name, one) for name, one in found.items()], said), ""]
    if any(one.attacks for one in found.values()):
        labels = list(dict.fromkeys(result.name for one in found.values() for result in one.attacks))
        rows = [(name, *(_recovered(one, label) for label in labels)) for name, one in found.items()]
        parts += [Table(("delta", *(f"{label}>" for label in labels)), rows, "part of what went that comes back"), ""]
    parts += [f"{name}: {one.verdict}" for name, one in found.items()]
    parts += [f"note: {note}" for note in notes]
    return parts + ([f"wrote {record['report']}"] if "report" in record else [])


def _row(name: str, found: Erasure) -> tuple[str, ...]:
    traces = (f"{found.intrinsic.jaccard:.2f}", f"{found.intrinsic.cosine:.2f}")
    behavior = found.behavior
    if behavior is None:
        return (name, *["-"] * 5, *traces)
    perplexity = behavior.perplexity
    ratio = "-" if perplexity is None else f"x {perplexity.after / perplexity.before:.3f}"
    return (
        name, _kept(behavior.target.kept), _kept(behavior.unrelated.kept),
        f"{behavior.target.logprob.change.estimate:+.2f}", f"{behavior.likeness['target'].bleu.estimate:.2f}", ratio,
        *traces,
    )  # fmt: skip


def _kept(found: Interval | None) -> str:
    return "-" if found is None else percent(found.estimate, 0)


def _recovered(found: Erasure, label: str) -> str:
    result = found.attack(label)
    return "-" if result is None or result.recovery is None else percent(result.recovery.estimate, 0)


def _plan(options: Options, job: _Job, headers: Sequence[Header]) -> Plan:
    """Return what would be done, after every check that needs no weights."""
    cost = Cost.of_model(job.model)
    reads = {f"model {job.model}": cost.nbytes, **{str(header.path): header.nbytes for header in headers}}
    for path in (concepts_place(job.source), options.traces):
        if path is not None:
            reads[str(path)] = size_of(path)
    writes = {} if options.report is None else {str(options.report): 150_000}
    asked = sum(len(one.questions) for one in job.concepts)
    each = len(job.concept.questions) * (3 + 3 * len(job.attacks)) + 3 * _UNRELATED
    time = seconds(cost, asked + each * (1 + len(headers)), 10 * _CONTRASTED + 60 * len(headers))
    attacks = ", ".join(attack.label for attack in job.attacks) or "none"
    notes = [*job.notes, f"{plural(len(job.attacks), 'attack')}: {attacks}"]
    memory = None if cost.nbytes is None else PROGRAM + 6 * cost.nbytes
    return Plan(reads, writes, memory, time, remembered(options, options.model), notes)
