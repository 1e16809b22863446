"""Images to the numbers that a model was trained on: resized, cut to a square, scaled by its mean and deviation.

    pixel = (byte / 255 - mean) / std

``augmented`` cuts a random rectangle and flips it: area = U(scale) of the image, log(aspect) = U(log 3/4, log 4/3);
after ten rectangles that do not fit, the largest middle one. Source: Szegedy et al. 2014 (arXiv 1409.4842), section 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from dtheta.errors import ConfigError, ShapeMismatch

SCALE = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10
_BYTE = 255
_RGB = 3

Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Pixels:
    """What a model wants to see.

    Attributes:
        size: pixels a side.
        mean: of red, green and blue, of values from 0 to 1.
        std: their deviation.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"size={self.size} must be at least 1 pixel")
        if len(self.mean) != _RGB or len(self.std) != _RGB or not all(value > 0 for value in self.std):
            raise ConfigError(f"mean={self.mean} and std={self.std} must hold 3 numbers each, std positive ones")

    def __call__(self, images: UInt8[Tensor, "N H W *rgb"]) -> Float[Tensor, "N 3 size size"]:
        """Return pixels of grey or RGB images: shorter side to ``size`` (bicubic, antialiased), then the middle square.

        Raises:
            ShapeMismatch: no batch of grey or RGB images of bytes, or one without pixels.
        """
        planes = _planes(images)
        height, width = planes.shape[2:]
        shorter = min(height, width)
        resized = _resize(planes, height * self.size // shorter, width * self.size // shorter)
        top, left = (resized.shape[2] - self.size) // 2, (resized.shape[3] - self.size) // 2
        return self._scaled(resized[:, :, top : top + self.size, left : left + self.size])

    def cropped(self, images: UInt8[Tensor, "N H W *rgb"], box: Box, flip: bool) -> Float[Tensor, "N 3 size size"]:
        """Return pixels of the rectangle ``box`` of the images, stretched to the square, mirrored if ``flip``."""
        top, left, height, width = box
        planes = _planes(images)[:, :, top : top + height, left : left + width]
        resized = self._scaled(_resize(planes, self.size, self.size))
        return resized.flip(-1) if flip else resized

    def _scaled(self, planes: UInt8[Tensor, "N C S S"]) -> Float[Tensor, "N 3 S S"]:
        values = planes.float()
        mean, std = (values.new_tensor(numbers).reshape(1, _RGB, 1, 1) for numbers in (self.mean, self.std))
        return (values / _BYTE - mean) / std  # broadcasts grey to three colors


def augmented(
    images: UInt8[Tensor, "N H W *rgb"],
    pixels: Pixels,
    generator: torch.Generator,
    scale: tuple[float, float] = SCALE,
    flip: bool = True,
) -> Float[Tensor, "N 3 size size"]:
    """Return pixels of a random rectangle of each image, mirrored with probability one half.

    Args:
        images: grey or RGB images of bytes.
        pixels: what the model wants to see.
        generator: of all draws.
        scale: least and largest share of the area that a rectangle covers.
        flip: False where left and right differ in meaning, as in digits.

    Raises:
        ConfigError: ``scale`` is not two numbers in order in (0, 1].
        ShapeMismatch: as ``pixels(images)``.
    """
    check_scale(scale)
    height, width = _planes(images).shape[2:]
    found = []
    for image in images:
        box = _random_box(height, width, scale, generator)
        mirrored = flip and _uniform(0, 1, generator) < 0.5
        found.append(pixels.cropped(image[None], box, mirrored))
    return torch.cat(found)


def check_scale(scale: tuple[float, float]) -> None:
    """Raise ConfigError unless ``scale`` holds two shares of an area, in order, in (0, 1]."""
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ConfigError(f"scale={scale} must be two shares of the area in order, above 0 and at most 1")


def _random_box(height: int, width: int, scale: tuple[float, float], generator: torch.Generator) -> Box:
    for _ in range(_TRIES):
        area = height * width * _uniform(*scale, generator)
        aspect = math.exp(_uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1]), generator))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            top, left = (
                int(torch.randint(room + 1, (), generator=generator, device="cpu")) for room in (height - h, width - w)
            )
            return top, left, h, w
    h, w = min(height, round(width / _ASPECT[0])), min(width, round(height * _ASPECT[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _planes(images: Tensor) -> UInt8[Tensor, "N C H W"]:
    """Return images with the color before the rows: one plane of grey images, three of RGB ones."""
    grey = images.ndim == 3
    if images.dtype != torch.uint8 or not (grey or (images.ndim == 4 and images.shape[-1] == _RGB)):
        raise ShapeMismatch(
            f"images must be uint8 of shape (N, H, W) or (N, H, W, 3), got {images.dtype} {tuple(images.shape)}"
        )
    if 0 in images.shape[1:]:
        raise ShapeMismatch(f"images of shape {tuple(images.shape)} have no pixels")
    return images[:, None] if grey else images.permute(0, 3, 1, 2)


def _resize(planes: UInt8[Tensor, "N C H W"], height: int, width: int) -> UInt8[Tensor, "N C height width"]:
    """Resize as Pillow does, to one step of a byte: it rounds and clamps after each of its two passes.

    That arithmetic of bytes runs on the CPU only, so images that lie elsewhere are resized there and sent back.
    """
    if planes.shape[2:] == (height, width):
        return planes
    resized = F.interpolate(planes.cpu(), (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized.to(planes.device)
