"""A few images a class: adapt an image-text classifier, and say what that gained over not adapting it.

    adapted    a method's delta, trained by cross-entropy on the logits over the classes' texts
    gain       adapted less zero-shot, paired over the test images; for the other baselines see image_problem.py

The texts are encoded anew each step where the method moves them, and once where it does not; so are the images, unless
they are augmented. Which of them a method moves is read off the gradient, not off names. CLIP-SVD's paper (arXiv
2509.03740) trains 200 K steps for K images a class; here the number of steps is free, and small by default.

Shape legend: N images, E joint features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.attach import attach
from dtheta.adapt.image_problem import FrozenImages, ImageProblem, Judged, judged, require_plain, zero_shot
from dtheta.adapt.method import Method
from dtheta.adapt.prompts.image_names import is_conditional
from dtheta.adapt.training import Training, dropout_as, traced, trained
from dtheta.core.arguments import require_flag
from dtheta.core.delta import Delta
from dtheta.core.modes import kept_modes
from dtheta.data.batches import KeyedOrder
from dtheta.data.image_batches import image_loader
from dtheta.data.mixture import TensorItems
from dtheta.data.shots import hold_out
from dtheta.fit.record import Record
from dtheta.fit.run import Callback
from dtheta.score import Interval, paired_shares

#: Rates to start from, for tens of steps; bench/clip_svd.py chooses by task among these, a third and thrice as much.
RATES: Mapping[str, float] = {"CLIPSVD": 3e-2, "CoOp": 3e-2, "LoRA": 3e-3}

IMAGE_TEXT = "image-text-classification"


@dataclass(frozen=True)
class FewShot(Training):
    """How a classifier is adapted; every field is in the provenance of the delta.

    Attributes:
        method: What trains.
        select: Where; the method's default selection if None.
        steps: Optimizer steps.
        batch_size: Images a step.
        lr: Highest rate; the one in ``RATES``, or 1e-3, if None.
        warmup: Rising share of the schedule, which falls as a cosine to zero.
        weight_decay: AdamW's; it pulls to the base.
        augment: Whether each image is cut and mirrored at random each time.
        flip: False never mirrors, for images in which left and right differ in meaning, such as digits.
        validate: Support images to hold out, of all classes alike; the best of ten evaluations on them is kept. 0 keeps
            the last step.
        seed: Key of the order of the images, of augmentation and random starts.
    """

    rates: ClassVar[Mapping[str, float]] = RATES
    method: Method
    select: str | None = None
    steps: int = 60
    batch_size: int = 32
    lr: float | None = None
    warmup: float = 0.1
    weight_decay: float = 0.0
    augment: bool = False
    flip: bool = True
    validate: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that cannot be meant, before anything is computed from it."""
        self.check()
        require_flag(self.augment, "augment")
        require_flag(self.flip, "flip")


@dataclass(frozen=True, eq=False)
class AdaptedImages:
    """What an adaptation made.

    Attributes:
        delta: Relative to the classifier, whose parameters are the model's under ``model.``; for the model itself
            ``delta.rename(lambda name: name.removeprefix("model."))``. Its provenance holds recipe, task and scores.
        record: History of the training.
        judged: Accuracy on the test images.
        gain: Accuracy above zero-shot, paired over the test images.
        parameters: Numbers that trained.
    """

    delta: Delta
    record: Record
    judged: Judged
    gain: Interval
    parameters: int


