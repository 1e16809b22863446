"""Members: what tells one forecast of an ensemble from another.

    member = (parameters, draw, sign)

    parameters   which network: index of a parameter set (a checkpoint, a Delta, a draw of a parameter perturbation)
    draw         which perturbation of the start; with the seed, the start time and ``parameters`` it keys every draw
    sign         +1 or -1 of that perturbation; 0 for none: a control forecast

A member is nothing else, so any one of them can be run again by itself (Mahesh et al. 2025, arXiv 2408.03100, store
seed and sign of 7,424 members for the same end).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError


@dataclass(frozen=True, order=True)
class Member:
    """One member of an ensemble.

    Attributes:
        parameters: index of the parameter set.
        draw: number of the perturbation; a lag, in a lagged ensemble.
        sign: +1, -1, or 0 for no perturbation.
    """

    parameters: int = 0
    draw: int = 0
    sign: int = 1

    def __post_init__(self) -> None:
        """Raise ConfigError for a number that cannot be meant."""
        for name in ("parameters", "draw"):
            object.__setattr__(self, name, whole(getattr(self, name), f"{name} of a member", least=0))
        sign = whole(self.sign, "sign of a member")
        if sign not in (-1, 0, 1):
            raise ConfigError(f"sign of a member is {sign}; expected 1, -1, or 0 for no perturbation")
        object.__setattr__(self, "sign", sign)


def deal(count: int, parameters: int | None = 1) -> list[Member]:
    """Return ``count`` members dealt over parameter sets in turn, each with a perturbation of its own.

    The first n of more are the n that are asked for alone, so an ensemble grows without changing.

    Args:
        count: M, one or more.
        parameters: how many parameter sets there are; None for a new one for each member.
    """
    count = whole(count, "members", least=1)
    if parameters is None:
        return [Member(i, 0) for i in range(count)]
    return [Member(i % parameters, i // parameters) for i in range(count)]


def cross(
    parameters: int = 1, draws: int = 1, signs: Sequence[int] = (1, -1), *, control: bool = False
) -> list[Member]:
    """Return every parameter set with every draw and sign: ``cross(29, 128)`` are the 7,424 of the paper.

    Members of opposite sign are no independent ones: the fair CRPS and the spread of a small ensemble of pairs are
    flattered. Ask for ``signs=(1,)`` where these are to be scored.

    Args:
        parameters: how many parameter sets.
        draws: perturbations for each.
        signs: signs of each perturbation.
        control: whether the first is the first parameter set without a perturbation, in place of its draw 0 at the
            first sign.

    Raises:
        ConfigError: for a number that cannot be meant.
    """
    networks, wanted = whole(parameters, "parameters", least=1), whole(draws, "draws", least=1)
    found = [Member(p, d, s) for p in range(networks) for d in range(wanted) for s in signs]
    if not found or len(set(found)) != len(found):
        raise ConfigError(f"signs are {tuple(signs)}; expected some of 1, -1 and 0, each once")
    return [Member(0, 0, 0), *found[1:]] if control else found


def checked(members: Any, parameters: int | None) -> list[Member]:
    """Return members given as a list, or as a number to be dealt.

    Raises:
        ConfigError: if there is none, one is no member, two are the same, or one has parameters that are not there.
    """
    if isinstance(members, str) or not isinstance(members, Sequence):
        count: Any = members
        return deal(count, parameters)
    for i, one in enumerate(members):
        if not isinstance(one, Member):
            raise ConfigError(f"member {i} is {one!r:.80}; expected Member(parameters, draw, sign), or give a number")
        if parameters is not None and one.parameters >= parameters:
            raise ConfigError(f"member {i} has parameters {one.parameters}, and there are {parameters} sets, from 0 on")
    if not members:
        raise ConfigError("an ensemble needs at least one member")
    if len(set(members)) != len(members):
        twice = next(one for i, one in enumerate(members) if one in members[:i])
        raise ConfigError(f"{twice} is twice among the members, and would be the same forecast; draw another")
    return list(members)
