"""What PiSSA, SORSA and LoRA are compared on: settings (model, data, steps, rank), their problems by seed, a training.

    smollm2    a causal language model on texts, next-token loss on all tokens: the papers' own kind of task
    mlp        the toy of PiSSA's repository (loss_landscape): an MLP 8 -> 128 -> 5 without biases on 8 principal
               components of images, trained on the odd classes, then adapted to the even ones, full batch, plain Adam
    minilm     an encoder with a zero-initialized head on texts and their classes

Deviations from the toy: Fashion-MNIST and scikit-learn's digits in place of MNIST (which no package carries whole), and
torch's SVD in place of scikit-learn's PCA. The second matrix is 5 x 128, so rank 8 is cut to 5 there, as peft cuts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.attach import attach
from dtheta.adapt.language import TokenTexts
from dtheta.adapt.lora import LoRA
from dtheta.adapt.method import Method
from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.sorsa import SORSA, orthonormality
from dtheta.adapt.term import FactoredTerm, Term
from dtheta.adapt.variation import log_condition
from dtheta.core.lowrank import LowRank
from dtheta.core.selection import Site
from dtheta.data.batches import loader
from dtheta.data.image_tasks import load_image_task
from dtheta.data.tasks import load_task
from dtheta.errors import NonFinite
from dtheta.fit.loop import fit
from dtheta.models.classifier import classifier
from dtheta.reproduce.experiments.experts import Base

# Half-decades from which every method's rate is chosen; a search that ends at an end of its part goes on outwards.
LADDER = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


@dataclass(frozen=True)
class Problem:
    """A model to adapt and what to adapt it on; ``accuracy`` is measured after training, where there is one."""

    model: nn.Module
    batches: Any
    attach: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    accuracy: Callable[[nn.Module], float] | None = None


@dataclass(frozen=True)
class Setting:
    """A row of the experiment: ``problem`` by seed, and what is the same for all methods."""

    what: str
    problem: Callable[[int], Problem]
    rank: int
    steps: int
    first: tuple[float, float]  # the part of the ladder that every method tries
    tuning_seeds: tuple[int, ...] = (100,)
    methods: tuple[str, ...] = ("LoRA", "PiSSA", "SORSA", "SORSA, gamma 0")
    one_rate: bool = True  # whether LoRA also runs at the other methods' rates


# All have c = 1, save "LoRA, c = 2" with the usual alpha of 2 r.
METHODS: dict[str, Callable[[int], Method]] = {
    "LoRA": lambda rank: LoRA(rank=rank),
    "LoRA, c = 2": lambda rank: LoRA(rank=rank, alpha=2.0 * rank),
    "PiSSA": lambda rank: PiSSA(rank=rank),
    "SORSA": lambda rank: SORSA(rank=rank),
    "SORSA, gamma 0": lambda rank: SORSA(rank=rank, gamma=0.0),
}


@dataclass(frozen=True)
class Fitting(Method):
    """One of ``METHODS``, its rank cut to the smaller side of every matrix."""

    method: str
    rank: int

    def terms(self, sites: Sequence[Site], seed: int) -> dict[str, Term]:
        """Return the terms of the method, at each site with the rank that fits it."""
        found: dict[str, Term] = {}
        for site in sites:
            found |= METHODS[self.method](min(self.rank, *site.shape)).terms([site], seed)
        return found

    def add_gradient(self, adapter: Any, lr: float) -> None:
        """Add the method's own gradient."""
        METHODS[self.method](self.rank).add_gradient(adapter, lr)


def language(task: str, steps: int, batch: int, length: int, seed: int) -> Problem:
    """Return SmolLM2 on the first tokens of texts, each seen once."""
    model, tokenizer = Base("smollm2").pretrained()
    texts = load_task(task, n_train=steps * batch, n_test=1, seed=seed).train.texts
    return Problem(model, TokenTexts(texts, tokenizer, length), fit={"batch_size": batch})


def classification(task: str, steps: int, seed: int) -> Problem:
    """Return MiniLM and a new head on a text task, 16 texts of at most 32 tokens a step, each seen once."""
    encoder, tokenizer = Base().pretrained()
    data = load_task(task, n_train=16 * steps, n_test=400, seed=seed)
    tests = loader(data.test, tokenizer, 64, 32, shuffle=False)

    @torch.inference_mode()
    def accuracy(model: nn.Module) -> float:
        right = sum(int((model(**batch).logits.argmax(-1) == batch["labels"]).sum()) for batch in tests)
        return right / len(data.test)

    model = classifier(encoder, data.classes)
    batches = loader(data.train, tokenizer, 16, 32, seed=seed)
    return Problem(model, batches, {"also": "head.*"}, {"full_lr": 5e-3}, accuracy)


@cache
def toy(data: str, seed: int) -> Problem:
    """Return the MLP, trained on odd classes for 200 epochs, and the even classes to adapt it to."""
    odd_ND, even_ND, odd_N, even_N = _odd_and_even(data, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 128, bias=False), nn.ReLU(), nn.Linear(128, 5, bias=False))
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
        for _ in range(200):
            optimizer.zero_grad()
            F.cross_entropy(model(odd_ND), odd_N).backward()
            optimizer.step()
    options = {"loss": _cross_entropy, "schedule": "constant", "warmup": 0.0, "clip": None}
    return Problem(model, [(even_ND, even_N)], {"select": "@linear"}, options)


