"""Do the claims of PiSSA and SORSA hold here? MiniLM on real text tasks, equal rank, steps and batches, tuned rates.

    PiSSA    training loss below LoRA's (arXiv 2404.02948, figures 2 to 4: faster convergence, lower final loss)
    SORSA    its singular vectors stay orthonormal, against the same method without the regularizer (arXiv 2409.00055)

Rates are chosen for each method and task by the lowest mean training loss on seeds that are not used again. Then every
seed runs all methods on the same batches, and differences are paired by seed.

    python bench/adapt.py [--json] [--seeds 5] [--steps 40]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import dtheta as dt
from dtheta.adapt.sorsa import orthonormality
from dtheta.data.batches import loader
from dtheta.score.interval import paired_interval

TASKS = ("sentiment", "bbc")
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
TUNING_SEEDS = (100,)
METHODS = {
    "LoRA": dt.LoRA(rank=16),
    "PiSSA": dt.PiSSA(rank=16),
    "SORSA": dt.SORSA(rank=16),
    "SORSA, gamma 0": dt.SORSA(rank=16, gamma=0.0),
}


@dataclass(frozen=True)
class Run:
    """One training: mean and final training loss, test accuracy, distance of the factors from orthonormal."""

    task: str
    method: str
    rate: float
    seed: int
    mean_loss: float
    final_loss: float
    accuracy: float
    orthonormality: float | None


def train(task_name: str, method: str, rate: float, seed: int, steps: int) -> Run:
    """Train one adapter and measure it."""
    task = dt.load_task(task_name, n_train=16 * steps, n_test=400, seed=seed)
    model = dt.classifier(dt.load_model("minilm"), task.classes)
    tokenizer = dt.load_tokenizer("minilm")
    adapter = dt.attach(model, METHODS[method], also="head.*", seed=seed)
    batches = loader(task.train, tokenizer, 16, 32, seed=seed)
    record = dt.fit(adapter, batches, steps=steps, lr=rate, full_lr=5e-3, seed=seed, quiet=True)
    losses = [loss for _, loss in record.losses]
    right = 0
    with torch.inference_mode():
        for batch in loader(task.test, tokenizer, 64, 32, shuffle=False):
            right += int((adapter(**batch).logits.argmax(-1) == batch["labels"]).sum())
    kept = orthonormality(adapter) if method.startswith("SORSA") else None
    last = losses[-len(losses) // 4 :]
    return Run(
        task_name, method, rate, seed, sum(losses) / len(losses), sum(last) / len(last), right / len(task.test), kept
    )


class Runs:
    """All runs, kept in a file as they end, so that an interrupted benchmark goes on where it was."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps = path, steps
        lines = path.read_text().splitlines() if path.exists() else []
        self.done = {(r.task, r.method, r.rate, r.seed): r for r in (Run(**json.loads(line)) for line in lines)}

    def get(self, task: str, method: str, rate: float, seed: int) -> Run:
        """Return a run, from the file or by training now."""
        key = (task, method, rate, seed)
        if key not in self.done:
            self.done[key] = train(*key, self.steps)
            with self.path.open("a") as file:
                file.write(json.dumps(vars(self.done[key])) + "\n")
            print(self.done[key], file=sys.stderr, flush=True)
        return self.done[key]


def tuned_rate(runs: Runs, task: str, method: str) -> float:
    """Return the rate with the lowest mean training loss on the tuning seeds."""
    tuned = "SORSA" if method.startswith("SORSA") else method
    loss = {rate: sum(runs.get(task, tuned, rate, s).mean_loss for s in TUNING_SEEDS) for rate in RATES}
    return min(loss, key=lambda rate: loss[rate])


def claims(runs: Runs, seeds: range) -> list[dict[str, object]]:
    """Return one row per claim and task."""
    rows = []
    for task in TASKS:
        rate = {m: tuned_rate(runs, task, m) for m in METHODS}
        of = {m: [runs.get(task, m, rate[m], seed) for seed in seeds] for m in METHODS}
        for method in ("PiSSA", "SORSA"):
            for field in ("mean_loss", "final_loss", "accuracy"):
                rows.append(_against_lora(task, method, field, of, rate))
            rows.append(_at_one_rate(runs, task, method, of[method], rate[method]))
        rows.append(_orthonormal(task, of))
    return rows


def _against_lora(task: str, method: str, field: str, of: dict[str, list[Run]], rate: dict[str, float]) -> dict:
    ours, lora = ([getattr(r, field) for r in of[m]] for m in (method, "LoRA"))
    gain = paired_interval(ours, lora)
    better = gain.low > 0 if field == "accuracy" else gain.high < 0
    return {
        "system": method,
        "claim": f"{task}: {field.replace('_', ' ')} {'above' if field == 'accuracy' else 'below'} LoRA's",
        "paper": "direction only; other models and tasks",
        "ours": f"{sum(ours) / len(ours):.4f} against {sum(lora) / len(lora):.4f}",
        "interval": [round(x, 4) for x in (gain.estimate, gain.low, gain.high)],
        "seeds": len(ours),
        "holds": better,
        "note": f"rates {rate[method]:g} and {rate['LoRA']:g}; difference with its 95 % interval over seeds",
    }


def _at_one_rate(runs: Runs, task: str, method: str, ours: list[Run], rate: float) -> dict:
    """Return the row at one rate for both, as the papers compare them: that which is best for the method."""
    lora = [runs.get(task, "LoRA", rate, run.seed).mean_loss for run in ours]
    gain = paired_interval([run.mean_loss for run in ours], lora)
    return {
        "system": method,
        "claim": f"{task}: mean loss below LoRA's at one rate for both",
        "paper": "equal or nearly equal rates for all methods",
        "ours": f"{sum(r.mean_loss for r in ours) / len(ours):.4f} against {sum(lora) / len(lora):.4f}",
        "interval": [round(x, 4) for x in (gain.estimate, gain.low, gain.high)],
        "seeds": len(ours),
        "holds": gain.high < 0,
        "note": f"rate {rate:g}, the best for {method}; LoRA does better at a higher one",
    }


def _orthonormal(task: str, of: dict[str, list[Run]]) -> dict:
    kept, free = ([r.orthonormality or 0.0 for r in of[m]] for m in ("SORSA", "SORSA, gamma 0"))
    gain = paired_interval(kept, free)
    return {
        "system": "SORSA",
        "claim": f"{task}: factors nearer to orthonormal than without the regularizer",
        "paper": "the regularizer keeps them orthonormal",
        "ours": f"{sum(kept) / len(kept):.4f} against {sum(free) / len(free):.4f}",
        "interval": [round(x, 4) for x in (gain.estimate, gain.low, gain.high)],
        "seeds": len(kept),
        "holds": gain.high < 0,
        "note": "mean over factors of the Frobenius distance of the Gram matrix from the identity, after training",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--runs", type=Path, default=Path("adapt_runs.jsonl"), help="where finished runs are kept")
    options = parser.parse_args()
    rows = claims(Runs(options.runs, options.steps), range(options.seeds))
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        verdict = "holds" if row["holds"] else "FAILS"
        print(f"{verdict:6} {row['system']:6} {row['claim']}: {row['ours']} {row['interval']}")


if __name__ == "__main__":
    main()
