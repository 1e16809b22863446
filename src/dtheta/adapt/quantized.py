"""quantize: a copy of a model with its linear weights in four bits, and the delta that makes up for it.

    model(x) ~ q.model(x) with q.delta attached,   q.model's weights: 4.5 bits an element (4.13 with double=True)

    q = dt.quantize(model, dt.BestQ(rank=16))
    adapter = dt.attach(q.model, q.delta)              # goes on to train; or attach LoRA, PiSSA, ... to q.model

The delta is relative to the quantized base: its fingerprint is that of the unpacked weights, under the names that they
had, so it lands on ``q.model``, on ``dt.dequantized(q.model)``, and on nothing else. Save ``q.model.state_dict()``
(plain tensors) beside it; ``dt.quantize(model, dt.NF4(...))`` with the same block, double and select makes the model
into which it loads, bit for bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dtheta.adapt.method import check_rank, check_weight
from dtheta.adapt.nf4_layer import NF4Layer, pack_layer, packable
from dtheta.adapt.qpissa import BestQ, Errors, Quantization, Split
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.naming import naming
from dtheta.core.provenance import Provenance
from dtheta.core.selection import Site
from dtheta.core.selection import select as select_sites
from dtheta.core.tensors import attached_to
from dtheta.errors import ConfigError, UnsupportedLayer


@dataclass(frozen=True)
class QuantizedMatrix:
    """How well one weight came out, by the norms of W - (Q + L R).

    Attributes:
        name: The parameter.
        method: The quantization used; of several candidates, the one chosen.
        weight: Frobenius norm of W itself.
        error: Norms of the error with the displacement.
        plain: Norms of the error of NF4 alone.
        candidates: Norms of what it was chosen from, by name; empty where there was no choice.
    """

    name: str
    method: str
    weight: float
    error: Errors
    plain: Errors
    candidates: Mapping[str, Errors]

    @property
    def reduction(self) -> float:
        """Share of NF4's error that is gone, in the nuclear norm as in the QPiSSA paper; at most 1."""
        return _reduction(self.error.nuclear, self.plain.nuclear)

    @property
    def reduction_frobenius(self) -> float:
        """Share of NF4's error that is gone, in the Frobenius norm; at most 1."""
        return _reduction(self.error.frobenius, self.plain.frobenius)


def _reduction(error: float, plain: float) -> float:
    return 1.0 - error / plain if plain else 0.0


@dataclass(frozen=True, eq=False)
class Quantized:
    """A model in four bits, the delta relative to it, and the error of every matrix.

    ``model`` is a copy; the original is as it was. ``delta`` has no changes where the quantization has no displacement.
    """

    model: nn.Module
    delta: Delta
    errors: Sequence[QuantizedMatrix]

    def __str__(self) -> str:
        rows = [f"{'parameter':<56} {'method':<8} {'error':>8} {'less nuclear':>13} {'less Frobenius':>15}"]
        for e in self.errors:
            relative = e.error.frobenius / e.weight if e.weight else 0.0
            nuclear = "" if math.isnan(e.reduction) else f"{e.reduction:.1%}"
            rows.append(f"{e.name:<56} {e.method:<8} {relative:>8.2%} {nuclear:>13} {e.reduction_frobenius:>15.1%}")
        return "\n".join(rows)


