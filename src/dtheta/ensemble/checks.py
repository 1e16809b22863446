"""What goes into a run and what comes out of its steps, checked: gaps, shapes, leads, members that blow up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.ensemble.members import Member
from dtheta.ensemble.perturbation import Rows
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch

#: True where a cell counts, (*cells) or (C, *cells); or what gives it for a start and lead. None where all count.
Mask: TypeAlias = Tensor | Callable[[Any, float], Tensor] | None


def checked_state(state: Any, what: str = "the analysis") -> Tensor:
    """Return a state (...) without a gap.

    Raises:
        ConfigError: if it is no tensor of floating-point numbers.
        NonFinite: for NaN or infinity, naming the first.
    """
    if not isinstance(state, Tensor) or not state.is_floating_point():
        found = state.dtype if isinstance(state, Tensor) else type(state).__name__
        raise ConfigError(f"{what} is {found}; expected a tensor of floating-point numbers, without a batch axis")
    bad = ~torch.isfinite(state)
    if bool(bad.any()):
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise NonFinite(f"{what} has {int(bad.sum()):,} gaps (NaN or infinity), the first at {first}; fill them first")
    return state.detach()


def checked_past(past: Any, state: Tensor, needed: int) -> Tensor:
    """Return the last ``needed`` analyses (K, ...) before the start.

    Raises:
        ConfigError: if there are fewer.
        ShapeMismatch: if they are of another shape than the analysis.
        NonFinite: for gaps.
    """
    held = [] if past is None else list(past)
    if len(held) < needed:
        raise ConfigError(
            f"the perturbation needs {needed} analyses before the start, one step apart, and {len(held)} were given: "
            "past=[...], the oldest first, without the start itself"
        )
    held = held[len(held) - needed :]
    for i, one in enumerate(held):
        what = f"the analysis {needed - i} steps before the start"
        checked_state(one, what)
        if one.shape != state.shape or one.dtype != state.dtype or one.device != state.device:
            found = f"{tuple(one.shape)}, {one.dtype} on {one.device}"
            wanted = f"{tuple(state.shape)}, {state.dtype} on {state.device}"
            raise ShapeMismatch(f"{what} is {found}; expected {wanted}, as the analysis at the start")
    return torch.stack(held).detach() if held else state.new_empty(0, *state.shape)


def checked_leads(leads: Any) -> list[int]:
    """Return the leads to be yielded.

    Raises:
        ConfigError: if there is none, or they are not ascending.
    """
    if isinstance(leads, str) or not isinstance(leads, Sequence):
        return list(range(whole(leads, "leads", least=0) + 1))
    found = [whole(lead, "a lead", least=0) for lead in leads]
    if not found or any(b <= a for a, b in pairwise(found)):
        raise ConfigError(f"leads are {list(leads)!r:.80}; expected whole numbers of steps, ascending, at least one")
    return found


def check_output(after: Any, before: Tensor) -> Tensor:
    """Return what a step gave.

    Raises:
        ShapeMismatch: if it is no tensor, or not like what went in.
    """
    if not isinstance(after, Tensor) or after.shape != before.shape or after.dtype != before.dtype:
        found = f"{tuple(after.shape)}, {after.dtype}" if isinstance(after, Tensor) else type(after).__name__
        raise ShapeMismatch(
            f"the step made {found} of states {tuple(before.shape)}, {before.dtype}; expected the same shape and dtype"
        )
    return after


def check_perturbed(states: Tensor, rows: Rows, state: Tensor) -> None:
    """Raise unless a perturbation gave a state like the analysis for each row.

    Raises:
        ShapeMismatch: naming both shapes.
    """
    wanted = (len(rows), *state.shape)
    if tuple(states.shape) != wanted or states.dtype != state.dtype:
        found = f"{tuple(states.shape)}, {states.dtype}"
        raise ShapeMismatch(f"the perturbation made states {found}; expected {wanted}, {state.dtype}")


def check_finite(x: Tensor, members: Sequence[Member], lead: int) -> None:
    """Raise where a member (M, ...) is no longer finite.

    Raises:
        NonFinite: naming the first such member, the lead and the place.
    """
    if bool(torch.isfinite(x.sum())):  # one pass; a sum that overflows is settled by the full check
        return
    for index, state in enumerate(x):
        bad = ~torch.isfinite(state)
        if bool(bad.any()):
            first = tuple(int(i) for i in bad.nonzero()[0])
            raise NonFinite(
                f"member {index}, {members[index]}, is no longer finite at lead {lead}: {int(bad.sum()):,} values, the "
                f"first at {first}; its network or its perturbation is too strong; ensemble.only(...) runs the others"
            )


def mask_at(mask: Mask, start: Any, lead: float) -> Tensor | None:
    """Return which cells count at a start and lead; None for all."""
    return mask if mask is None or isinstance(mask, Tensor) else mask(start, lead)


def checked_triple(item: Any) -> tuple[Any, Any, Any]:
    """Return the start, lead and members of a forecast without labels.

    Raises:
        ConfigError: if it is something else.
    """
    if not isinstance(item, tuple | list) or len(item) != 3:
        raise ConfigError(
            f"a forecast is a {type(item).__name__}; expected an archive, labeled data, or (start, lead, members)"
        )
    start, lead, members = item
    return start, lead, members
