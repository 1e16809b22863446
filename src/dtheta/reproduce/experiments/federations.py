"""Federations on real data that experiments share: a variational circuit on tables, MiniLM with LoRA on texts.

Parties hold rows by Dirichlet(0.5) shares of the classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from dtheta.adapt.classify import selection
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.adapt.recipe import Recipe
from dtheta.adapt.text_problem import problem
from dtheta.adapt.training import dropout_as
from dtheta.data.tabular import Table, TabularTask
from dtheta.data.tasks import load_task
from dtheta.federate.client import Client
from dtheta.federate.federate import federate
from dtheta.federate.partition import dirichlet
from dtheta.federate.quantum.classifier import QuantumClassifier
from dtheta.federate.server.server import Server
from dtheta.reproduce.experiments.experts import Base

ALPHA = 0.5


@dataclass(frozen=True)
class TableSize:
    """How a table is trained: parties, rounds, local steps, rate, batch, layers of the circuit."""

    parties: int
    rounds: int
    steps: int
    lr: float
    batch: int
    layers: int


@dataclass(frozen=True)
class TextSize:
    """How a text model is trained by parties."""

    base: Base
    tasks: tuple[str, ...]
    train: int
    test: int
    length: int
    parties: int
    rounds: int
    steps: int
    lr: float = 2e-3
    head_lr: float = 2e-2


class Examples(Dataset):
    """A table as ``dt.fit`` takes it."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.table.x[index], "labels": self.table.labels[index]}


def circuit(task: TabularTask, layers: int, seed: int, **settings: Any) -> QuantumClassifier:
    """Return the variational classifier; standardized rows get a constant feature, so that their length is seen."""
    features, constant = task.train.x.shape[1], task.name != "digits"
    return QuantumClassifier(features, len(task.classes), layers=layers, constant=constant, seed=seed, **settings)


def parties(task: TabularTask, model: nn.Module, size: TableSize, seed: int) -> list[Client]:
    """Return parties that hold the rows by Dirichlet shares."""
    parts = dirichlet(task.train.labels, size.parties, alpha=ALPHA, least=4, seed=seed)
    return [
        Client(f"party {i}", model, Examples(task.train.take(part)), Full(), select="*", steps=size.steps, lr=size.lr,
               batch_size=size.batch)
        for i, part in enumerate(parts)
    ]  # fmt: skip


def accuracy(task: TabularTask) -> Callable[[Any], dict[str, float]]:
    """Return what judges a model on the test rows."""

    def judge(model: Any) -> dict[str, float]:
        with torch.no_grad():
            found = model(task.test.x).logits.argmax(1)
        return {"accuracy": float((found == task.test.labels).double().mean())}

    return judge


def trained_texts(size: TextSize, name: str, seed: int, codec: Any) -> dict[str, float]:
    """Return the test accuracy of a text model that parties train with LoRA, the bits of their answers, its weights."""
    model, tokenizer = size.base.pretrained()
    task = load_task(name, size.train, size.test, seed)
    posed = problem(model, tokenizer, task, size.length)
    parts = dirichlet(torch.tensor(task.train.labels), size.parties, alpha=ALPHA, least=8, seed=seed)
    where: dict[str, Any] = {"select": selection(posed.net, Recipe(LoRA(rank=8))), "also": "head.*"}
    clients = [
        Client(f"party {i}", posed.net, Subset(posed.train, part.tolist()), LoRA(rank=8), steps=size.steps, lr=size.lr,
               full_lr=size.head_lr, batch_size=8, collate=posed.train.collate, **where)
        for i, part in enumerate(parts)
    ]  # fmt: skip
    test = posed.test
    batches = [test.collate([test[i] for i in range(s, min(s + 50, len(test)))]) for s in range(0, len(test), 50)]

    def judge(net: Any) -> dict[str, float]:
        with torch.no_grad():
            right = sum(int((net(**batch).logits.argmax(1) == batch["labels"]).sum()) for batch in batches)
        return {"accuracy": right / len(test)}

    with dropout_as(posed.net, False):
        found = federate(Server(posed.net, LoRA(rank=8), **where), clients, rounds=size.rounds, codec=codec,
                         evaluate=judge, evaluate_every=size.rounds, seed=seed)  # fmt: skip
    bits = float(found.figures["bits_up"])
    return {"accuracy": found.scores["accuracy"], "bits_up": bits, "parameters": float(found.parameters)}
