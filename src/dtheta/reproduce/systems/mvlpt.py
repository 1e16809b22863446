"""MVLPT: is a prompt of many image tasks a better start than none, on a few images a class?

multi     from the mean of prompts that were trained on all source tasks but the target
single    from the method's own start
one       from the prompt of one source task

Everything else is the same. Rates are those of ``prompt_study``, at the small size one of the ladder for all.
Deviations from the paper: small models, AdamW, a fixed number of steps, no augmentation (a mirrored digit is another
one), contexts of 4. The tasks have little in common, where the paper's sources are eleven sets of photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from dtheta._version import __version__
from dtheta.adapt.attach import attach
from dtheta.core.delta import Delta
from dtheta.reproduce.claim import Claim, Row, exact, paired
from dtheta.reproduce.experiments.image_prompts import METHODS, ImagePrompts, Size
from dtheta.reproduce.experiments.prompt_study import Study, mean
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import System

SYSTEM = System("MVLPT", "Shen et al. 2022, arXiv 2211.11720", "images.md")
MODEL = "miniclip"
SOURCES = ("fashion", "mnist", "digits", "textiles", "emoji-google")
#: Mean over 12 targets of a ViT-B/16, from the figure: without and with the source prompt.
FIGURE = {"CoOp": (55.5, 61.5), "VPT": (60.1, 65.9), "UPT": (62.2, 65.8)}
#: Target, a source of the same kind, one of another.
PAIRS = (
    ("mnist", "digits", "textiles"),
    ("emoji-twitter", "emoji-google", "textiles"),
    ("digits", "mnist", "emoji-google"),
)
KIN_SHOTS = 5

VISUAL = Claim(
    "VPT above CoOp",
    "From the multi-task start visual prompts (VPT) are more accurate than text prompts (CoOp).",
    "ViT-B/16, mean over 12 targets: 65.9 against 61.5 %",
)
KIN = Claim(
    "kin help more",
    "A task of the same kind is a better start than one of another kind.",
    "20 x 20 pairs of tasks: gains follow the similarity of images and labels (study)",
)
FOLDED = Claim(
    "UPT folds into vectors",
    "UPT's network can be left out after training: the vectors that it makes give the same logits.",
    "By definition: the network sees no input",
)


@dataclass(frozen=True)
class Budget:
    """How much of everything."""

    size: Size
    methods: tuple[str, ...]
    targets: tuple[str, ...]
    shots: tuple[int, ...]


FAST = Budget(Size(learn=12, validate=4, test=100, steps=16, source_steps=32, source_seeds=1), ("CoOp", "VPT"),
              ("digits", "emoji-twitter"), (5,))  # fmt: skip
FULL = Budget(Size(), ("CoOp", "VPT", "UPT"), (*SOURCES, "emoji-twitter"), (1, 5))


@dataclass(frozen=True)
class InLab:
    """Runs of a study, kept in a lab; the draw is their seed."""

    lab: Lab

    def get(self, key: Sequence[Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return the record of (part, model, method, start, target, shots, draw, rate)."""
        part, _, method, start, target, shots, draw, lr = key
        return self.lab.run(part, f"{target} {method} from {start}, {shots} a class, lr {lr:g}", draw, make)


def rows(lab: Lab) -> Iterator[Row]:
    """Run the experiments."""
    budget = lab.sized(FAST, FULL)
    kept = None if lab.folder is None else lab.folder / f"mvlpt-prompts-{__version__}"
    with TemporaryDirectory() if kept is None else nullcontext(kept) as folder:
        prompts = ImagePrompts(MODEL, budget.size, Path(folder))
        studies = {name: Study(prompts, name, InLab(lab), SOURCES, tunes=not lab.fast) for name in budget.methods}
        draws = lab.seeds_or(3, 5)
        for shots in budget.shots:
            for study in studies.values():
                yield better_start(study, budget, shots, draws)
        yield visual(studies, budget, draws)
        yield kin(studies["CoOp"], draws)
        yield folded(lab, prompts)


def scores(study: Study, kind: str, targets: Sequence[str], shots: int, draws: Sequence[int]) -> list[float]:
    """Return accuracies in percent, target by target, draw by draw."""
    return [100 * value for target in targets for value in study.tested(kind, target, shots, draws)]


