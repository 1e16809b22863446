"""DePT: is a short prompt with low-rank offsets faster than a long one of as many weights, and as accurate?

time        CPU time of a training step (forward, backward, AdamW) with l = 100 virtual tokens over that with m = 40 and
            offsets, in turns, on texts of n columns; the model of the saving is (l - m) / (l + n)
memory      bytes that the forward pass keeps for the backward pass
accuracy    on texts and their classes, by task and draw; a head that starts at the regression on frozen features trains
            along; rates chosen on held-out texts (bench/prompts.py, ``adapt.recipe.RATES``)
padding     outputs of a text with and without padding beside it
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from dtheta.adapt.attach import attach
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.core.seeds import generator
from dtheta.models.load import load_model
from dtheta.reproduce.claim import Claim, Row, exact, geometric, paired
from dtheta.reproduce.experiments.classifications import Size, accuracies
from dtheta.reproduce.experiments.experts import Base
from dtheta.reproduce.experiments.prompt_steps import SHORT, TOKENS, batch_of, kept_bytes, methods, step
from dtheta.reproduce.experiments.timing import in_turns
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import System

SYSTEM = System("DePT", "Shi and Lipani 2023, arXiv 2309.05173", "prompts.md")
WIDTH = 384  # of MiniLM's embeddings
RATE, OFFSET_RATE, PLAIN_RATE = 3e-2, 5e-4, 3e-3
TOLERANCE = 2.0  # points of accuracy
PAPER = "Abstract: over 20 % less time and memory than prompt tuning at equal weights, T5 and LLaMA-2"
GLUE = "T5-base, 76.8k weights: GLUE 85.9 against 84.8, SuperGLUE 76.5 against 60.0 (baselines from memory)"

TIMES = {
    n: Claim(
        f"a fifth faster, texts of {n} tokens",
        f"On texts of {n} tokens a training step takes at least 20 % less time than with a prompt of as many weights.",
        PAPER,
    )
    for n in (16, 64, 256)
}
MEMORY = Claim(
    "a fifth less memory",
    "A training step keeps at least 20 % fewer bytes for its gradient than with the long prompt.",
    PAPER,
)
ABOVE = Claim("above prompt tuning", "At equal weights DePT is more accurate than prompt tuning.", GLUE)
NO_WORSE = Claim("no worse than prompt tuning", "At equal weights DePT is within two points of prompt tuning.", GLUE)
TWO_RATES = Claim(
    "two rates above one",
    "A low rate of its own for the offsets is more accurate than the prompt's rate for both.",
    "T5-base: rates of 0.3 and 1e-4 to 5e-3 (ablation)",
)
WEIGHTS = Claim(
    "no more weights",
    "DePT trains no more weights than the prompt of 100 tokens.",
    "l d = m d + (s + d) r, by definition",
)
PADDING = Claim(
    "padding changes nothing",
    "The offset of a token is that of its place in the text, so padding changes no output.",
    "By definition; the released code counts columns, so that there it does",
)
GROWS = Claim(
    "saves more in larger models", "The larger the model, the more time and memory DePT saves.", "T5-small to 11B"
)


@dataclass(frozen=True)
class Budget:
    """How much of everything."""

    base: Base
    tasks: tuple[str, ...]
    size: Size
    columns: tuple[int, ...]
    texts: int
    repeat: int


FAST = Budget(Base("minilm", 2), ("bbc", "sentiment"), Size(96, 150, 16, 10, 4), (64, 256), 2, 5)
FULL = Budget(Base(), ("bbc", "sentiment", "r8"), Size(240, 300, 32, 60, 8), (16, 64, 256), 16, 9)


def rows(lab: Lab) -> Iterator[Row]:
    """Run the experiments."""
    budget = lab.sized(FAST, FULL)
    for n in budget.columns:
        yield faster(lab, budget, n)
    yield smaller(lab, budget, 64)
    yield from accurate(lab, budget)
    short, plain = methods(WIDTH, budget.size.length)["DePT"], TOKENS * WIDTH
    assert isinstance(short, DePT)
    share = exact(short.parameters(WIDTH) / plain)
    here = f"MiniLM, {SHORT} tokens and rank {short.rank} over {short.positions} positions against {TOKENS} tokens"
    yield Row(WEIGHTS, here, share, "of its weights", 1.0 + 1e-9, "below", f"{short.parameters(WIDTH):,} of {plain:,}.")
    yield padded(lab, short)
    yield Row(GROWS, note="No package carries one pretrained family in several sizes.")


def said(budget: Budget, columns: int) -> str:
    """Return what a step is taken of."""
    against = f"{TOKENS} virtual tokens against {SHORT} and offsets"
    return f"MiniLM, {budget.texts} full texts of {columns} drawn tokens, {against}"


def faster(lab: Lab, budget: Budget, columns: int) -> Row:
    """Return the row of how many times as long a step with the long prompt takes."""

    def make() -> dict[str, list[float]]:
        batch = batch_of(columns, budget.texts)
        adapters = [attach(load_model("minilm"), methods(WIDTH, columns)[name]) for name in ("DePT", "PromptTuning")]
        ours, theirs = (step(adapter, adapter.trainable().values(), batch) for adapter in adapters)
        return {"ratios": in_turns(ours, theirs, budget.repeat)}

    ratios = lab.run("time", f"{columns} columns", 0, make)["ratios"]
    saved = (TOKENS - SHORT) / (TOKENS + columns)
    note = f"{100 * (1 - 1 / geometric(ratios).estimate):.0f} % saved; (l - m) / (l + n) is {100 * saved:.0f} %."
    here = f"{said(budget, columns)}; {len(ratios)} rounds in turns, CPU seconds"
    return Row(TIMES[columns], here, geometric(ratios), "times", 1.25, "above", note)


def smaller(lab: Lab, budget: Budget, columns: int) -> Row:
    """Return the row of how many times as many bytes a step with the long prompt keeps."""

    def make() -> dict[str, int]:
        model, batch = Base().pretrained()[0], batch_of(columns, budget.texts)
        chosen = methods(WIDTH, columns)
        return {name: kept_bytes(model, chosen[name], batch) for name in ("DePT", "PromptTuning")}

    found = lab.run("memory", f"{columns} columns", 0, make)
    note = f"{found['DePT'] / 1e6:.1f} against {found['PromptTuning'] / 1e6:.1f} MB, counted."
    return Row(
        MEMORY, said(budget, columns), exact(found["PromptTuning"] / found["DePT"]), "times", 1.25, "above", note
    )


def accurate(lab: Lab, budget: Budget) -> Iterator[Row]:
    """Yield the rows of accuracy, by task and draw."""
    draws = [(task, seed) for seed in lab.seeds_or(2, 3) for task in budget.tasks]
    two = replace(methods(WIDTH, budget.size.length)["DePT"], offset_lr=OFFSET_RATE)  # type: ignore[call-arg]
    one = replace(two, offset_lr=None)  # type: ignore[call-arg]
    contestants = {"DePT": (two, RATE), "prompt tuning": (PromptTuning(TOKENS), PLAIN_RATE), "one rate": (one, RATE)}
    found = {
        name: [run["accuracy"] for run in accuracies(lab, name, method, rate, draws, budget.size, base=budget.base)]
        for name, (method, rate) in contestants.items()
    }
    note = "; ".join(f"{name} {sum(values) / len(values):.1f} %" for name, values in found.items())
    here = (
        f"{budget.base}, {', '.join(budget.tasks)}, {budget.size}, {TOKENS} virtual tokens at rate {PLAIN_RATE:g} "
        f"against {SHORT} at {RATE:g} and offsets at {OFFSET_RATE:g}; {len(draws)} pairs of task and draw"
    )
    gain = paired(found["DePT"], found["prompt tuning"])
    yield Row(ABOVE, here, gain, "points", 0.0, "above", note)
    yield Row(NO_WORSE, here, gain, "points", -TOLERANCE, "above", note)
    warned = f"{note}. One rate is {RATE:g}, which was chosen for the prompt."
    yield Row(TWO_RATES, here, paired(found["DePT"], found["one rate"]), "points", 0.0, "above", warned)


def padded(lab: Lab, method: DePT) -> Row:
    """Return the row of the largest change of a token's state by 8 columns of padding on the left."""
    error = lab.run("padding", method.index, 0, lambda: {"error": padding_error(method)})["error"]
    here = "MiniLM, DePT with drawn offsets, 4 texts of 12 drawn tokens, 8 columns of padding on the left"
    return Row(PADDING, here, exact(error), "of the largest state", 1e-4, "below", "The largest difference, float32.")


@torch.no_grad()
def padding_error(method: DePT, extra: int = 8) -> float:
    """Return the largest difference of token states with and without padding, relative to the largest state."""
    model, batch = Base().pretrained()[0], batch_of(12, 4)
    adapter = attach(model, method)
    try:
        for name, parameter in adapter.trainable().items():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(0, f"reproduce/dept/{name}")))
        alone = adapter(**batch).last_hidden_state
        wide = {name: torch.cat([t.new_zeros(len(t), extra), t], 1) for name, t in batch.items()}
        beside = adapter(**wide).last_hidden_state[:, -alone.shape[1] :]
    finally:
        adapter.detach()
    return float((beside - alone).abs().max() / alone.abs().max())
