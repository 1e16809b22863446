"""Captioned images made by rule: shapes, textures, written digits, letters. No license, no labels, no end.

    kind      share   caption, for example
    shape       .25   two red circles on a white background
    texture     .20   a fabric with diagonal blue and white stripes
    digit       .40   a handwritten seven  (strokes of our own, or the typeface that comes with Pillow)
    letter      .15   the capital letter k

Image ``index`` is a pure function of ``(seed, index)``: a longer set starts with the shorter one. Drawn four times
too large and reduced, so edges are soft. Every image also has a *concept* (two images of one concept are positives of
each other in a contrastive loss, whatever their captions say).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dtheta.core.seeds import key
from dtheta.data.strokes import written_digit
from dtheta.errors import ConfigError, MissingExtra

SIZE = 32  # pixels
_LARGE = 4 * SIZE

COLORS = {
    "red": (214, 40, 40), "orange": (243, 132, 30), "yellow": (250, 210, 50), "green": (50, 160, 70),
    "blue": (45, 90, 210), "purple": (130, 60, 170), "pink": (240, 130, 180), "brown": (120, 75, 40),
    "black": (15, 15, 15), "white": (248, 248, 248), "gray": (128, 128, 128),
}  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SHAPES: dict[str, int] = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "circle": 48, "star": -5, "ring": 0}
_TEXTURES = ("stripes", "checks", "dots", "waves", "weave", "noise", "gradient", "plain")
_DEFECT = 0.25  # share of textures with a flaw
_KINDS = (("shape", 0.25), ("texture", 0.20), ("digit", 0.40), ("letter", 0.15))
_OPENINGS = ("{}", "{}", "a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}", "this is {}")


@dataclass(frozen=True)
class Captioned:
    """Images ``(N, 32, 32, 3)`` of bytes with a caption and a concept each, in step."""

    images: UInt8[Tensor, "N 32 32 3"]
    captions: tuple[str, ...]
    concepts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)


def procedural_images(count: int, seed: int = 0) -> Captioned:
    """Return ``count`` captioned images; image i depends on ``(seed, i)`` alone.

    Raises:
        ConfigError: ``count`` is not positive.
        MissingExtra: Pillow is not installed.
    """
    if count < 1:
        raise ConfigError(f"count={count} must be at least 1")
    if find_spec("PIL") is None:
        raise MissingExtra("procedural images are drawn by Pillow: pip install 'dtheta[image]'")
    rows = [_one(random.Random(key(seed, "procedural", index))) for index in range(count)]
    images = torch.from_numpy(np.stack([image for image, _, _ in rows]))
    return Captioned(images, tuple(caption for _, caption, _ in rows), tuple(concept for _, _, concept in rows))


def _one(draw: random.Random) -> tuple[np.ndarray, str, str]:
    kind = draw.choices([name for name, _ in _KINDS], [share for _, share in _KINDS])[0]
    image, phrase, concept = {"shape": _shape, "texture": _texture, "digit": _digit, "letter": _letter}[kind](draw)
    return image, draw.choice(_OPENINGS).format(phrase) + draw.choice((".", "")), concept


# shapes


def _shape(draw: random.Random) -> tuple[np.ndarray, str, str]:
    name, count = draw.choice(list(_SHAPES)), draw.choice((1, 1, 1, 2, 3, 4))
    front, back = draw.sample(list(COLORS), 2)
    mask, pen = _canvas()
    radius = _LARGE * (draw.uniform(0.25, 0.45) if count == 1 else draw.uniform(0.13, 0.2))
    for x, y in _places(count, draw):
        _draw_shape(pen, _SHAPES[name], x * _LARGE, y * _LARGE, radius * draw.uniform(0.85, 1.1), draw)
    article = "an" if front[0] in "aeiou" else "a"
    colored = f"{article} {front} {name}" if count == 1 else f"{NUMBERS[count]} {front} {name}s"
    phrase = draw.choice((colored, f"{colored} on a {back} background"))
    return _composed(mask, COLORS[front], COLORS[back]), phrase, f"{count} {front} {name}"


def _places(count: int, draw: random.Random) -> list[tuple[float, float]]:
    if count == 1:
        return [(draw.uniform(0.42, 0.58), draw.uniform(0.42, 0.58))]
    cells = draw.sample([(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)], count)
    return [(x + draw.uniform(-0.05, 0.05), y + draw.uniform(-0.05, 0.05)) for x, y in cells]


def _draw_shape(pen: Any, corners: int, x: float, y: float, radius: float, draw: random.Random) -> None:
    if corners == 0:
        box = (x - radius, y - radius, x + radius, y + radius)
        return pen.ellipse(box, outline=255, width=max(2, int(radius * 0.3)))
    turn, star = draw.uniform(-0.3, 0.3) - math.pi / 2, corners < 0
    count = 2 * -corners if star else corners
    reach = [radius * (0.45 if star and index % 2 else 1) for index in range(count)]
    angles = [turn + (math.pi / 4 if corners == 4 else 0) + 2 * math.pi * index / count for index in range(count)]
    pen.polygon([(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(reach, angles, strict=True)], fill=255)


# textures


def _texture(draw: random.Random) -> tuple[np.ndarray, str, str]:
    name = draw.choice(_TEXTURES)
    first, second = draw.sample(list(COLORS), 2)
    share, words = _pattern(name, draw)
    flawed = draw.random() < _DEFECT
    if flawed:
        share = _with_flaw(share, draw)
    cloth = draw.choice(("fabric", "textile", "cloth", "texture", "pattern"))
    plain = name == "plain"
    phrase = f"a {cloth} in {first}" if plain else f"a {cloth} with {words} in {first} and {second}"
    tail = draw.choice((" with a defect", " with a flaw", ", damaged") if flawed else ("", "", ", flawless"))
    concept = f"{name} {first} {'' if plain else second} {flawed}"
    return _blend(share, COLORS[second], COLORS[first]), phrase + tail, concept


def _pattern(name: str, draw: random.Random) -> tuple[np.ndarray, str]:
    """Return the share of the first color ``(32, 32)`` in [0, 1] and the words for the pattern."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    waves, phase = draw.uniform(2, 7), draw.uniform(0, 1)
    hard = lambda field: np.clip(0.5 + 2.5 * np.sin(2 * math.pi * (waves * field + phase)), 0, 1)  # noqa: E731
    grain = np.random.default_rng(draw.getrandbits(63))
    if name == "stripes":
        way, field = draw.choice((("horizontal", y), ("vertical", x), ("diagonal", (x + y) / 1.4)))
        return hard(field), f"{way} stripes"
    if name == "weave":
        fine = np.sin(2 * math.pi * 9 * x + phase) * np.sin(2 * math.pi * 9 * y)
        return np.clip(0.5 + 0.35 * fine + 0.08 * grain.standard_normal(x.shape), 0, 1), "a fine weave"
    made: dict[str, tuple[np.ndarray, str]] = {
        "checks": (np.abs(np.round(hard(x)) - np.round(hard(y))), "checks"),
        "dots": ((np.minimum(hard(x), hard(y)) > 0.9) * 1.0, "dots"),
        "waves": (hard(y + 0.08 * np.sin(2 * math.pi * 2 * x)), "waves"),
        "noise": (grain.random(x.shape), "noise"),
        "gradient": (draw.choice((x, y, 1 - x, 1 - y, (x + y) / 2)), "a smooth gradient"),
        "plain": (np.clip(1 - 0.04 * np.abs(grain.standard_normal(x.shape)), 0, 1), "one color"),
    }
    return made[name]


