"""Rows that compare PiSSA or SORSA with LoRA: training losses on a setting of ``adaptations``, accuracy, the start.

Losses are paired by seed, accuracies by task and seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.adapt.method import Method
from dtheta.adapt.recipe import RATES
from dtheta.core.seeds import generator
from dtheta.reproduce.claim import Claim, Row, exact, paired
from dtheta.reproduce.experiments.adaptations import SETTINGS, train
from dtheta.reproduce.experiments.classifications import Measure, Size, accuracies
from dtheta.reproduce.experiments.experts import Base
from dtheta.reproduce.lab import Lab

TEXTS = {False: ("bbc", "sentiment", "r8"), True: ("bbc", "sentiment")}  # by whether the small size is wanted
FULL, FAST = Size(800, 400, 32, 60, 16), Size(240, 150, 16, 15, 16)
KEPT = ("mean_loss", "final_loss", "orthonormality", "log_condition")
WHAT = {
    "mean_loss": "mean training loss",
    "final_loss": "mean loss of the last quarter of the steps",
    "orthonormality": "mean distance ||G - I||_F of the factors' Gram matrices from the identity",
    "log_condition": "mean ln(s_max / s_min) of the trained products",
}
UNITS = {"mean_loss": "nats", "final_loss": "nats", "orthonormality": "of ||G - I||_F", "log_condition": "of ln kappa"}
BEST = "each at its best rate"


@dataclass(frozen=True)
class Comparison:
    """A claim that a figure of one method is below that of another.

    Attributes:
        claim: The claim.
        setting: Name of a setting of ``adaptations``.
        field: Which figure: one of ``KEPT``.
        method: Whose figure is claimed to be lower, one of ``adaptations.METHODS``.
        other: Than whose.
        rates: Learning rates of the two.
        note: What a reader has to know.
    """

    claim: Claim
    setting: str
    field: str
    method: str
    other: str
    rates: tuple[float, float]
    note: str = ""

    def row(self, lab: Lab, seeds: Sequence[int]) -> Row:
        """Train both with every seed, and return the difference; runs that other rows made are taken from the lab."""
        ours, theirs = (
            [trained(lab, self.setting, name, rate, seed)[self.field] for seed in seeds]
            for name, rate in zip((self.method, self.other), self.rates, strict=True)
        )
        if diverged := _diverged([ours, theirs], (self.method, self.other)):
            return Row(self.claim, note=f"{diverged}, at rates {self.rates[0]:g} and {self.rates[1]:g}.")
        here = (
            f"{SETTINGS[self.setting].what}; {WHAT[self.field]}, {self.method} at rate {self.rates[0]:g} less "
            f"{self.other} at {self.rates[1]:g}; {len(seeds)} seeds, paired"
        )
        means = (sum(values) / len(values) for values in (ours, theirs))
        note = " against ".join(f"{mean:.4g}" for mean in means) + (f"; {self.note}" if self.note else "")
        return Row(self.claim, here, paired(ours, theirs), UNITS[self.field], 0.0, "below", note)


def _diverged(figures: Sequence[Sequence[float | None]], names: Sequence[str]) -> str:
    """Return which methods had trainings that diverged, of which there is no mean; empty where none did."""
    lost = [sum(value is None or not math.isfinite(value) for value in values) for values in figures]
    counted = [(count, name) for count, name in zip(lost, names, strict=True) if count]
    return " and ".join(f"{count} of {len(figures[0])} trainings of {name} diverged" for count, name in counted)


def below_lora(
    method: str, name: str, where: str, paper: str, setting: str, field: str, rates: tuple[float, float],
    note: str = BEST,
) -> Comparison:  # fmt: skip
    """Return the claim that somewhere a loss of a method is below LoRA's; arguments as of ``Claim``, ``Comparison``."""
    claim = Claim(name, f"{where} {method}'s {WHAT[field]} is below LoRA's.", paper)
    return Comparison(claim, setting, field, method, "LoRA", rates, note)


def trained(lab: Lab, setting: str, method: str, rate: float, seed: int) -> dict[str, Any]:
    """Return the figures ``KEPT`` of one training."""

    def make() -> dict[str, Any]:
        found = vars(train(setting, method, rate, seed))
        return {name: found[name] for name in KEPT}

    return lab.run("training", f"{setting} {method} lr {rate:g}", seed, make)


def on_texts(lab: Lab, method: Method, also: Measure | None = None) -> list[dict[str, Any]]:
    """Return the figures of a method of rank 16 on every task and seed; runs made before are taken from the lab."""
    draws = [(task, seed) for seed in lab.seeds_or(1, 3) for task in TEXTS[lab.fast]]
    return accuracies(lab, method.name, method, RATES[method.name], draws, lab.sized(FAST, FULL), also=also)


def said_of_texts(lab: Lab, method: Method) -> str:
    """Return what was run in ``on_texts`` for a method and LoRA."""
    size, tasks = lab.sized(FAST, FULL), TEXTS[lab.fast]
    rates = f"rates {RATES[method.name]:g} and {RATES['LoRA']:g}"
    pairs = f"{len(tasks) * len(lab.seeds_or(1, 3))} pairs of task and seed"
    return f"MiniLM, rank 16 on all 36 weights, {', '.join(tasks)}, {size}; {rates}; {pairs}"


def more_accurate(lab: Lab, method: Method, claim: Claim, also: Measure | None = None) -> Row:
    """Return the row of a method's accuracy less that of LoRA, paired by task and seed."""
    ours, theirs = (on_texts(lab, m, also) for m in (method, LoRA(16)))
    columns = [[run[key] for run in runs] for runs, key in ((ours, "accuracy"), (theirs, "accuracy"), (ours, "frozen"))]
    means = [sum(column) / len(column) for column in columns]
    note = "{:.1f} against {:.1f} %; a regression on the frozen model has {:.1f} %".format(*means)
    lost = [[math.inf if not run["parameters"] else 0.0 for run in runs] for runs in (ours, theirs)]
    if diverged := _diverged(lost, (method.name, "LoRA")):
        note += f"; {diverged} and counted as 0 %"
    return Row(claim, said_of_texts(lab, method), paired(*columns[:2]), "points", 0.0, "above", note)


def unchanged_start(lab: Lab, method: Method, claim: Claim) -> Row:
    """Return the row of the largest change of an output by attaching a method, relative to the largest output."""

    def make() -> dict[str, float]:
        model = Base().pretrained()[0]
        ids = torch.randint(1000, 20000, (8, 32), generator=generator(0, "reproduce/start"))
        before = states(model, ids)
        adapter = attach(model, method)
        try:
            return {"error": float((states(model, ids) - before).abs().max() / before.abs().max())}
        finally:
            adapter.detach()

    error = lab.run("start", f"{method.name} on MiniLM", 0, make)["error"]
    here = f"MiniLM, {method.name} on all 36 linear weights, token states of 8 texts of 32 drawn tokens, float32"
    return Row(claim, here, exact(error), "of the largest output", 1e-4, "below", "The largest difference of all.")


@torch.no_grad()
def states(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the last hidden states (B, T, d) of token ids (B, T)."""
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
