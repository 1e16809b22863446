"""ConceptVectors: does unlearning that changes the answers leave the concept where it was, in the parameters?

The model is SmolLM2-135M in place of LLaMA-2-7B and OLMo-7B, its concepts are those of a list of facts that it answers
at least half of, and a trace is a set of value vectors that are found and measured, not judged by readers: in a small
network no single vector holds a concept. Every method unlearns with the same budget, and is asked about a third of
the other concepts, which were neither trained on nor watched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from dtheta.core.delta import Delta
from dtheta.core.seeds import generator
from dtheta.data.concepts import Concept, load_concepts
from dtheta.probe.concept_vectors import concept_vectors
from dtheta.probe.decoder import open_decoder
from dtheta.probe.erasure.erasure import Examination
from dtheta.probe.erasure.in_context import InContext
from dtheta.probe.recall import known
from dtheta.probe.unlearning.ascent import GradDiff
from dtheta.probe.unlearning.edit import Edit, Needle
from dtheta.probe.unlearning.objective import Unlearning
from dtheta.probe.unlearning.preference import NPO
from dtheta.probe.unlearning.train import Training
from dtheta.probe.unlearning.unlearn import unlearn
from dtheta.probe.value_vector import ValueVector
from dtheta.reproduce.claim import Claim, Row, exact, paired, percent
from dtheta.reproduce.experiments.experts import Base
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import System

SYSTEM = System("ConceptVectors", "Hong et al. 2024, arXiv 2406.11614", "probe.md")
COUNT = 16  # vectors of a trace
NEEDLE, GRADIENT, PREFERENCE = "Needle", "GradDiff", "NPO"
METHODS: dict[str, Unlearning | Edit] = {
    NEEDLE: Needle(vectors=COUNT, strengths=(4.0,)),  # the paper's noise is about 6 times as long as a vector
    GRADIENT: GradDiff(),
    PREFERENCE: NPO(retain=1.0),
}
FAST_CONCEPTS = ("France", "Japan", "dogs", "Christianity", "soccer")
PAPER = "LLaMA-2-7B-chat and OLMo-7B, 285 concept vectors"

HOLDS = Claim(
    "value vectors hold concepts",
    "Without a concept's value vectors its answers lose more log-probability than answers about other concepts.",
    f"{PAPER}: with noise of 0.1 on one vector answers about the concept change and others stay",
)
NULL = Claim(
    "these and not any",
    "They lose more than without as many random value vectors of the same layers.",
    "Not compared",
)
LEAVES = Claim(
    "training leaves the traces",
    "After unlearning by gradient or preference at least 80 % of the traces' 200 best tokens are still the same.",
    f"{PAPER}: gradient- and preference-based methods leave the vectors almost unchanged",
)
PLANE = Claim(
    "noise on the vectors is more selective",
    "Noise on the traces takes more of the concept's answers, beyond what it takes of others, than training does.",
    "LLaMA-2-7B-chat, BLEU: dominates every training method; OLMo-7B: not everywhere",
)
RECOVERY = Claim(
    "what training hides comes back",
    "With other facts before the question more log-probability comes back after training than after noise.",
    "Jailbreak prompts on 10 concepts a model",
)
COLUMNS = Claim(
    "only the vectors change", "Noise on a trace changes no number but those of its value vectors.", "By definition"
)
BENCHMARK = Claim(
    "one vector, judged by readers",
    "A large model has single value vectors whose best tokens a judge and people call one clear concept.",
    f"{PAPER}, chosen by GPT-4 and people",
)


@dataclass(frozen=True)
class Size:
    """What is traced and unlearned, on how much.

    Attributes:
        names: Concepts; none for all that there are.
        questions: Of each.
        traced: How many of them are traced and unlearned; the others are contrast, retained and asked about.
        layers: Where to look; None for everywhere.
        draws: Random sets of vectors for each concept.
        plan: How long losses are trained.
        batch: Pairs of sequences a step.
        methods: Of ``METHODS``; the first is noise on the vectors.
        facts: Before a question, where it is asked with other facts.
    """

    names: tuple[str, ...] = ()
    questions: int = 10
    traced: int = 12
    layers: tuple[int, ...] | None = None
    draws: int = 9
    plan: Training = field(default_factory=lambda: Training(lr=3e-5, steps=30, every=5))
    batch: int = 8
    methods: tuple[str, ...] = tuple(METHODS)
    facts: int = 5


FAST = Size(FAST_CONCEPTS, 3, 3, (28, 29), 2, Training(lr=1e-4, steps=2, every=2), 2, (NEEDLE, GRADIENT), 1)


def concepts(names: Sequence[str], questions: int) -> list[Concept]:
    """Return the concepts that the model knows, of those named, or of all where none is named; in a keyed order."""
    model, tokenizer = Base("smollm2").pretrained()
    listed = [
        replace(concept, questions=concept.questions[:questions])
        for concept in load_concepts("facts")
        if not names or concept.name in names
    ]
    found = known(model, tokenizer, listed).concepts
    order = torch.randperm(len(found), generator=generator(0, "bench/unlearn")).tolist()
    return [found[i] for i in order]


def traced(chosen: Sequence[Concept], size: Size) -> dict[str, Any]:
    """Return traces of the first so many concepts and their effects, by name."""
    model, tokenizer = Base("smollm2").pretrained()
    names = [concept.name for concept in chosen[: size.traced]]
    found = concept_vectors(
        model, chosen, tokenizer=tokenizer, only=names, count=COUNT, layers=size.layers, draws=size.draws, null=100
    )
    return {
        name: {
            "vectors": [str(vector) for vector in found[name].vectors], "target": found[name].effect.target.estimate,
            "others": found[name].effect.others.estimate, "null": list(found[name].effect.null),
        }
        for name in names
    }  # fmt: skip


def parted(chosen: Sequence[Concept], concept: Concept, seed: int) -> tuple[list[Concept], list[Concept]]:
    """Return a third of the other concepts to be asked about, at least one, and those that unlearning may use."""
    others = [other for other in chosen if other.name != concept.name]
    order = torch.randperm(len(others), generator=generator(seed, f"bench/unlearn/{concept.name}")).tolist()
    cut = max(1, len(others) // 3)
    return [others[i] for i in sorted(order[:cut])], [others[i] for i in sorted(order[cut:])]


def unlearned(
    chosen: Sequence[Concept], concept: Concept, vectors: Sequence[ValueVector], method: str, size: Size, seed: int
) -> dict[str, Any]:
    """Unlearn a concept, and return what is answered still and what became of its vectors."""
    model, tokenizer = Base("smollm2").pretrained()
    tested, used = parted(chosen, concept, seed)
    found = unlearn(
        model, concept, METHODS[method], tokenizer=tokenizer, retain=used, training=size.plan, seed=seed, keep=0.5,
        vectors=vectors if method == NEEDLE else None, batch=size.batch,
    )  # fmt: skip
    unrelated = [question for other in tested for question in other.questions]
    examination = Examination(
        model,
        concept,
        tokenizer=tokenizer,
        unrelated=unrelated,
        attacks=[InContext(size.facts)],
        new_tokens=1,
        seed=seed,
    )
    report = examination.report(found.delta, vectors)
    assert report.behavior is not None, "only concepts that the model knows are unlearned"
    (attack,) = report.attacks
    lost = report.behavior.target.logprob.change.estimate
    back = None if attack.logprob is None else attack.logprob.change.estimate - lost
    return {
        "target": -lost,
        "unrelated": -report.behavior.unrelated.logprob.change.estimate,
        "jaccard": report.intrinsic.jaccard, "back": back,
        "elsewhere": elsewhere(model, found.delta, vectors),
    }  # fmt: skip


def elsewhere(model: nn.Module, delta: Delta, vectors: Sequence[ValueVector]) -> int:
    """Return how many numbers a delta changes outside of value vectors."""
    decoder = open_decoder(model)
    columns: dict[str, set[int]] = {}
    for vector in vectors:
        columns.setdefault(decoder.matrices[vector.layer].name, set()).add(vector.column)
    changed = 0
    for name in delta:
        values = delta[name].dense().clone()
        values[:, sorted(columns.get(name, ()))] = 0
        changed += int((values != 0).sum())
    return changed


def rows(lab: Lab) -> Iterator[Row]:
    """Run the experiments, and yield a row a claim."""
    size = lab.sized(FAST, Size())
    chosen = concepts(size.names, size.questions)
    found = lab.run("traces", f"{size.traced} concepts", 0, lambda: {"traces": traced(chosen, size)})
    traces: dict[str, Any] = found["traces"]
    where = "all layers" if size.layers is None else f"layers {size.layers[0]} to {size.layers[-1]}"
    here = f"SmolLM2-135M, {len(traces)} of {len(chosen)} concepts that it knows, {COUNT} vectors each, {where}"
    target = [trace["target"] for trace in traces.values()]
    yield Row(HOLDS, here, paired(target, [trace["others"] for trace in traces.values()]), "nats")
    random = [sum(trace["null"]) / len(trace["null"]) for trace in traces.values()]
    yield Row(NULL, f"{here}; {size.draws} random sets each", paired(target, random), "nats")
    yield from _unlearning_rows(lab, chosen, traces, size)
    yield Row(BENCHMARK, note="It takes a judge model and readers; here a set of vectors is measured in their place.")


def _runs(
    lab: Lab, chosen: Sequence[Concept], traces: Mapping[str, Any], size: Size, seeds: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of each method, over concepts and seeds."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        for concept in (concept for concept in chosen if concept.name in traces):
            vectors = [ValueVector.parse(text) for text in traces[concept.name]["vectors"]]
            for method in size.methods:
                make = lambda c=concept, v=vectors, m=method, s=seed: unlearned(chosen, c, v, m, size, s)  # noqa: E731
                runs.setdefault(method, []).append(lab.run("unlearn", f"{concept.name} {method}", seed, make))
    return runs


def _unlearning_rows(lab: Lab, chosen: Sequence[Concept], traces: Mapping[str, Any], size: Size) -> Iterator[Row]:
    seeds, plan = lab.seeds_or(1, 2), size.plan
    runs = _runs(lab, chosen, traces, size, seeds)
    trained = size.methods[1:]
    here = f"SmolLM2-135M, {len(traces)} concepts, {len(seeds)} seed(s), {' and '.join(trained)} at rate {plan.lr:g}, "
    here += f"at most {plan.steps} steps"
    yield _leaves_row(here, runs, trained)
    selective = {m: [run["target"] - run["unrelated"] for run in found] for m, found in runs.items()}
    theirs = [sum(values) / len(trained) for values in zip(*(selective[m] for m in trained), strict=True)]
    lost = "; ".join(
        f"{m} {_mean(found, 'target'):.2f} and {_mean(found, 'unrelated'):.2f}" for m, found in runs.items()
    )
    note = f"Nats that the concept and others lose: {lost}."
    yield Row(PLANE, f"{here}; noise on {COUNT} vectors", paired(selective[NEEDLE], theirs), "nats", note=note)
    yield _recovery_row(here, runs, trained, size.facts)
    changed = float(sum(run["elsewhere"] for run in runs[NEEDLE]))
    yield Row(COLUMNS, f"SmolLM2-135M, {len(runs[NEEDLE])} deltas", exact(changed), "numbers elsewhere", 1.0, "below")


def _leaves_row(here: str, runs: Mapping[str, Sequence[Mapping[str, Any]]], trained: Sequence[str]) -> Row:
    """Return the row of the tokens that are the same after a training, of those that changed any answer.

    Where no state was better than the model as it was, unlearning keeps that, and leaves every trace for free.
    """
    every = [run for method in trained for run in runs[method]]
    changed = [run for run in every if run["target"] or run["unrelated"]]
    if not changed:
        return Row(LEAVES, note=f"None of {len(every)} trainings changed the model.")
    noise = sum(100 * run["jaccard"] for run in runs[NEEDLE]) / len(runs[NEEDLE])
    lost = sum(run["target"] for run in changed) / len(changed)
    note = f"Jaccard; after noise of four times their length {noise:.0f} %."
    note += f" Training took {lost:.2f} nats of the answers."
    if left := len(every) - len(changed):
        note += f" Not counted: {left} of {len(every)} trainings, which left the model as it was."
    return Row(LEAVES, here, percent([100 * run["jaccard"] for run in changed]), "%", 80.0, note=note)


def _recovery_row(
    here: str, runs: Mapping[str, Sequence[Mapping[str, Any]]], trained: Sequence[str], facts: int
) -> Row:
    pairs = [(run["back"], other["back"]) for m in trained for run, other in zip(runs[m], runs[NEEDLE], strict=True)]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(both) < 2:
        return Row(RECOVERY, note="Fewer than two of these concepts have other facts to ask with.")
    training, noise = zip(*both, strict=True)
    return Row(
        RECOVERY, here, paired(training, noise), "nats", note=f"At most {facts} other facts before the question."
    )


def _mean(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(sum(run[name] for run in runs) / len(runs))
