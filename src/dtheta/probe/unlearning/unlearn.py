"""unlearn: a concept taken out of a decoder, as a delta.

The result is what the method did at the best moment that was seen: never past the point where other things go, and
nothing at all where nothing was better. What is really gone is another question: ``erasure`` answers it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from dtheta.core.apply import applied
from dtheta.core.arguments import whole
from dtheta.core.delta import Delta
from dtheta.core.provenance import Provenance
from dtheta.core.seeds import generator, permutation
from dtheta.data.concepts import Concept
from dtheta.errors import ConfigError, did_you_mean
from dtheta.probe.ablation import check_address
from dtheta.probe.attribution import attribution
from dtheta.probe.concept_vectors import ranked_vectors
from dtheta.probe.decoder import Decoder, open_decoder
from dtheta.probe.encoded import answered
from dtheta.probe.examples import reach
from dtheta.probe.lexicon import texts_of
from dtheta.probe.unlearning.ascent import UNDIAL, WGA, GradAscent, GradDiff
from dtheta.probe.unlearning.edit import Ablate, Edit, Needle, Negate, Repair
from dtheta.probe.unlearning.memit import Memit
from dtheta.probe.unlearning.objective import Unlearning
from dtheta.probe.unlearning.preference import DPO, NPO, SimNPO
from dtheta.probe.unlearning.rehearsal import Rehearsed
from dtheta.probe.unlearning.representation import RMU
from dtheta.probe.unlearning.task import Task, sequences, split
from dtheta.probe.unlearning.train import Training, trained
from dtheta.probe.unlearning.watch import Checkup, Watch
from dtheta.probe.value_vector import ValueVector, value_vectors
from dtheta.probe.words import words

WATCHED = 100  # questions about other things that are asked at every look

_EDITS = (Repair, Ablate, Needle, Memit, Negate)
_LOSSES = (GradAscent, GradDiff, NPO, SimNPO, DPO, WGA, UNDIAL, RMU, Rehearsed)

#: The methods by name, with their default settings.
METHODS: Mapping[str, type[Unlearning] | type[Edit]] = {kind.__name__: kind for kind in (*_EDITS, *_LOSSES)}


@dataclass(frozen=True, eq=False)
class Unlearned:
    """What an unlearning gave.

    Attributes:
        delta: The move that unlearns, relative to the model as it was.
        concept: Name of the concept.
        method: Name and settings.
        found: What the model knows with the delta, by the questions that were watched.
        seen: Everything that was seen on the way, the original first.
        vectors: The value vectors that were taken for the concept's, the surest first; none where none were needed.
    """

    delta: Delta
    concept: str
    method: Mapping[str, Any]
    found: Checkup
    seen: tuple[Checkup, ...]
    vectors: tuple[ValueVector, ...]

    @property
    def changed(self) -> bool:
        """Whether any state was better than the untouched model."""
        return self.delta.norm() > 0.0


def unlearn(
    model: nn.Module,
    concept: Concept,
    method: str | Unlearning | Edit = "Repair",
    *,
    tokenizer: Any,
    retain: Sequence[Concept],
    vectors: Sequence[ValueVector] | None = None,
    training: Training | None = None,
    select: str | None = None,
    length: int = 128,
    batch: int = 8,
    keep: float = 0.95,
    goal: float = 0.1,
    seed: int = 0,
    quiet: bool = True,
) -> Unlearned:
    """Unlearn a concept.

    Args:
        model: A decoder with its language modeling head; it is as it was when this returns.
        concept: What to forget: its questions with answers, or its documents.
        method: A loss or an edit, or its name (``METHODS``) for default settings.
        tokenizer: The model's tokenizer.
        retain: Other concepts: a keyed half is trained on where the method retains, of the other half up to 100 keyed
            questions are watched.
        vectors: Value vectors that hold the concept, the surest first; None ranks them as ``concept_vectors``
            does, which reads all value vectors.
        training: Adapter, rate and steps of what trains.
        select: Parameters that may move; None for the MLPs' down-projections, where the value vectors are.
        length: Tokens of a sequence of a document; no more than the model reads.
        batch: Pairs of sequences a step.
        keep: Least share of the other known questions that must stay answered.
        goal: Share of the concept's known questions at which training ends.
        seed: Of all draws.
        quiet: No progress bar.

    Raises:
        ConfigError: For an unknown method, a concept that the model does not know, too few others or two of one name,
            or vectors that are none of the model's.
        UnsupportedLayer: If the model is no decoder that can be probed.
        NonFinite: If training leaves all bounds; a smaller ``lr`` helps.
    """
    way = _method(method)
    decoder = open_decoder(model)
    held = () if vectors is None else tuple(value_vectors(vectors))
    for vector in held:
        check_address(decoder, vector)
    watch, task = _task(model, decoder, concept, tokenizer, retain, select, length, batch, keep, goal, seed)
    watch.start(model)
    located = isinstance(way, Edit) and way.located
    if located and vectors is None:
        held = tuple(locate(model, decoder, tokenizer, concept, retain))
    plan = training or Training()
    made = way.delta(task, plan, held, quiet) if isinstance(way, Edit) else trained(task, way, plan, quiet=quiet)
    delta = replace(made, provenance=_provenance(way, concept, plan, keep, goal, seed, made))
    return Unlearned(delta, concept.name, way.to_dict(), _last_look(watch, model, delta), tuple(watch.seen), held)


def locate(
    model: nn.Module,
    decoder: Decoder,
    tokenizer: Any,
    concept: Concept,
    others: Sequence[Concept],
    count: int = 256,
) -> list[ValueVector]:
    """Return the value vectors that hold a concept more than others, the surest first.

    They are ranked as ``concept_vectors`` ranks them; where a concept's texts hold no words, such as codes, by the
    drop of its answers alone.
    """
    asked = [concept, *(other for other in others if answered(other))]
    count = whole(count, "count", least=1)
    if all(any(map(words, texts_of(one))) for one in asked):
        return ranked_vectors(model, decoder, asked, concept.name, tokenizer=tokenizer, count=count)
    contrast = attribution(model, decoder, tokenizer, {one.name: answered(one) for one in asked}).contrast(concept.name)
    ranked = [(-float(v), layer, j) for layer, drop in contrast.items() for j, v in enumerate(drop)]
    return [ValueVector(layer, j) for _, layer, j in sorted(ranked)[:count]]


def _method(method: str | Unlearning | Edit) -> Unlearning | Edit:
    if isinstance(method, Unlearning | Edit):
        return method
    if method not in METHODS:
        near = did_you_mean(str(method), METHODS)
        raise ConfigError(f"no unlearning method {method!r}; expected one of {', '.join(METHODS)}{near}")
    return METHODS[method]()


def _task(
    model: nn.Module,
    decoder: Decoder,
    concept: Concept,
    tokenizer: Any,
    retain: Sequence[Concept],
    select: str | None,
    length: int,
    batch: int,
    keep: float,
    goal: float,
    seed: int,
) -> tuple[Watch, Task]:
    if any(other.name == concept.name for other in retain):
        raise ConfigError(f"{concept.name!r} is to be unlearned and retained; leave it out of retain")
    names = [other.name for other in retain]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"retain holds two concepts {twice!r}, of which one could be trained on and one watched")
    trained_on, watched = split(retain, seed)
    every = [question for other in watched for question in answered(other)]
    order = permutation(len(every), generator(seed, "probe/watched")).tolist()
    unrelated = [every[i] for i in sorted(order[:WATCHED])]
    watch = Watch(tokenizer, answered(concept), unrelated, keep, goal)
    moving = "|".join(matrix.name for matrix in decoder.matrices.values()) if select is None else select
    most = min(whole(length, "length", least=1), reach(model))
    forget, kept = (sequences(tokenizer, concepts, most) for concepts in ([concept], trained_on))
    size = whole(batch, "batch", least=1)
    return watch, Task(model, tokenizer, forget, kept, watch, moving, size, seed, concept.name)


def _last_look(watch: Watch, model: nn.Module, delta: Delta) -> Checkup:
    with applied(model, delta):
        return watch.look(model)


def _provenance(
    way: Unlearning | Edit, concept: Concept, training: Training, keep: float, goal: float, seed: int, made: Delta
) -> Provenance:
    settings = {
        "concept": concept.name, "keep": keep, "goal": goal, "adapter": training.adapter.to_dict(),
        "lr": training.lr, "steps": training.steps,
    }  # fmt: skip
    return Provenance("unlearn", way.to_dict(), made.provenance.parents, settings, seed)