def _cross_entropy(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _odd_and_even(data: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return 8 principal components (N, 8) of images of odd and of even classes, and class // 2 (N,) of both."""
    images_NP, labels_N = _images(data, seed)
    odd, even = (torch.nonzero(labels_N % 2 == parity).flatten()[:most] for parity, most in ((1, 10000), (0, 1000)))
    both = torch.cat([odd, even])
    centered_NP = images_NP[both] - images_NP[both].mean(0)
    axes_PP = torch.linalg.eigh(centered_NP.T @ centered_NP).eigenvectors
    features_ND = (centered_NP @ axes_PP[:, -8:].flip(1)).float()
    return features_ND[: len(odd)], features_ND[len(odd) :], labels_N[odd] // 2, labels_N[even] // 2


def _images(data: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return pixels (N, P), unscaled as in the toy's code, and labels (N,), in an order drawn by the seed."""
    if data == "fashion":
        found = load_image_task("fashion", n_train=25000, n_test=1, seed=seed).train
        return found.images.flatten(1).double(), found.labels
    task = load_image_task("digits", seed=seed)
    pixels = torch.cat([task.train.images, task.test.images]).flatten(1).double()
    return (pixels * (16 / 255)).round(), torch.cat([task.train.labels, task.test.labels])  # 0 to 16, as they were


def _toy_setting(data: str, rank: int) -> Setting:
    what = f"MLP 8-128-5, odd to even classes of {data}, full batch, 100 steps, rank {rank}"
    methods = ("LoRA", "LoRA, c = 2", "PiSSA", "SORSA", "SORSA, gamma 0")
    return Setting(what, partial(toy, data), rank, 100, (1e-5, 3e-2), (100, 101, 102), methods)


def _language_setting(task: str) -> Setting:
    what = f"SmolLM2-135M, next token on {task}, 24 steps of 2 texts of at most 32 tokens, rank 8 on all 210 weights"
    return Setting(what, partial(language, task, 24, 2, 32), 8, 24, (3e-4, 3e-3), one_rate=False)


def _classification_setting(task: str) -> Setting:
    what = f"MiniLM and a new head on {task}, 40 steps of 16 texts of at most 32 tokens, rank 16 on all 36 weights"
    return Setting(what, partial(classification, task, 40), 16, 40, (1e-4, 3e-3))


SETTINGS = {
    "toy-fashion-8": _toy_setting("fashion", 8),
    "toy-fashion-2": _toy_setting("fashion", 2),
    "toy-digits-8": _toy_setting("digits", 8),
    "toy-digits-2": _toy_setting("digits", 2),
    "language-r8": _language_setting("r8"),
    "language-bbc": _language_setting("bbc"),
    "classify-sentiment": _classification_setting("sentiment"),
    "classify-bbc": _classification_setting("bbc"),
}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        setting: Name of the setting.
        method: Name of the method.
        rate: Highest learning rate.
        seed: Seed.
        mean_loss: Mean loss of all steps.
        final_loss: That of the last quarter.
        accuracy: Share of test examples classified right, where there are any.
        orthonormality: SORSA's mean distance from orthonormal factors.
        log_condition: SORSA's mean logarithm of the condition numbers of its trained products.
    """

    setting: str
    method: str
    rate: float
    seed: int
    mean_loss: float
    final_loss: float
    accuracy: float | None
    orthonormality: float | None
    log_condition: float | None = None


def train(setting_name: str, method_name: str, rate: float, seed: int) -> Run:
    """Train one adapter and measure it; a training that diverges has infinite losses."""
    setting = SETTINGS[setting_name]
    problem = setting.problem(seed)
    adapter = attach(problem.model, Fitting(method_name, setting.rank), seed=seed, **problem.attach)
    losses, accuracy, kept, condition = [math.inf], None, None, None
    try:
        record = fit(adapter, problem.batches, steps=setting.steps, lr=rate, seed=seed, quiet=True, **problem.fit)
        losses = [loss for _, loss in record.losses]
        accuracy = problem.accuracy(adapter) if problem.accuracy else None
        if method_name.startswith("SORSA"):
            kept, condition = orthonormality(adapter), mean_log_condition(adapter)
    except NonFinite:
        pass  # its loss is infinite
    finally:
        adapter.detach()
    last = losses[-math.ceil(len(losses) / 4) :]
    mean, final = (sum(values) / len(values) for values in (losses, last))
    return Run(setting_name, method_name, rate, seed, mean, final, accuracy, kept, condition)


def mean_log_condition(adapter: Adapter) -> float:
    """Return the mean of ln(s_max / s_min) over the products L diag(s) R of an adapter as they stand."""
    found = []
    for term in adapter.terms.values():
        if isinstance(term, FactoredTerm):
            core = 1.0 if term.core is None else term.core.detach()
            found.append(log_condition(LowRank(term.left.detach() * core, term.right.detach())))
    return sum(found) / len(found)
