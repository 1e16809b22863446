"""What tests of the bank share: tensors as a model shows them, under ``applied`` and one expert at a time; adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.compose.bank import Bank
from dtheta.core.apply import applied
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.selection import select
from tests.unit.compose.examples import normal


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def under_applied(model: nn.Module, one: Delta) -> dict[str, Tensor]:
    with applied(model, one):
        return tensors(model)


def under_applied_later(bank: Bank, name: str) -> dict[str, Tensor]:
    with bank.using(None):
        return under_applied(bank.model, bank[name])


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.allclose(a[n], b[n], rtol=1e-6, atol=1e-6) for n in b)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[n], b[n]) for n in b)


def adapter(model: nn.Module, index: int, rank: int = 2, select_: str = "@linear") -> Delta:
    """A delta as LoRA leaves it."""
    changes = {}
    for j, site in enumerate(select(model, select_)):
        m, n = site.shape
        left = normal(m, rank, index=100 * index + j, name="lora")
        changes[site.name] = LowRank(left, 0.2 * normal(rank, n, index=100 * index + j, name="lora right"))
    return Delta(changes, fingerprint(model).restrict(changes))


def alone(bank: Bank, names: list[str | None], inputs: Tensor, pick: Callable[[Any], Tensor] = lambda o: o) -> Tensor:
    """Each row, run by itself under its own expert."""
    found = []
    for i, name in enumerate(names):
        with bank.using(name), torch.no_grad():
            found.append(pick(bank.model(inputs[i : i + 1])))
    return torch.cat(found)
