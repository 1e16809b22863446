"""Family: deltas that a command takes together, as their headers tell, and the part of them that can be combined.

Deltas of classifiers have a head each. Heads of one set of classes can be added; those of different ones are rows of
different meaning, so that such deltas have only what they do to the encoder in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dtheta.cli.fits import require_kin, require_one_base
from dtheta.errors import ConfigError, UnknownParameter, did_you_mean

if TYPE_CHECKING:
    from dtheta.core.delta import Delta
    from dtheta.core.header import Header

ENCODER, HEAD = "encoder.*", "head.*"
SCORES = ("accuracy", "gain")  # what a task's record says of the very delta, and of nothing made from it
_AXES = ("kind", "classes", "pooling")  # what has to be one for the rows of two heads to mean the same


def has_head(names: Iterable[str]) -> bool:
    """Tell whether a delta with these names brings a classifier's head."""
    return any(name.startswith("head.") for name in names)


def require_family(headers: Sequence[Header], select: str | None) -> str | None:
    """Return the glob of what several deltas are to be combined in; None for all of them.

    Args:
        headers: Of the deltas.
        select: What was asked for; None leaves out the heads where these are of different tasks.

    Raises:
        BaseMismatch: If the deltas are of different bases.
        UnknownParameter: If the selection takes nothing of one.
    """
    if select is None and _of_several_tasks(headers):
        select = ENCODER
    require_one_base(headers, select)
    for header in headers:
        require_some(header, select)
    require_kin(headers, select)
    return select


def require_some(header: Header, select: str | None) -> None:
    """Raise unless a selection takes something of a delta.

    Raises:
        UnknownParameter: Naming the file.
    """
    from dtheta.core.kinds import NEW_KINDS
    from dtheta.core.tensors import matches

    if select is not None and not any(matches(name, select) for name in header.changes):
        near = did_you_mean(select, header.changes)
        if select == ENCODER and any(change["kind"] in NEW_KINDS for change in header.changes.values()):
            near = (
                " (deltas of different tasks, and those that are given a --head, meet in the encoder's weights alone; "
                "this one moves none of them, as a prompt does, and is attached by itself)"
            )
        raise UnknownParameter(f"{header.path}: no change matches {select!r}{near}; 'dtheta show FILE' lists them")


def require_head(header: Header) -> None:
    """Raise unless a delta is a classifier's and brings its head.

    Raises:
        ConfigError: Naming the file.
    """
    if "classes" not in header.provenance.task or not has_head(header.changes):
        raise ConfigError(
            f"--head {header.path}: this delta has no classifier's head; give the one that 'dtheta adapt' made for the "
            "task, or a compressed form of it"
        )


def require_one_task(headers: Sequence[Header], select: str | None) -> None:
    """Raise where a selection takes the heads of different tasks.

    Raises:
        ConfigError: Saying how to do without them.
    """
    from dtheta.core.tensors import matches

    taken = [h for h in headers if any(select is None or matches(n, select) for n in h.changes if has_head([n]))]
    if _of_several_tasks(taken):
        raise ConfigError(
            "these deltas are of different tasks, so the sum of their heads is the head of none; "
            "--select 'encoder.*' merges the pretrained part alone"
        )


def _of_several_tasks(headers: Sequence[Header]) -> bool:
    return len({_axes(header.provenance.task) for header in headers if has_head(header.changes)}) > 1


def _axes(task: Mapping[str, Any]) -> str:
    return repr([task.get(name) for name in _AXES])


def common_task(tasks: Sequence[Mapping[str, Any]], whole: bool) -> dict[str, Any]:
    """Return what several deltas' records of their tasks agree on.

    Args:
        tasks: The records.
        whole: Whether the heads are part of what is combined; without them, the result is no classifier.
    """
    known = {key: value for key, value in tasks[0].items() if key not in SCORES}
    shared = {key: value for key, value in known.items() if all(task.get(key) == value for task in tasks)}
    if whole and "classes" in shared:
        return shared
    return {key: shared[key] for key in ("model", "max_length") if key in shared}


def part_of(delta: Delta, select: str | None) -> Delta:
    """Return what a selection takes of a delta; the delta itself where it takes all."""
    from dtheta.core.tensors import matches

    return delta if select is None or all(matches(name, select) for name in delta) else delta.restrict(select)
