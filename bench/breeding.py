"""What breeding does, on Lorenz-96: alignment with Lyapunov vectors, growth against noise, by the number of cycles.

    alignment   share of a vector's square in the 13 growing directions; 13/40 for white noise
    growth      geometric mean factor of the size of small perturbations, over starts and members, against white noise
    spread      spread over error of an ensemble whose perturbations are draws of the analysis error; 1 is calibrated

A step of 0.05 time units stands for 6 hours. 32 members; 40 starts and sizes of 0.001 in growth, 240 starts and
sizes of 0.2 in spread.

    python bench/breeding.py [--json]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from _measure import Row, compare, main
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.data.flows.lorenz96 import Lorenz96
from dtheta.data.flows.lyapunov import lyapunov
from dtheta.ensemble import BredVectors, Ensemble, Perturbation, WhiteNoise

FLOW = Lorenz96()
STARTS, MEMBERS, SIZE, ERROR = 40, 32, 1e-3, 0.2
CYCLES = (1, 3, 8, 20, 60, 120)
LEADS = {"6 h": 1, "1 d": 4, "2 d": 8, "4 d": 16}


def perturbation(cycles: int, size: float = SIZE) -> Perturbation:
    noise = WhiteNoise(size)
    return BredVectors(size, noise, cycles=cycles) if cycles else noise


def alignment() -> Iterator[Row]:
    states = FLOW.run(FLOW.spin_up(1, dtype=torch.float64)[0], 1000)
    growing = lyapunov(FLOW.tangent, states[0], 1000, count=13, dt=FLOW.dt).vectors
    for cycles in CYCLES:
        found = Ensemble(FLOW.step, 256, perturbation=perturbation(cycles))
        vectors = next(found.run(states[-1], [0], past=states[-1 - cycles : -1]))[1] - states[-1]
        share = float(((vectors @ growing).square().sum(1) / vectors.square().sum(1)).mean())
        yield compare(f"alignment of {cycles} cycles", share, 13 / 40, "share", larger_is_better=True)


def growth(cycles: int, starts: Tensor) -> dict[str, float]:
    """Return the growth factor at each lead; of white noise for 0 cycles."""
    found, logs = Ensemble(FLOW.step, MEMBERS, perturbation=perturbation(cycles)), []
    for seed, states in enumerate(FLOW.run(starts, cycles).unbind(1)):
        control = FLOW.run(states[-1], max(LEADS.values()))
        run = found.run(states[-1], [0, *LEADS.values()], past=states[:-1], time=seed)
        sizes = torch.stack([(x - control[lead]).square().mean(1).sqrt().log().mean() for lead, x in run])
        logs.append(sizes[1:] - sizes[0])
    return dict(zip(LEADS, torch.stack(logs).mean(0).exp().tolist(), strict=True))


def growths() -> Iterator[Row]:
    longest = FLOW.run(FLOW.spin_up(STARTS, dtype=torch.float64), max(CYCLES))
    noise = growth(0, longest[-1])
    for cycles in CYCLES:
        bred = growth(cycles, longest[-1 - cycles])  # so that all end at the same starts
        for lead, factor in bred.items():
            title = f"growth of {cycles} cycles in {lead}"
            yield compare(title, factor, noise[lead], "factor", larger_is_better=True)


def spread() -> Iterator[Row]:
    leads = (0, 4, 12, 20, 40, 80)
    truth = FLOW.run(FLOW.spin_up(240, seed=3), leads[-1])[list(leads)]
    errors = ERROR * torch.randn(240, 40, generator=generator(0, "bench/breeding"))
    found = Ensemble(FLOW.step, MEMBERS, perturbation=WhiteNoise(ERROR))
    runs = [torch.stack([x for _, x in found.run(truth[0, n] + errors[n], leads, time=n)]) for n in range(len(errors))]
    x = torch.stack(runs, 1)
    of_mean = (x.mean(2) - truth).square().mean((1, 2)).sqrt()
    ratio = x.var(2).mean((1, 2)).sqrt() / of_mean * ((MEMBERS + 1) / MEMBERS) ** 0.5
    for lead, value in zip(leads, ratio.tolist(), strict=True):
        yield compare(f"spread over error at {lead / 4:g} d", value, None, "ratio", limit=1.0)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    yield from alignment()
    yield from growths()
    yield from spread()


if __name__ == "__main__":
    main("Breeding on Lorenz-96", measure)
