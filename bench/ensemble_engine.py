"""The ensemble engine: cost of a member from 64 to 7,424 of them, memory, stacked networks, breeding, replay, archive.

    networks   the emulator of two-layer flow (140,668 parameters, states 2 x 24 x 48), and a perceptron of 40 variables
    cost       CPU seconds of one thread a member and step; flat means that it does not grow with the ensemble

Weights are those that training begins with: they cost what trained ones cost. ``--full`` runs 7,424 members for 15 days
(60 steps) and prints what that takes; it needs about 20 minutes of one core.

    python bench/ensemble_engine.py [--json] [--repeat 5] [--only cost] [--full]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from _measure import Row, compare, cpu_seconds, interleaved, main, resident
from torch import Tensor, nn

from dtheta.core.seeds import generator
from dtheta.data.flows.quasi_geostrophic import QuasiGeostrophic
from dtheta.ensemble import BredVectors, Ensemble, Member, SphericalNoise, WhiteNoise, archive, cross
from dtheta.models.emulator import TwoLayerEmulator

MEMBERS = (64, 512, 2048, 7424)
STATE_BYTES = 2 * 24 * 48 * 4


class Perceptron(nn.Module):
    """A residual step of 40 variables, 10,408 parameters."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(40, 128), nn.Linear(128, 40)
        for i, parameter in enumerate(self.parameters()):
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator(seed, "bench/ensemble", i))

    def forward(self, x: Tensor) -> Tensor:
        """Return the states one step later."""
        return x + 0.05 * self.outer(torch.tanh(self.inner(x)))


def emulator(seed: int = 0) -> tuple[TwoLayerEmulator, Tensor]:
    """Return an emulator and analyses (4, 2, H, W), six hours apart."""
    flow = QuasiGeostrophic()
    x = flow.start(1)
    states = [x]
    for _ in range(3):
        states.append(flow.step(states[-1]))
    network = TwoLayerEmulator(flow, seed=seed)
    network.set_statistics(torch.stack((torch.cat(states[:-1]), torch.cat(states[1:])), 1))
    return network, torch.cat(states)


def steps(ensemble: Ensemble, state: Tensor, count: int, past: Tensor | None = None) -> Callable[[], None]:
    """Return a run of so many steps, of which nothing is kept."""

    def run() -> None:
        for _ in ensemble.run(state, count, past=past):
            pass

    return run


