"""Tiny models, data and losses for the tests of the loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.seeds import generator


def squared(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared error."""
    return (model(batch[0]) - batch[1]).square().mean()


def regression(*rows: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of (x (rows, 12), y (rows, 8))."""
    drawn = generator(0, "regression")
    return [(torch.randn(n, 12, generator=drawn), torch.randn(n, 8, generator=drawn)) for n in rows]


def sentences(*rows: int, ignored: int = 0) -> list[dict[str, Tensor]]:
    """Batches of token ids (rows, 9) below 64 for a causal model; the first row ignores its last labels."""
    drawn = generator(0, "sentences")
    found = []
    for n in rows:
        ids = torch.randint(0, 64, (n, 9), generator=drawn)
        labels = ids.clone()
        labels[0, 9 - ignored :] = -100
        found.append({"input_ids": ids, "labels": labels})
    return found


def bits(module: nn.Module) -> dict[str, bytes]:
    """The bytes of every parameter and buffer."""
    return {name: t.detach().numpy().tobytes() for name, t in module.state_dict().items()}


def values(adapter: Any) -> dict[str, Tensor]:
    """Copies of the trained parameters."""
    return {name: p.detach().clone() for name, p in adapter.trainable().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether all tensors are bit-identical."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Recorded:
    """A method that notes at which learning rate its gradient was asked for, and with which gradients."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, float]] = []

    def parameter_groups(self, adapter: Any, lr: float) -> list[dict[str, Any]]:
        return [{"params": list(adapter.trainable().values()), "lr": lr}]

    def add_gradient(self, adapter: Any, lr: float) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in adapter.trainable().values()])
        self.calls.append((lr, float(norm)))


class Shift(nn.Module):
    """The smallest thing that trains: a model and a vector that is added to its output."""

    def __init__(self, model: nn.Module, width: int, materialize: bool = False) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        term = nn.Module()
        term.shift = nn.Parameter(torch.zeros(width))
        term.materialize = materialize
        self.terms = nn.ModuleDict({"shift": term})
        self.method = Recorded()

    def trainable(self) -> dict[str, nn.Parameter]:
        return dict(self.terms.named_parameters())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + self.terms["shift"].shift


def endless(batches: list[Any]) -> Iterator[Any]:
    """The batches again and again."""
    while True:
        yield from batches
