"""Low-rank experts of many rows at once: each row of a batch passes the factors of its own expert, unmerged.

    y_i = x_i W^T + (x_i R_e^T) L_e^T,     e = e(i) the expert of row i

All rows share the one product with W; the two thin products are batched over the rows with gathered factors, as in the
serving systems Punica (arXiv 2310.18547) and S-LoRA (arXiv 2311.03285). A row of the base has factors of zeros, and
experts of smaller rank are padded with zeros. Ternary factors become numbers when the block is entered.

Hooks on the linear layers add what the experts move; they see only the rows, so a layer whose first axis is something
else is refused. A layer that runs past its own forward (attention's output projection in torch's fused form) has none.

Shape legend: B rows, T positions, E experts, r rank; linear layers (n -> m), x (B, T, n), W (m, n).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, SupportsIndex

import torch
from torch import Tensor, nn

from dtheta.core.change import Change
from dtheta.core.selection import Site
from dtheta.core.ternary import Ternary
from dtheta.core.ternary_factors import TernaryFactors
from dtheta.errors import ConfigError, UnsupportedLayer

Pair = tuple[Tensor, Tensor]


def factors_of(change: Change, dtype: torch.dtype) -> Pair | None:
    """Return the factors (m, r), (r, n) of a change, or None if it has none; signs are unpacked by the shortest way.

    An adapter has some hundred small factors, so what each call costs counts as much as their entries.
    """
    if isinstance(change, TernaryFactors) and change.device.type == "cpu":
        return _unpacked(change.left, dtype), _unpacked(change.right, dtype)
    return change.factors(dtype)


def _unpacked(side: Ternary, dtype: torch.dtype) -> Tensor:
    numbers = torch.from_numpy(side.planes.to_signs()).reshape(side.full_shape).to(dtype)
    scale = side.scale.to(dtype)
    return numbers.mul_(scale[:, None] if side.by_row else scale)


def why_not_by_row(changes: Mapping[str, Change], sites: Mapping[str, Site]) -> str:
    """Return why the rows of a batch cannot each pass their own copy of changes, or an empty string if they can.

    Args:
        changes: By canonical name.
        sites: Where the parameters are.
    """
    for name, change in changes.items():
        site = sites.get(name)
        if change.rank is None:
            return f"{name}: the change is {change.kind}, which has no factors"
        if site is None or site.kind not in ("linear", "transposed") or not site.hookable:
            return f"{name}: no linear layer whose own forward is all that uses it"
    return ""


class LayerFactors:
    """A hook that adds to each row of a linear layer's output what its expert moves."""

    is_dtheta_term = True

    def __init__(self, name: str, pairs: Sequence[Pair | None], expert_B: Tensor | None) -> None:
        """Stack factors.

        Args:
            name: Of the parameter, for messages.
            pairs: For each of E experts its factors (r, n), (m, r), or None where it does not change the layer.
            expert_B: Number of each row's expert; None where one expert is there for all rows.
        """
        self.name = name
        self.expert_B = expert_B
        self.into_Ern, self.out_Emr = _stacked(pairs)
        self.in_order = expert_B is not None and expert_B.tolist() == list(range(len(pairs)))

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse copies and pickles of the model, which would keep the rows' experts for ever."""
        raise ConfigError(
            "the rows of a batch have experts of their own just now: copy or save the model after that block"
        )

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        """Return the output with the displacement of every row."""
        x: Tensor = args[0] if args else next(iter(kwargs.values()))
        dtype = self.into_Ern.dtype
        if self.expert_B is None:
            return output + (x.to(dtype) @ self.into_Ern[0].mT @ self.out_Emr[0].mT).to(output.dtype)
        rows = len(self.expert_B)
        if x.ndim < 2 or x.shape[0] != rows:
            raise UnsupportedLayer(
                f"{self.name}: its layer gets {tuple(x.shape)}, whose first axis is not the {rows} rows of the batch, "
                "so experts cannot be told apart; use bank.run(..., grouped=True)"
            )
        into_Brn, out_Bmr = self._of_rows()
        inner_BTr = torch.bmm(x.to(dtype).reshape(rows, -1, x.shape[-1]), into_Brn.mT)
        moved_BTm = torch.bmm(inner_BTr, out_Bmr.mT)
        return output + moved_BTm.reshape(output.shape).to(output.dtype)

    def _of_rows(self) -> Pair:
        """Return the factors of each row; those that are stacked in the order of the rows need no copy."""
        if self.in_order:
            return self.into_Ern, self.out_Emr
        return self.into_Ern[self.expert_B], self.out_Emr[self.expert_B]


def _stacked(pairs: Sequence[Pair | None]) -> Pair:
    """Return (E, r, n) and (E, m, r), with zeros where an expert has a smaller rank, or nothing."""
    found = [pair for pair in pairs if pair is not None]
    into, out = found[0]
    if len(found) == len(pairs) and all(pair[0].shape == into.shape for pair in found):
        return torch.stack([pair[0] for pair in found]), torch.stack([pair[1] for pair in found])
    rank = max(pair[0].shape[0] for pair in found)
    into_Ern = into.new_zeros(len(pairs), rank, into.shape[1])
    out_Emr = out.new_zeros(len(pairs), out.shape[0], rank)
    for e, pair in enumerate(pairs):
        if pair is not None:
            into_Ern[e, : pair[0].shape[0]] = pair[0]
            out_Emr[e, :, : pair[1].shape[1]] = pair[1]
    return into_Ern, out_Emr


@contextmanager
def by_row(
    experts: Mapping[str | None, Mapping[str, Change]], name_B: Sequence[str | None] | None, sites: Mapping[str, Site]
) -> Iterator[None]:
    """Run a block in which row i of every batch passes the changes of expert ``name_B[i]``, or all pass the only one.

    Args:
        experts: What each of E experts changes, by canonical name.
        name_B: The expert of each row; None for the only one.
        sites: Where the parameters are.

    Raises:
        UnsupportedLayer: If an expert changes something else than linear layers by factors.
    """
    for expert, changes in experts.items():
        if why := why_not_by_row(changes, sites):
            raise UnsupportedLayer(f"expert {expert!r} cannot run beside others: {why}; use bank.run, which groups")
    numbers = {expert: e for e, expert in enumerate(experts)}
    handles = []
    try:
        for name in dict.fromkeys(name for changes in experts.values() for name in changes):
            site = sites[name]
            pairs = [_pair(changes.get(name), site) for changes in experts.values()]
            device = site.tensor.device
            expert_B = None if name_B is None else torch.tensor([numbers[row] for row in name_B], device=device)
            hook = LayerFactors(name, pairs, expert_B)
            handles.append(site.owners[0].module.register_forward_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pair(change: Change | None, site: Site) -> Pair | None:
    """Return the factors (r, n), (m, r) on the layer's device; float32 at least."""
    dtype = torch.float64 if site.tensor.dtype == torch.float64 else torch.float32
    factors = None if change is None else factors_of(change, dtype)
    if factors is None:
        return None
    left, right = (factor.to(site.tensor.device) for factor in factors)
    return (left.mT, right.mT) if site.kind == "transposed" else (right, left)