def better_start(study: Study, budget: Budget, shots: int, draws: Sequence[int]) -> Row:
    """Return the row of the multi-task start less the method's own, by target and draw."""
    without, with_ = FIGURE[study.method]
    images = f"{shots} image{'s' * (shots > 1)} a class"
    claim = Claim(
        f"multi-task start, {study.method}, {images}",
        f"On {images} {study.method} is more accurate from a prompt of many tasks than from its own start.",
        f"ViT-B/16, mean over 12 targets (figure): {with_} against {without} %",
    )
    found = {kind: scores(study, kind, budget.targets, shots, draws) for kind in ("multi", "single")}
    fixed = {what: [100 * study.fixed(what, target) for target in budget.targets] for what in ("zero-shot", "untuned")}
    note = "; ".join(f"{kind} {mean(values):.1f} %" for kind, values in (found | fixed).items())
    gain = paired(found["multi"], found["single"])
    return Row(
        claim, f"{said(study, budget.targets, draws)}; {rates(study, shots)}", gain, "points", 0.0, "above", note
    )


def visual(studies: Mapping[str, Study], budget: Budget, draws: Sequence[int]) -> Row:
    """Return the row of VPT less CoOp, both from the multi-task start."""
    shots = max(budget.shots)
    ours, theirs = (scores(studies[name], "multi", budget.targets, shots, draws) for name in ("VPT", "CoOp"))
    note = f"{mean(ours):.1f} against {mean(theirs):.1f} %."
    here = f"{said(studies['VPT'], budget.targets, draws)}; {shots} images a class"
    return Row(VISUAL, here, paired(ours, theirs), "points", 0.0, "above", note)


def kin(study: Study, draws: Sequence[int]) -> Row:
    """Return the row of a start from a task of the same kind less one of another kind, at one rate."""
    lr = study.rate("single", KIN_SHOTS)

    def from_source(place: int) -> list[float]:
        return [
            100 * study.score("test", pair[place], pair[0], KIN_SHOTS, draw, lr) for pair in PAIRS for draw in draws
        ]

    same, other = from_source(1), from_source(2)
    pairs = ", ".join(f"{target} from {near} against {far}" for target, near, far in PAIRS)
    here = f"{MODEL}, {study.method}, {KIN_SHOTS} images a class, {pairs}; rate {lr:g}; {len(draws)} draws each"
    note = f"{mean(same):.1f} against {mean(other):.1f} %."
    return Row(KIN, here, paired(same, other), "points", 0.0, "above", note)


def said(study: Study, targets: Sequence[str], draws: Sequence[int]) -> str:
    """Return what was run on."""
    size = study.prompts.size
    learned = f"source prompts ({size.source_seeds}) of {size.source_steps} steps on {size.learn} images a class"
    trained = f"{size.steps} steps; {learned} of all others; {len(draws)} draws a target"
    return f"{MODEL}, targets {', '.join(targets)}, {trained}"


def rates(study: Study, shots: int) -> str:
    """Return the rates, and whether they were chosen."""
    found = ", ".join(f"{kind} {study.rate(kind, shots):g}" for kind in ("source", "single", "multi"))
    return f"rates {found}" + ("" if study.tunes else " for all, not tuned")


def folded(lab: Lab, prompts: ImagePrompts) -> Row:
    """Return the row of the largest difference of UPT's logits from those of the vectors that it makes."""
    error = lab.run("folded", "UPT", 0, lambda: {"error": folding_error(prompts, "digits")})["error"]
    here = f"{MODEL}, UPT of 4 vectors and 4 columns a layer at its start, 32 images of digits, float32"
    return Row(FOLDED, here, exact(error), "of the largest logit", 1e-4, "below", "The largest difference of all.")


@torch.no_grad()
def folding_error(prompts: ImagePrompts, task: str) -> float:
    """Return the largest difference between logits of UPT and of its vectors, relative to the largest logit."""
    net, images = prompts.classifier(task), prompts.inputs(task, "test", "UPT").tensors["pixel_values"][:32]

    def logits(source: Any) -> tuple[torch.Tensor, Delta]:
        adapter = attach(net, source)
        try:
            return net(pixel_values=images).logits, adapter.folded()
        finally:
            adapter.detach()

    live, vectors = logits(METHODS["UPT"])
    return float((logits(vectors)[0] - live).abs().max() / live.abs().max())
