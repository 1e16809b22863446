"""Federated training on real data: quantum and classical models, what travels, liars, and how fast.

tables     digits (64 numbers on 6 qubits), iris, wine and breast cancer: the variational circuit federated over parties
           whose classes are dealt by Dirichlet(0.5), against one party with all the data, each party alone, and a
           classical network of as many parameters. Three seeds of split, partition and start.
shots      the circuit on digits with 100, 1000 and 10,000 shots a row, and with depolarizing noise
program    the program model of the fixed chip on iris, with the attempts that one result takes
texts      MiniLM with LoRA on text tasks, 8 parties, Dirichlet(0.5): answers dense, and ternary with error feedback
liars      digits with 2 of 8 parties that send the tenfold negative: the plain mean against robust ones
speed      8 parties, 20 rounds on digits, and 1000 parties: CPU seconds and memory

Rates and steps were chosen on a part of the training rows, with a seed that is not used again (--tune). Accuracies are
of test rows that nothing else has seen; intervals are 95 % t intervals over seeds. Every run is kept in a file.

    python bench/federate.py [--json] [--parts tables texts ...] [--seeds 3] [--runs federate_runs.jsonl] [--tune]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from _measure import Row, compare, main, resident
from torch import nn
from torch.utils.data import Subset

from dtheta.adapt.full import Full
from dtheta.data.tabular import TabularTask, load_tabular
from dtheta.federate.attack import SignFlip, attacked
from dtheta.federate.baselines import alone, centralized
from dtheta.federate.client import Client
from dtheta.federate.federate import federate
from dtheta.federate.quantum.program import ProgramClassifier
from dtheta.federate.server.aggregate import Aggregate, Mean
from dtheta.federate.server.coordinatewise import Median, TrimmedMean
from dtheta.federate.server.krum import Krum
from dtheta.federate.server.optimizer import FedAvgM
from dtheta.federate.server.server import Server
from dtheta.models.perceptron import Perceptron
from dtheta.reproduce.experiments.experts import Base
from dtheta.reproduce.experiments.federations import (
    Examples,
    TableSize,
    TextSize,
    accuracy,
    circuit,
    parties,
    trained_texts,
)
from dtheta.reproduce.runs import Runs
from dtheta.score.interval import mean_interval, paired_interval

PARTS = ("tables", "shots", "program", "texts", "liars", "speed")
TASKS = {"digits": 8, "iris": 5, "wine": 5, "breast-cancer": 5}  # parties
GOALS = {"digits": 0.90, "iris": 0.93}
TUNING_SEED = 100
TEXTS, TEXT_PARTIES = ("bbc", "r8"), 8
FIELDS = ("part", "task", "model", "setting", "seed")


@dataclass(frozen=True)
class Budget:
    """How a table is trained: rounds, local steps, rates of circuit and classical network, batch, layers."""

    rounds: int
    steps: int
    lr: float
    classical_lr: float
    batch: int
    layers: int


BUDGETS = {
    "digits": Budget(60, 5, 0.015, 0.007, 64, 16),
    "iris": Budget(40, 5, 0.015, 0.007, 16, 6),
    "wine": Budget(40, 5, 0.015, 0.007, 16, 6),
    "breast-cancer": Budget(40, 5, 0.007, 0.007, 32, 6),
}
STEP = FedAvgM(lr=1.0, momentum=0.9)  # of the server, in all tables


def table_task(name: str, seed: int) -> TabularTask:
    """Return a task, standardized where its columns have units; of the tuning seed, with a test part of train rows."""
    task = load_tabular(name, seed=0 if seed == TUNING_SEED else seed)
    if seed == TUNING_SEED:
        cut = len(task.train) * 4 // 5
        task = replace(task, train=task.train.take(range(cut)), test=task.train.take(range(cut, len(task.train))))
    return task if name == "digits" else task.standardized()


def classical(task: TabularTask, parameters: int, seed: int) -> nn.Module:
    """Return the network of one hidden layer whose parameters are as many, as near as whole units allow."""
    features, classes = task.train.x.shape[1], len(task.classes)
    width = max(1, round((parameters - classes) / (features + 1 + classes)))
    return Perceptron(features, classes, width=width, seed=seed)


def weights(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def sized(task: TabularTask, model: nn.Module, budget: Budget) -> TableSize:
    """Return how a model is trained on a table."""
    lr = budget.classical_lr if isinstance(model, Perceptron) else budget.lr
    return TableSize(TASKS[task.name], budget.rounds, budget.steps, lr, budget.batch, budget.layers)


def federated(
    task: TabularTask, model: nn.Module, budget: Budget, seed: int, aggregate: Aggregate | None = None,
    liars: int = 0, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return the accuracy of a federation, at every tenth of its rounds too, and what it took."""
    clients: Sequence[Client] = parties(task, model, sized(task, model, budget), seed)
    if liars:
        clients = attacked(clients, SignFlip(clients=liars, scale=10.0), seed)
    server = Server(model, Full(), STEP, aggregate or Mean(), select="*")
    start = time.process_time()
    found = federate(
        server, clients, rounds=budget.rounds, evaluate=accuracy(task), evaluate_every=max(1, budget.rounds // 10),
        seed=seed, **settings,
    )  # fmt: skip
    curve = [round(row.scores["accuracy"], 4) for row in found.history if row.scores]
    return {"accuracy": found.scores["accuracy"], "curve": curve, "parameters": weights(model),
            "bits_up": found.figures["bits_up"], "cpu": time.process_time() - start}  # fmt: skip


# tables


def tables(runs: Runs, seeds: int, names: Sequence[str]) -> Iterator[Row]:
    for name in names:
        found: dict[tuple[str, str], list[float]] = {}
        for seed in range(seeds):
            for (model, setting), share in _table_runs(runs, name, seed).items():
                found.setdefault((model, setting), []).append(100 * share)
        yield from _table_rows(name, found)


def _table_runs(runs: Runs, name: str, seed: int) -> dict[tuple[str, str], float]:
    task, budget = table_task(name, seed), BUDGETS[name]
    quantum = circuit(task, budget.layers, seed)
    models = {"quantum": quantum, "classical": classical(task, weights(quantum), seed)}
    found: dict[tuple[str, str], float] = {}
    for kind, model in models.items():
        run = runs.get(("tables", name, kind, "federated", seed), partial(federated, task, model, budget, seed))
        found[kind, "federated"] = run["accuracy"]
        for setting in ("centralized", "alone"):
            key = ("tables", name, kind, setting, seed)
            run = runs.get(key, partial(_baseline, task, model, budget, seed, setting))
            found[kind, setting] = run["accuracy"]
    return found


def _baseline(task: TabularTask, model: nn.Module, budget: Budget, seed: int, setting: str) -> dict[str, Any]:
    clients, server = (
        parties(task, model, sized(task, model, budget), seed),
        Server(model, Full(), select="*"),
    )  # baselines take no steps
    given = {"rounds": budget.rounds, "evaluate": accuracy(task), "seed": seed}
    if setting == "centralized":
        one = centralized(server, clients[0], Examples(task.train), **given)
        return {"accuracy": one.scores["accuracy"], "parameters": weights(model)}
    each = [one.scores["accuracy"] for one in alone(server, clients, **given)]
    return {"accuracy": statistics.mean(each), "each": each, "parameters": weights(model)}


def _table_rows(name: str, found: dict[tuple[str, str], list[float]]) -> Iterator[Row]:
    quantum, goal = found["quantum", "federated"], GOALS.get(name)
    mean = statistics.mean(quantum)
    yield Row(f"{name}: quantum, federated", mean, None, "%", mean / (100 * goal) if goal else None, None,
              1.0 if goal else None, None if goal is None else mean >= 100 * goal, said(quantum))  # fmt: skip
    for key in (("quantum", "centralized"), ("quantum", "alone"), ("classical", "federated"),
                ("classical", "centralized"), ("classical", "alone")):  # fmt: skip
        peer = found[key]
        note = f"{said(peer)}; quantum federated above it by {difference(quantum, peer)}"
        yield Row(f"{name}: {key[0]}, {key[1]}", mean, statistics.mean(peer), "%", None, None, None, None, note)


def said(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f} (one seed)"
    found = mean_interval(values)
    return f"{found.estimate:.1f} [{found.low:.1f}, {found.high:.1f}], {len(values)} seeds"


def difference(a: Sequence[float], b: Sequence[float]) -> str:
    if len(a) < 2:
        return f"{a[0] - b[0]:+.1f}"
    found = paired_interval(a, b)
    return f"{found.estimate:+.1f} [{found.low:.1f}, {found.high:.1f}]"


# shots, noise, programs


def shots(runs: Runs) -> Iterator[Row]:
    task, budget = table_task("digits", 0), BUDGETS["digits"]
    settings: dict[str, dict[str, Any]] = {f"{n} shots": {"shots": n} for n in (100, 1000, 10_000)}
    settings |= {f"noise {s}": {"noise": s} for s in (0.01, 0.05)}
    exact = runs.get(("tables", "digits", "quantum", "federated", 0),
                     lambda: federated(task, circuit(task, budget.layers, 0), budget, 0))  # fmt: skip
    for setting, given in settings.items():
        run = runs.get(("shots", "digits", "quantum", setting, 0),
                       lambda g=given: federated(task, circuit(task, budget.layers, 0, **g), budget, 0))  # fmt: skip
        yield Row(f"digits: quantum, {setting}", 100 * run["accuracy"], 100 * exact["accuracy"], "%", None, None, None,
                  None, "peer: exact and without noise; one seed")  # fmt: skip


def program(runs: Runs, seeds: int) -> Iterator[Row]:
    found, attempts = [], 0.0
    for seed in range(seeds):
        task, budget = table_task("iris", seed), BUDGETS["iris"]
        model = ProgramClassifier(4, 3, layers=3, constant=True, seed=seed)
        run = runs.get(("program", "iris", "program", "federated", seed), partial(federated, task, model, budget, seed))
        found.append(100 * run["accuracy"])
        attempts = float(model.success(task.test.x).shots.mean())
    note = f"{said(found)}; one result takes {attempts:.0f} attempts before training"
    yield Row("iris: program of the fixed chip, federated", statistics.mean(found), None, "%", None, None, None, None,
              note)  # fmt: skip


# texts


def texts(runs: Runs, seeds: int, names: Sequence[str]) -> Iterator[Row]:
    dense, ternary, bits = list[float](), list[float](), list[float]()
    for name in names:
        found: dict[str, list[float]] = {setting: [] for setting in _CODECS}
        for seed in range(seeds):
            made = {
                setting: runs.get(("texts", name, "minilm", setting, seed), partial(_text_run, name, seed, codec))
                for setting, codec in _CODECS.items()
            }
            for setting, run in made.items():
                found[setting].append(100 * run["accuracy"])
            bits.append(made["dense"]["bits_up"] / made["ternary, scales"]["bits_up"])
        yield from _text_rows(name, found)
        dense, ternary = dense + found["dense"], ternary + found["ternary, scales"]
    least = min(bits)
    yield Row("texts: bits of dense answers over ternary ones", least, None, "times", least / 30, None, 1.0,
              least >= 30, "of LoRA's product and a dense head; the least of all runs")  # fmt: skip
    lost = statistics.mean(dense) - statistics.mean(ternary)
    yield Row("texts: points that ternary answers lose", lost, None, "points", None, None, 1.0, lost <= 1.0,
              difference(ternary, dense))  # fmt: skip


def _text_rows(name: str, found: dict[str, list[float]]) -> Iterator[Row]:
    dense = found["dense"]
    for setting in ("ternary, scales", "ternary"):
        ours = found[setting]
        said_of = f"dense {said(dense)}; ternary {said(ours)}; difference {difference(ours, dense)}"
        title = "ternary, a scale a parameter" if setting == "ternary, scales" else "ternary, one scale for all"
        yield Row(f"{name}: {title}", statistics.mean(ours), statistics.mean(dense), "%", None, None, None, None,
                  said_of)  # fmt: skip


# One scale for all starves the head: its entries are many times those of LoRA's products, of which there are more.
_CODECS: dict[str, Any] = {
    "dense": "dense",
    "ternary, scales": {"name": "ternary", "density": 0.05, "per": "tensor"},
    "ternary": {"name": "ternary", "density": 0.05, "per": "delta"},
}
_LENGTH, _ROUNDS, _STEPS = 32, 8, 4


def _text_run(name: str, seed: int, codec: Any) -> dict[str, Any]:
    size = TextSize(Base("minilm"), (name,), 800, 300, _LENGTH, TEXT_PARTIES, _ROUNDS, _STEPS)
    start = time.process_time()
    return {**trained_texts(size, name, seed, codec), "cpu": time.process_time() - start}


# liars


def liars(runs: Runs) -> Iterator[Row]:
    task = table_task("digits", 0)
    budget = replace(BUDGETS["digits"], rounds=20, layers=8)
    joins: dict[str, Aggregate] = {
        "mean": Mean(), "median": Median(), "trimmed mean": TrimmedMean(share=0.25), "krum": Krum(bad=2),
        "multi-krum": Krum(bad=2, keep=4),
    }  # fmt: skip
    honest = runs.get(("liars", "digits", "quantum", "honest", 0),
                      lambda: federated(task, circuit(task, budget.layers, 0), budget, 0))  # fmt: skip
    for name, join in joins.items():
        run = runs.get(
            ("liars", "digits", "quantum", name, 0),
            lambda j=join: federated(task, circuit(task, budget.layers, 0), budget, 0, j, liars=2),
        )
        yield Row(f"2 of 8 lie: {name}", 100 * run["accuracy"], 100 * honest["accuracy"], "%", None, None, None, None,
                  "peer: the mean where nobody lies; one seed, Dirichlet(0.5)")  # fmt: skip


# speed


def speed() -> Iterator[Row]:
    task = table_task("digits", 0)
    budget = replace(BUDGETS["digits"], rounds=20, steps=22, layers=4)
    took = federated(task, circuit(task, budget.layers, 0), budget, 0)["cpu"]
    yield compare("8 parties, 20 rounds of an epoch on digits, 6 qubits", took, 60.0, "s", goal=1.0, note="peer: goal")
    before = resident("VmRSS")
    model = Perceptron(64, 10, width=3)
    data = Examples(task.train)
    many = {
        f"party {i}": lambda i=i: Client(f"party {i}", model, Subset(data, [i, i + 1]), Full(), select="*", steps=1,
                                         lr=0.02, batch_size=2)
        for i in range(1000)
    }  # fmt: skip
    start = time.process_time()
    federate(Server(model, Full(), select="*"), many, rounds=1, seed=0)
    took = time.process_time() - start
    grown = (resident() - before) / 2**20
    yield Row("1000 parties, one round: CPU seconds", took, None, "s", None, None, None, None)
    yield Row("1000 parties, one round: memory above that before", grown, None, "MiB", None, None, None, None)


def tune(names: Sequence[str]) -> None:
    """Print held-out accuracies of a few rates, by which ``BUDGETS`` was set."""
    for name in names:
        task = table_task(name, TUNING_SEED)
        for lr in (0.007, 0.015, 0.03, 0.06):
            budget = replace(BUDGETS[name], lr=lr, classical_lr=lr)
            quantum = circuit(task, budget.layers, TUNING_SEED)
            for model in (quantum, classical(task, weights(quantum), TUNING_SEED)):
                run = federated(task, model, budget, TUNING_SEED)
                print(json.dumps({"task": name, "model": type(model).__name__, "lr": lr} | run), flush=True)


def measure(arguments: argparse.Namespace) -> Iterable[Row]:
    runs = Runs(arguments.runs, FIELDS)
    if arguments.tune:
        tune(arguments.tables)
        return
    made: dict[str, Callable[[], Iterator[Row]]] = {
        "tables": lambda: tables(runs, arguments.seeds, arguments.tables),
        "shots": lambda: shots(runs),
        "program": lambda: program(runs, arguments.seeds),
        "texts": lambda: texts(runs, arguments.seeds, arguments.texts),
        "liars": lambda: liars(runs),
        "speed": speed,
    }
    for part in arguments.parts:
        yield from made[part]()


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tables", nargs="+", choices=tuple(TASKS), default=tuple(TASKS))
    parser.add_argument("--texts", nargs="+", default=TEXTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("federate_runs.jsonl"), help="file of finished runs")
    parser.add_argument("--tune", action="store_true", help="print held-out accuracies of a few settings, and stop")


if __name__ == "__main__":
    main("federate", measure, options=options)
