"""An image classification task of a few support images, and what is reached on it before anything is trained.

    zero-shot      the image-text classifier as it is                     needs no image
    linear probe   logistic regression on the frozen image features       needs no text
    pixel probe    logistic regression on small raw pixels                needs no model: what the task gives away

Whatever an adaptation reaches, it must be above all three. Shape legend: N images, C classes, E joint features, P
values of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dtheta.core.logistic import logistic_regression
from dtheta.core.modes import kept_modes
from dtheta.core.tensors import attached_to, base_tensors
from dtheta.data.images import Images
from dtheta.data.pixels import Pixels
from dtheta.errors import ConfigError
from dtheta.fit.checks import versions
from dtheta.models.image_text import ImageTextClassifier
from dtheta.score import Correct, Interval, wilson

_BATCH, _SIDE = 64, 224  # images at a time, and up to which side; of larger ones fewer, so that they fit the memory
_RAW = 32  # pixels a side for the pixel probe


@dataclass(frozen=True, eq=False)
class FrozenImages:
    """Images and what the frozen image tower makes of them, computed once as long as nothing writes to the model.

    Attributes:
        net: Whose image tower.
        pixels: What it wants to see.
        images: The images.
    """

    net: ImageTextClassifier
    pixels: Pixels
    images: Images
    _held: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def labels(self) -> Tensor:
        """Class ids (N,)."""
        return self.images.labels

    @property
    def features(self) -> Float[Tensor, "N E"]:
        """The image tower's features; made anew where a tensor of the model was written to or replaced since."""
        made_of = {name: (id(tensor), tensor.data_ptr()) for name, tensor in base_tensors(self.net).items()}
        now = (made_of, versions(self.net))
        if self._held.get("now") != now:
            self._held.update(now=now, features=self._computed())
        return self._held["features"]

    def _computed(self) -> Float[Tensor, "N E"]:
        with kept_modes(self.net), torch.no_grad():
            batches = self.images.images.split(self._batch)
            return torch.cat([self.net.image_features(self.seen(batch)).float().cpu() for batch in batches])

    @torch.no_grad()
    def logits(self, moved: bool = False) -> Float[Tensor, "N C"]:
        """Return the classifier's logits as it stands; ``moved`` says that its image tower is not the frozen one."""
        parts = self.images.images.split(self._batch) if moved else self.features.split(_BATCH)
        with kept_modes(self.net):
            given = ({"pixel_values": self.seen(x)} if moved else {"image_features": x.to(self._device)} for x in parts)
            return torch.cat([self.net(**batch).logits.float().cpu() for batch in given])

    @property
    def _batch(self) -> int:
        return max(1, min(_BATCH, _BATCH * _SIDE**2 // self.pixels.size**2))

    @property
    def _device(self) -> torch.device:
        return next(self.net.parameters()).device

    def seen(self, images: Tensor) -> Tensor:
        """Return images (N, H, W) or (N, H, W, 3) as the image tower takes them, on its device."""
        return self.pixels(images).to(self._device)


@dataclass(frozen=True, eq=False)
class ImageProblem:
    """An image-text classifier with the few images to learn from, and others to be judged on."""

    net: ImageTextClassifier
    support: FrozenImages
    test: FrozenImages
    name: str = ""


def image_problem(
    net: ImageTextClassifier, pixels: Pixels, support: Images, test: Images, name: str = ""
) -> ImageProblem:
    """Put a classifier and its images together.

    Raises:
        ConfigError: If there are no images, or not a label for each that is one of the classes.
    """
    for what, images in (("support", support), ("test", test)):
        if not len(images):
            raise ConfigError(f"there are no {what} images")
        if images.labels.shape != images.images.shape[:1] or images.labels.dtype != torch.int64:
            raise ConfigError(
                f"{what} labels must be a class id (int64) for each of the {len(images.images)} images, found "
                f"{images.labels.dtype} {tuple(images.labels.shape)}"
            )
        least, most = int(images.labels.min()), int(images.labels.max())
        if least < 0 or most >= len(net.classes):
            raise ConfigError(f"{what} images have labels {least} to {most}, the classifier {len(net.classes)} classes")
    return ImageProblem(net, FrozenImages(net, pixels, support), FrozenImages(net, pixels, test), name)


@dataclass(frozen=True, eq=False)
class Judged:
    """How many test images are classified right.

    Attributes:
        accuracy: With its Wilson interval.
        correct: 1 where a test image was classified right (N,).
        logits: Of the test images (N, C).
    """

    accuracy: Interval
    correct: Tensor
    logits: Tensor


def zero_shot(posed: ImageProblem) -> Judged:
    """Return what the classifier reaches as it is.

    Raises:
        ConfigError: If an adapter is attached to it.
    """
    require_plain(posed.net)
    with posed.net.frozen_text():
        return judged(posed, posed.test.logits())


def linear_probe(posed: ImageProblem, C: float = 1.0) -> Judged:
    """Return what logistic regression on the frozen image features of unit length reaches.

    Raises:
        ConfigError, NonFinite, NotConverged: As ``logistic_regression``.
    """
    require_plain(posed.net)
    support_NE, test_NE = (F.normalize(part.features, dim=1) for part in (posed.support, posed.test))
    return _probed(posed, support_NE, test_NE, C)


def pixel_probe(posed: ImageProblem, C: float = 0.1) -> Judged:
    """Return what logistic regression on raw pixels reaches: no model, 32 pixels a side, values from 0 to 1.

    Raises:
        ConfigError, NonFinite, NotConverged: As ``logistic_regression``.
    """
    support_NE, test_NE = (raw_pixels(part.images) for part in (posed.support, posed.test))
    return _probed(posed, support_NE, test_NE, C)


def _probed(posed: ImageProblem, support_NE: Tensor, test_NE: Tensor, C: float) -> Judged:
    found = logistic_regression(support_NE, posed.support.labels, len(posed.net.classes), C)
    return judged(posed, found.logits(test_NE))


def raw_pixels(images: Images) -> Float[Tensor, "N P"]:
    """Return what the pixel probe sees: P values from 0 to 1 an image, of one plane where images are grey."""
    side = min(_RAW, *images.images.shape[1:3])
    planes = Pixels(side, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))(images.images)
    return (planes[:, :1] if images.images.ndim == 3 else planes).flatten(1)


def judged(posed: ImageProblem, logits: Tensor) -> Judged:
    """Return how good logits (N, C) of the test images are."""
    correct = Correct()(logits, posed.test.labels)
    return Judged(wilson(float(correct.sum()), len(correct)), correct, logits)


def require_plain(net: ImageTextClassifier) -> None:
    """Raise ConfigError if an adapter is attached."""
    if on := attached_to(net):
        raise ConfigError(f"an adapter sits on {on[0]!r}; detach it first, so that the classifier is as it was")
