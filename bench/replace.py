"""Replacing MLPs of real models: what it loses, what it saves, and what a short further training gives back.

    minilm    all 6 MLPs (384-1536-384) replaced by their own neurons and a linear path, by random features, and by low
              rank at no fewer numbers held; in sequence, and each by itself. The error of the model's output; the
              accuracy of a classifier on it, whose head is the regression on the unreplaced model's features; both
              again after some steps of training what stands in towards the model's own outputs, without labels
    time      the whole model on texts: with its MLPs, and with what stands in for them
    smollm2   perplexity on text with 1, 5 and 10 of 30 gated MLPs (576-1536-576) replaced, from the 11th on

``ours`` is with MLPs replaced, ``peer`` the model as it was; errors are sum |y - y'|^2 / sum |y - mean y|^2 over the
outputs at real tokens of texts that nothing was fitted to. Time is CPU time on one thread.

    python bench/replace.py [--json] [--only minilm|time|smollm2] [--widths 96 192 384] [--tasks r8 bbc] [--steps 80]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from _measure import Row, compare, interleaved, main
from _texts import unlabeled
from torch import Tensor, nn

import dtheta as dt
from dtheta.adapt.frozen import pooled_features, predicted_logits
from dtheta.adapt.language import TokenTexts, text_losses
from dtheta.adapt.training import dropout_as
from dtheta.core.delta import Delta
from dtheta.core.logistic import logistic_regression
from dtheta.core.mlps import find_mlps
from dtheta.data.batches import EncodedTexts
from dtheta.data.tasks import load_task
from dtheta.data.text import Texts
from dtheta.kernels.mlp_inputs import outputs
from dtheta.kernels.replace import replace_mlps
from dtheta.kernels.replacement import Replacement
from dtheta.models.classifier import Classifier, classifier

FIT, HELD_OUT, MORE, TEST, LENGTH = 128, 32, 640, 300, 64
PARTS = ("minilm", "time", "smollm2")


@cache
def loaded(name: str) -> tuple[nn.Module, Any]:
    """Return a model and its tokenizer."""
    return dt.load_model(name), dt.load_tokenizer(name)


def output_error(model: nn.Module, delta: Delta, held: list[dict[str, Tensor]]) -> float:
    """Return the relative squared error of a model's output with a delta attached."""
    before = torch.cat(list(outputs(model, held))).double()
    adapter = dt.attach(model, delta)
    after = torch.cat(list(outputs(model, held))).double()
    adapter.detach()
    return float((before - after).square().sum() / (before - before.mean(0)).square().sum())


class Task:
    """A text task with the head that a regression on MiniLM's features gives."""

    def __init__(self, name: str) -> None:
        self.model, self.tokenizer = loaded("minilm")
        task = load_task(name, FIT + HELD_OUT + MORE, TEST)
        self.net: Classifier = classifier(self.model, task.classes)
        labeled = Texts(task.train.texts[: FIT + HELD_OUT], task.train.labels[: FIT + HELD_OUT])
        train = EncodedTexts(labeled, self.tokenizer, LENGTH)
        self.test = EncodedTexts(task.test, self.tokenizer, LENGTH)
        self.fit = unlabeled(task.train.texts[:FIT], self.tokenizer, 16, LENGTH)
        self.held_out = unlabeled(task.train.texts[FIT : FIT + HELD_OUT], self.tokenizer, 16, LENGTH)
        self.more = unlabeled(task.train.texts[FIT + HELD_OUT :], self.tokenizer, 8, LENGTH)
        probe = logistic_regression(
            pooled_features(self.net, train), torch.tensor(train.labels), len(task.classes), C=1.0
        )
        with torch.no_grad():
            self.net.head.weight.copy_(probe.weight)
            self.net.head.bias.copy_(probe.bias)

    def accuracy(self, delta: Delta | None = None) -> float:
        """Return the share of test texts that are classified right."""
        adapter = None if delta is None else dt.attach(self.model, delta)
        found = predicted_logits(self.net, self.test).argmax(1)
        if adapter is not None:
            adapter.detach()
        return float((found == torch.tensor(self.test.labels)).double().mean())

    def replaced(self, width: int, variant: Any = "own-neurons", sequential: bool = True) -> Replacement:
        """Return the model's MLPs replaced, fitted on training texts."""
        return replace_mlps(
            self.model, self.fit, width, variant=variant, sequential=sequential, held_out=self.held_out, sizes=(1,)
        )

    def trained(self, delta: Delta, steps: int) -> Delta:
        """Return a delta trained further towards the model's own outputs, on other texts than it was fitted to."""
        adapter = dt.attach(self.model, delta)

        def loss(found: Any, batch: dict[str, Tensor]) -> Tensor:
            with torch.no_grad(), found.disabled():
                wanted = found(**batch).last_hidden_state
            missed = (found(**batch).last_hidden_state - wanted).square().mean(-1)
            return missed[batch["attention_mask"].bool()].mean()

        with dropout_as(self.net, False):  # else the model's own outputs, the targets, would be noisy
            dt.fit(adapter, self.more, steps=steps, lr=5e-4, warmup=0.1, loss=loss, quiet=True)
        made = adapter.delta()
        adapter.detach()
        return made


def rank_for(numbers: int) -> int:
    """Return the least rank at which both matrices of an MLP of MiniLM hold so many numbers."""
    mlp = find_mlps(loaded("minilm")[0])[0]
    return math.ceil(numbers / (mlp.inputs + 2 * mlp.hidden + mlp.outputs))


