"""Measure ``qg-sfno-0`` ... ``qg-sfno-7``: skill against lead, spectra, and a year without truth.

    OMP_NUM_THREADS=1 python -m scripts.evaluate_emulators OUT.json       # all three; about 8 minutes of one core
    python -m scripts.evaluate_emulators OUT.json --only skill --emulators 0 1

Starts are perfect: 64 of them, on 32 trajectories that no emulator was trained on, 35 days apart. Errors are root mean
squares over the sphere and the starts, of the upper layer's height in m; intervals of 95 % from a bootstrap over the
trajectories. The anomaly correlation is that of deviations from the mean map. Bands of degrees: 1-4, 5-8, 9-12, 13-16,
17-21; powers are of deviations from the mean map, over those of the truth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dtheta.core.output import write_file
from dtheta.data.flows.quasi_geostrophic import QuasiGeostrophic
from dtheta.data.flows.trajectories import trajectories
from dtheta.models.emulator import TwoLayerEmulator
from dtheta.models.emulator_file import read_emulator
from dtheta.models.zoo import EMULATORS
from dtheta.score.interval import bootstrap

DATES = (20, 160)  # of the held-out trajectories, in steps
LEADS = (1, 2, 4, 8, 12, 20, 28, 32, 36, 40, 44, 48, 60)  # in steps of 6 hours
SPECTRA = (4, 20, 40, 60)
BANDS = ((1, 4), (5, 8), (9, 12), (13, 16), (17, 21))
YEAR, BLOCKS = 1460, 5


class Truth:
    """Held-out trajectories, their climate, and forecasts scored by them."""

    def __init__(self, flow: QuasiGeostrophic) -> None:
        """Bring the trajectories, computed at the first call."""
        self.flow, self.states = flow, trajectories(flow, 32, 240, seed=1)
        self.climate = trajectories(flow, 96, 320, seed=0)[:, ::4].double().mean((0, 1)).float()  # of the training data

    def at(self, lead: int) -> Tensor:
        """Return the states (64, 2, H, W) so many steps after the starts; date by date."""
        return torch.cat([self.states[:, date + lead] for date in DATES])

    def squares(self, forecast: Tensor, lead: int) -> Tensor:
        """Return the mean square errors of the upper height, by trajectory (32,)."""
        error = self.flow.grid.mean((forecast[:, 0] - self.at(lead)[:, 0]).square())
        return error.view(len(DATES), -1).mean(0)

    def correlation(self, forecast: Tensor, lead: int) -> float:
        """Return the anomaly correlation of the upper height, mean over the starts."""
        a, b = forecast[:, 0] - self.climate[0], self.at(lead)[:, 0] - self.climate[0]
        mean = self.flow.grid.mean
        return (mean(a * b) / (mean(a.square()) * mean(b.square())).sqrt()).mean().item()

    def power(self, states: Tensor) -> list[float]:
        """Return the power of deviations of the upper height from the mean map, by band."""
        transform = self.flow.balance.scalar
        spectrum = transform.power_spectrum(transform.analyze(states[:, 0] - self.climate[0])).mean(0)
        return [spectrum[low : high + 1].sum().item() for low, high in BANDS]


def forecasts(emulators: Mapping[str, TwoLayerEmulator], truth: Truth) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield lead and the states of every emulator, step by step."""
    states = {name: truth.at(0) for name in emulators}
    for lead in range(1, max(LEADS) + 1):
        states = {name: emulator(states[name]) for name, emulator in emulators.items()}
        yield lead, states


def skill(emulators: Mapping[str, TwoLayerEmulator], truth: Truth) -> list[dict[str, Any]]:
    """Return errors, correlations and spectra by lead."""
    found = []
    for lead, states in forecasts(emulators, truth):
        if lead not in LEADS:
            continue
        mean = torch.stack(list(states.values())).mean(0)
        named = states | {"mean": mean, "persistence": truth.at(0), "climatology": truth.climate.expand_as(mean)}
        row: dict[str, Any] = {"days": lead / 4}
        row["rmse"] = {name: _interval(truth.squares(x, lead)) for name, x in named.items()}
        row["correlation"] = {name: truth.correlation(x, lead) for name, x in (states | {"mean": mean}).items()}
        if lead in SPECTRA:
            whole = truth.power(truth.at(lead))
            row["power"] = {
                "members": _ratio(truth.power(torch.cat(list(states.values()))), whole),
                "mean": _ratio(truth.power(mean), whole),
            }
        found.append(row)
        print(json.dumps(row), flush=True)
    return found


def _interval(squares: Tensor) -> list[float]:
    found = bootstrap(squares, lambda mean: mean.sqrt())
    return [round(value, 2) for value in (found.estimate, found.low, found.high)]


def _ratio(a: list[float], b: list[float]) -> list[float]:
    return [round(x / y, 3) for x, y in zip(a, b, strict=True)]


def year(emulator: TwoLayerEmulator, truth: Truth, starts: int = 4) -> dict[str, Any]:
    """Return standard deviations (m) and powers over the truth's of a year's run, by block of 73 days."""
    grid, states = truth.flow.grid, truth.states[:, ::4].flatten(0, 1)
    spread = grid.mean((states - truth.climate).square()).mean(0).sqrt().tolist()
    power = truth.power(states)
    x, kept, found = truth.at(0)[:starts], [], []
    for step in range(1, YEAR + 1):
        x = emulator(x)
        if step % 4 == 0:
            kept.append(x)
        if step % (YEAR // BLOCKS) == 0:
            block = torch.cat(kept)
            sd = grid.mean((block - truth.climate).square()).mean(0).sqrt().tolist()
            drift = grid.mean((block.mean(0) - truth.climate)[0].square()).sqrt().item()
            found.append({"sd": _rounded(sd), "power": _ratio(truth.power(block), power), "drift": round(drift, 1)})
            kept = []
    return {"truth_sd": _rounded(spread), "blocks": found, "highest": round(x.abs().max().item())}


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 1) for value in values]


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=("skill", "year"))
    parser.add_argument("--emulators", nargs="+", help="names behind qg-sfno-, or files; all that ship if not given")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names: list[str] = arguments.emulators or [name.removeprefix("qg-sfno-") for name in EMULATORS]
    shipped = {name.removeprefix("qg-sfno-"): path for name, path in EMULATORS.items()}
    emulators = {name: read_emulator(shipped[name] if name in shipped else name) for name in names}
    truth = Truth(QuasiGeostrophic())
    found: dict[str, Any] = {}
    with torch.no_grad():
        if arguments.only != "year":
            found["skill"] = skill(emulators, truth)
        if arguments.only != "skill":
            found["year"] = {}
            for name, emulator in emulators.items():
                found["year"][name] = year(emulator, truth)
                print(name, json.dumps(found["year"][name]), flush=True)
    with write_file(arguments.out) as handle:
        handle.write(json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    main()