def _with_flaw(share: np.ndarray, draw: random.Random) -> np.ndarray:
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    distance = np.hypot(x - draw.uniform(6, 26), draw.uniform(0.5, 2) * (y - draw.uniform(6, 26)))
    spot = np.clip(draw.uniform(2, 6) - distance, 0, 1)
    return share * (1 - spot) + spot * draw.choice((0.0, 0.5, 1.0))


# digits and letters


def _digit(draw: random.Random) -> tuple[np.ndarray, str, str]:
    digit = draw.randrange(10)
    written = draw.random() < 0.8
    mask, pen = _canvas()
    if written:
        _write(pen, written_digit(str(digit), draw), draw)
    else:
        _print(pen, str(digit), draw)
    word = NUMBERS[digit]
    manner = draw.choice(("handwritten ", "handwritten ", "")) if written else draw.choice(("printed ", ""))
    phrase = draw.choice((
        f"a {manner}{word}", f"a {manner}{digit}", f"the {manner}digit {word}", f"the {manner}digit {digit}",
        f"the number {digit}", f"the number: {digit}", f"the number {word}", f"a {manner}{word}",
        f"a {manner}number {digit}",
    ))  # fmt: skip
    return _coarse(_inked(mask, draw), draw), phrase, f"digit {digit}"


