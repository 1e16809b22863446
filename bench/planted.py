"""Planted concepts: in a trained transformer it is known which value vectors hold what; what does the finder say?

A synthetic world of entities with attributes, each fact three tokens "entity attribute value", is learned by a decoder
of two layers (Llama's layout) in two phases. First all of it learns the facts of some entities. Then each of the other
ones, a concept, is learned by ``SLOTS`` neurons of the last layer alone: of its examples only their weights get a
gradient, and the neurons are held back by the common facts and kept still on those of others. So the truth is known by
construction, in a network that was trained; how much each of its neurons holds is not, some may be idle.

    precision   of the first ``SLOTS`` vectors of a trace, those that are planted      peer: of random vectors
    recall      of the planted vectors, those among the ``COUNT`` of the trace         peer: likewise
    answered    share of the concept's facts that is answered without the trace        peer: without as many random ones

The limit is what the truth itself does: all planted vectors of the concept taken out, and no others. p is that of a
trace's effect, the share of random sets that cost the concept as much, at least 1 / (``DRAWS`` + 1).

    python bench/planted.py [--json] [--seeds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers as t
from _measure import Row, compare, main
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dtheta.core.apply import applied
from dtheta.core.seeds import generator
from dtheta.data.concepts import Concept, Question
from dtheta.probe.ablation import ablation
from dtheta.probe.answers import answer_scores
from dtheta.probe.concept_vectors import concept_vectors
from dtheta.probe.trace import Trace
from dtheta.probe.value_vector import ValueVector

COMMON, PLANTED = 8, 6  # entities of the first phase, and those that are planted
ATTRIBUTES, VALUES = 6, 60
SLOTS = 4  # neurons of a planted concept
COUNT = 2 * SLOTS  # vectors of a trace
LAYERS, FEATURES, NEURONS = 2, 64, 256
LAST = LAYERS - 1
BEST = ATTRIBUTES  # tokens of a vector that are looked at: a concept has as many answers, the vocabulary 81 words
FIRST_STEPS, STEPS = 400, 250
DRAWS = 19  # random sets; p is at least 1 / 20


@dataclass(frozen=True)
class World:
    """The facts, as concepts and as tokens.

    Attributes:
        tokenizer: A token a word.
        common: Concepts of the first phase.
        planted: Concepts of the second one.
    """

    tokenizer: t.PreTrainedTokenizerFast
    common: tuple[Concept, ...]
    planted: tuple[Concept, ...]

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """All of them."""
        return (*self.common, *self.planted)

    def ids(self, concepts: Sequence[Concept]) -> Tensor:
        """Return their facts as tokens (F, 3), the answer last."""
        texts = [f"{question.prompt} {question.answer}" for concept in concepts for question in concept.questions]
        return torch.tensor(self.tokenizer(texts)["input_ids"])


def world(seed: int) -> World:
    """Draw the facts: of each entity and attribute one of the values, which entities share."""
    entities = [f"entity{chr(97 + i)}" for i in range(COMMON + PLANTED)]
    attributes = [f"attribute{chr(97 + i)}" for i in range(ATTRIBUTES)]
    values = [f"value{chr(97 + i // 10)}{chr(97 + i % 10)}" for i in range(VALUES)]
    draws = generator(seed, "planted/world")
    concepts = []
    for entity in entities:
        answers = [values[i] for i in torch.randperm(VALUES, generator=draws)[:ATTRIBUTES].tolist()]
        asked = (Question(f"{entity} {a}", v) for a, v in zip(attributes, answers, strict=True))
        concepts.append(Concept(entity, questions=tuple(asked)))
    words = {word: i for i, word in enumerate(["unknown", *entities, *attributes, *values])}
    of_words = Tokenizer(models.WordLevel(words, unk_token="unknown"))
    of_words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = t.PreTrainedTokenizerFast(tokenizer_object=of_words, unk_token="unknown")
    return World(tokenizer, tuple(concepts[:COMMON]), tuple(concepts[COMMON:]))


def slots(concept: int) -> list[int]:
    """Return the neurons of a planted concept."""
    return list(range(concept * SLOTS, (concept + 1) * SLOTS))


def network(facts: World, seed: int) -> nn.Module:
    """Train the network in both phases."""
    config = t.LlamaConfig(
        vocab_size=len(facts.tokenizer), hidden_size=FEATURES, intermediate_size=NEURONS, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=None, eos_token_id=None, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = t.LlamaForCausalLM(config)
    learn(model, facts)
    plant(model, facts)
    return model.eval()


def learn(model: Any, facts: World) -> None:
    """Learn the common facts; the neurons that are planted later are shut meanwhile."""
    mlp = model.model.layers[LAST].mlp
    kept = mlp.down_proj.weight[:, : PLANTED * SLOTS].detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(FIRST_STEPS):
        with torch.no_grad():
            mlp.down_proj.weight[:, : PLANTED * SLOTS] = 0.0
        step(model, optimizer, facts.ids(facts.common))
    with torch.no_grad():
        mlp.down_proj.weight[:, : PLANTED * SLOTS] = 0.1 * kept


def plant(model: Any, facts: World) -> None:
    """Learn each planted concept by its own neurons, which other facts hold back."""
    mlp = model.model.layers[LAST].mlp
    weights = [mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight]
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is weight for weight in weights))
    optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.0)
    for _ in range(STEPS):
        total = [torch.zeros_like(weight) for weight in weights]
        for c, concept in enumerate(facts.planted):
            gradients = torch.autograd.grad(loss_of(model, facts.ids([concept])), weights)
            for whole, gradient in zip(total, gradients, strict=True):
                mine = (slice(None), slots(c)) if whole is total[2] else slots(c)
                whole[mine] += gradient[mine]
        held = torch.autograd.grad(loss_of(model, facts.ids(facts.common)) + astray(model, facts), weights)
        for weight, whole, gradient in zip(weights, total, held, strict=True):
            mine = (slice(None), slice(0, PLANTED * SLOTS)) if weight is weights[2] else slice(0, PLANTED * SLOTS)
            whole[mine] += gradient[mine]
            weight.grad = whole
        optimizer.step()
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def astray(model: Any, facts: World) -> Tensor:
    """Return the mean square of what the planted neurons make of facts that are not their concept's."""
    held: list[Tensor] = []
    handle = model.model.layers[LAST].mlp.down_proj.register_forward_pre_hook(lambda _, inputs: held.append(inputs[0]))
    model(input_ids=facts.ids(facts.concepts))
    handle.remove()
    a_FN = held[0][:, -2, : PLANTED * SLOTS]  # at the token that the answer is told from
    other_FN = torch.ones_like(a_FN)
    for c in range(PLANTED):
        first = (COMMON + c) * ATTRIBUTES
        other_FN[first : first + ATTRIBUTES, slots(c)] = 0.0
    return (a_FN.square() * other_FN).mean()


