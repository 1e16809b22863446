"""Experts: a text model moved to tasks under heads that stay as they are, as the image side of CLIP is under its texts.

    head_t     logistic regression on the frozen encoder's features of a few texts a class: what zero-shot is to CLIP
    expert_t   Full or LoRA r = 16 on the linear weights of the blocks, head_t frozen: a delta of ``encoder.*`` alone

So the base does something on every task, each expert does better on its own, and whatever moves the encoder (a sum, a
learned composition, a negation) is judged on all tasks without further training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.frozen import pooled_features, predicted_logits
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.adapt.method import Method
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.logistic import logistic_regression
from dtheta.data.batches import EncodedTexts, loader
from dtheta.data.tasks import load_task
from dtheta.data.text import Texts
from dtheta.fit.loop import fit
from dtheta.models.classifier import Classifier, classifier
from dtheta.models.load import load_model, load_tokenizer
from dtheta.score import Correct

RATES = {"Full": 2e-4, "LoRA": 2e-3}


@dataclass(frozen=True)
class Base:
    """A pretrained model by name, and how many of its layers are kept; None keeps all."""

    name: str = "minilm"
    layers: int | None = None

    def pretrained(self) -> tuple[nn.Module, Any]:
        """Return the model and its tokenizer, loaded once in a process."""
        return _pretrained(self)

    def __str__(self) -> str:
        return self.name if self.layers is None else f"{self.name}-{self.layers}"


@cache
def _pretrained(base: Base) -> tuple[nn.Module, Any]:
    return load_model(base.name, layers=base.layers), load_tokenizer(base.name)


@dataclass(frozen=True)
class Budget:
    """How long experts are trained, and how many texts of a task are for what.

    Attributes:
        steps: Optimizer steps of an expert.
        batch: Texts a step.
        length: Tokens kept of a text.
        shots: Texts a class that the head is made of.
        learn: Texts to learn coefficients on.
        validate: Texts to choose by.
        test: Texts that chose nothing.
    """

    steps: int = 60
    batch: int = 16
    length: int = 32
    shots: int = 8
    learn: int = 128
    validate: int = 128
    test: int = 400


@dataclass(frozen=True)
class Expert:
    """A task with its frozen head on the shared encoder, what moves the encoder to it, and texts that did not train."""

    task: str
    net: Classifier
    delta: Delta
    learn: Texts
    validate: EncodedTexts
    test: EncodedTexts
    tokenizer: Any
    budget: Budget

    def batches(self, seed: int, size: int | None = None) -> Any:
        """Return batches of the texts to learn coefficients on, as large as an expert's own where no size is given."""
        return loader(self.learn, self.tokenizer, size or self.budget.batch, self.budget.length, seed)

    def few(self, shots: int, seed: int) -> Any:
        """Return batches of the first ``shots`` texts of each class that are there to learn on."""
        chosen = first_of_each(self.learn, shots)
        return loader(chosen, self.tokenizer, min(self.budget.batch, len(chosen)), self.budget.length, seed)


def method(kind: str) -> Method:
    """Return how an expert is trained: "Full", or LoRA of rank 16."""
    return Full() if kind == "Full" else LoRA(rank=16)


def blocks(net: nn.Module) -> str:
    """Return the linear weights of the blocks, which LoRA takes by default and Full must be told."""
    return "@blocks|!encoder.pooler.*" if getattr(net.encoder, "pooler", None) is not None else "@blocks"


def part(texts: Texts, start: int, stop: int | None) -> Texts:
    """Return some texts in a row."""
    return Texts(tuple(texts.texts[start:stop]), tuple(texts.labels[start:stop]))


def first_of_each(texts: Texts, shots: int) -> Texts:
    """Return the first texts of each class."""
    seen: dict[int, int] = {}
    chosen = []
    for i, label in enumerate(texts.labels):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= shots:
            chosen.append(i)
    return Texts(tuple(texts.texts[i] for i in chosen), tuple(texts.labels[i] for i in chosen))


def expert(base: Base, task: str, kind: str, seed: int, folder: Path | None, budget: Budget = Budget()) -> Expert:
    """Make the head of a task, and train its expert unless the folder has it."""
    model, tokenizer = base.pretrained()
    held_out = budget.learn + budget.validate
    data = load_task(task, n_train=held_out + budget.steps * budget.batch, n_test=budget.test, seed=seed)
    train = part(data.train, held_out, None)
    net = classifier(model, data.classes)
    _set_head(net, EncodedTexts(first_of_each(train, budget.shots), tokenizer, budget.length))
    batches = loader(train, tokenizer, budget.batch, budget.length, seed)
    delta = _kept(folder and folder / f"{task}-{kind}-{seed}.delta", net, kind, batches, budget.steps, seed)
    learn, validate = part(data.train, 0, budget.learn), part(data.train, budget.learn, held_out)
    validation, test = (EncodedTexts(texts, tokenizer, budget.length) for texts in (validate, data.test))
    return Expert(task, net, delta, learn, validation, test, tokenizer, budget)


def _kept(path: Path | None, net: Classifier, kind: str, batches: Any, steps: int, seed: int) -> Delta:
    if path is not None and path.exists():
        return load(path)
    adapter = attach(net, method(kind), blocks(net), seed=seed)
    try:
        fit(adapter, batches, steps=steps, lr=RATES[kind], seed=seed, quiet=True)
        delta = adapter.delta()
    finally:
        adapter.detach()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        delta.save(path)
    return delta


def _set_head(net: Classifier, texts: EncodedTexts) -> None:
    found = logistic_regression(pooled_features(net, texts), torch.tensor(texts.labels), len(net.classes))
    with torch.no_grad():
        net.head.weight.copy_(found.weight)
        net.head.bias.copy_(found.bias)


def accuracy(net: nn.Module, texts: EncodedTexts) -> float:
    """Return the share of texts that a network, as it stands, classifies right."""
    return float(Correct()(predicted_logits(net, texts), torch.tensor(texts.labels)).mean())
