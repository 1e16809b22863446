"""Networks of an ensemble: one step, under many parameter sets.

    None                    the step itself
    a module, a callable    another step: a checkpoint that is loaded
    tensors by name         the step with these parameters, such as a state dict
    a path                  the same from disk: a .delta file, a .safetensors file or a checkpoint's folder
    a Delta                 the step with base + delta; its bits in the base are never written to
    ParameterPerturbation   a Delta for each index, drawn

Networks of one architecture can be stacked: ``vmap`` over their parameters turns many small products into one batched
product. Which tensors are stacked is settled once for the whole ensemble, not by who happens to be in a call, since
another stacking rounds otherwise.

A step whose result depends on the time (of day, of year) has a true attribute ``takes_time``; it is called as
``step(x, time)`` with the time at which x is valid, a numpy.datetime64.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from dtheta.core.apply import bind, originals
from dtheta.core.checkpoints import Checkpoint, open_checkpoint
from dtheta.core.delta import Delta
from dtheta.core.displace import displaced
from dtheta.core.files import read
from dtheta.core.fingerprint import fingerprint
from dtheta.core.header import Opened, open_delta
from dtheta.core.modes import kept_modes
from dtheta.ensemble.parameters import ParameterPerturbation
from dtheta.errors import ConfigError, ShapeMismatch, UnknownParameter, UnsupportedLayer, did_you_mean

Step: TypeAlias = Callable[..., Tensor]
#: One parameter set; see the module's docstring.
Parameters: TypeAlias = "Step | Mapping[str, Tensor] | Delta | str | os.PathLike[str] | None"


class Networks:
    """The step and its parameter sets.

    Attributes:
        step: the step that parameter sets change.
        sets: the parameter sets, or what draws them.
    """

    def __init__(self, step: Step, sets: Sequence[Parameters] | ParameterPerturbation | None, seed: int) -> None:
        """Check the parameter sets as far as that takes no reading.

        Raises:
            ConfigError: if the step cannot be called, or a set cannot be one.
        """
        if not callable(step):
            raise ConfigError(f"the step is {step!r:.80}; expected a module, or a function of states (B, ...)")
        self.step = step
        self.sets = [None] if sets is None else sets
        self._seed = seed
        self._files: dict[int, Checkpoint | Opened] = {}
        self._digests: dict[int, str] = {}
        self._held: dict[int, dict[str, Tensor]] = {}
        self._stacks: dict[tuple[int, ...], dict[str, Tensor]] = {}
        self._draw: Callable[[int, int], Delta] | None = None
        self._base: dict[str, Tensor] | None = None
        if not isinstance(self.sets, ParameterPerturbation):
            self.sets = _checked_sets(self.sets, step)
        elif not isinstance(step, nn.Module):
            raise ConfigError("a perturbation of parameters needs a step that is a torch.nn.Module")

    @property
    def count(self) -> int | None:
        """How many parameter sets there are; None where each is drawn."""
        return None if isinstance(self.sets, ParameterPerturbation) else len(self.sets)

    def call(self, networks: tuple[int, ...], x: Tensor, time: np.datetime64 | None) -> Tensor:
        """Return the states (B, ...) one step later; with N networks, the first B / N rows are those of the first."""
        if networks[1:]:
            return self._stacked(networks, x, time)
        own = self._own_step(networks[0])
        if own is not None:
            return own(x, *_time(own, time))
        assert isinstance(self.step, nn.Module)
        return torch.func.functional_call(self.step, self.tensors(networks[0]), (x, *_time(self.step, time)))

    def _stacked(self, networks: tuple[int, ...], x: Tensor, time: np.datetime64 | None) -> Tensor:
        step = self.step
        assert isinstance(step, nn.Module), "Ensemble has seen to it"
        if networks not in self._stacks:
            held = [self._made(network) for network in networks]  # the stack is a copy, so they need not be kept
            base = self._tensors_of_base()
            names = self._stacked_names()
            self._stacks[networks] = {n: torch.stack([one.get(n, base[n]).detach() for one in held]) for n in names}
        rows = x.reshape(len(networks), -1, *x.shape[1:])
        extra = _time(step, time)

        def one(tensors: dict[str, Tensor], states: Tensor) -> Tensor:
            return torch.func.functional_call(step, tensors, (states, *extra))

        return torch.func.vmap(one)(self._stacks[networks], rows).reshape(x.shape[0], *x.shape[1:])

    def _own_step(self, network: int) -> Step | None:
        """Return the step of a set that is one by itself."""
        if isinstance(self.sets, ParameterPerturbation):
            return None
        found: Any = self.sets[network]
        if found is None:
            return self.step
        own: Any = found if callable(found) else None
        return own

    def tensors(self, network: int) -> dict[str, Tensor]:
        """Return the tensors of a parameter set that may differ from the step's, by name; kept until ``release``.

        Raises:
            BaseMismatch, UnknownParameter, ShapeMismatch, UnsupportedLayer, NonFinite: as ``dt.applied``.
            ConfigError: for a function, which has no tensors.
        """
        if network not in self._held:
            self._held[network] = self._made(network)
        return self._held[network]

    def _made(self, network: int) -> dict[str, Tensor]:
        found = self._read(network)
        if found is None:
            return {}
        if isinstance(found, nn.Module):
            return _fitting(dict(_named(found)), self._tensors_of_base(), network)
        if isinstance(found, Mapping):
            return _fitting(found, self._tensors_of_base(), network)
        if not isinstance(found, Delta):
            raise ConfigError(f"parameter set {network} is a function, which cannot be stacked; give stack=1")
        assert isinstance(self.step, nn.Module)
        if found.new:
            raise UnsupportedLayer(
                f"parameter set {network} brings new vectors, such as {next(iter(found.new))!r}, which are no weights "
                "of the step; attach it to a copy of the step and give that as the parameter set"
            )
        base = originals(self.step)
        bound = bind(found, self.step)
        return {name: displaced(base[name], [change], name) for name, change in bound.changes.items()}

    def _read(self, network: int) -> Any:
        if isinstance(self.sets, ParameterPerturbation):
            if self._draw is None:
                assert isinstance(self.step, nn.Module)
                self._draw = self.sets.sampler(self.step)
            return self._draw(self._seed, network)
        found = self._content(network)
        return read(found) if isinstance(found, Opened) else found

    def _content(self, network: int) -> Any:
        """Return a parameter set; of a path the file there, open until ``release``: it runs as it was digested."""
        assert not isinstance(self.sets, ParameterPerturbation)
        found: Any = self.sets[network]
        if not isinstance(found, (str, os.PathLike)):
            return found
        if network not in self._files:
            self._files[network] = open_delta(found) if str(found).endswith(".delta") else open_checkpoint(found)
        return self._files[network]

    def _tensors_of_base(self) -> dict[str, Tensor]:
        if self._base is None:
            if not isinstance(self.step, nn.Module):
                raise ConfigError("parameter sets that are tensors or deltas need a step that is a torch.nn.Module")
            self._base = dict(_named(self.step))
        return self._base

    def _stacked_names(self) -> list[str]:
        """Return the names that any set may change: the touched ones where all are deltas, else all."""
        sets = self.sets
        if isinstance(sets, ParameterPerturbation):
            return list(self._made(0))
        if all(one is None or isinstance(one, Delta) for one in sets):
            touched = {name for one in sets if isinstance(one, Delta) for name in one}
            return [name for name in self._tensors_of_base() if name in touched]
        return list(self._tensors_of_base())

    @contextmanager
    def running(self) -> Iterator[None]:
        """Compute in eval mode and without gradients; modules get back the mode they had."""
        sets: Sequence[Any] = [] if isinstance(self.sets, ParameterPerturbation) else self.sets
        modules = [one for one in (self.step, *sets) if isinstance(one, nn.Module) and _trains(one)]
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for module in modules:
                stack.enter_context(kept_modes(module))
            yield

    def release(self) -> None:
        """Let go of the tensors that were made or read; files are looked at anew, should they be used again."""
        self._files.clear()
        self._digests.clear()
        self._held.clear()
        self._stacks.clear()

    def digests(self) -> list[str] | dict[str, Any]:
        """Return what the parameter sets are: digests, or names of functions; or how they are drawn."""
        if isinstance(self.sets, ParameterPerturbation):
            return {"base": digest(self.step), **self.sets.to_dict()}
        return [self._digest(network) for network in range(len(self.sets))]

    def _digest(self, network: int) -> str:
        found = self._content(network)
        if isinstance(found, Opened):
            return found.header.digest  # which its content is held to when it runs
        if not isinstance(found, Checkpoint):
            return digest(self.step if found is None else found)
        if network not in self._digests:  # taken once: a file that was replaced meanwhile does not run
            self._digests[network] = fingerprint(found).digest
        return self._digests[network]


def digest(found: Step | Mapping[str, Tensor] | Delta) -> str:
    """Return the identity of a parameter set: its content where it has tensors, else its name and settings."""
    if isinstance(found, Delta):
        return found.digest
    if isinstance(found, (nn.Module, Mapping)):
        return fingerprint(found).digest
    settings = getattr(getattr(found, "__self__", found), "to_dict", None)  # of the flow whose method this is
    name = getattr(found, "__qualname__", type(found).__qualname__)
    return f"{name} {settings()}" if callable(settings) else name


def _time(step: Step, time: np.datetime64 | None) -> tuple[np.datetime64, ...]:
    if not getattr(step, "takes_time", False):
        return ()
    if time is None:
        raise ConfigError("this step takes the time, and the start has none; give time='2020-01-31T00', say")
    return (time,)


def _trains(module: nn.Module) -> bool:
    return any(part.training for part in module.modules())


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and persistent buffers, as a state dict has them."""
    yield from module.named_parameters()
    transient = {
        f"{path}.{name}".removeprefix(".")
        for path, part in module.named_modules()
        for name in part._non_persistent_buffers_set
    }
    yield from ((name, buffer) for name, buffer in module.named_buffers() if name not in transient)


