"""Networks of ``dtheta ensemble``: those that come with dtheta, flows as their own models, and steps of one's own.

--model qg-sfno | qg-sfno-3 | lorenz96(forcing=8.2)        --step PACKAGE.MODULE:NAME | FILE.py:NAME
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dtheta.cli.written import built, nearest, parsed
from dtheta.core.paths import expanded
from dtheta.errors import ConfigError, DthetaError, did_you_mean

if TYPE_CHECKING:
    from dtheta.ensemble.networks import Parameters

QG = "qg-sfno"
SUCH_AS = "lorenz96(forcing=8)"
_RING_HOURS = 6 / 0.05  # of a time unit of Lorenz-96, by the rate at which errors grow


@dataclass(frozen=True, eq=False)
class Network:
    """What takes states a step further.

    Attributes:
        name: as the user wrote it.
        step: a module or function of states (B, ...).
        parameters: parameter sets of it; None for the step alone.
        flow: the flow that it emulates, or is; None where nobody knows.
        hours: length of a step; None where nobody knows.
    """

    name: str
    step: Callable[..., Any]
    parameters: Sequence[Parameters] | None = None
    flow: Any = None
    hours: float | None = None


def flows() -> dict[str, type[Any]]:
    """Return the flows by the names that options take."""
    from dtheta.data.flows.lorenz96 import Lorenz96
    from dtheta.data.flows.quasi_geostrophic import QuasiGeostrophic
    from dtheta.data.flows.shallow_water import ShallowWater

    return {"lorenz96": Lorenz96, "quasi-geostrophic": QuasiGeostrophic, "shallow-water": ShallowWater}


def flow_of(text: str, where: str) -> Any:
    """Return the flow that a text describes.

    Raises:
        ConfigError: for one that there is not, or settings that cannot be meant.
    """
    return built(text, flows(), where, SUCH_AS)


def hours_of(flow: Any) -> float:
    """Return the length of a step of a flow."""
    from dtheta.data.flows.lorenz96 import Lorenz96

    return round(flow.dt * _RING_HOURS, 6) if isinstance(flow, Lorenz96) else 6.0


def network_of(model: str | None, step: str | None, parameters: Sequence[Path]) -> Network:
    """Return the network that options describe.

    Args:
        model: checkpoints that come with dtheta, or a flow.
        step: where a callable is.
        parameters: files of parameter sets of it.

    Raises:
        ConfigError: for neither or both, a name that there is not, or something that cannot be called.
    """
    if (model is None) == (step is None):
        raise ConfigError(
            f"give --model, such as {QG} or lorenz96, or --step FILE.py:NAME for a network of your own; one of the two"
        )
    if step is not None:
        found = imported(step)
        return Network(step, found, _sets(parameters), hours=_said_hours(found))
    assert model is not None
    if parameters:
        raise ConfigError("--parameters are those of a --step of your own; --model has its own")
    return _emulators(model) if model.startswith(QG) else _flow(model)


def _said_hours(step: Any) -> float | None:
    """Return the length of a step as it says itself; None where it says nothing."""
    from dtheta.core.arguments import number

    found = getattr(step, "hours", None)
    return None if found is None else number(found, "the step's attribute 'hours'")


@contextmanager
def stepping(network: Network, left: str = "") -> Iterator[None]:
    """Turn what the step of a user raises, inside a block, into an error of ours.

    Args:
        network: the network.
        left: what is left behind, to be told.

    Raises:
        ConfigError: saying what the step raised, and what it was called with.
    """
    try:
        yield
    except DthetaError:
        raise
    except Exception as error:  # whatever the user's own code raises
        if not _within_step(error):
            raise
        said = " ".join(str(error).split())
        raise ConfigError(
            f"the step {network.name} raised {type(error).__name__}: {said:.300}. It is called with states (batch, "
            f"channels, ...) in float32 and returns the states one step later, in float32{left}"
        ) from error


def _within_step(error: Exception) -> bool:
    """Tell whether an error was raised while a step was called."""
    from dtheta.ensemble.networks import Networks

    calls = (Networks.call.__code__, called.__code__)
    return any(frame.f_code in calls for frame, _ in traceback.walk_tb(error.__traceback__))


def called(step: Callable[..., Any], states: Any) -> Any:
    """Return what a step makes of states (B, ...)."""
    return step(states)


def _sets(parameters: Sequence[Path]) -> list[Parameters] | None:
    """Return parameter sets, of checkpoints the headers alone: their tensors are read when they are used."""
    from dtheta.core.checkpoints import open_checkpoint
    from dtheta.core.files import load

    return [load(path) if path.suffix == ".delta" else open_checkpoint(path) for path in parameters] or None


def _flow(text: str) -> Network:
    nearest(parsed(text, "--model", SUCH_AS).name, {**dict.fromkeys([QG]), **flows()}, "--model")
    flow = flow_of(text, "--model")
    return Network(text, flow if callable(flow) else flow.step, flow=flow, hours=hours_of(flow))


def _emulators(text: str) -> Network:
    from dtheta.models.load import load_model
    from dtheta.models.zoo import EMULATORS

    names = list(EMULATORS) if text == QG else [text]
    if not names or any(name not in EMULATORS for name in names):
        known = [QG, *EMULATORS, *flows()]
        raise ConfigError(f"--model: there is no {text!r}{did_you_mean(text, known)}; there are {', '.join(known)}")
    networks: list[Any] = [load_model(name).eval() for name in names]
    return Network(text, networks[0], networks, networks[0].flow, 6.0)


def imported(text: str) -> Callable[..., Any]:
    """Return what ``PACKAGE.MODULE:NAME`` or ``FILE.py:NAME`` names.

    Raises:
        ConfigError: if it is not of that form, cannot be imported, or is no step.
    """
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise ConfigError(f"--step {text!r} is not of the form PACKAGE.MODULE:NAME or FILE.py:NAME")
    module = _module_of_file(expanded(place)) if place.endswith(".py") else _module(place)
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [one for one in vars(module) if not one.startswith("_")]
            raise ConfigError(f"--step: {place} has no {part!r}{did_you_mean(part, public)}")
        found = getattr(found, part)
    if not callable(found) or inspect.isclass(found):
        kind = "a class" if inspect.isclass(found) else type(found).__name__
        raise ConfigError(
            f"--step {text} is {kind}; expected a torch.nn.Module or a function that takes states (B, ...) and returns "
            "the states one step later"
        )
    return found


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:  # as 'python -m' has it, which a console script has not
        sys.path.insert(0, here)
    return _loaded(lambda: importlib.import_module(name), name)


def _module_of_file(path: Path) -> ModuleType:
    from dtheta.cli.places import require_input

    spec = importlib.util.spec_from_file_location(path.stem, require_input(path))
    assert spec is not None and spec.loader is not None, "the suffix is .py"
    module, loader = importlib.util.module_from_spec(spec), spec.loader

    def load() -> ModuleType:
        loader.exec_module(module)
        return module

    return _loaded(load, str(path))


def _loaded(load: Callable[[], ModuleType], what: str) -> ModuleType:
    try:
        return load()
    except DthetaError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise ConfigError(f"--step: cannot import {what}: {type(error).__name__}: {error}") from error


def described(step: Any, name: str, kind: type) -> Any:
    """Return what a step says of itself by an attribute, such as ``channels``; None where it says nothing.

    Raises:
        ConfigError: if it is of another type.
    """
    found = getattr(step, name, None)
    if found is None:
        return None
    if kind is dict and isinstance(found, Mapping):
        return {str(key): str(value) for key, value in found.items()}
    if kind is tuple and isinstance(found, Sequence) and not isinstance(found, str):
        return tuple(str(one) for one in found)
    raise ConfigError(f"the step's attribute {name!r} is {found!r:.80}; expected a {kind.__name__}")