def _letter(draw: random.Random) -> tuple[np.ndarray, str, str]:
    letter, capital = draw.choice(LETTERS), draw.random() < 0.6
    mask, pen = _canvas()
    _print(pen, letter if capital else letter.lower(), draw)
    size = "capital" if capital else "small"
    phrase = draw.choice((f"the letter {letter}", f"the {size} letter {letter}", f"a {size} {letter}"))
    return _inked(mask, draw), phrase, f"letter {letter}"


def _write(pen: Any, lines: list[list[tuple[float, float]]], draw: random.Random) -> None:
    size = _LARGE * draw.choice((draw.uniform(0.55, 0.8), draw.uniform(0.55, 0.95)))
    left, top = ((_LARGE - size) / 2 + draw.uniform(-0.05, 0.05) * _LARGE for _ in range(2))
    width = _LARGE * draw.uniform(0.045, 0.14)
    for line in lines:
        dots = [(left + size * x, top + size * y) for x, y in line]
        pen.line(dots, fill=255, width=round(width), joint="curve")
        for x, y in (dots[0], dots[-1]):
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)


def _print(pen: Any, text: str, draw: random.Random) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(_LARGE * draw.uniform(0.6, 0.95))  # Aileron, CC0, part of Pillow
    x, y = (_LARGE * draw.uniform(0.44, 0.56) for _ in range(2))
    pen.text((x, y), text, fill=255, font=font, anchor="mm", stroke_width=draw.choice((0, 0, 2, 4)))


def _inked(mask: Any, draw: random.Random) -> np.ndarray:
    """Color a mask: most often white on black, as scans of handwriting come, else black on white or two colors."""
    look = draw.random()
    if look < 0.6:
        return _composed(mask, (255, 255, 255), (0, 0, 0))
    if look < 0.8:
        return _composed(mask, (15, 15, 15), (255, 255, 255))
    front, back = draw.sample(list(COLORS), 2)
    return _composed(mask, COLORS[front], COLORS[back])


def _coarse(image: np.ndarray, draw: random.Random) -> np.ndarray:
    """Bring three digits in ten down to 8 x 8 pixels and back."""
    if draw.random() > 0.3:
        return image
    from PIL import Image

    box = Image.fromarray(image).resize((8, 8), Image.Resampling.BOX)
    return np.asarray(box.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


# pixels


def _canvas() -> tuple[Any, Any]:
    from PIL import Image, ImageDraw

    mask = Image.new("L", (_LARGE, _LARGE), 0)
    return mask, ImageDraw.Draw(mask)


def _composed(mask: Any, front: tuple[int, int, int], back: tuple[int, int, int]) -> np.ndarray:
    return _blend(np.asarray(mask.reduce(_LARGE // SIZE), dtype=np.float32) / 255, back, front)


def _blend(share: np.ndarray, back: tuple[int, int, int], front: tuple[int, int, int]) -> np.ndarray:
    mixed = share[..., None] * np.array(front) + (1 - share[..., None]) * np.array(back)
    return mixed.round().clip(0, 255).astype(np.uint8)