def _fitting(found: Mapping[str, Tensor], base: Mapping[str, Tensor], network: int) -> dict[str, Tensor]:
    """Return tensors that replace all of the base's.

    Raises:
        UnknownParameter, ShapeMismatch: naming the first that does not fit.
    """
    for name in found:
        if name not in base:
            raise UnknownParameter(
                f"parameter set {network} has {name!r}, which the step has not{did_you_mean(name, base)}"
            )
    fitting = {}
    for name, tensor in base.items():
        if name not in found:
            raise UnknownParameter(f"parameter set {network} has no {name!r}; expected all tensors of the step")
        own = found[name]  # which reads it, of a file
        if own.shape != tensor.shape:
            raise ShapeMismatch(
                f"{name}: parameter set {network} has {tuple(own.shape)}, the step {tuple(tensor.shape)}"
            )
        both = own.is_floating_point() and tensor.is_floating_point()  # as a state dict is loaded
        fitting[name] = own.detach().to(tensor.device, tensor.dtype if both else own.dtype)
    return fitting


def _checked_sets(sets: Any, step: Step) -> list[Any]:
    if isinstance(sets, (str, Mapping, nn.Module, Delta)) or not isinstance(sets, Sequence) or not sets:
        raise ConfigError(
            f"parameters are a {type(sets).__name__}; expected a list of checkpoints: modules, state dicts, deltas, "
            "paths, or None for the step itself"
        )
    for i, one in enumerate(sets):
        if isinstance(one, (Delta, Mapping, str, os.PathLike)):
            if not isinstance(step, nn.Module):
                raise ConfigError(f"parameter set {i} changes weights, so the step must be a torch.nn.Module")
        elif one is not None and not callable(one):
            raise ConfigError(
                f"parameter set {i} is {one!r:.80}; expected a module, tensors by name, a Delta or a path"
            )
    return list(sets)
