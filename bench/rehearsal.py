"""Does an unlearning that rehearses a relearning outlast it? Repair with its usual loss, and with Rehearsed around it.

SmolLM2-135M, concepts beyond the 20 of bench/unlearn.py, by their place in the same keyed order; its rate, steps and
looks. Each delta is attacked by relearning a fifth of the facts that the model knew: three draws of those facts, a
longer training (50 steps for 20), and as many unrelated facts (the control). Counted are the facts that were lost and
not relearned, and those of them that are answered after it. Draws of the attack are other than those of the rehearsal.

    python bench/rehearsal.py [--json] [--concepts 26 24 22] [--runs rehearsal_runs.jsonl]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from _measure import Row, compare, main
from torch import Tensor
from unlearn import EVERY, LR, STEPS, Bench

from dtheta.core.apply import applied
from dtheta.data.concepts import Concept
from dtheta.probe.answers import AnswerScores
from dtheta.probe.concept_vectors import concept_vectors
from dtheta.probe.erasure.attack import Outcome
from dtheta.probe.erasure.relearning import Relearning
from dtheta.probe.erasure.subject import Subject, subject
from dtheta.probe.unlearning.edit import Repair
from dtheta.probe.unlearning.rehearsal import Rehearsed
from dtheta.probe.unlearning.train import Training
from dtheta.probe.unlearning.unlearn import unlearn
from dtheta.probe.value_vector import ValueVector
from dtheta.reproduce.runs import Runs
from dtheta.reproduce.systems.concept_vectors import parted

METHODS = {"Repair": Repair(), "Repair, rehearsed": Repair(loss=Rehearsed())}
ATTACKS = {"relearned": (Relearning(), (0, 1, 2)), "relearned longer": (Relearning(steps=50), (0,))}
CONTROL = "control"


def measured(bench: Bench, concept: Concept, method: str) -> dict[str, Any]:
    """Unlearn a concept, attack what came out, and count."""
    tested, used = parted(bench.concepts, concept, 0)
    start = time.process_time()
    done = unlearn(
        bench.model, concept, METHODS[method], tokenizer=bench.tokenizer, retain=used, vectors=located(bench, concept),
        training=Training(lr=LR, steps=STEPS, every=EVERY),
    )  # fmt: skip
    spent = time.process_time() - start
    others = [question for other in tested for question in other.questions]
    asked = subject(bench.model, bench.tokenizer, concept, others, 0)
    with applied(bench.model, done.delta):
        now, kept = asked.scores(asked.target), asked.scores(asked.unrelated)
    found: dict[str, Any] = {"place": bench.ordered.index(concept), "seconds": round(spent), "looks": len(done.seen)}
    found |= shares(asked, now, kept)
    lost = asked.target_scores.exact & ~now.exact
    for name, (attack, seeds) in ATTACKS.items():
        found[name] = counted([back(attack.outcome(replace(asked, seed=seed), done.delta), lost) for seed in seeds])
    return found | {CONTROL: counted([back(Relearning().control(asked, done.delta), lost)])}


@lru_cache(maxsize=1)
def located(bench: Bench, concept: Concept) -> tuple[ValueVector, ...]:
    """Return the concept's value vectors, told apart from those of eight others."""
    _, used = parted(bench.concepts, concept, 0)
    found = concept_vectors(
        bench.model, [concept, *used[:8]], tokenizer=bench.tokenizer, only=[concept.name], count=16, draws=0
    )
    return found[concept.name].vectors


def shares(asked: Subject, now: AnswerScores, kept: AnswerScores) -> dict[str, float]:
    """Return what is answered still, over what the original answers, and by how much its answers fell."""
    known, known_others = asked.target_scores.exact, asked.unrelated_scores.exact
    fell = (now.logprob - asked.target_scores.logprob)[known]
    return {
        "target": float((now.exact & known).sum() / known.sum()),
        "unrelated": float((kept.exact & known_others).sum() / known_others.sum()),
        "nats": float(fell.mean()),
    }


def back(outcome: Outcome | None, lost: Tensor) -> tuple[int, int]:
    """Return how many facts come back under an attack, of those that were lost and that it does not teach."""
    if outcome is None:
        return 0, 0
    asked = lost[outcome.places]
    return int((outcome.exact & asked).sum()), int(asked.sum())


def counted(found: Sequence[tuple[int, int]]) -> list[int]:
    """Return the sums over draws."""
    return [sum(column) for column in zip(*found, strict=True)]


def measure(arguments: argparse.Namespace) -> Iterable[Row]:
    """Yield a row a method and number."""
    bench = Bench(argparse.Namespace(runs=None))  # its model and concepts; runs are kept here
    runs = Runs(arguments.runs, ("concept", "method"))
    by_method: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
    for place in arguments.concepts:
        for method in METHODS:
            concept = bench.ordered[place]
            run = runs.get((concept.name, method), lambda c=concept, m=method: measured(bench, c, m))
            by_method[method].append(run)
    for method, found in by_method.items():
        for name in ("target", "unrelated", "nats", "seconds"):
            values = [run[name] for run in found]
            note = ", ".join(f"{run['concept']} {run[name]:.3g}" for run in found)
            yield compare(f"{method}: {name}", sum(values) / len(values), None, "mean", note=note)
        for name in (*ATTACKS, CONTROL):
            came, lost = counted([run[name] for run in found])
            note = ", ".join(f"{run['concept']} {run[name][0]} of {run[name][1]}" for run in found)
            yield compare(f"{method}: {name}", came / lost if lost else 0.0, None, "share", note=note)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--concepts", type=int, nargs="+", default=[26, 24, 22], help="places in the keyed order")
    parser.add_argument("--runs", type=Path, default=Path("rehearsal_runs.jsonl"), help="file of finished runs")


if __name__ == "__main__":
    main("Unlearning that outlasts relearning", measure, packages=("torch", "transformers"), options=options)