def quantize(
    model: nn.Module,
    method: Quantization | None = None,
    select: str | None = None,
    *,
    seed: int = 0,
    nuclear: bool = True,
) -> Quantized:
    """Return a copy of a model whose selected linear weights are stored in four bits, and the delta beside it.

    Args:
        model: Any module without adapters; it is not changed.
        method: ``NF4``, ``QPiSSA``, ``LoftQ`` or ``BestQ``, with their settings; ``BestQ()`` by default.
        select: Which weights (see ``core.selection``): of ``nn.Linear``, or of transformers' ``Conv1D``.
        seed: Key of every random start.
        nuclear: Whether to measure nuclear norms as well, which takes all singular values of two matrices per weight.

    Raises:
        ConfigError: For a selection that takes nothing, a setting that cannot be meant, or an attached adapter.
        UnsupportedLayer: For a weight that is not that of a plain linear layer, or that several layers share.
        NonFinite: If a weight holds NaN or infinity.
    """
    method = BestQ() if method is None else method
    if attached := attached_to(model):
        raise ConfigError(f"an adapter is attached to {attached[0] or 'the model'!r}: quantize the plain base, after "
                          "adapter.detach()")  # fmt: skip
    chosen = select_sites(model, select)
    for site in chosen:
        _check(site, method)
    result = _copy_without(model, chosen)
    modules = dict(result.named_modules(remove_duplicate=False))
    errors, changes = [], {}
    for site in chosen:
        split = _split(site, method, seed)
        pack_layer(modules[site.owners[0].path], split.packed, site.tensor.dtype)
        errors.append(_measured(site, split, method, nuclear))
        if split.left is not None and split.right is not None:
            changes[site.name] = LowRank(split.left.cpu(), split.right.cpu())
    settings = {"quantization": method.to_dict()} | ({} if select is None else {"select": select})
    made = Provenance("quantize", settings=settings, seed=seed)
    return Quantized(result, Delta(changes, fingerprint(result).restrict(changes), made), errors)


def _check(site: Site, method: Quantization) -> None:
    """Raise unless a site is the weight of a linear layer that can be stored in four bits."""
    check_weight(site)
    owner = site.owners[0].module
    if isinstance(owner, NF4Layer):
        raise UnsupportedLayer(f"{site.name}: this weight is stored in four bits already; quantize the original model")
    if not site.hookable or site.window is not None or packable(owner) is None:
        shared = " that several layers share" if site.tied else ""
        raise UnsupportedLayer(
            f"{site.key}: cannot store a weight of {type(owner).__name__}{shared} in four bits; expected the weight of "
            f"an nn.Linear or a Conv1D of its own. Leave it out with select='...|!{site.name}'"
        )
    if method.rank is not None:
        check_rank(site, method.rank)


def _copy_without(model: nn.Module, sites: Sequence[Site]) -> nn.Module:
    """Return a copy of a model in which the weights at some sites are empty: they are never held twice."""
    memo: dict[int, Any] = {id(site.tensor): nn.Parameter(site.tensor.new_empty(0), False) for site in sites}
    return copy.deepcopy(model, memo)


def _split(site: Site, method: Quantization, seed: int) -> Split:
    return naming(site.name, lambda: method.split(site.matrix(), seed, site.name))


def _measured(site: Site, split: Split, method: Quantization, nuclear: bool) -> QuantizedMatrix:
    weight = site.matrix()
    plain = split.candidates.get("NF4") if split.candidates else None
    if plain is None or (nuclear and math.isnan(plain.nuclear)):
        plain = Errors.of(Split(method.pack(weight)).error(weight), nuclear)
    error = Errors.of(split.error(weight), nuclear)
    return QuantizedMatrix(site.name, split.method, _frobenius(weight), error, plain, split.candidates)


def _frobenius(weight: Tensor) -> float:
    return Errors.of(weight.float(), nuclear=False).frobenius


def dequantized(model: nn.Module) -> nn.Module:
    """Return a dense copy of a quantized model: ordinary layers whose weights are the unpacked ones.

    It has the fingerprint of the quantized model, so deltas of that can be applied to it and merged into it.

    Raises:
        ConfigError: If an adapter is attached, or nothing in the model is stored in four bits.
    """
    if attached := attached_to(model):
        raise ConfigError(f"an adapter is attached to {attached[0] or 'the model'!r}: call adapter.detach() first")
    result = copy.deepcopy(model)
    layers = [module for module in result.modules() if isinstance(module, NF4Layer)]
    if not layers:
        raise ConfigError("no weight of this model is stored in four bits, so there is nothing to unpack")
    for layer in layers:
        layer.unpack()
    return result
