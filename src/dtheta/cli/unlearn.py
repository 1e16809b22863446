"""Unlearn a concept: write the delta that takes it out of a model and leaves other things.

The model is asked first which concepts it knows. Of the others two thirds are to be retained: a half of those is
trained on, the other half watched; the last third is left for 'dtheta compare --erasure'. What is kept is the best
state that was seen of those that hold the watched things, and nothing at all where none is better than nothing.

Methods: Repair (ours), Ablate, Needle, Memit, Negate, and the losses GradAscent, GradDiff, NPO, SimNPO, DPO, WGA,
UNDIAL, RMU, and Rehearsed (ours), which makes any but RMU outlast a relearning; with fields in brackets.

  dtheta unlearn --concept France --out france.delta
  dtheta unlearn --concept France --method "NPO(retain=1)" --lr 3e-5 --out npo.delta
  dtheta compare france.delta npo.delta --erasure --report erasure.html
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dtheta.cli.bases import local_place, model_flag, model_name
from dtheta.cli.concepts import (
    SOURCE,
    concept_called,
    concepts_place,
    digest_of,
    parted,
    read_concepts,
    recall_of,
    unknown_said,
    without,
)
from dtheta.cli.console import Console, Part, Table
from dtheta.cli.cost import Cost
from dtheta.cli.decoders import TOKENS, loaded_decoder, require_decoder, seconds
from dtheta.cli.idle import refuse_idle
from dtheta.cli.options import CommonOptions, Flag
from dtheta.cli.places import require_input, require_outputs
from dtheta.cli.plan import Plan, size_of
from dtheta.cli.units import byte_size, percent, plural
from dtheta.cli.written import built, written_method
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.data.concepts import Concept
    from dtheta.probe.unlearning.edit import Edit
    from dtheta.probe.unlearning.objective import Unlearning
    from dtheta.probe.unlearning.train import Training
    from dtheta.probe.unlearning.unlearn import Unlearned
    from dtheta.probe.value_vector import ValueVector


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta unlearn``."""

    concept: Annotated[str, Flag("what to forget", "NAME")]
    out: Annotated[Path, Flag("the .delta file to write", "FILE")]
    model: Annotated[str, Flag("a name of 'dtheta models', or a local Hugging Face folder", "NAME|DIR")] = "smollm2"
    concepts: Annotated[str, Flag(SOURCE, "SOURCE")] = "facts"
    method: Annotated[str, Flag("how, with fields in brackets", "METHOD")] = "Repair"
    retain: Annotated[
        int | None, Flag("how many other known concepts to train on or watch (default: two thirds of them)")
    ] = None
    traces: Annotated[Path | None, Flag("where the concept is, from 'dtheta probe --out'", "FILE")] = None
    adapter: Annotated[str, Flag("what trains, as 'dtheta methods' names it", "METHOD")] = "Full"
    select: Annotated[str | None, Flag("parameters that may move (default: the MLPs' down-projections)", "GLOB")] = None
    lr: Annotated[float | None, Flag("highest learning rate (default: 1e-4)")] = None
    steps: Annotated[int | None, Flag("optimizer steps at most (default: 40)")] = None
    every: Annotated[int | None, Flag("steps between looks (default: 5)")] = None
    batch: Annotated[int, Flag("pairs of questions a step")] = 8
    keep: Annotated[float, Flag("least share of other known questions that must stay answered")] = 0.95
    goal: Annotated[float, Flag("share of the concept's known questions at which to stop")] = 0.1


def run(options: Options, console: Console) -> int:
    """Unlearn, and save the delta."""
    way, training = _way(options), _training(options)
    _require_heeded(options, way)
    places = {"--traces": options.traces, "--concepts": concepts_place(options.concepts)}
    reads = {"--config": options.config, "--model": local_place(options.model), **places}
    require_outputs({"--out": options.out}, reads)
    concepts = read_concepts(options.concepts)
    concept = concept_called(concepts, options.concept, options.concepts)
    vectors = _vectors(options, concept.name)
    require_decoder(options.model)
    if options.dry_run:
        _plan(options, training, concepts).show(console)
        return 0
    done, retained = _unlearned(options, way, training, concepts, concept, vectors, console)
    delta = _saved(options, done, concepts, retained)
    record = {
        "out": str(options.out), "digest": delta.digest, "base": delta.base.root, "bytes": options.out.stat().st_size,
        "concept": done.concept, "method": dict(done.method), "found": done.found.to_dict(), "changed": done.changed,
        "seen": [look.to_dict() for look in done.seen], "vectors": [str(vector) for vector in done.vectors],
        "retained": retained, "settings": options.resolved(),
    }  # fmt: skip
    console.result(record, _parts(options, done))
    return 0


def _way(options: Options) -> Unlearning | Edit:
    from dtheta.probe.unlearning.unlearn import METHODS

    return built(options.method, METHODS, "--method", "NPO(beta=0.1)")


def _require_heeded(options: Options, way: Unlearning | Edit) -> None:
    """Raise for an option that the method does not heed.

    Raises:
        ConfigError: Naming it.
    """
    from dtheta.probe.unlearning.edit import TRAINING, WATCHING, Edit

    name, heeds = type(way).__name__, way.heeds if isinstance(way, Edit) else (*TRAINING, *WATCHING)
    idle = [option for option in (*TRAINING, *WATCHING) if option not in heeds]
    refuse_idle(options, idle, f"does nothing with --method {name}; leave it out")
    if not (isinstance(way, Edit) and way.located):
        refuse_idle(options, ("traces",), f"says where the concept is, and --method {name} does not ask; leave it out")