def minilm(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield errors and accuracies."""
    for name in arguments.tasks:
        task = Task(name)
        plain = task.accuracy()
        for width in arguments.widths:
            found = task.replaced(width)
            after = found.parameters[1]
            yield from _rows(task, f"{name}, width {width}", found, plain)
            better = task.trained(found.delta, arguments.steps)
            error, accuracy = output_error(task.model, better, task.held_out), task.accuracy(better)
            label = f"{name}, width {width}, {arguments.steps} steps without labels"
            yield compare(f"{label}: output error", error, found.output_error, "rel. error")
            yield compare(f"{label}: accuracy", accuracy, plain, "share", larger_is_better=True)
            if name != arguments.tasks[0] or width != arguments.widths[0]:
                continue
            for variant in arguments.variants:
                size = rank_for(after // len(found.mlps)) if variant == "low-rank" else width
                yield from _rows(task, f"{name}, {variant} of width {size}", task.replaced(size, variant), plain)
            if arguments.variants:
                apart = task.replaced(width, sequential=False)
                yield from _rows(task, f"{name}, width {width}, each by itself", apart, plain)


def _rows(task: Task, label: str, found: Replacement, plain: float) -> Iterator[Row]:
    before, after = found.parameters
    errors = " ".join(f"{mlp.error:.3f}" for mlp in found.mlps)
    held = f"{after:,} of {before:,} numbers; by MLP {errors}"
    yield compare(f"{label}: output error", found.output_error, None, "rel. error", note=held)
    yield compare(f"{label}: accuracy", task.accuracy(found.delta), plain, "share", larger_is_better=True)


def whole_model(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield times of the whole model."""
    model, tokenizer = loaded("minilm")
    texts = load_task("bbc", FIT + HELD_OUT, 1).train.texts
    for width in arguments.widths:
        fit = unlabeled(texts[:FIT], tokenizer, 16, LENGTH)
        delta = replace_mlps(model, fit, width, sequential=False, sizes=(1,)).delta
        adapter = dt.attach(model, delta)
        for size, length in ((1, 16), (1, 64), (16, 64)):
            batch = unlabeled(texts[:size], tokenizer, size, length)[0]

            calls = max(1, 32 // size)
            on, off = (_run(model, adapter, enabled, batch, calls) for enabled in (True, False))
            seconds = interleaved({"ours": on, "peer": off}, arguments.repeat)
            label = f"width {width}: MiniLM on {size} texts of {length} tokens"
            yield compare(label, 1e3 * seconds["ours"] / calls, 1e3 * seconds["peer"] / calls, "ms CPU")
        adapter.detach()


def _run(model: nn.Module, adapter: Any, enabled: bool, batch: Any, calls: int) -> Callable[[], None]:
    def run() -> None:
        adapter.enabled = enabled
        with torch.no_grad():
            for _ in range(calls):
                model(**batch)

    return run


def smollm2(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield perplexities; of the first MLPs of one sequence, the fits are those of a shorter one."""
    model, tokenizer = loaded("smollm2")
    texts = load_task("bbc", 120, 1).train.texts
    fit, measure = (unlabeled(some, tokenizer, 4, 128) for some in (texts[:80], texts[80:90]))
    held = TokenTexts(texts[90:115], tokenizer, 128)

    def perplexity(delta: Delta | None) -> float:
        adapter = None if delta is None else dt.attach(model, delta)
        sums, counts = text_losses(model, held)
        if adapter is not None:
            adapter.detach()
        return math.exp(float(sums.sum() / counts.sum()))

    plain = perplexity(None)
    for width, count in arguments.smollm2:
        found = replace_mlps(
            model, fit, width, select=f"@mlp#10-{9 + count}", held_out=measure, sizes=(1, 32, 256), seed=0
        )
        for of in (n for n in (1, 5, 10) if n <= count):
            mlps = found.mlps[:of]
            part = found.delta.restrict("|".join(f"{mlp.name}.*" for mlp in mlps))
            share = sum(m.after.parameters for m in mlps) / sum(m.before.parameters for m in mlps)
            errors = " ".join(f"{m.error:.3f}" for m in mlps)
            yield compare(
                f"SmolLM2, {of} MLPs of width {width}", perplexity(part), plain, "perplexity",
                note=f"{share:.2f}x their numbers; by MLP {errors}",
            )  # fmt: skip


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    parts = {"minilm": minilm, "time": whole_model, "smollm2": smollm2}
    for name in arguments.only or PARTS:
        yield from parts[name](arguments)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=PARTS, default=None)
    parser.add_argument("--widths", nargs="+", type=int, default=[96, 192, 384])
    parser.add_argument("--tasks", nargs="+", default=["r8", "bbc"])
    parser.add_argument(
        "--variants", nargs="*", default=["random", "low-rank"], help="to compare with, on the first task"
    )
    parser.add_argument("--steps", type=int, default=80, help="of training what stands in, default 80")
    pair = lambda text: tuple(map(int, text.split("x")))  # noqa: E731
    parser.add_argument("--smollm2", nargs="+", type=pair, default=[(768, 10), (384, 5)], help="WIDTHxMLPS")


if __name__ == "__main__":
    main("Replacing MLPs", measure, options=options, packages=("torch", "transformers"))
