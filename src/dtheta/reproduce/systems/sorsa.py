"""SORSA: does PiSSA gain by keeping its singular vectors orthonormal?

loss            against LoRA and PiSSA of the same rank, steps and batches, on the toy of PiSSA's repository and on a
                language model; each method at the rate, among half-decades, where that very loss is lowest on other
                seeds (bench/adapt.py)
orthonormal     ||G - I||_F of the factors after training, and ln kappa of their products, against gamma = 0
directions      d_direction of ``adapt.variation``: how far the leading singular directions of query and value weights
                turned, against LoRA, on texts
"""

from __future__ import annotations

from collections.abc import Iterator

from dtheta.adapt.classify import Adapted
from dtheta.adapt.lora import LoRA
from dtheta.adapt.recipe import RATES
from dtheta.adapt.sorsa import SORSA
from dtheta.adapt.text_problem import Problem
from dtheta.adapt.variation import variation
from dtheta.reproduce.claim import Claim, Row, paired
from dtheta.reproduce.experiments.against_lora import (
    BEST,
    Comparison,
    below_lora,
    more_accurate,
    on_texts,
    said_of_texts,
    unchanged_start,
)
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import System

SYSTEM = System("SORSA", "Cao 2024, arXiv 2409.00055", "delta.md")
LLAMA = "LLaMA-2-7B on MetaMathQA, rank 128, rate 3e-5 against 2e-5 of the others: lowest loss (figure)"
PROVED = "Argued by theorems and shown for LLaMA-2-7B (figures)"
QUERY_VALUE, LEADING = "*.query.weight|*.value.weight", 16
FREE, AT_ITS_RATE = "SORSA, gamma 0", "both at SORSA's best rate"

COMPARISONS = (
    below_lora("SORSA", "faster, toy on digits", "On PiSSA's toy", LLAMA, "toy-digits-8", "mean_loss", (3e-2, 3e-2)),
    below_lora("SORSA", "faster, toy on clothes", "On the toy with clothes", LLAMA, "toy-fashion-8", "mean_loss",
               (3e-3, 1e-2)),
    below_lora("SORSA", "lower at the end, digits", "On PiSSA's toy", LLAMA, "toy-digits-8", "final_loss",
               (3e-2, 1e-1)),
    Comparison(
        Claim("faster than PiSSA", "On the toy with clothes SORSA's mean training loss is below PiSSA's.", LLAMA),
        "toy-fashion-8", "mean_loss", "SORSA", "PiSSA", (3e-3, 3e-3), BEST,
    ),
    Comparison(
        Claim("factors nearer to orthonormal", "The regularizer leaves the factors nearer to orthonormal.", PROVED),
        "toy-digits-8", "orthonormality", "SORSA", FREE, (3e-2, 3e-2), AT_ITS_RATE,
    ),
    Comparison(
        Claim("better conditioned", "The regularizer leaves the trained products better conditioned.", PROVED),
        "toy-digits-8", "log_condition", "SORSA", FREE, (3e-2, 3e-2), AT_ITS_RATE,
    ),
)  # fmt: skip
LANGUAGE = (
    below_lora("SORSA", "faster, language model", "On a language model", LLAMA, "language-r8", "mean_loss",
               (3e-4, 1e-2)),
    Comparison(
        Claim("faster than PiSSA, language model", "On a language model SORSA's mean training loss is below PiSSA's.",
              LLAMA),
        "language-r8", "mean_loss", "SORSA", "PiSSA", (3e-4, 1e-3), BEST,
    ),
    Comparison(
        Claim("factors nearer to orthonormal, language model",
              "On a language model the regularizer leaves the factors nearer to orthonormal.", PROVED),
        "language-r8", "orthonormality", "SORSA", FREE, (3e-4, 3e-4), AT_ITS_RATE,
    ),
)  # fmt: skip
ACCURACY = Claim(
    "accuracy above LoRA's",
    "After equal steps at equal rank a model adapted by SORSA is more accurate than one adapted by LoRA.",
    "LLaMA-2-7B, GSM8K: 56.0 against 42.3 %; MATH: 10.4 against 5.5 %",
)
TURNED = Claim(
    "directions turn less",
    "SORSA turns the leading singular directions of query and value weights less than LoRA.",
    "LLaMA-2-7B, query and value weights, d_direction and d_sigma of the analysis (figure)",
)
START = Claim(
    "the start is the base",
    "Attached and not yet trained, SORSA leaves the model's outputs as they are, to rounding.",
    "By definition: the residual and B diag(S) A add up to the weight",
)


def rows(lab: Lab) -> Iterator[Row]:
    """Run the experiments."""
    seeds = lab.seeds_or(3, 5)
    for comparison in COMPARISONS + lab.sized((), LANGUAGE):
        yield comparison.row(lab, seeds)
    yield more_accurate(lab, SORSA(16), ACCURACY, turned)
    yield less_turned(lab)
    yield unchanged_start(lab, SORSA(16), START)


def turned(posed: Problem, adapted: Adapted) -> dict[str, float]:
    """Return how far a delta turned the leading directions of query and value weights, on average, 0 to 1."""
    found = variation(posed.net, adapted.delta.restrict(QUERY_VALUE), LEADING)
    return {"turned": sum(one.d_direction for one in found) / len(found)}


def less_turned(lab: Lab) -> Row:
    """Return the row of the turned directions, on the trainings of ``more_accurate``."""
    runs = zip(*(on_texts(lab, method, turned) for method in (SORSA(16), LoRA(16))), strict=True)
    both = [(a["turned"], b["turned"]) for a, b in runs if "turned" in a and "turned" in b]  # else one diverged
    if not both:
        return Row(TURNED, note="Of every pair of trainings one diverged.")
    ours, theirs = zip(*both, strict=True)
    note = (
        f"{sum(ours) / len(ours):.3g} against {sum(theirs) / len(theirs):.3g}; 0 is not at all, 1 is at right angles. "
        f"SORSA's rate is {RATES['SORSA'] / RATES['LoRA']:.2g} of LoRA's, and a lower rate turns less by itself."
    )
    return Row(TURNED, said_of_texts(lab, SORSA(16)), paired(ours, theirs), "d_direction", 0.0, "below", note)
