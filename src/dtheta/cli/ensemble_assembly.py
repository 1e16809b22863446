"""Assembly: from a network, states and the options of ``dtheta ensemble run`` to an ensemble, always the same one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dtheta.cli.ensemble_parts import Ground, part_of
from dtheta.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from dtheta.cli.ensemble_networks import Network
    from dtheta.cli.ensemble_parts import Part
    from dtheta.cli.ensemble_scene import Scene
    from dtheta.cli.ensemble_source import Source
    from dtheta.ensemble.ensemble import Ensemble
    from dtheta.ensemble.hindcast import Hindcast
    from dtheta.ensemble.members import Member

ROWS = (1, 2, 4, 8, 16)  # states in a call, of which the smallest is taken that holds the members of a network


def rows_of(given: int | None, members: Sequence[Member]) -> int:
    """Return how many states a network is called with."""
    most = max(Counter(member.parameters for member in members).values())
    return next((rows for rows in ROWS if rows >= most), ROWS[-1]) if given is None else given


def ensemble_of(found: Hindcast, network: Network) -> Ensemble:
    """Return the ensemble of a run."""
    return assembled(network, found.record, found.shape, found.grid, found.names, found.states())


def assembled(
    network: Network, record: Mapping[str, Any], shape: tuple[int, ...], where: Any, names: Sequence[str],
    states: Tensor | None,
) -> Ensemble:  # fmt: skip
    """Return the ensemble of a record.

    Raises:
        ConfigError: if the perturbation cannot be on such states, or a channel is not there.
    """
    from dtheta.core.sphere import Grid
    from dtheta.ensemble.ensemble import Ensemble
    from dtheta.ensemble.members import Member

    settings = record["settings"]
    part = part_of(settings["perturbation"])
    ground = Ground(shape, where if isinstance(where, Grid) else None, record["amplitude"], states)
    return Ensemble(
        network.step,
        [Member(*one) for one in record["members"]],
        parameters=network.parameters,
        perturbation=None if part is None else part.made(ground),
        seed=settings["seed"],
        rows=record["rows"],
        stack=settings["stack"],
        hours=record["hours"],
        nonnegative=_indices(settings["nonnegative"], names),
    )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run a block with as many threads as the run began with: their number can change the last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _indices(names: str | None, known: Sequence[str]) -> list[int]:
    wanted = [one.strip() for one in (names or "").split(",") if one.strip()]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"--nonnegative: there is no channel {name!r}{did_you_mean(name, known)}")
    return [known.index(name) for name in wanted]


def amplitude_of(network: Network, source: Source, scene: Scene, part: Part | None) -> list[float]:
    """Return the amplitude of the perturbations, one number or one a channel; empty where there are none.

    Raises:
        ConfigError: if nothing tells the error of the network.
    """
    if part is None:
        return []
    if part.amplitude is not None:
        return list(part.amplitude)
    if scene.trial is None:
        hours = source.horizon * source.hours
        raise ConfigError(
            f"the amplitude of perturbations is {part.share:g} times the error after {hours:g} hours, and there are no "
            f"analyses {hours:g} hours apart before the first start; give --perturbation '{part.name}(amplitude=...)'"
        )
    return [part.share * error for error in _errors(network, source, *scene.trial)]


def _errors(network: Network, source: Source, analyses: Any, truth: Any) -> list[float]:
    """Return the root mean square error of the first network in each channel."""
    import torch

    from dtheta.ensemble.ensemble import Ensemble

    single = Ensemble(network.step, 1, parameters=network.parameters and network.parameters[:1], hours=source.hours)
    after = torch.stack([x[0] for state in analyses for _, x in single.run(state, [source.horizon])])
    squares = (after - truth).double().square()
    if squares.ndim == 2:  # no axis of channels
        means = squares.mean(1, keepdim=True)
    elif source.grid is None:
        means = squares.flatten(2).mean(2)
    else:
        rows = torch.tensor(source.grid.weights, dtype=torch.float64)
        means = squares.mean(-1) @ (rows / rows.sum())
    return means.mean(0).sqrt().tolist()
