"""Coefficients: with how much of each delta to move each parameter.

    theta^(j) = theta0^(j) + sum_i c_i^(j) tau_i^(j)                       one number per (delta i, block j)
    theta_e   = theta0_e   + sum_i c_i^(j, k(e)) tau_i,e                   and per part k of the block, if K > 1

A block is one named tensor of the model. These n m K numbers are all that aTLAS learns (Zhang et al. 2024, arXiv
2407.02880); everything else of a composition is the deltas themselves, which the record names by their digests, and
the partition, which a seed gives again (partition.py). So the record, kept as plain JSON in the provenance of what was
composed, makes the same bits again.

Shape legend: n deltas, m blocks, K parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dtheta.compose.report import Report
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, FormatError, NonFinite, ShapeMismatch, UnknownParameter, did_you_mean


@dataclass(frozen=True, eq=False)
class Coefficients:
    """One number per delta, block and part.

    Attributes:
        deltas: Digests of the n deltas, in order.
        parameters: Names of the m blocks, in order.
        values: (n, m, K) float64 on the CPU, not to be written to; zero where a delta does not change a block.
        seed: Of the partition; None if K is 1.
        report: How they were learned, if they were; no part of their identity, and not stored.

    Raises:
        ShapeMismatch: If the values do not fit the names.
        NonFinite: If one of them is NaN or infinite.
        ConfigError: If there are several parts and no seed, or a name occurs twice.
    """

    deltas: tuple[str, ...]
    parameters: tuple[str, ...]
    values: Tensor
    seed: int | None = None
    report: Report | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "deltas", tuple(self.deltas))
        object.__setattr__(self, "parameters", tuple(self.parameters))
        object.__setattr__(self, "values", self.values.detach().to("cpu", torch.float64, copy=True).contiguous())
        n, m = len(self.deltas), len(self.parameters)
        shape = tuple(self.values.shape)
        if len(shape) != 3 or shape[:2] != (n, m) or shape[2] < 1:
            raise ShapeMismatch(f"coefficients of shape {shape} for {n} deltas and {m} blocks; expected ({n}, {m}, K)")
        if not bool(torch.isfinite(self.values).all()):
            i, j, _ = (~torch.isfinite(self.values)).nonzero()[0].tolist()
            raise NonFinite(f"the coefficient of delta {i} for {self.parameters[j]} is not finite")
        if self.parts > 1 and self.seed is None:
            raise ConfigError(f"{self.parts} parts a block need the seed of the partition")
        if len(set(self.parameters)) != m:
            raise ConfigError("the coefficients name a parameter twice")

    @classmethod
    def zeros(cls, deltas: Sequence[Delta], parts: int = 1, seed: int | None = None) -> Coefficients:
        """Return zeros for every block that one of the deltas changes: the base as it is."""
        names = blocks(deltas)
        values = torch.zeros(len(deltas), len(names), parts, dtype=torch.float64)
        return cls(tuple(d.digest for d in deltas), names, values, seed if parts > 1 else None)

    @property
    def parts(self) -> int:
        """Number of parts K of each block."""
        return self.values.shape[2]

    def of(self, delta: int, parameter: str) -> Tensor:
        """Return the K coefficients of one delta and block.

        Raises:
            UnknownParameter: If there is no such block.
        """
        if parameter not in self.parameters:
            near = did_you_mean(parameter, self.parameters)
            raise UnknownParameter(f"these coefficients have no block {parameter!r}{near}")
        return self.values[delta, self.parameters.index(parameter)].clone()

    def of_delta(self, delta: int) -> dict[str, float | list[float]]:
        """Return the coefficients of one delta by block: a number each, or K of them."""
        found = self.values[delta].tolist()
        return {name: row if self.parts > 1 else row[0] for name, row in zip(self.parameters, found, strict=True)}

    def to_settings(self) -> dict[str, Any]:
        """Return the record as plain JSON: lists, names, numbers that read back to the same bits."""
        return {
            "deltas": list(self.deltas),
            "parameters": list(self.parameters),
            "values": self.values.tolist() if self.parts > 1 else self.values[..., 0].tolist(),
            "parts": self.parts,
            "seed": self.seed,
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Coefficients:
        """Return the record that ``to_settings`` described.

        Raises:
            FormatError: If something is missing, unknown, or of the wrong type or size.
        """
        _check(settings)
        n, m, parts = len(settings["deltas"]), len(settings["parameters"]), settings["parts"]
        numbers = list(_numbers(settings["values"], (n, m) if parts == 1 else (n, m, parts)))
        values = torch.tensor(numbers, dtype=torch.float64).reshape(n, m, parts)
        try:
            return cls(tuple(settings["deltas"]), tuple(settings["parameters"]), values, settings["seed"])
        except (ConfigError, ShapeMismatch, NonFinite) as error:
            raise FormatError(f"these settings are no coefficients: {error}") from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Coefficients):
            return NotImplemented
        return self._named() == other._named() and torch.equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash(self._named())

    def _named(self) -> tuple[Any, ...]:
        return self.deltas, self.parameters, self.seed, tuple(self.values.shape)

    def __repr__(self) -> str:
        n, m, parts = self.values.shape
        sizes = f"{n} deltas, {m} blocks" + (f", {parts} parts" if parts > 1 else "")
        largest = float(self.values.abs().max()) if self.values.numel() else 0.0
        return f"Coefficients({sizes}, {int(self.values.count_nonzero())} not zero, largest {largest:.4g})"


def blocks(deltas: Sequence[Delta]) -> tuple[str, ...]:
    """Return the names of the parameters that one of the deltas changes, each once, in order of first appearance."""
    return tuple(dict.fromkeys(name for delta in deltas for name in delta.changes))


def changed(deltas: Sequence[Delta], names: Sequence[str]) -> Tensor:
    """Return, as bool (n, m), which delta changes which block."""
    return torch.tensor([[name in delta for name in names] for delta in deltas], dtype=torch.bool).reshape(
        len(deltas), len(names)
    )


_FIELDS: dict[str, Any] = {"deltas": list, "parameters": list, "values": list, "parts": int, "seed": (int, type(None))}


def _check(settings: Mapping[str, Any]) -> None:
    if not isinstance(settings, Mapping) or set(settings) != set(_FIELDS):
        found = sorted(settings) if isinstance(settings, Mapping) else type(settings).__name__
        raise FormatError(f"coefficients are described by {sorted(_FIELDS)}, found {found}")
    for name, kind in _FIELDS.items():
        if not isinstance(settings[name], kind) or isinstance(settings[name], bool):
            raise FormatError(f"coefficients: {name!r} is a {type(settings[name]).__name__}")
    if settings["parts"] < 1 or not all(isinstance(n, str) for n in settings["deltas"] + settings["parameters"]):
        raise FormatError("coefficients need names of deltas and parameters, and at least one part")


def _numbers(nested: Any, shape: tuple[int, ...]) -> Iterator[float]:
    """Yield the numbers in nested lists of a given shape."""
    if not shape:
        if isinstance(nested, bool) or not isinstance(nested, (int, float)) or not math.isfinite(nested):
            raise FormatError(f"coefficients: {nested!r} is no finite number")
        yield float(nested)
        return
    if not isinstance(nested, list) or len(nested) != shape[0]:
        raise FormatError(f"coefficients: a list of {shape[0]} was expected among the values")
    for part in nested:
        yield from _numbers(part, shape[1:])
