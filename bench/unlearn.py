"""Unlearning on SmolLM2-135M: what each method takes out of the answers, and what it leaves in the parameters.

The model knows facts (data/facts.tsv); concepts are taken of which it answers at least half. For each concept and seed
every method unlearns it with the same budget: full training of the MLPs' down-projections, rate from a ladder by the
watched questions alone, stopped where other things go. What is reported was neither trained on nor watched: questions
of a third of the other concepts, paraphrases, relearning on a fifth of the facts, and the value vectors that
concept_vectors found on the original. Edits that need to know where the concept is are told these, as the paper tells
its oracle.

    the paper's claim   gradient and preference methods change the answers and leave the traces (high Jaccard, cosine),
                        ablation erases the traces and is harder to undo
    ours (Repair)       goal: target at most 10 %, unrelated at least 95 % of the original, recovery under 30 %

Every run is kept in a file; intervals are 95 % t intervals over concepts, of each concept's mean over its seeds: seeds
of one concept draw other questions of the same facts, and are no further evidence of what other concepts do.

    python bench/unlearn.py [--json] [--concepts 20] [--seeds 3] [--methods ...] [--runs unlearn_runs.jsonl]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from _measure import Row, compare, main

import dtheta as dt
from dtheta.core.seeds import generator
from dtheta.data.concepts import Concept, load_concepts
from dtheta.probe.concept_vectors import concept_vectors
from dtheta.probe.erasure.erasure import Examination
from dtheta.probe.erasure.paraphrase import Paraphrase
from dtheta.probe.erasure.relearning import Relearning
from dtheta.probe.recall import known
from dtheta.probe.trace import Traces, load_traces
from dtheta.probe.unlearning.ascent import UNDIAL, WGA, GradAscent, GradDiff
from dtheta.probe.unlearning.edit import Ablate, Edit, Needle, Negate, Repair
from dtheta.probe.unlearning.memit import Memit
from dtheta.probe.unlearning.objective import Unlearning
from dtheta.probe.unlearning.preference import DPO, NPO, SimNPO
from dtheta.probe.unlearning.representation import RMU
from dtheta.probe.unlearning.train import Training
from dtheta.probe.unlearning.unlearn import unlearn
from dtheta.reproduce.runs import Runs
from dtheta.reproduce.systems.concept_vectors import parted
from dtheta.score.interval import Interval, mean_interval

METHODS: dict[str, Unlearning | Edit] = {
    "Repair": Repair(),
    "Ablate": Ablate(),
    "Needle": Needle(),
    "GradAscent": GradAscent(),
    "GradDiff": GradDiff(),
    "NPO": NPO(),
    "NPO+KL": NPO(retain=1.0, kl=1.0),
    "SimNPO": SimNPO(),
    "DPO": DPO(),
    "WGA": WGA(kl=1.0),
    "UNDIAL": UNDIAL(retain=1.0),
    "RMU": RMU(),
    "Negate": Negate(),
    "Memit": Memit(),
}
LR, STEPS, EVERY = 3e-5, 30, 3
NUMBERS = ("target", "unrelated", "paraphrase", "relearned", "recovery", "excess", "jaccard", "cosine")


class Bench:
    """The model, its concepts and their traces, made when first asked for."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.runs = Runs(arguments.runs, ("concept", "method", "seed", "lr", "steps"))

    @cached_property
    def model(self) -> Any:
        """SmolLM2."""
        return dt.load_model("smollm2")

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return dt.load_tokenizer("smollm2")

    @cached_property
    def concepts(self) -> tuple[Concept, ...]:
        """What it knows."""
        return known(self.model, self.tokenizer, load_concepts("facts")).concepts

    @cached_property
    def traces(self) -> Traces:
        """Where it keeps it, on the original; kept beside the runs, for it takes minutes."""
        path = self.arguments.runs.with_suffix(".traces.json")
        if not path.exists():
            concepts = self.ordered[: max(20, self.arguments.concepts)]
            found = concept_vectors(self.model, concepts, tokenizer=self.tokenizer, count=16, draws=0)
            found.save(path)
        return load_traces(path)

    @cached_property
    def ordered(self) -> list[Concept]:
        """What it knows, in a keyed order, so that more concepts begin with fewer."""
        order = torch.randperm(len(self.concepts), generator=generator(0, "bench/unlearn")).tolist()
        return [self.concepts[i] for i in order]

    def run(self, concept: Concept, method: str, seed: int) -> dict[str, Any]:
        """Unlearn, and measure what is left."""
        key = (concept.name, method, seed, LR, STEPS)
        return self.runs.get(key, lambda: self._measured(concept, METHODS[method], seed))

    def _measured(self, concept: Concept, method: Unlearning | Edit, seed: int) -> dict[str, Any]:
        _, used = parted(self.concepts, concept, seed)
        vectors = self.traces[concept.name].vectors
        found = unlearn(
            self.model, concept, method, tokenizer=self.tokenizer, retain=used, vectors=vectors,
            training=Training(lr=LR, steps=STEPS, every=EVERY), seed=seed,
        )  # fmt: skip
        report = self._examination(concept, seed).report(found.delta, vectors, checkups=found.seen)
        return {**summary(report), "looks": len(found.seen), "changed": found.changed}

    @lru_cache(maxsize=1)  # noqa: B019  the bench lives as long as its process
    def _examination(self, concept: Concept, seed: int) -> Examination:
        """Ask the original, once for all methods."""
        tested, _ = parted(self.concepts, concept, seed)
        unrelated = [question for other in tested for question in other.questions]
        attacks = (Paraphrase(), Relearning())
        return Examination(
            self.model, concept, tokenizer=self.tokenizer, unrelated=unrelated, attacks=attacks, new_tokens=1, seed=seed
        )


