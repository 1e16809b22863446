"""Compose: deltas of one base, each with its own weight, block by block, become one delta.

    delta^(j) = sum_i c_i^(j) tau_i^(j)

Task arithmetic (Ilharco et al. 2022, arXiv 2212.04089) with one coefficient a delta, or the anisotropic scaling of
aTLAS (arXiv 2407.02880) with one a delta and block. Terms stay what they are (low-rank, ternary, ...), so the sum is
exact; terms whose coefficient is zero are left out, and a block where all are zero is not changed. Only where a block
is split into parts (partition.py) does the result become dense: masks leave no factors.

Shape legend: n deltas, m blocks, K parts.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dtheta.compose.coefficients import Coefficients, blocks, changed
from dtheta.compose.partition import part_ids
from dtheta.core.arguments import coefficient, listed
from dtheta.core.change import Change, Dense, matrix_shape, slabs
from dtheta.core.combination import add, scale
from dtheta.core.delta import Delta, derived, refuse_gradient, total
from dtheta.errors import BaseMismatch, ConfigError, ShapeMismatch, UnknownParameter, UnsupportedLayer, did_you_mean

#: One number; one a delta; a mapping of blocks to numbers per delta; an (n, m) tensor; or the record itself.
Weights: TypeAlias = float | Sequence[float] | Sequence[Mapping[str, float]] | Tensor | Coefficients


def compose(deltas: Delta | Sequence[Delta], coefficients: Weights) -> Delta:
    """Return the sum of multiples of deltas of one base.

    The result's provenance names its parents and holds the coefficients; ``compose(parents,
    Coefficients.from_settings(result.provenance.settings["coefficients"]))`` makes the same bits again.

    Args:
        deltas: n deltas, or one.
        coefficients: One number for all; n numbers, one a delta; n mappings {parameter: number}, which name every
            parameter that the delta changes; a tensor (n, m) over the blocks, in order of first appearance in the
            deltas; or ``Coefficients``, such as ``learn_coefficients`` returns.

    Raises:
        ConfigError: If there are no deltas, too few or too many coefficients, or one is no number.
        BaseMismatch: If deltas were made on different bases, or the coefficients for other deltas.
        ShapeMismatch: If deltas disagree on a shape, or a tensor of coefficients does not fit.
        UnknownParameter: If coefficients name a parameter that no delta changes.
        NonFinite: If a coefficient is NaN or infinite.
        UnsupportedLayer: If a new vector (a prompt, a head) is to be split into parts.
    """
    deltas = listed(deltas)
    joint = total(deltas)
    resolved = resolve(deltas, coefficients)
    changes = {}
    for j, name in enumerate(resolved.parameters):
        found = {i: d.changes[name] for i, d in enumerate(deltas) if name in d and bool(resolved.values[i, j].any())}
        if found:
            changes[name] = combined(name, found, resolved.values[:, j], resolved.seed)
    made = derived("compose", deltas, coefficients=resolved.to_settings())
    if resolved.seed is not None:
        made = replace(made, seed=resolved.seed)
    return Delta(changes, joint.base.restrict(changes), made)


def combined(name: str, found: Mapping[int, Change], values_nK: Tensor, seed: int | None) -> Change:
    """Return the sum of multiples of changes of one parameter; ``found`` has them by the number of the delta."""
    if values_nK.shape[1] == 1:
        return add([scale(change, float(values_nK[i])) for i, change in found.items()])
    if any(change.is_new for change in found.values()):
        raise UnsupportedLayer(f"{name}: a new vector is not split into parts; compose it with one coefficient")
    return _in_parts(name, found, values_nK, int(seed or 0))


def _in_parts(name: str, found: Mapping[int, Change], values_nK: Tensor, seed: int) -> Change:
    """Return ``sum_i c_i,k(e) tau_i,e``, accumulated in float64 and rounded once."""
    first = next(iter(found.values()))
    rows, columns = matrix_shape(first.shape)
    wide = any(change.dtype == torch.float64 for change in found.values())
    result = torch.zeros(rows, columns, dtype=torch.float64 if wide else torch.float32, device=first.device)
    for start, stop in slabs(rows, columns):
        ids = part_ids(seed, name, values_nK.shape[1], start * columns, stop * columns, first.device)
        sum_ = torch.zeros(stop - start, columns, dtype=torch.float64, device=first.device)
        for i, change in found.items():
            cut = change.slab(start, stop)
            if cut is not None:
                sum_ += values_nK[i].to(first.device)[ids].reshape(sum_.shape) * cut.matrix().double()
        result[start:stop] = sum_
    return Dense(result.reshape(first.shape))


def resolve(deltas: Sequence[Delta], coefficients: Weights) -> Coefficients:
    """Return what was given as ``Coefficients`` for these deltas; see ``compose``."""
    if isinstance(coefficients, Coefficients):
        return _checked(deltas, coefficients)
    names = blocks(deltas)
    values = torch.tensor(list(_rows(deltas, names, coefficients)), dtype=torch.float64)
    values = values.reshape(len(deltas), len(names)) * changed(deltas, names)
    return Coefficients(tuple(d.digest for d in deltas), names, values[..., None])


def _checked(deltas: Sequence[Delta], coefficients: Coefficients) -> Coefficients:
    digests = tuple(delta.digest for delta in deltas)
    if digests != coefficients.deltas:
        same = "the same deltas in another order" if sorted(digests) == sorted(coefficients.deltas) else "other deltas"
        raise BaseMismatch(
            f"these coefficients are for {same}: they name {[d[:12] for d in coefficients.deltas]}, given were "
            f"{[d[:12] for d in digests]}; pass the deltas that they were made for, in that order"
        )
    names = blocks(deltas)
    if unknown := set(coefficients.parameters) - set(names):
        raise UnknownParameter(f"no delta changes {min(unknown)!r}, which the coefficients name")
    nonzero = coefficients.values.any(2) & ~changed(deltas, coefficients.parameters)
    if bool(nonzero.any()):
        i, j = nonzero.nonzero()[0].tolist()
        raise UnknownParameter(f"delta {i} does not change {coefficients.parameters[j]!r}, which has a coefficient")
    return coefficients


def _rows(deltas: Sequence[Delta], names: Sequence[str], given: Any) -> Iterator[list[float]]:
    """Yield one number a block for each delta."""
    if getattr(given, "ndim", None) == 2:
        refuse_gradient(given, "the table of coefficients")
        if tuple(given.shape) != (len(deltas), len(names)):
            expected = (len(deltas), len(names))
            raise ShapeMismatch(f"coefficients of shape {tuple(given.shape)}; expected (deltas, blocks) = {expected}")
        yield from given.tolist()
        return
    one = isinstance(given, numbers.Real) or getattr(given, "ndim", None) == 0
    if not one and (isinstance(given, (str, Mapping)) or not hasattr(given, "__iter__")):
        raise ConfigError(
            f"the coefficients are {given!r}; expected a number, one for each delta, or for each delta a mapping of "
            "its parameters to numbers"
        )
    many: Any = [given] * len(deltas) if one else given
    each = list(many)
    if len(each) != len(deltas):
        raise ConfigError(f"{len(each)} coefficients were given for {len(deltas)} deltas; expected one for each")
    for i, (delta, item) in enumerate(zip(deltas, each, strict=True)):
        if isinstance(item, Mapping):
            yield _by_block(i, delta, names, item)
        else:
            yield [coefficient(item, f"the coefficient of delta {i}")] * len(names)


def _by_block(i: int, delta: Delta, names: Sequence[str], given: Mapping[str, float]) -> list[float]:
    for name in given:
        if name not in delta:
            raise UnknownParameter(f"delta {i} does not change {name!r}{did_you_mean(name, delta.changes)}")
    missing = [name for name in delta.changes if name not in given]
    if missing:
        raise ConfigError(
            f"delta {i}: {len(missing)} of its {len(delta)} parameters have no coefficient, first {missing[0]!r}; "
            "give 0 for those that it is not to move"
        )
    return [coefficient(given.get(name, 0.0), f"the coefficient of delta {i} for {name!r}") for name in names]
