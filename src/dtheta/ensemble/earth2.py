"""earth2studio's networks, perturbations and outputs in an ensemble of ours, by their shape alone: nothing is imported.

    prognostic      x, coords = model(x, coords); model.input_coords(), model.output_coords(coords)
    perturbation    x, coords = perturbation(x, coords)
    output          io.add_array(coords, names); io.write([x, ...], coords, names)

where x is a tensor (batch, time, lead_time, variable, lat, lon) and coords an ordered dictionary of its axes, as of
version 0.19 and before. A wrapper there of SFNO, FourCastNet 3 or Aurora so becomes a step here. Not run against a real
one: its packages need accelerators; the tests have a stand-in with the same signatures.

Limits: a network that keeps a state of its own between calls, or draws random numbers inside, is called as it is, and
its members cannot be replayed. One that predicts several leads at once is refused.

Shape legend: B rows, J leads of the input, C variables, H latitudes, W longitudes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from dtheta.core.seeds import key
from dtheta.ensemble.checks import checked_leads
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.members import Member
from dtheta.ensemble.perturbation import Advance, Perturbation, Rows, Start
from dtheta.ensemble.times import Time, moved, start_time
from dtheta.errors import ConfigError, ShapeMismatch

Coords: TypeAlias = "Mapping[str, np.ndarray]"


class Prognostic(Protocol):
    """A network of earth2studio."""

    def __call__(self, x: Tensor, coords: Any) -> tuple[Tensor, Any]:
        """Return the state one step later and its axes."""
        ...

    def input_coords(self) -> Any:
        """Return the axes of the input; "batch" and "time" are empty."""
        ...

    def output_coords(self, input_coords: Any) -> Any:
        """Return the axes of the output."""
        ...


class Earth2Step:
    """A network of earth2studio as a step: states (C, H, W), or (J, C, H, W) for one that reads J leads.

    Attributes:
        prognostic: the network.
        variables: names of the channels (C,).
        hours: length of a step.
    """

    takes_time = True

    def __init__(self, prognostic: Prognostic) -> None:
        """Read the axes of the network.

        Raises:
            ConfigError: if it predicts several leads at once, or not all that it reads.
        """
        self.prognostic = prognostic
        self._axes: OrderedDict[str, np.ndarray] = OrderedDict(prognostic.input_coords())
        self.variables = [str(name) for name in self._axes["variable"]]
        self._leads = np.asarray(self._axes["lead_time"])
        ahead = np.asarray(prognostic.output_coords(self._full(1, np.datetime64("2000-01-01")))["lead_time"])
        if len(ahead) != 1:
            raise ConfigError(f"this network predicts {len(ahead)} leads at once; expected one that makes a step")
        self.hours = float((ahead[0] - self._leads[-1]) / np.timedelta64(1, "s")) / 3600

    def __call__(self, x: Tensor, time: np.datetime64) -> Tensor:
        """Return the states (B, ...) one step later; ``time`` is that of the newest lead of the input."""
        several = len(self._leads) > 1
        inside = x if several else x[:, None]
        after, axes = self.prognostic(inside[:, None], self._full(len(x), time))
        found = after[:, 0][:, :, self._order(axes)]
        return torch.cat((inside[:, 1:], found), 1) if several else found[:, 0]

    def _full(self, rows: int, time: np.datetime64) -> OrderedDict[str, np.ndarray]:
        axes = self._axes.copy()
        axes["batch"] = np.arange(rows)
        axes["time"] = np.array([time], "datetime64[ns]")
        return axes

    def _order(self, axes: Coords) -> list[int]:
        """Return where the variables that the network reads stand in its output."""
        made = [str(name) for name in axes["variable"]]
        lacking = [name for name in self.variables if name not in made]
        if lacking:
            raise ConfigError(f"the network reads {lacking[0]!r} and does not predict it, so it cannot be run on")
        return [made.index(name) for name in self.variables]

    def coords(self, rows: int, time: np.datetime64) -> OrderedDict[str, np.ndarray]:
        """Return the axes of a batch, as the network wants them."""
        return self._full(rows, time)

    def to_dict(self) -> dict[str, Any]:
        """Return what the network is called, and its variables."""
        return {"prognostic": type(self.prognostic).__qualname__, "variables": self.variables}


class Earth2Perturbation(Perturbation):
    """A perturbation of earth2studio; it draws from the global generators, which are set by the member's key.

    Attributes:
        perturbation: the perturbation.
        step: the step that it is for.
    """

    def __init__(self, perturbation: Any, step: Earth2Step) -> None:
        """Take over a perturbation, called one member at a time."""
        self.perturbation = perturbation
        self.step = step

    def vectors(self, start: Start, rows: Rows, advance: Advance) -> Tensor:
        """Return what it adds to the analysis (B, ...)."""
        time = np.datetime64(start.label)
        several = start.state.ndim == 4
        x = start.state[None, None] if several else start.state[None, None, None]
        devices = [start.state.device] if start.state.device.type == "cuda" else []
        found = []
        for member in rows.members:
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(key(rows.seed, f"ensemble/earth2/{rows.label}/{member.parameters}", member.draw))
                after, _ = self.perturbation(x.clone(), self.step.coords(1, time))
            found.append((after - x).reshape(start.state.shape))
        return torch.stack(found)

    def to_dict(self) -> dict[str, Any]:
        """Return what the perturbation is called."""
        return {"name": "Earth2Perturbation", "perturbation": type(self.perturbation).__qualname__}


class ForEarth2:
    """A noise of ours as a perturbation of earth2studio: ``x, coords = ForEarth2(noise, seed=0)(x, coords)``.

    Rows are keyed by the values of the axis "ensemble" where there is one, else of the first axis, and by the time.
    """

    def __init__(self, noise: Perturbation, seed: int = 0) -> None:
        """Take over a noise.

        Raises:
            ConfigError: for one that needs earlier analyses.
        """
        if noise.past:
            raise ConfigError(f"{type(noise).__name__} needs analyses before the start; expected a noise")
        self.noise = noise
        self.seed = seed

    def __call__(self, x: Tensor, coords: Coords) -> tuple[Tensor, Coords]:
        """Return perturbed states, and the axes."""
        names = list(coords)
        if [*names[-3:]] != ["variable", "lat", "lon"]:
            raise ShapeMismatch(f"axes are {', '.join(names)}; expected ..., variable, lat, lon")
        numbers = "ensemble" if "ensemble" in names else names[0]
        states = x.reshape(-1, *x.shape[-3:])
        added = []
        for i, at in enumerate(np.ndindex(*x.shape[:-3])):
            where = dict(zip(names, at, strict=False))
            label = str(start_time(coords["time"][where["time"]])) if "time" in where else "0"
            rows = Rows((Member(0, int(coords[numbers][where[numbers]])),), self.seed, label)
            start = Start(states[i], states.new_empty(0, *states.shape[1:]), label)
            added.append(self.noise.vectors(start, rows, lambda state, at: state)[0])
        return x + torch.stack(added).reshape(x.shape), coords


def write_earth2(
    io: Any,
    ensemble: Ensemble,
    state: Tensor,
    leads: int | Sequence[int],
    *,
    time: Time,
    variables: Sequence[str],
    lat: np.ndarray,
    lon: np.ndarray,
    past: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Run an ensemble of states (C, H, W) into an output of earth2studio, lead by lead.

    Args:
        io: the output.
        ensemble: what to run.
        state: the analysis, as in ``Ensemble.run``.
        leads: as in ``Ensemble.run``.
        time: of the start, a date.
        variables: names of the channels.
        lat: latitudes (H,).
        lon: longitudes (W,).
        past: as in ``Ensemble.run``.

    Raises:
        ConfigError: for a start that is no date.
        ShapeMismatch: for axes that do not fit the state.
    """
    start = start_time(time)
    if not isinstance(start, np.datetime64):
        raise ConfigError("an output of earth2studio needs the date of the start, such as time='2020-01-31'")
    if tuple(state.shape) != (len(variables), len(lat), len(lon)):
        found = (len(variables), len(lat), len(lon))
        raise ShapeMismatch(f"a state is {tuple(state.shape)}, and variables, lat and lon say {found}")

    def axes(steps: Sequence[int]) -> OrderedDict[str, np.ndarray]:
        moments = np.array([moved(start, lead * ensemble.hours) for lead in steps], "datetime64[ns]")
        ahead = moments - start.astype("datetime64[ns]")
        return OrderedDict(
            ensemble=np.arange(len(ensemble)), time=np.array([start], "datetime64[ns]"), lead_time=ahead,
            lat=np.asarray(lat), lon=np.asarray(lon),
        )  # fmt: skip

    names = list(variables)
    io.add_array(axes(checked_leads(leads)), names)
    for lead, x in ensemble.run(state, leads, past=past, time=time):
        io.write([x[:, None, None, c] for c in range(len(names))], axes([lead]), names)
