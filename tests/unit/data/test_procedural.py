"""Images made by rule: keyed, captioned by what they show, and different enough."""

from __future__ import annotations

import random

import pytest
import torch

from dtheta.data.procedural import COLORS, NUMBERS, procedural_images
from dtheta.data.strokes import DIGITS, written_digit
from dtheta.errors import ConfigError

pytest.importorskip("PIL")


@pytest.fixture(scope="module")
def many():
    return procedural_images(300, seed=3)


def _of(many, start):
    return [index for index, concept in enumerate(many.concepts) if concept.startswith(start)]


def test_a_longer_set_starts_with_the_shorter_one(many):
    short = procedural_images(20, seed=3)
    assert torch.equal(short.images, many.images[:20])
    assert short.captions == many.captions[:20] and short.concepts == many.concepts[:20]
    assert not torch.equal(procedural_images(20, seed=4).images, short.images)


def test_the_global_generators_are_left_alone():
    random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), torch.get_rng_state()
    procedural_images(8)
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


def test_sizes_and_shares(many):
    assert len(many) == len(many.captions) == len(many.concepts) == 300
    assert many.images.shape == (300, 32, 32, 3) and many.images.dtype == torch.uint8
    assert 0.3 < len(_of(many, "digit")) / 300 < 0.5
    assert 0.08 < len(_of(many, "letter")) / 300 < 0.22


def test_digits_are_captioned_by_themselves(many):
    for index in _of(many, "digit"):
        digit = many.concepts[index][-1]
        words = set(many.captions[index].replace(".", "").replace(":", "").split())
        assert words & {digit, NUMBERS[int(digit)]}
        assert not words & ({*"0123456789", *NUMBERS} - {digit, NUMBERS[int(digit)]})


def test_shapes_have_the_color_that_their_caption_says(many):
    shapes = [index for index, concept in enumerate(many.concepts) if concept[0].isdigit()]
    assert len(shapes) > 30
    for index in shapes:
        color = many.concepts[index].split()[1]
        assert color in many.captions[index]
        near = (many.images[index].int() - torch.tensor(COLORS[color])).abs().sum(-1) <= 6
        assert near.sum() >= 8  # pixels wholly inside


def test_flawed_textures_say_so(many):
    for concept, caption in zip(many.concepts, many.captions, strict=True):
        if concept.endswith(" True"):
            assert any(word in caption for word in ("defect", "flaw", "damaged")) and "flawless" not in caption
        elif concept.endswith(" False"):
            assert not any(word in caption.replace("flawless", "") for word in ("defect", "flaw", "damaged"))


def test_captions_and_images_vary(many):
    assert len(set(many.captions)) > 200
    assert len({image.numpy().tobytes() for image in many.images}) > 295


@pytest.mark.parametrize("digit", sorted(DIGITS))
def test_written_digits_fill_the_unit_square(digit):
    drawn = [written_digit(digit, random.Random(seed)) for seed in range(30)]
    for lines in drawn:
        xs, ys = ([point[axis] for line in lines for point in line] for axis in (0, 1))
        assert max(max(xs) - min(xs), max(ys) - min(ys)) == pytest.approx(1)
        assert min(*xs, *ys) >= -1e-9 and max(*xs, *ys) <= 1 + 1e-9
    assert len({str(lines) for lines in drawn}) == 30
    assert written_digit(digit, random.Random(7)) == drawn[7]


def test_a_curve_passes_through_its_points():
    class Still(random.Random):
        def uniform(self, a, b):
            return 1.0 if a > 0.5 else 0.0  # no wobble, no bend, no stretch

        def gauss(self, mu=0.0, sigma=1.0):
            return 0.0

        def choice(self, seq):
            return seq[0]

    for digit, variants in DIGITS.items():
        lines = written_digit(digit, Still())
        for stroke, line in zip(variants[0], lines, strict=True):
            span = max(max(a) - min(a) for a in zip(*(p for s in variants[0] for p in s), strict=True))
            assert len(line) == 8 * (len(stroke) - 1) + 1
            wide = [line[8 * index] for index in range(len(stroke))]
            moved = [(a[0] - b[0], a[1] - b[1]) for a, b in zip(stroke[1:], stroke, strict=False)]
            found = [(a[0] - b[0], a[1] - b[1]) for a, b in zip(wide[1:], wide, strict=False)]
            assert span > 0.9
            for (dx, dy), (ex, ey) in zip(moved, found, strict=True):
                assert ex == pytest.approx(dx, abs=0.12) and ey == pytest.approx(dy, abs=0.12)


@pytest.mark.parametrize("count", [0, -3])
def test_no_images_are_refused(count):
    with pytest.raises(ConfigError, match="count"):
        procedural_images(count)
