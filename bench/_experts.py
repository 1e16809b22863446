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

import dtheta as dt
from dtheta.adapt.frozen import pooled_features, predicted_logits
from dtheta.core.delta import Delta
from dtheta.core.logistic import logistic_regression
from dtheta.data.batches import EncodedTexts, loader
from dtheta.data.text import Texts
from dtheta.models.classifier import Classifier
from dtheta.score import Correct

LENGTH, BATCH, STEPS = 32, 16, 60
SHOTS = 8  # texts a class that the head is made of
LEARN, VALIDATE, TEST = 128, 128, 400
RATES = {"Full": 2e-4, "LoRA": 2e-3}


@dataclass(frozen=True)
class Base:
    """A pretrained model by name, and how many of its layers are kept; None keeps all."""

    name: str = "minilm"
    layers: int | None = None

    @cache  # noqa: B019 - a handful of bases in one process
    def pretrained(self) -> tuple[nn.Module, Any]:
        """Return the model and its tokenizer."""
        return dt.load_model(self.name, layers=self.layers), dt.load_tokenizer(self.name)

    def __str__(self) -> str:
        return self.name if self.layers is None else f"{self.name}-{self.layers}"


def blocks(net: nn.Module) -> str:
    """Return the linear weights of the blocks, which LoRA takes by default and Full must be told."""
    return "@blocks|!encoder.pooler.*" if getattr(net.encoder, "pooler", None) is not None else "@blocks"


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

    def batches(self, seed: int, size: int = BATCH) -> Any:
        """Return batches of the texts to learn coefficients on."""
        return loader(self.learn, self.tokenizer, size, LENGTH, seed)

    def few(self, shots: int, seed: int) -> Any:
        """Return batches of the first ``shots`` texts of each class that are there to learn on."""
        chosen = first_of_each(self.learn, shots)
        return loader(chosen, self.tokenizer, min(BATCH, len(chosen)), LENGTH, seed)


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


def expert(base: Base, task: str, kind: str, seed: int, folder: Path) -> Expert:
    """Make the head of a task, and train its expert unless the folder has it."""
    model, tokenizer = base.pretrained()
    data = dt.load_task(task, n_train=LEARN + VALIDATE + STEPS * BATCH, n_test=TEST, seed=seed)
    learn, validate = part(data.train, 0, LEARN), part(data.train, LEARN, LEARN + VALIDATE)
    train = part(data.train, LEARN + VALIDATE, None)
    net = dt.classifier(model, data.classes)
    _set_head(net, EncodedTexts(first_of_each(train, SHOTS), tokenizer, LENGTH))
    path = folder / f"{task}-{kind}-{seed}.delta"
    if not path.exists():
        _trained(net, kind, loader(train, tokenizer, BATCH, LENGTH, seed), seed).save(path)
    validation, test = (EncodedTexts(texts, tokenizer, LENGTH) for texts in (validate, data.test))
    return Expert(task, net, dt.load(path), learn, validation, test, tokenizer)


def _trained(net: Classifier, kind: str, batches: Any, seed: int) -> Delta:
    adapter = dt.attach(net, dt.Full() if kind == "Full" else dt.LoRA(rank=16), blocks(net), seed=seed)
    try:
        dt.fit(adapter, batches, steps=STEPS, lr=RATES[kind], seed=seed, quiet=True)
        return adapter.delta()
    finally:
        adapter.detach()


def _set_head(net: Classifier, texts: EncodedTexts) -> None:
    found = logistic_regression(pooled_features(net, texts), torch.tensor(texts.labels), len(net.classes))
    with torch.no_grad():
        net.head.weight.copy_(found.weight)
        net.head.bias.copy_(found.bias)


def accuracy(net: nn.Module, texts: EncodedTexts) -> float:
    """Return the share of texts that a network, as it stands, classifies right."""
    return float(Correct()(predicted_logits(net, texts), torch.tensor(texts.labels)).mean())