def cost() -> Iterator[Row]:
    """Cost a member and step, against that of 64 members measured beside it."""
    network, states = emulator()
    tiny, vector = Perceptron(), torch.zeros(40)
    cases = [("SFNO", network, states[-1], 1), ("perceptron", tiny, vector, 40)]
    for name, step, state, factor in cases:
        for members in MEMBERS:
            work = MEMBERS[-1] // 4 * factor  # member-steps of a measurement
            runs = {
                m: steps(Ensemble(step, m), state, max(1, work // m))  # starts are of the part "breeding"
                for m in (64, members)
            }
            taken = interleaved({str(m): run for m, run in runs.items()}, repeat=3)
            each = {m: taken[str(m)] / (m * max(1, work // m)) for m in runs}
            note = f"{1 / each[members]:,.0f} member-steps a CPU second"
            title = f"{name}: a member and step of {members:,}"
            yield compare(title, each[members], each[64], "CPU s", goal=0.9, note=note)


def overhead(repeat: int) -> Iterator[Row]:
    """The engine against a bare loop over batches of the same size."""
    network, states = emulator()
    tiny, vector = Perceptron(), torch.zeros(40)
    cases = [
        ("SFNO", network, states[-1], 16, 2, 0.9),
        ("perceptron", tiny, vector, 16, 40, None),
        ("perceptron", tiny, vector, 256, 40, None),
    ]
    for name, step, state, rows, count, goal in cases:
        ensemble = Ensemble(step, 512, rows=rows)
        first = next(ensemble.run(state, 1))[1].split(rows)

        def bare(step: nn.Module = step, batches: tuple[Tensor, ...] = first, count: int = count) -> None:
            with torch.no_grad():
                for _ in range(count):
                    batches = tuple(step(batch) for batch in batches)

        taken = interleaved({"ours": steps(ensemble, state, count), "bare": bare}, repeat)
        title = f"{name}: 512 members, {rows} rows a call, against a bare loop"
        yield compare(title, taken["ours"], taken["bare"], "CPU s", goal=goal)


def stacked(repeat: int) -> Iterator[Row]:
    """Networks with one member each, stacked, against one after the other."""
    sizes = [("perceptron", [Perceptron(s) for s in range(256)], torch.zeros(40), 10, 3.0)]
    network, states = emulator()
    networks = [network, *(emulator(s)[0] for s in range(1, 16))]
    sizes.append(("SFNO", networks, states[-1], 2, None))
    for name, step, state, count, goal in sizes:
        common = {"parameters": step, "perturbation": WhiteNoise(1e-3), "rows": 1}
        members = [Member(i) for i in range(len(step))]
        looped = Ensemble(step[0], members, **common)
        together = Ensemble(step[0], members, stack=min(64, len(step)), **common)
        runs = {"ours": steps(together, state, count), "loop": steps(looped, state, count)}
        taken = interleaved(runs, repeat)
        title = f"{name}: {len(step)} networks of one member, stacked against a loop"
        yield compare(title, taken["ours"], taken["loop"], "CPU s", goal=goal)


def memory() -> Iterator[Row]:
    """Memory that a run of 7,424 members takes, in states a member: two are held, those of a lead and of the next."""
    network, states = emulator()
    steps(Ensemble(network, 64, perturbation=WhiteNoise(1e-3)), states[-1], 2)()
    before = resident()
    steps(Ensemble(network, MEMBERS[-1], perturbation=WhiteNoise(1e-3)), states[-1], 2)()
    used = (resident() - before) / (MEMBERS[-1] * STATE_BYTES)
    note = f"{(resident() - before) / 1e6:,.0f} MB more than 64 members"
    yield compare("SFNO: memory of 7,424 members", used, 3.0, "states a member", goal=1.0, limit=2.0, note=note)


def breeding(repeat: int) -> Iterator[Row]:
    """Three cycles for pairs that share a vector, against a 15-day run; the least is six calls for four members."""
    network, states = emulator()
    noise = SphericalNoise([10.0, 0.0], network.flow.grid)
    bred = BredVectors(10.0, noise, cycles=3)
    pairs, plain = Ensemble(network, cross(1, 32), perturbation=bred), Ensemble(network, cross(1, 32))
    runs = {
        "start": steps(pairs, states[-1], 0, states[:-1]),
        "step": steps(plain, states[-1], 4),
    }
    taken = interleaved(runs, repeat)
    days = taken["step"] / 4 * 60
    share = f"{100 * taken['start'] / days:.1f} % of a 15-day run of the same 64 members"
    yield compare("SFNO: bred start of 32 pairs, 3 cycles", taken["start"], None, "CPU s", note=share)


def replay(repeat: int) -> Iterator[Row]:
    """One member again, against the call of one full block that it takes."""
    network, states = emulator()
    whole, block = Ensemble(network, 512, perturbation=WhiteNoise(1e-3)), Ensemble(network, 16)
    runs = {
        "ours": lambda: [x for _, x in whole.replay(300, states[-1], 4)],
        "block": steps(block, states[-1], 4),
    }
    taken = interleaved(runs, repeat)
    expected = [x[300].clone() for _, x in whole.run(states[-1], 4)]
    same = all(torch.equal(a, b) for a, b in zip(runs["ours"](), expected, strict=True))
    note = "the same bits" if same else "OTHER BITS"
    yield compare(
        "SFNO: replay of one of 512", taken["ours"], taken["block"], "CPU s", goal=0.8 if same else 99, note=note
    )


def stored() -> Iterator[Row]:
    """Writing a run to disk, against the run alone."""
    tiny, vector = Perceptron(), torch.zeros(40)
    network, states = emulator()
    for name, step, state, members, goal in (
        ("SFNO", network, states[-1], 512, 0.8), ("perceptron", tiny, vector, 7424, None),
    ):  # fmt: skip
        ensemble = Ensemble(step, members, perturbation=WhiteNoise(1e-3))
        alone = cpu_seconds(steps(ensemble, state, 4))
        with tempfile.TemporaryDirectory() as folder:
            writing = cpu_seconds(lambda: archive(ensemble, Path(folder) / "a", state, 4))  # noqa: B023
        title = f"{name}: {members:,} members and 5 leads into an archive, against the run alone"
        yield compare(title, writing, alone, "CPU s", goal=goal)


def full() -> Iterator[Row]:
    """7,424 members of 8 networks for 15 days."""
    network, states = emulator()
    networks = [network, *(emulator(s)[0] for s in range(1, 8))]
    noise = SphericalNoise([10.0, 0.0], network.flow.grid)
    ensemble = Ensemble(
        network, cross(8, 464), parameters=networks, perturbation=BredVectors(10.0, noise, cycles=3)
    )  # fmt: skip
    before, start = resident("VmRSS"), time.perf_counter()
    taken = cpu_seconds(steps(ensemble, states[-1], 60, states[:-1]))
    wall, used = time.perf_counter() - start, resident() - before
    note = f"{7424 * 60 / taken:,.0f} member-steps a CPU second, {wall / 60:.1f} minutes of wall time"
    yield compare("SFNO: 7,424 bred members, 15 days", taken, None, "CPU s", note=note)
    yield compare("SFNO: memory of that run", used / 1e6, None, "MB", limit=2 * 7424 * STATE_BYTES / 1e6)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "memory": memory,  # first: the most resident bytes so far only grow
        "cost": cost,
        "overhead": lambda: overhead(arguments.repeat),
        "stacked": lambda: stacked(arguments.repeat),
        "breeding": lambda: breeding(arguments.repeat),
        "replay": lambda: replay(arguments.repeat),
        "archive": stored,
    }
    if arguments.full:
        yield from full()
    for name, part in parts.items():
        if arguments.only == name or (arguments.only is None and not arguments.full):
            yield from part()


def options(parser: argparse.ArgumentParser) -> None:
    """Add our own options."""
    names = ("memory", "cost", "overhead", "stacked", "breeding", "replay", "archive")
    parser.add_argument("--only", choices=names, help="one part only")
    parser.add_argument("--full", action="store_true", help="7,424 members for 15 days, alone")


if __name__ == "__main__":
    main("Ensemble engine", measure, packages=("torch", "zarr"), options=options)