def _training(options: Options) -> Training:
    from dtheta.core.arguments import whole
    from dtheta.probe.unlearning.train import Training

    adapter, select = written_method(options.adapter, "--adapter")
    if select is not None:
        raise ConfigError(f"--adapter 'on {select}': where it trains is said by --select")
    for name, least in (("batch", 1), ("retain", 2)):
        if getattr(options, name) is not None:
            whole(getattr(options, name), name, least=least)
    for name in ("keep", "goal"):
        if not 0.0 <= getattr(options, name) <= 1.0:
            raise ConfigError(f"{name} is {getattr(options, name)}; expected a share from 0 to 1")
    given = {name: getattr(options, name) for name in ("lr", "steps", "every")}
    return replace(Training(adapter=adapter), **{name: value for name, value in given.items() if value is not None})


def _vectors(options: Options, concept: str) -> tuple[ValueVector, ...] | None:
    from dtheta.probe.trace import load_traces

    return None if options.traces is None else load_traces(require_input(options.traces))[concept].vectors


def _unlearned(
    options: Options,
    way: Unlearning | Edit,
    training: Training,
    concepts: Sequence[Concept],
    concept: Concept,
    vectors: tuple[ValueVector, ...] | None,
    console: Console,
) -> tuple[Unlearned, list[str]]:
    from dtheta.probe.unlearning.unlearn import unlearn

    model, tokenizer = loaded_decoder(options.model)
    found = recall_of(model, tokenizer, concepts, console)
    if concept.name not in {one.name for one in found.concepts}:
        raise ConfigError(f"{unknown_said(found, concept.name)}, so there is nothing to unlearn")
    retained, left = parted(without(found.concepts, {concept.name}), options.retain, options.seed, concept.name)
    console.note(
        f"unlearning {concept.name} by {type(way).__name__}: {plural(len(retained), 'other concept')} to retain, "
        f"{len(left)} left for the report ..."
    )
    done = unlearn(
        model, concept, way, tokenizer=tokenizer, retain=retained, vectors=vectors, training=training,
        select=options.select, batch=options.batch, keep=options.keep, goal=options.goal, seed=options.seed,
        quiet=not console.animated,
    )  # fmt: skip
    return done, [one.name for one in retained]


def _saved(options: Options, done: Unlearned, concepts: Sequence[Concept], retained: Sequence[str]) -> Any:
    """Save the delta with the command, what was retained and what was seen in its provenance, and return it."""
    from dtheta.adapt.tasks import LANGUAGE

    name = model_name(options.model)
    command = {
        "verb": "unlearn", **options.resolved(), "model": name, "concepts": _source_name(options.concepts),
        "concepts_digest": digest_of(concepts), "retained": list(retained),
        "seen": [look.to_dict() for look in done.seen],
    }  # fmt: skip
    made = done.delta.provenance.with_task(kind=LANGUAGE, model=name, data=f"all but {done.concept}")
    delta = replace(done.delta, provenance=replace(made, settings={**made.settings, "command": command}))
    delta.save(options.out)
    return delta


def _source_name(source: str) -> str:
    place = concepts_place(source)
    return source if place is None else place.name


def _parts(options: Options, done: Unlearned) -> list[Part]:
    heads = ("look", "of the concept>", "of other things>", "probability of its answers>")
    names = ["original", *map(str, range(1, len(done.seen) - 1)), "with the delta"]
    rows = [
        (name, percent(look.target, 0), percent(look.unrelated, 0), f"{look.probability:.3g}")
        for name, look in zip(names, done.seen, strict=True)
    ]
    parts: list[Part] = [Table(heads, rows, "answered still, of the known questions that were watched"), ""]
    if not done.changed:
        parts.append("nothing seen was better than the untouched model, so the delta moves nothing; try another --lr")
    parts.append(f"wrote {options.out}, {byte_size(options.out.stat().st_size)}")
    parts.append(f"whether it is gone:  {_next(options)}")
    return parts


def _next(options: Options) -> str:
    out, page = shlex.quote(str(options.out)), shlex.quote(str(options.out.with_suffix(".html")))
    place = concepts_place(options.concepts)
    given = "" if place is None else f" --concepts {shlex.quote(options.concepts)}"
    return f"dtheta compare {out} --erasure{given}{model_flag(options.model)} --report {page}"


def _plan(options: Options, training: Training, concepts: Sequence[Concept]) -> Plan:
    """Return what would be done, after every check that needs no weights."""
    cost = Cost.of_model(options.model)
    reads = {f"model {options.model}": cost.nbytes}
    for path in (concepts_place(options.concepts), options.traces):
        if path is not None:
            reads[str(path)] = size_of(path)
    asked = sum(len(one.questions) for one in concepts)
    looks = 110 * (training.steps // training.every + 2)
    time = seconds(cost, asked + looks, training.steps * 2 * options.batch + asked)
    return Plan(
        reads, {str(options.out): cost.nbytes}, cost.memory(2 * TOKENS * options.batch), time, options.resolved()
    )
