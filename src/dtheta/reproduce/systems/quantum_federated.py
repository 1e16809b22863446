"""Quantum federated learning: a fixed chip, clients whose states are their data, and what it is worth.

The paper derives and reports no data of its own; a later system of its author does, on digits and iris. Here the
variational circuit is a client's model, classes are dealt over the parties by Dirichlet(0.5), and the server steps with
momentum 0.9. Rates were chosen on a part of the training rows with another seed (bench/federate.py). Everything is
simulated exactly: a device would need many copies of every state, and what arrives after post-selection is rare.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from dtheta.adapt.full import Full
from dtheta.core.seeds import generator
from dtheta.data.tabular import TabularTask, load_tabular
from dtheta.federate.baselines import alone, centralized
from dtheta.federate.channels.bb84 import exchange
from dtheta.federate.federate import federate
from dtheta.federate.quantum.chip import outcomes
from dtheta.federate.quantum.chip_circuit import teleport_circuit
from dtheta.federate.quantum.encode import amplitude
from dtheta.federate.quantum.program import program_circuit, program_of
from dtheta.federate.quantum.superposition import branch_gradient, branch_states
from dtheta.federate.server.optimizer import FedAvgM
from dtheta.federate.server.server import Server
from dtheta.reproduce.claim import Claim, Row, exact, over_seeds, paired, percent
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
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import System
from dtheta.score.interval import Interval, wilson

SYSTEM = System("Quantum federated learning", "Daskin 2024, arXiv 2401.13421", "quantum.md")
TERNARY = {"name": "ternary", "density": 0.05, "per": "tensor"}  # one scale for all would starve the head
ABORT = 11.0  # % of errors from which on BB84 has no key
LATER = "Schmidt-guided circuits, a later system of the author"

CHIP = Claim(
    "one circuit for every operator",
    "A fixed circuit applies any operator that comes as a state, where its measurement succeeds.",
    "Derived, no data",
)
DERIVATIVES = Claim(
    "derivatives by measurement",
    "Measured on a superposition of shifted programs, the chip gives all derivatives of the loss's expectation.",
    "Derived, no data",
)
QUBITS = Claim("few qubits", "A row of 64 numbers travels in at most 6 qubits.", "log2 N qubits for N numbers")
GAINS = Claim(
    "federating gains",
    "A circuit that parties train together is more accurate than the circuits that they train alone.",
    "Not measured: what federated learning is for",
)
POOLED = Claim(
    "near to pooled data",
    "It loses no more than 3 points against the circuit of one party with all the data and as many steps.",
    "Not measured: what federated learning is for",
)
DIGITS = Claim("digits", "Digits on 6 qubits are told apart with more than 63.9 %.", f"{LATER}: 63.9 % on digits")
IRIS = Claim("iris", "Iris is told apart with more than 86.0 %.", f"{LATER}: 86.0 % on iris")
TAPPED = Claim(
    "listeners are noticed",
    "Who measures every qubit on the way and sends it on makes more than 11 % errors, at which parties stop.",
    "Measurement disturbs the state; 25 % by theory of BB84",
)
TERNARY_SIZE = Claim(
    "ternary answers are small",
    "Answers of signs and scales at 5 % density take at least 30 times fewer bits than dense ones.",
    "Not of the paper: ternary gradients of CryptoQFL, arXiv 2307.07012, with codes of ComPEFT",
)
TERNARY_LOSS = Claim(
    "ternary answers suffice",
    "With error feedback, and a scale a parameter, they lose no more than a point of accuracy.",
    "Not of the paper, as above",
)
PHOTONS = Claim("on a device", "The fixed chip runs on optical hardware.", "Proposed")


TABLES = {"digits": TableSize(8, 60, 5, 0.015, 64, 16), "iris": TableSize(5, 40, 5, 0.015, 16, 6)}
# Rates of two that did better on a part of the training rows, with another seed.
FAST_TABLES = {"digits": TableSize(4, 14, 8, 0.03, 32, 6), "iris": TableSize(4, 12, 5, 0.015, 16, 4)}


def table_task(name: str, seed: int) -> TabularTask:
    """Return a task, standardized where its columns have units."""
    task = load_tabular(name, seed=seed)
    return task if name == "digits" else task.standardized()


def trained_table(name: str, size: TableSize, seed: int) -> dict[str, float]:
    """Return the test accuracies of the federated circuit, of one with all data, and of each party alone on average."""
    task = table_task(name, seed)
    model = circuit(task, size.layers, seed)
    clients = parties(task, model, size, seed)
    given: dict[str, Any] = {"rounds": size.rounds, "evaluate": accuracy(task), "seed": seed}
    together = federate(Server(model, Full(), FedAvgM(lr=1.0, momentum=0.9), select="*"), clients,
                        evaluate_every=size.rounds, **given)  # fmt: skip
    plain = Server(model, Full(), select="*")  # baselines take no steps of the server
    pooled = centralized(plain, clients[0], Examples(task.train), **given)
    each = [one.scores["accuracy"] for one in alone(plain, clients, **given)]
    return {
        "federated": together.scores["accuracy"], "pooled": pooled.scores["accuracy"], "alone": sum(each) / len(each),
        "qubits": model.circuit.qubits,
    }  # fmt: skip


def chip_error(qubits: int, draws: int) -> tuple[float, float]:
    """Return the largest error of the literal circuit against the operator, and 1 / p of a unitary one."""
    N, worst = 2**qubits, 0.0
    draw = generator(0, f"reproduce/chip {qubits}")
    for _ in range(draws):
        O = torch.randn(N, N, dtype=torch.complex128, generator=draw)
        psi = torch.randn(N, dtype=torch.complex128, generator=draw)
        psi = psi / psi.norm()
        expected = O @ psi / (math.sqrt(N) * O.norm())
        worst = max(worst, float((teleport_circuit(O, psi) - expected).abs().max()))
    unitary = torch.linalg.qr(torch.randn(N, N, dtype=torch.complex128, generator=draw)).Q
    p = float(teleport_circuit(unitary, torch.eye(N, dtype=torch.complex128)[0]).abs().square().sum())
    return worst, 1 / p


def derivative_error(qubits: int = 2, layers: int = 2, examples: int = 3) -> float:
    """Return the largest error of derivatives that are read from states, against autograd."""
    draw = generator(0, "reproduce/derivatives")
    made = program_circuit(qubits, layers)
    shape = made.shape
    angles = (6.0 * torch.rand(shape, generator=draw, dtype=torch.float64)).requires_grad_()
    psi = amplitude(torch.randn(examples, 2**qubits, generator=draw, dtype=torch.float64))
    observable = torch.randn(2**qubits, generator=draw, dtype=torch.float64)
    values = outcomes(program_of(made, angles), psi) @ observable
    wanted = torch.stack([torch.autograd.grad(v, angles, retain_graph=True)[0].flatten() for v in values], 1)
    with torch.no_grad():
        found = branch_gradient(branch_states(made, angles.detach()), psi, observable)
    return float((found - wanted).abs().max())


def rows(lab: Lab) -> Iterator[Row]:
    """Run the experiments, and yield a row a claim."""
    errors = [chip_error(qubits, 5) for qubits in (1, 2, 3)]
    attempts = ", ".join(f"{again:.0f}" for _, again in errors)
    note = f"One success of a unitary operator on 1, 2, 3 qubits takes {attempts} attempts."
    here = "literal circuit on 3, 6 and 9 qubits, 5 random operators each"
    yield Row(CHIP, here, exact(max(error for error, _ in errors)), "amplitude", 1e-9, "below", note)
    found = derivative_error()
    yield Row(DERIVATIVES, "program of 2 qubits and 2 layers, 3 rows", exact(found), "absolute error", 1e-6, "below",
              "In exact expectations; shots add their noise.")  # fmt: skip
    yield from _table_rows(lab)
    yield _tapped_row(lab)
    yield from _text_rows(lab)
    yield Row(PHOTONS, note="It takes a device.")


def _table_rows(lab: Lab) -> Iterator[Row]:
    sizes, seeds = lab.sized(FAST_TABLES, TABLES), lab.seeds_or(3, 5)
    runs = {
        name: [lab.run("table", name, seed, lambda n=name, s=seed: trained_table(n, sizes[n], s)) for seed in seeds]
        for name in sizes
    }
    points = {name: {k: [100 * run[k] for run in found] for k in ("federated", "pooled", "alone")}
              for name, found in runs.items()}  # fmt: skip
    here = {name: f"{name}, {size.parties} parties by Dirichlet(0.5), {size.rounds} rounds of {size.steps} steps, "
            f"{size.layers} layers, {len(seeds)} seeds" for name, size in sizes.items()}  # fmt: skip
    yield Row(QUBITS, "digits", exact(float(runs["digits"][0]["qubits"])), "qubits", 6.5, "below",
              "Each step reads fresh copies: as many as rows times shots.")  # fmt: skip
    digits = points["digits"]
    told = f"{_mean(digits['federated']):.1f} against {_mean(digits['pooled']):.1f} %; few rounds favor pooled data."
    yield Row(GAINS, here["digits"], paired(digits["federated"], digits["alone"]), "points")
    yield Row(POOLED, here["digits"], paired(digits["federated"], digits["pooled"]), "points", -3.0, note=told)
    for claim, name, bound in ((DIGITS, "digits", 63.9), (IRIS, "iris", 86.0)):
        yield Row(claim, here[name], percent(points[name]["federated"]), "%", bound)


def _tapped_row(lab: Lab) -> Row:
    count = lab.sized(4000, 40_000)
    seen = exchange(count, 1.0, 0.0, 1.0, generator(0, "reproduce/bb84"))
    share = wilson(seen.errors, seen.checked)
    found = Interval(100 * share.estimate, 100 * share.low, 100 * share.high, share.level, share.method)
    note = "A server that chooses its program badly is not stopped by this, nor who takes part of many copies."
    return Row(
        TAPPED, f"{count} simulated qubits, all of them tapped, {seen.checked} checked", found, "%", ABORT, note=note
    )


def _text_rows(lab: Lab) -> Iterator[Row]:
    size = lab.sized(
        TextSize(Base("minilm", 1), ("bbc",), 320, 200, 16, 3, 4, 8),
        TextSize(Base("minilm"), ("bbc", "r8"), 800, 300, 32, 8, 8, 4),
    )
    seeds, codecs = lab.seeds_or(3, 3), {"dense": "dense", "ternary": TERNARY}
    runs: dict[str, list[Mapping[str, Any]]] = {name: [] for name in codecs}
    for seed in seeds:
        for task in size.tasks:
            for name, codec in codecs.items():
                make = lambda t=task, c=codec, s=seed: trained_texts(size, t, s, c)  # noqa: E731
                runs[name].append(lab.run("texts", f"{task} {name}", seed, make))
    here = f"{size.base} with LoRA of rank 8, {', '.join(size.tasks)}, {size.parties} parties by Dirichlet(0.5), "
    here += f"{size.rounds} rounds of {size.steps} steps, {len(seeds)} seeds"
    times = [
        dense["bits_up"] / ternary["bits_up"] for dense, ternary in zip(runs["dense"], runs["ternary"], strict=True)
    ]
    yield Row(TERNARY_SIZE, here, over_seeds(times), "times", 30.0,
              note="Against float32 entries of LoRA's product; against its factors about 3 times.")  # fmt: skip
    dense, ternary = ([100 * run["accuracy"] for run in runs[name]] for name in ("dense", "ternary"))
    note = (
        f"Dense {_mean(dense):.1f} %, ternary {_mean(ternary):.1f} %; feedback needs rounds to send what it held back."
    )
    yield Row(TERNARY_LOSS, here, paired(ternary, dense), "points", -1.0, note=note)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
