"""Pixels against Pillow's own resizing; random rectangles against their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.data.pixels import Pixels, augmented
from dtheta.errors import ConfigError, ShapeMismatch

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def _bytes(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(seed, "images"))


def _by_pillow(image, size):
    """Resize the shorter side with Pillow, cut the middle, scale: what the preprocessors of models do."""
    Image = pytest.importorskip("PIL.Image")
    picture = Image.fromarray(image.numpy()).convert("RGB")
    width, height = picture.size
    short = min(width, height)
    picture = picture.resize((width * size // short, height * size // short), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    values = np.asarray(picture.crop((left, top, left + size, top + size))) / 255
    return torch.tensor((values - np.array(MEAN)) / np.array(STD)).permute(2, 0, 1).float()


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 3), (9, 20, 3), (31, 12), (48, 40, 3)])
@pytest.mark.parametrize("size", [8, 16, 24])
def test_as_pillow_does_it(shape, size):
    images = _bytes(2, *shape)
    found = Pixels(size, MEAN, STD)(images)
    assert found.shape == (2, 3, size, size) and found.dtype == torch.float32
    for image, pixels in zip(images, found, strict=True):
        apart = (pixels - _by_pillow(image, size)).abs() * torch.tensor(STD)[:, None, None] * 255
        assert apart.max() < 1.01  # one step of a byte


def test_at_its_own_size_only_scaled():
    images = _bytes(3, 8, 8, 3)
    expected = (images.double() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(Pixels(8, MEAN, STD)(images).double(), expected.permute(0, 3, 1, 2), atol=1e-6)


def test_never_leaves_the_range_of_bytes():
    checker = (torch.arange(12)[:, None] + torch.arange(12)) % 2 * 255
    found = Pixels(37, (0.0,) * 3, (1.0,) * 3)(checker.to(torch.uint8)[None])
    assert 0 <= found.min() and found.max() <= 1


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 8, 8),
        torch.zeros(2, 8, 8, 4, dtype=torch.uint8),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(8, 8, dtype=torch.uint8),
        torch.zeros(2, 0, 8, dtype=torch.uint8),
    ],
)
def test_what_is_no_batch_of_images_is_refused(images):
    with pytest.raises(ShapeMismatch, match="images"):
        Pixels(4, MEAN, STD)(images)


@pytest.mark.parametrize("fields", [(0, MEAN, STD), (8, MEAN, (0.1, 0.0, 0.1)), (8, MEAN[:2], STD)])
def test_pixels_that_cannot_be_meant(fields):
    with pytest.raises(ConfigError):
        Pixels(*fields)


def test_rectangles_have_the_area_and_aspect_that_they_should():
    """Images that show their own row and column, unscaled: the rectangle can be read off its corners."""
    side, pixels = 250, Pixels(250, (0.0,) * 3, (1 / 255,) * 3)
    rows = torch.arange(side).to(torch.uint8)
    image = torch.stack([rows[:, None].expand(side, side), rows.expand(side, side), torch.zeros(side, side)], -1)
    found = augmented(image.to(torch.uint8).expand(60, -1, -1, -1), pixels, generator(0, "a"))
    height = found[:, 0, -1, 125] - found[:, 0, 0, 125] + 1
    width = (found[:, 1, 125, -1] - found[:, 1, 125, 0]).abs() + 1
    share, aspect = height * width / side**2, width / height
    assert 0.07 < share.min() < 0.2 and 0.7 < share.max() < 1.01
    assert 0.72 < aspect.min() < 0.82 and 1.22 < aspect.max() < 1.36
    mirrored = found[:, 1, 125, -1] < found[:, 1, 125, 0]
    assert 15 < mirrored.sum() < 45
    assert (found[:, 1] <= 255).all()


def test_a_whole_square_image_without_flip_is_the_image():
    images, pixels = _bytes(3, 10, 10, 3), Pixels(7, MEAN, STD)
    found = augmented(images, pixels, generator(0, "a"), scale=(1.0, 1.0), flip=False)
    assert found.shape == (3, 3, 7, 7)
    assert torch.equal(found, pixels(images))  # of a square, no other rectangle covers all


def test_extreme_images_fall_back_to_their_middle():
    images = _bytes(1, 4, 400)
    found = augmented(images, Pixels(8, MEAN, STD), generator(0, "a"), scale=(1.0, 1.0), flip=False)
    middle = Pixels(8, MEAN, STD).cropped(images, (0, 197, 4, round(4 * 4 / 3)), False)
    assert torch.equal(found, middle)


def test_draws_come_from_the_generator_alone():
    images, pixels = _bytes(4, 12, 12), Pixels(6, MEAN, STD)
    state = torch.get_rng_state()
    first, again, other = (augmented(images, pixels, generator(seed, "a")) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 1.5), (0.9, 0.1), (math.nan, 1.0)])
def test_scales_that_cannot_be_meant(scale):
    with pytest.raises(ConfigError, match="scale="):
        augmented(_bytes(1, 4, 4), Pixels(4, MEAN, STD), generator(0, "a"), scale=scale)