def loss_of(model: Any, ids: Tensor) -> Tensor:
    """Return the cross entropy of the answers."""
    return cross_entropy(model(input_ids=ids).logits[:, -2], ids[:, -1])


def step(model: nn.Module, optimizer: torch.optim.Optimizer, ids: Tensor) -> None:
    """Make one step."""
    optimizer.zero_grad()
    loss_of(model, ids).backward()
    optimizer.step()


@dataclass(frozen=True)
class Found:
    """What the finder made of one planted concept.

    Attributes:
        precision: Share of the first vectors that is planted.
        recall: Share of the planted vectors that was found.
        p: Of the effect.
        holds: Whether the trace holds.
        projections: p of the found planted vectors' projections, against shuffled directions.
        cut: Shares answered without the found vectors: of the concept's facts, and of all others.
        truth: Likewise without the planted ones.
        random: Share of the concept's facts without as many random vectors of the last layer.
    """

    precision: float
    recall: float
    p: float
    holds: bool
    projections: tuple[float, ...]
    cut: tuple[float, float]
    truth: tuple[float, float]
    random: float


def examined(seed: int) -> tuple[float, list[Found]]:
    """Return the share of all facts that the network knows, and what was found of each planted concept."""
    facts = world(seed)
    model = network(facts, seed)
    traces = concept_vectors(
        model, facts.concepts, tokenizer=facts.tokenizer, only=[concept.name for concept in facts.planted],
        count=COUNT, best=BEST, draws=DRAWS, seed=seed,
    )  # fmt: skip
    every = [question for concept in facts.concepts for question in concept.questions]
    found = [judged(model, facts, c, traces[concept.name], seed) for c, concept in enumerate(facts.planted)]
    return share(model, facts, every), found