def summary(report: Any) -> dict[str, Any]:
    """Return the numbers of a report that the tables are made of; None where one could not be measured."""
    paraphrase, relearning = report.attack("paraphrase"), report.attack("relearning")
    return {
        "target": _estimate(report.behavior.target.kept),
        "unrelated": _estimate(report.behavior.unrelated.kept),
        "paraphrase": _answered(paraphrase),
        "relearned": _answered(relearning),
        "recovery": None if relearning is None else _estimate(relearning.recovery),
        "excess": None if relearning is None or relearning.control is None else _estimate(relearning.control.excess),
        "jaccard": report.intrinsic.jaccard,
        "cosine": report.intrinsic.cosine,
    }


def _answered(attack: Any) -> float | None:
    """Return what is answered under an attack, over what the original answers under it."""
    if attack is None or attack.accuracy is None or not attack.accuracy.before.estimate:
        return None
    return attack.accuracy.after.estimate / attack.accuracy.before.estimate


def _estimate(interval: Interval | None) -> float | None:
    return None if interval is None else interval.estimate


def measure(arguments: argparse.Namespace) -> Iterable[Row]:
    """Yield a row a method and number."""
    bench = Bench(arguments)
    by_method: dict[str, list[dict[str, Any]]] = {method: [] for method in arguments.methods}
    for seed in range(arguments.seeds):
        for concept in bench.ordered[: arguments.concepts]:
            for method in arguments.methods:
                by_method[method].append(bench.run(concept, method, seed))
    for method, runs in by_method.items():
        yield from rows(method, runs)


def rows(method: str, runs: Sequence[dict[str, Any]]) -> Iterable[Row]:
    """Yield the rows of a method."""
    for number in NUMBERS:
        of: dict[str, list[float]] = {}
        for run in runs:
            if run[number] is not None:
                of.setdefault(run["concept"], []).append(run[number])
        values = [fmean(seeds) for seeds in of.values()]
        if values:
            interval = mean_interval(values) if len(values) > 1 else Interval(values[0], values[0], values[0])
            note = f"[{interval.low:.3f}, {interval.high:.3f}] of {len(values)} concepts"
            yield compare(f"{method}: {number}", interval.estimate, None, "share", note=note)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--concepts", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=tuple(METHODS))
    parser.add_argument("--runs", type=Path, default=Path("unlearn_runs.jsonl"), help="file of finished runs")


if __name__ == "__main__":
    main("Unlearning: answers and traces", measure, packages=("torch", "transformers"), options=options)
