"""extract: the delta between two checkpoints.

    D = tuned - base          per tensor, in float64, stored as float32 unless that would lose a number (difference.py)

Tensors that are equal are not in the delta, and no others are left out: bits may differ where numbers do not (-0.0 and
0.0, one value in two dtypes), and what a change cannot hold is refused by name. A tensor that cannot be read, such as a
sparse buffer, must be the same on both sides; the fingerprint then has no root.

Where at most a quarter of the rows of a matrix changed, only those are stored. With a rank, matrices are replaced by
their best approximation of that rank (Eckart and Young 1936), and the share of the energy that this discards is on
record.

Adding the stored difference to the base gives the tuned tensor up to half a unit in the last place of the
*difference*; ``dtype=torch.float64`` makes that exact for float32 checkpoints wherever float64 holds the difference.

Checkpoints on disk are read one tensor at a time.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dtheta.core.arguments import require_flag, require_rank_or_energy
from dtheta.core.change import Change, Dense, New, frobenius, matrix_shape
from dtheta.core.checkpoints import Checkpoint, open_checkpoint
from dtheta.core.delta import Delta
from dtheta.core.difference import difference
from dtheta.core.fingerprint import Fingerprint, merkle_root, tensor_digest
from dtheta.core.linalg import kept_of
from dtheta.core.lowrank import LowRank
from dtheta.core.provenance import Provenance
from dtheta.core.rows import Rows
from dtheta.core.stack_factors import factored_stack
from dtheta.core.stacked import is_stack
from dtheta.core.svd import full_svd, truncated_svd
from dtheta.core.tensors import aliases, attached_to, base_tensors, matches, same_bits, same_content, why_unreadable
from dtheta.errors import (
    ConfigError,
    DthetaWarning,
    ShapeMismatch,
    UnknownParameter,
    UnsupportedLayer,
)

Source = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]

# A matrix of which at most this share of the rows changed is stored by rows.
ROWS_SHARE = 0.25


def extract(
    base: Source,
    tuned: Source,
    rank: int | float | None = None,
    select: str | None = None,
    strict: bool = True,
    *,
    new: Literal["refuse", "keep"] = "refuse",
    dtype: torch.dtype = torch.float32,
) -> Delta:
    """Return the delta that leads from one checkpoint to another.

    Args:
        base: A module, tensors by name, or the path of a checkpoint.
        tuned: Likewise.
        rank: None for the exact difference. An integer: matrices at least that large become low-rank of that rank.
            A float in (0, 1): each matrix gets the smallest rank that holds that share of its energy (sum of squared
            singular values). A matrix whose factors would not be smaller than itself stays exact. Of experts that
            stand in one tensor, every one gets the rank.
        select: Glob over names of the base, alternatives joined by ``|``, one with ``!`` takes away; all by default.
        strict: Whether both must have the same names; else names that one side lacks are left out, and on record.
        new: What to do with tensors that only ``tuned`` has: ``"refuse"``, or ``"keep"`` them as new vectors.
        dtype: Dtype of the stored difference, float32 or float64.

    Returns:
        The delta. ``provenance.settings["discarded"]`` holds the discarded share of the energy by parameter.

    Raises:
        UnknownParameter: If one side lacks tensors of the other, or ``select`` matches nothing.
        ShapeMismatch: If a tensor has another shape in each.
        UnsupportedLayer: If a tensor is sharded, on the meta device, or of integers in one and floats in the other; if
            integers differ by more than 2**53.
        NonFinite: If a changed tensor holds NaN or infinity.
        ConfigError: For a rank or dtype that cannot be meant, something else than a tensor, or an adapter attached to
            ``tuned``.
        FormatError: If a checkpoint is damaged.
    """
    _check_arguments(rank, new, dtype)
    require_flag(strict, "strict")
    before, after = _Side.of(base, "base"), _Side.of(tuned, "tuned")
    pairs, missing, extra = _matched(before, after, select, strict, new)
    work = _Extraction(rank, dtype)
    for name, others in pairs.items():
        work.compare(name, before.tensor(name), [after.tensor(other) for other in others])
    kept = extra if new == "keep" else []
    for name in kept:
        work.keep(name, after.tensor(name))
    settings: dict[str, Any] = {"rank": rank, "select": select, "discarded": work.discarded}
    settings["left_out"] = [*missing, *(n for n in extra if n not in kept)]
    work.warn()
    root = merkle_root(work.digests) if select is None and not missing and not work.unreadable else None
    found = Fingerprint(work.digests, root).restrict(work.changes)
    made = Provenance("extract", settings={key: value for key, value in settings.items() if value})
    return Delta(work.changes, found, made)


def require_extractable(
    base: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    rank: int | float | None = None,
    select: str | None = None,
    strict: bool = True,
) -> None:
    """Raise what ``extract`` would raise on two checkpoints, as far as their headers tell; no tensor is read.

    Args:
        base: Path of a checkpoint.
        tuned: Likewise.
        rank: As of ``extract``, as are the others.
        select: Glob over names.
        strict: Whether both must have the same names.

    Raises:
        UnknownParameter, ShapeMismatch, UnsupportedLayer, ConfigError, FormatError: As ``extract``.
    """
    _check_arguments(rank, "refuse", torch.float32)
    before, after = open_checkpoint(base), open_checkpoint(tuned)
    pairs, _, _ = _matched(_Side.of(before, "base"), _Side.of(after, "tuned"), select, strict, "refuse")
    for name, others in pairs.items():
        _check_pair(name, *(_outline(side, key) for side, key in ((before, name), (after, others[0]))))


def _outline(side: Checkpoint, name: str) -> Tensor:
    """Return a tensor of the shape and dtype that a header tells, without numbers."""
    entry = side.info(name)
    return torch.empty(entry.shape, dtype=entry.dtype, device="meta")


def _check_arguments(rank: int | float | None, new: str, dtype: torch.dtype) -> None:
    if rank is not None:
        require_rank_or_energy(rank)
    if new not in ("refuse", "keep"):
        raise ConfigError(f"new must be 'refuse' or 'keep', found {new!r}")
    if dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"dtype must be torch.float32 or torch.float64, found {dtype}")


@dataclass(frozen=True)
class _Side:
    """One of the two checkpoints: its tensors, and the names that each of them goes by."""

    tensors: Mapping[str, Tensor]
    names: Mapping[str, list[str]]
    role: str

    def tensor(self, name: str) -> Tensor:
        """Return one tensor, read from disk where it is there."""
        found = self.tensors[name]
        if not isinstance(found, Tensor):
            raise ConfigError(f"{name}: the {self.role} holds a {type(found).__name__} there; expected a tensor")
        return found

    @classmethod
    def of(cls, source: Source, role: str) -> _Side:
        """Read what the caller gave."""
        if isinstance(source, nn.Module):
            if role == "tuned" and (attached := attached_to(source)):
                raise ConfigError(
                    f"an adapter is attached to {attached[0] or 'the tuned model'!r}, and its tensors do not show "
                    "what it does; its change is adapter.delta()"
                )
            names = {name: [o.name for o in held] for name, held in aliases(source).items()}
            return cls(base_tensors(source), names, role)
        if isinstance(source, (str, os.PathLike)):
            source = open_checkpoint(source)
        if not isinstance(source, Mapping):
            raise ConfigError(f"{role} is a {type(source).__name__}; expected a module, tensors by name, or a path")
        for name in source:
            if not isinstance(name, str):
                raise ConfigError(f"{role} has a name {name!r}; expected tensors by name, such as a state dict")
        return cls(source, {name: [name] for name in source}, role)


def _paired(before: _Side, after: _Side, select: str | None) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """Return the tensors of ``after`` by the tensor of ``before`` they belong to, and the names without a partner."""
    wanted = [name for name in before.tensors if select is None or matches(name, select)]
    canonical = {alias: name for name in before.tensors for alias in before.names[name]}
    pairs: dict[str, list[str]] = {name: [] for name in wanted}
    extra = []
    for name in after.tensors:
        partners = dict.fromkeys(canonical[alias] for alias in after.names[name] if alias in canonical)
        for partner in partners:
            if partner in pairs:
                pairs[partner].append(name)
        if not partners and (select is None or matches(name, select)):
            extra.append(name)
    if select is not None and not wanted and not extra:
        first = list(before.tensors)[:3]
        raise UnknownParameter(f"no tensor of the base matches {select!r}; the first names are {first}")
    missing = [name for name, others in pairs.items() if not others]
    return {name: others for name, others in pairs.items() if others}, missing, extra


def _matched(
    before: _Side, after: _Side, select: str | None, strict: bool, new: str
) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """Return what ``_paired`` does, after it is known that names need no more than was asked for."""
    pairs, missing, extra = _paired(before, after, select)
    if strict and (missing or (extra and new == "refuse")):
        raise UnknownParameter(_names_differ(missing, extra if new == "refuse" else []))
    if not pairs and not (extra and new == "keep"):
        first = ", ".join(list(after.tensors)[:3])
        raise UnknownParameter(
            f"no tensor of the base has a partner in the tuned checkpoint, which begins with {first}: nothing can be "
            "compared; give checkpoints of one architecture"
        )
    return pairs, missing, extra


def _names_differ(missing: list[str], extra: list[str]) -> str:
    parts = []
    if missing:
        first = ", ".join(missing[:3])
        parts.append(f"{len(missing)} tensors of the base are not in the tuned checkpoint, first: {first}")
    if extra:
        first = ", ".join(extra[:3])
        parts.append(f"{len(extra)} tensors of the tuned checkpoint are not in the base, first: {first}")
    advice = "; select=... compares a part of the names, strict=False those that both have"
    if extra:
        advice += ", and new='keep' takes new tensors, such as a head, into the delta"
    return "; ".join(parts) + advice


@dataclass
class _Extraction:
    """A comparison under way, one tensor at a time."""

    rank: int | float | None
    dtype: torch.dtype
    changes: dict[str, Change] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    discarded: dict[str, float] = field(default_factory=dict)
    dtypes: dict[str, tuple[torch.dtype, torch.dtype]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def keep(self, name: str, tensor: Tensor) -> None:
        """Take a tensor that only the tuned checkpoint has as a new vector."""
        if why := why_unreadable(tensor):
            raise UnsupportedLayer(f"{name}: cannot be taken as a new vector: {why}")
        nothing = torch.zeros_like(tensor)
        _check_pair(name, nothing, tensor)
        self.changes[name] = New(difference(name, nothing, tensor, self.dtype))

    def compare(self, name: str, base: Tensor, tuned: list[Tensor]) -> None:
        """Take the difference of one tensor of the base and what became of it, under one name or several."""
        why = next((why for tensor in (base, *tuned) if (why := why_unreadable(tensor))), "")
        if why and not all(same_content(base, tensor) for tensor in tuned):
            raise UnsupportedLayer(f"{name}: cannot be compared: {why}")
        if why:
            self.unreadable.append(name)
            return
        self.digests[name] = tensor_digest(base)
        if not all(same_bits(tuned[0], tensor) for tensor in tuned[1:]):
            raise UnsupportedLayer(f"{name}: tied in the base, but the tuned checkpoint holds different tensors for it")
        if same_bits(base, tuned[0]):
            return
        _check_pair(name, base, tuned[0])
        if base.dtype != tuned[0].dtype:
            self.dtypes[name] = (base.dtype, tuned[0].dtype)
        change = self._change(name, difference(name, base, tuned[0], self.dtype), base.is_floating_point())
        if change is not None:
            self.changes[name] = change

    def _change(self, name: str, step: Tensor, floating: bool) -> Change | None:
        rows, columns = matrix_shape(step.shape)
        matrix = step.reshape(rows, columns)
        touched = (matrix != 0).any(1).nonzero().flatten()
        if not touched.numel():  # other bits of the same numbers: no displacement
            return None
        if step.ndim == 2 and touched.numel() <= ROWS_SHARE * rows:
            return Rows(touched, matrix[touched], (rows, columns))
        if self.rank is None or step.ndim < 2 or not floating:
            return Dense(step)
        if is_stack(name, step.shape):
            return self._stack(name, step) or Dense(step)
        return self._low_rank(name, matrix, tuple(step.shape)) or Dense(step)

    def _stack(self, name: str, step: Tensor) -> Change | None:
        """Return the truncated change of every slice, or None where its factors would not be smaller."""
        _, m, n = step.shape
        most = min(m, n, (m * n - 1) // (m + n))
        if isinstance(self.rank, int) and self.rank > most:
            return None
        stack, lost = factored_stack(step, self.rank or 1.0)
        if stack.slice_rank > most:
            return None
        self.discarded[name] = min(1.0, lost / frobenius(step) ** 2)
        return stack

    def _low_rank(self, name: str, matrix: Tensor, shape: tuple[int, ...]) -> Change | None:
        """Return the truncated change, or None where its factors would not be smaller than the matrix."""
        m, n = matrix.shape
        most = (m * n - 1) // (m + n)
        if isinstance(self.rank, int):
            if self.rank > min(m, n, most):
                return None
            svd = truncated_svd(matrix, self.rank)
        else:
            svd = full_svd(matrix)
            svd = svd.truncate(kept_of(svd.S.double().square(), float(self.rank or 1.0)))
            if svd.rank > most:
                return None
        self.discarded[name] = min(1.0, svd.residual**2)
        return LowRank(*svd.balanced(), full_shape=shape)

    def warn(self) -> None:
        """Say once that the two checkpoints are not of one precision."""
        if not self.dtypes:
            return
        name, (base, tuned) = next(iter(self.dtypes.items()))
        warnings.warn(
            f"{len(self.dtypes)} tensors are stored in another dtype in each checkpoint (first: {name}, {base} in the "
            f"base, {tuned} in the tuned one). The delta is the exact difference, so it holds what rounding to the "
            "coarser dtype did beside what training did; compare checkpoints of one dtype to avoid that",
            DthetaWarning,
            stacklevel=3,
        )


def _check_pair(name: str, base: Tensor, tuned: Tensor) -> None:
    if base.shape != tuned.shape:
        hint = ""
        if base.ndim == tuned.ndim and base.ndim >= 1 and base.shape[1:] == tuned.shape[1:]:
            hint = (
                "; if this is an embedding or output layer that was resized for added tokens, resize that of the base "
                "in the same way first (model.resize_token_embeddings(n)), or leave it out with select"
            )
        shapes = f"{tuple(base.shape)}, the tuned checkpoint {tuple(tuned.shape)}"
        raise ShapeMismatch(f"{name}: the base has {shapes}{hint}")
    if base.is_floating_point() != tuned.is_floating_point() or base.is_complex() or tuned.is_complex():
        raise UnsupportedLayer(
            f"{name}: {base.dtype} in the base and {tuned.dtype} in the tuned checkpoint cannot be subtracted; if one "
            "of them is quantized, compare the unquantized checkpoints"
        )
