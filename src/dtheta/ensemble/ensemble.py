"""Ensemble: many forecasts of one start, each by its own network and from its own perturbed state.

    x_m(0)     = analysis + perturbation of member m              (perturbation.py, bred.py, noise.py)
    x_m(t + 1) = M_m(x_m(t))                                      (networks.py)

All members of a lead are computed before the next lead, so scores can follow a run of any size: what is in memory is
one state a member, twice. Where that is too much, ``only`` cuts an ensemble into parts that are run one after the
other. A member's bits depend on the seed, the start and the member, not on who else is run (blocks.py): alone, in
another order, on another process they are the same, on the same kind of machine with the same number of threads.

Shape legend: M members, B rows of a block, ... the state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dtheta._version import __version__
from dtheta.core.arguments import number, whole
from dtheta.ensemble.blocks import Block, blocks
from dtheta.ensemble.bred import settings_of
from dtheta.ensemble.checks import (
    check_finite,
    check_output,
    check_perturbed,
    checked_leads,
    checked_past,
    checked_state,
)
from dtheta.ensemble.members import Member, checked
from dtheta.ensemble.networks import Networks, Parameters, Step
from dtheta.ensemble.parameters import ParameterPerturbation
from dtheta.ensemble.perturbation import Perturbation, Rows, Start
from dtheta.ensemble.times import Time, moved, start_time
from dtheta.errors import ConfigError

ROWS = 16  # larger ones gain little: 5 % from 8 to 64 for a small SFNO on one CPU thread


class Ensemble:
    """Forecasts of many members.

    Attributes:
        members: the members.
        seed: of all draws.
        hours: length of a step.
    """

    def __init__(
        self,
        step: Step,
        members: int | Sequence[Member] = 1,
        *,
        parameters: Sequence[Parameters] | ParameterPerturbation | None = None,
        perturbation: Perturbation | None = None,
        seed: int = 0,
        rows: int | None = None,
        stack: int = 1,
        hours: float | None = None,
        nonnegative: Sequence[int] = (),
    ) -> None:
        """Say what the ensemble is; nothing is run, read or drawn yet.

        Args:
            step: a module or function that takes states (B, ...) one step further. One with a true attribute
                ``takes_time`` is called with the time as well.
            members: the members; or how many, which are then dealt over the parameter sets in turn.
            parameters: parameter sets, see ``networks``: checkpoints, state dicts, deltas, paths; or what draws them.
                None: the step alone.
            perturbation: of the start; None for none.
            seed: of all draws.
            rows: how many states a network is called with, always; part of what the ensemble is, since the last bits
                depend on it. By default 16, or 1 where every member has parameters of its own.
            stack: how many networks are computed in one batched call (``vmap``); for small networks with few members
                each. Part of what the ensemble is, too.
            hours: length of a step in hours; None for what the step says (``step.hours``), else 6.
            nonnegative: channels (of the first axis of a state) that are set to 0 where a perturbation makes them
                negative: humidity, precipitation.

        Raises:
            ConfigError: for something that cannot be meant.
        """
        self._networks = Networks(step, parameters, seed)
        self.members = checked(members, self._networks.count)
        if perturbation is not None and not isinstance(perturbation, Perturbation):
            raise ConfigError(f"perturbation is {perturbation!r:.80}; expected one such as BredVectors(...), or None")
        self._perturbation = perturbation
        self.seed = whole(seed, "seed")
        own = isinstance(parameters, ParameterPerturbation)
        self._rows = whole((1 if own else ROWS) if rows is None else rows, "rows", least=1)
        self._stack = whole(stack, "stack", least=1)
        if self._stack > 1 and not isinstance(step, torch.nn.Module):
            raise ConfigError("networks can be stacked where the step is a torch.nn.Module; give stack=1")
        self.hours = number(getattr(step, "hours", 6.0) if hours is None else hours, "hours")
        if self.hours <= 0:
            raise ConfigError(f"hours is {self.hours!r}; expected the length of a step, above 0")
        self._nonnegative = [whole(channel, "a channel of nonnegative", least=0) for channel in nonnegative]
        self._blocks = blocks(self.members, self._rows, self._stack)

    def __len__(self) -> int:
        """M."""
        return len(self.members)

    @property
    def blocks(self) -> list[Block]:
        """What the networks are called with at each step."""
        return list(self._blocks)

    @property
    def past(self) -> int:
        """How many analyses before the start the perturbation needs."""
        return 0 if self._perturbation is None else self._perturbation.past

    def only(self, which: Sequence[int]) -> Ensemble:
        """Return the ensemble of some of the members, by their indices; each gives the bits it gives here."""
        indices = [whole(i, "index of a member", least=0) for i in which]
        if indices and max(indices) >= len(self):
            raise ConfigError(f"there is no member {max(indices)}; the ensemble has {len(self)}, from 0 on")
        part = object.__new__(Ensemble)
        part.__dict__.update(self.__dict__)
        part.members = checked([self.members[i] for i in indices], self._networks.count)
        part._blocks = blocks(part.members, self._rows, self._stack)
        return part

    def run(
        self,
        state: Tensor,
        leads: int | Sequence[int],
        *,
        past: Tensor | Sequence[Tensor] | None = None,
        time: Time = 0,
        since: tuple[int, Tensor] | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Run all members and yield (lead, states (M, ...)), one lead after the other.

        The tensor of a lead is the one from which the next is computed: read it, copy it, do not write to it.

        Args:
            state: the analysis (...) from which members start, valid at ``time``; floating point.
            leads: the last lead in steps, then all from 0 on are yielded; or those to be yielded, ascending.
            past: analyses (K, ...) before it, one step apart, the oldest first; the last ``self.past`` are used.
            time: of the start, a date or a number; it keys the draws, so every start has others.
            since: a lead and the states (M, ...) there, from which to go on; leads up to it are not yielded.

        Raises:
            ConfigError: for leads or a time that cannot be meant, or too few analyses.
            ShapeMismatch: for analyses of different shapes, or a step that changes the shape.
            NonFinite: for NaN or infinity in an analysis, or once a member has them, naming where.
        """
        wanted = checked_leads(leads)
        when = start_time(time)
        start = Start(checked_state(state), checked_past(past, state, self.past), str(when))
        for channel in self._nonnegative:
            if state.ndim == 0 or channel >= len(state):
                raise ConfigError(f"nonnegative names channel {channel}, and a state is {tuple(state.shape)}")
        return self._run(start, wanted, _Steps(self, when), since)

    def _run(
        self, start: Start, leads: list[int], steps: _Steps, since: tuple[int, Tensor] | None
    ) -> Iterator[tuple[int, Tensor]]:
        lead, x = (0, None) if since is None else since
        if x is None:
            with self._networks.running():
                x = self._first(start, steps)
            if leads[0] == 0:
                yield 0, x
        for wanted in (lead_ for lead_ in leads if lead_ > lead):
            while lead < wanted:
                with self._networks.running():
                    x = self._next(x, lead, steps)
                lead += 1
            yield lead, x

    def _first(self, start: Start, steps: _Steps) -> Tensor:
        """Return the first states (M, ...)."""
        if self._perturbation is None:
            return start.state.repeat(len(self), *[1] * start.state.ndim)
        x = start.state.new_empty(len(self), *start.state.shape)
        for block in self._blocks:
            rows = Rows(block.members, self.seed, start.label)
            states = self._perturbation.states(start, rows, steps.of(block))
            check_perturbed(states, rows, start.state)
            block.put(states, x)
        check_finite(x, self.members, 0)
        for channel in self._nonnegative:
            x[:, channel].clamp_(min=0)
        return x

    def _next(self, x: Tensor, lead: int, steps: _Steps) -> Tensor:
        """Return the states (M, ...) one step later."""
        after = torch.empty_like(x)
        for block in self._blocks:
            block.put(steps.of(block)(block.take(x), lead), after)
        check_finite(after, self.members, lead + 1)
        return after

    def replay(
        self,
        member: int | Member,
        state: Tensor,
        leads: int | Sequence[int],
        *,
        past: Tensor | Sequence[Tensor] | None = None,
        time: Time = 0,
    ) -> Iterator[tuple[int, Tensor]]:
        """Run one member alone and yield (lead, state (...)), with the bits that it has in the ensemble.

        Args:
            member: its index, or itself; it need not be among the members.
            state: the analysis, as in ``run``.
            leads: as in ``run``.
            past: as in ``run``.
            time: as in ``run``.

        Raises:
            ConfigError, ShapeMismatch, NonFinite: as ``run``.
        """
        if isinstance(member, Member):
            alone = self.only([0])
            alone.members = checked([member], self._networks.count)
            alone._blocks = blocks(alone.members, self._rows, self._stack)
        else:
            alone = self.only([member])
        return ((lead, x[0]) for lead, x in alone.run(state, leads, past=past, time=time))

    def release(self) -> None:
        """Let go of the parameters that runs have read or drawn; the next run makes them again."""
        self._networks.release()

    def to_dict(self) -> dict[str, Any]:
        """Return what makes the bits: members, parameters by their digests, perturbation, seed, rows and stack."""
        return {
            "dtheta": __version__,
            "torch": torch.__version__,
            "members": [[m.parameters, m.draw, m.sign] for m in self.members],
            "parameters": self._networks.digests(),
            "perturbation": settings_of(self._perturbation),
            "seed": self.seed,
            "rows": self._rows,
            "stack": self._stack,
            "hours": self.hours,
            "nonnegative": self._nonnegative,
        }

    def __repr__(self) -> str:
        sets = self._networks.count or "drawn"
        return f"Ensemble({len(self)} members, parameter sets: {sets}, calls a step: {len(self._blocks)})"


class _Steps:
    """Steps of the blocks of an ensemble that starts at a time."""

    def __init__(self, ensemble: Ensemble, time: Any) -> None:
        self._networks = ensemble._networks
        self._hours = ensemble.hours
        self._time = time

    def of(self, block: Block) -> Any:
        """Return the function that takes the states (B, ...) of a block one step further."""

        def advance(x: Tensor, at: int) -> Tensor:
            after = self._networks.call(block.networks, x, moved(self._time, at * self._hours))
            return check_output(after, x)

        return advance