def judged(model: nn.Module, facts: World, c: int, trace: Trace, seed: int) -> Found:
    """Hold a trace against what was planted."""
    truth = [ValueVector(LAST, column) for column in slots(c)]
    mine = facts.planted[c].questions
    rest = [q for concept in facts.concepts for q in concept.questions if concept is not facts.planted[c]]
    places = [ValueVector(vector.layer, vector.column) for vector in trace.vectors]

    def without(vectors: Sequence[ValueVector]) -> tuple[float, float]:
        with applied(model, ablation(model, vectors)):
            return share(model, facts, mine), share(model, facts, rest)

    assert trace.effect.p is not None
    return Found(
        precision=sum(vector in truth for vector in places[:SLOTS]) / SLOTS,
        recall=sum(vector in places for vector in truth) / SLOTS,
        p=trace.effect.p,
        holds=trace.effect.holds,
        projections=tuple(one.p for one, vector in zip(trace.candidates, places, strict=True) if vector in truth),
        cut=without(places),
        truth=without(truth),
        random=without(chance(seed, c))[0],
    )


def chance(seed: int, concept: int) -> list[ValueVector]:
    """Return random vectors of the last layer."""
    order = torch.randperm(NEURONS, generator=generator(seed, f"planted/chance/{concept}"))
    return [ValueVector(LAST, i) for i in order[:COUNT].tolist()]


def share(model: nn.Module, facts: World, questions: Sequence[Question]) -> float:
    """Return the share of questions that are answered."""
    return float(answer_scores(model, facts.tokenizer, questions).exact.double().mean())


def measure(arguments: argparse.Namespace) -> Iterable[Row]:
    """Yield the rows."""
    start = time.process_time()
    runs = [examined(seed) for seed in range(arguments.seeds)]
    yield from rows(runs, (time.process_time() - start) / len(runs))


def rows(runs: Sequence[tuple[float, list[Found]]], seconds: float) -> Iterator[Row]:
    """Yield the rows of the runs."""
    found = [one for _, of_seed in runs for one in of_seed]
    known = statistics.mean(share for share, _ in runs)

    def mean(of: Callable[[Found], float]) -> float:
        return statistics.mean(map(of, found))

    everywhere = LAYERS * NEURONS
    note = f"{len(found)} concepts of {len(runs)} seeds; the networks know {known:.0%}; {seconds:.0f} CPU s a seed"
    yield compare(
        "precision of the first", mean(lambda one: one.precision), SLOTS / everywhere, "share",
        goal=10, limit=1.0, larger_is_better=True, note=note,
    )  # fmt: skip
    projections = [p for one in found for p in one.projections]
    note = f"median p of the projections of those that were found: {statistics.median(projections):.3f}"
    yield compare(
        "recall", mean(lambda one: one.recall), COUNT / everywhere, "share",
        goal=10, limit=1.0, larger_is_better=True, note=note,
    )  # fmt: skip
    cut, truth = mean(lambda one: one.cut[0]), mean(lambda one: one.truth[0])
    yield compare("answered of the concept", cut, mean(lambda one: one.random), "share", goal=2, limit=truth)
    cut, truth = mean(lambda one: one.cut[1]), mean(lambda one: one.truth[1])
    yield compare("answered of others", cut, 1.0, "share", goal=0.95, limit=truth, larger_is_better=True)
    note = f"{sum(one.holds for one in found)} of {len(found)} traces hold, {DRAWS} random sets each"
    yield compare("median p of the effect", statistics.median(one.p for one in found), 0.05, "", goal=1, note=note)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--seeds", type=int, default=3)


if __name__ == "__main__":
    main("Planted concepts: what the finder recovers", measure, options=options)
