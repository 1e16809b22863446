"""PiSSA: does training start faster and end lower when an adapter begins at the principal singular directions?

loss        against LoRA of the same rank, steps and batches, on the toy of PiSSA's repository and on a language model;
            each method at the rate, among half-decades, where that very loss is lowest on other seeds (bench/adapt.py)
accuracy    against LoRA on texts, each method at the rate of ``adapt.recipe.RATES``
four bits   1 - ||W - (Q + L R)||_* / ||W - NF4(W)||_*, the share of NF4's error that QPiSSA saves, by matrix
"""

from __future__ import annotations

from collections.abc import Iterator

from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.qpissa import LoftQ, QPiSSA, Quantization
from dtheta.adapt.quantized import quantize
from dtheta.reproduce.claim import Claim, Row, over_seeds, paired
from dtheta.reproduce.experiments.against_lora import below_lora, more_accurate, unchanged_start
from dtheta.reproduce.experiments.experts import Base
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import System

SYSTEM = System("PiSSA", "Meng, Wang and Zhang 2024, arXiv 2404.02948", "delta.md")
TOY = "MLP 8-128-5 on 8 principal components of MNIST, odd to even digits, rank 8, rate 5e-4 for all: lower throughout"
LLAMA = "LLaMA-2-7B on MetaMathQA, rank 128, rate 2e-5 for all: lower from the first steps on (figures)"

COMPARISONS = (
    below_lora("PiSSA", "faster, toy on digits", "On the toy at rank 8", TOY, "toy-digits-8", "mean_loss",
               (3e-2, 3e-2)),
    below_lora("PiSSA", "faster, toy on clothes", "On the toy with clothes", TOY, "toy-fashion-8", "mean_loss",
               (3e-3, 1e-2)),
    below_lora("PiSSA", "lower at the end, clothes", "On the toy with clothes", TOY, "toy-fashion-8", "final_loss",
               (3e-2, 1e-2)),
    below_lora("PiSSA", "faster at one rate", "At one rate for both, as the paper compares,", TOY, "toy-fashion-8",
               "mean_loss", (3e-3, 3e-3), "PiSSA's best rate, a third of LoRA's: one rate favors whoever likes it"),
    below_lora("PiSSA", "faster at rank 2", "On the toy at rank 2, below the rank of either matrix,", TOY,
               "toy-digits-2", "mean_loss", (3e-2, 1e-1)),
)  # fmt: skip
LANGUAGE = (
    below_lora("PiSSA", "faster, language model", "On a language model", LLAMA, "language-r8", "mean_loss",
               (1e-3, 1e-2)),
    below_lora("PiSSA", "lower at the end, language model", "On a language model", LLAMA, "language-r8", "final_loss",
               (1e-3, 3e-3), "LoRA's rate by one tuning seed; at 1e-2 it ended lower (docs/results.md)"),
)  # fmt: skip
ACCURACY = Claim(
    "accuracy above LoRA's",
    "After equal steps at equal rank a model adapted by PiSSA is more accurate than one adapted by LoRA.",
    "LLaMA-2-7B, GSM8K: 53.1 against 42.3 %; Mistral-7B: 72.9 against 67.7 %",
)
FOUR_BITS = Claim(
    "four bits, error below NF4's",
    "Keeping the principal part out of the four bits leaves less error (nuclear norm) than NF4 alone.",
    "LLaMA-2-7B: 18.97 % less",
)
LOFTQ = Claim(
    "four bits, error below LoftQ's",
    "QPiSSA saves more of NF4's error than LoftQ at the same rank and number of iterations.",
    "LLaMA-2-7B, GSM8K in four bits: QPiSSA 49.1, LoftQ 40.7, QLoRA 39.8 %",
)
START = Claim(
    "the start is the base",
    "Attached and not yet trained, PiSSA leaves the model's outputs as they are, to rounding.",
    "By definition: the residual and the principal part add up to the weight",
)


def rows(lab: Lab) -> Iterator[Row]:
    """Run the experiments."""
    seeds = lab.seeds_or(3, 5)
    for comparison in COMPARISONS + lab.sized((), LANGUAGE):
        yield comparison.row(lab, seeds)
    yield more_accurate(lab, PiSSA(16), ACCURACY)
    yield from four_bits(lab)
    yield unchanged_start(lab, PiSSA(16), START)


def four_bits(lab: Lab) -> Iterator[Row]:
    """Yield the rows of the error in four bits, over the matrices of a model."""
    base, rank = lab.sized(Base("minilm", 2), Base("smollm2")), 16
    ours, theirs = (saved(lab, base, method) for method in (QPiSSA(rank), LoftQ(rank)))
    here = f"{base}, its {len(ours)} linear weights in blocks of 64, rank {rank}, 5 iterations"
    note = "Over the matrices of one model, which are no independent draws."
    yield Row(FOUR_BITS, here, over_seeds(ours), "% of NF4's error", 0.0, "above", note)
    yield Row(LOFTQ, here, paired(ours, theirs), "points of NF4's error", 0.0, "above", note)


def saved(lab: Lab, base: Base, method: Quantization) -> list[float]:
    """Return by how many percent the nuclear norm of the error is below that of NF4, by matrix."""

    def make() -> dict[str, list[float]]:
        return {"reductions": [100 * one.reduction for one in quantize(base.pretrained()[0], method).errors]}

    return lab.run("four bits", f"{base} {method.name}", 0, make)["reductions"]