def adapt_images(
    posed: ImageProblem,
    recipe: FewShot,
    *,
    model_name: str = "",
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> AdaptedImages:
    """Train a classifier's delta on the support images and score it on the test images.

    Args:
        posed: The classifier and its images; the classifier is as it was when this returns.
        recipe: How to train.
        model_name: How the delta shall call its base.
        checkpoint: Folder for checkpoints, as in ``fit``.
        resume: Go on from the checkpoint there.
        callbacks: Called after every step, as in ``fit``.
        quiet: No progress bar.

    Raises:
        ConfigError, NonFinite, UnsupportedLayer, ShapeMismatch, OutputError, FormatError: As ``attach`` and ``fit``.
    """
    before, net = zero_shot(posed), posed.net
    chosen, held_out = hold_out(posed.support.images, recipe.validate, recipe.seed)
    adapter = attach(net, recipe.method, recipe.select, seed=recipe.seed)
    try:
        images, texts = _moves_images(posed), _by_image(adapter) or _moves_texts(posed)
        with dropout_as(net, False), nullcontext() if texts else net.frozen_text():
            record = trained(
                adapter,
                recipe,
                _batches(posed.support, chosen, recipe, images),
                eval=_held_out(posed.support, held_out, recipe, images) if len(held_out) else None,
                checkpoint=checkpoint,
                resume=resume,
                callbacks=callbacks,
                quiet=quiet,
            )
        parameters = sum(p.numel() for p in adapter.trainable().values())
        after = judged(posed, _logits(posed, adapter, images))
        delta = adapter.delta()
    finally:
        adapter.detach()
    gain = paired_shares(after.correct, before.correct)
    task = _described(posed, model_name, before, after, gain)
    return AdaptedImages(traced(delta, recipe, task), record, after, gain, parameters)


def judge_delta(posed: ImageProblem, delta: Delta) -> Judged:
    """Return what a classifier with a delta on it reaches: on other classes, or images of another kind.

    Raises:
        BaseMismatch, UnsupportedLayer, ShapeMismatch: As ``attach``.
    """
    require_plain(posed.net)
    adapter = attach(posed.net, delta)
    try:
        return judged(posed, _logits(posed, adapter, _moves_images(posed)))
    finally:
        adapter.detach()


def _by_image(adapter: Adapter) -> bool:
    """Tell whether every image has other texts, so that there are none without an image."""
    return is_conditional(adapter.grafts)


def _moves_images(posed: ImageProblem) -> bool:
    """Tell whether what is attached moves the image features: whether a gradient reaches it."""
    with kept_modes(posed.net), torch.enable_grad():
        return posed.net.image_features(posed.support.seen(posed.support.images.images[:1])).requires_grad


def _moves_texts(posed: ImageProblem) -> bool:
    with kept_modes(posed.net), torch.enable_grad():
        return posed.net.text_features().requires_grad


def _logits(posed: ImageProblem, adapter: Adapter, images: bool) -> Tensor:
    with nullcontext() if _by_image(adapter) else posed.net.frozen_text():
        return posed.test.logits(images)


def _features(part: FrozenImages, places: Tensor) -> TensorItems:
    return TensorItems(image_features=part.features[places], labels=part.labels[places])


def _batches(support: FrozenImages, places: Tensor, recipe: FewShot, moved: bool) -> Any:
    """Return the training data: of features where nothing changes them, else of images."""
    if moved or recipe.augment:
        images = support.images.take(places)
        return image_loader(images, support.pixels, recipe.batch_size, recipe.seed, recipe.augment, flip=recipe.flip)
    items = _features(support, places)
    return DataLoader(items, recipe.batch_size, sampler=KeyedOrder(len(items), recipe.seed))


def _held_out(support: FrozenImages, places: Tensor, recipe: FewShot, moved: bool) -> Any:
    """Return what is held out, as it is and in order: of features where nothing changes them, else of images."""
    if moved:
        return image_loader(support.images.take(places), support.pixels, recipe.batch_size, shuffle=False)
    return DataLoader(_features(support, places), recipe.batch_size)


def _described(posed: ImageProblem, model_name: str, before: Judged, after: Judged, gain: Interval) -> dict[str, Any]:
    """Return what the delta is for, and what it reached."""
    return {
        "kind": IMAGE_TEXT,
        "model": model_name,
        "data": posed.name,
        "classes": list(posed.net.classes),
        "templates": list(posed.net.templates),
        "pixels": dataclasses.asdict(posed.test.pixels),
        "train": len(posed.support.labels),
        "test": len(posed.test.labels),
        "accuracy": dataclasses.asdict(after.accuracy),
        "baseline": dataclasses.asdict(before.accuracy),
        "gain": dataclasses.asdict(gain),
        "majority": float(posed.test.labels.bincount().max()) / len(posed.test.labels),
    }
