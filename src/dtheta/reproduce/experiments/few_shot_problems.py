"""Image tasks of an image-text model with a few support images a class: all classes, half of them, or to tune on.

Test images' features are computed once for each choice of classes, and shared by all runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from dtheta.adapt.image_problem import FrozenImages, ImageProblem
from dtheta.data.image_tasks import load_image_task
from dtheta.data.images import Images, ImageTask
from dtheta.data.pixels import Pixels
from dtheta.data.shots import few_shot
from dtheta.models.image_text import ImageTextClassifier, image_text_classifier
from dtheta.models.load import load_model, load_tokenizer
from dtheta.models.pixels import load_pixels

TUNING, TUNE_SHOTS, TUNE_HELD = 100, 4, 8  # draw, images a class to train on and to choose by


@dataclass(frozen=True)
class FewShotProblems:
    """Problems on one model.

    Attributes:
        model: Name or folder of the image-text model.
        test: At most so many test images a task.
    """

    model: str = "miniclip"
    test: int = 400

    def task(self, name: str) -> ImageTask:
        """Return a task."""
        return _task(name, self.test)

    def posed(self, task: str, shots: int, draw: int, classes: tuple[int, ...] | None = None) -> ImageProblem:
        """Return a task, or some of its classes, with one draw of so many support images a class."""
        return _posed(self, task, shots, draw, classes or tuple(range(len(self.task(task).classes))))

    def half(self, task: str, second: bool, shots: int, draw: int) -> ImageProblem:
        """Return the first half of the classes of a task, or the others."""
        classes = tuple(range(len(self.task(task).classes)))
        middle = -(-len(classes) // 2)
        return self.posed(task, shots, draw, classes[middle:] if second else classes[:middle])

    def tuning(self, task: str) -> ImageProblem:
        """Return a draw whose first images of each class train, and whose others are there to choose by."""
        return _tuning(self, task)


@cache
def _pretrained(model: str) -> tuple[nn.Module, Any, Pixels]:
    return load_model(model), load_tokenizer(model), load_pixels(model)


@cache
def _task(name: str, test: int) -> ImageTask:
    full = load_image_task(name)
    return full if len(full.test) <= test else load_image_task(name, n_test=test)


def chosen(images: Images, classes: tuple[int, ...]) -> Images:
    """Return the images of some classes, which get the numbers 0, 1, ..."""
    kept = images.take(torch.isin(images.labels, torch.tensor(classes)).nonzero().flatten())
    return Images(kept.images, torch.tensor([classes.index(label) for label in kept.labels.tolist()]))


@cache
def _judged_on(
    problems: FewShotProblems, task: str, classes: tuple[int, ...]
) -> tuple[ImageTextClassifier, FrozenImages]:  # fmt: skip
    """Return the classifier of some classes and its test images."""
    net, tokenizer, pixels = _pretrained(problems.model)
    data = problems.task(task)
    classifier = image_text_classifier(net, tokenizer, [data.classes[c] for c in classes], data.template)
    test = FrozenImages(classifier, pixels, chosen(data.test, classes))
    _ = test.features  # not on the clock of whoever comes first
    return classifier, test


@cache
def _posed(problems: FewShotProblems, task: str, shots: int, draw: int, classes: tuple[int, ...]) -> ImageProblem:
    net, test = _judged_on(problems, task, classes)
    support = FrozenImages(net, test.pixels, few_shot(chosen(problems.task(task).train, classes), shots, draw))
    _ = support.features
    return ImageProblem(net, support, test, task)


@cache
def _tuning(problems: FewShotProblems, task: str) -> ImageProblem:
    drawn = problems.posed(task, TUNE_SHOTS + TUNE_HELD, TUNING)
    images = drawn.support.images
    place = torch.arange(len(images)) % (TUNE_SHOTS + TUNE_HELD)
    train, held = (
        FrozenImages(drawn.net, drawn.test.pixels, images.take(mask.nonzero().flatten()))
        for mask in (place < TUNE_SHOTS, place >= TUNE_SHOTS)
    )
    return ImageProblem(drawn.net, train, held, task)
