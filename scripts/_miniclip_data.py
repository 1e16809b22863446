"""What miniclip is trained on: captioned emoji and procedural images, and how a step's batch is drawn and bent.

All draws of step s come from ``generator(seed, name, s)``: nothing of the data has a state, so a resumed run draws what
an uninterrupted one draws. Held-out concepts are dropped before anything else looks at them.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.core.seeds import generator, key
from dtheta.data.emoji import Emoji

CAPTIONS = 48  # drawn once for every concept
_TEMPLATES = ("{}", "{}.", "a photo of a {}.", "a picture of a {}.", "an icon of {}.", "an icon of a {}.",
              "an emoji of {}.", "a drawing of {}.", "a photo of {}.", "this is {}.")  # fmt: skip
_CLEAN = re.compile(r"[^a-z0-9' ]+")


@dataclass(frozen=True)
class Icons:
    """Emoji that may be seen: RGBA images ``(N, 32, 32, 4)``, their tone variants, and captions of each."""

    images: Tensor
    variants: dict[int, Tensor]
    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    rows: Tensor  # the place of each in the whole list of emoji

    def __len__(self) -> int:
        return len(self.names)


def seen_icons(emoji: Emoji, seed: int) -> Icons:
    """Return the concepts that are not held out, with captions."""
    rows = (~emoji.held).nonzero().flatten()
    tones: dict[int, list[Tensor]] = {}
    for variant, base in zip(emoji.variants, emoji.variant_of.tolist(), strict=True):
        tones.setdefault(base, []).append(variant)
    place = {row: index for index, row in enumerate(rows.tolist())}
    return Icons(
        images=emoji.images[rows],
        variants={place[row]: torch.stack(found) for row, found in tones.items() if row in place},
        names=tuple(clean(emoji.names[row]) for row in rows.tolist()),
        captions=tuple(_captions(emoji, row, seed) for row in rows.tolist()),
        rows=rows,
    )


def clean(words: str) -> str:
    """Return words in lower case without signs."""
    return " ".join(_CLEAN.sub(" ", words.lower()).split())


def words_of(emoji: Emoji) -> list[str]:
    """Return names and keywords of the concepts that are not held out, except names of held-out ones."""
    held = {clean(name) for name, is_held in zip(emoji.names, emoji.held.tolist(), strict=True) if is_held}
    seen = [row for row in range(len(emoji)) if not emoji.held[row]]
    found = [clean(words) for row in seen for words in (emoji.names[row], *emoji.keywords[row])]
    return [words for words in dict.fromkeys(found) if words and words not in held]


def _captions(emoji: Emoji, row: int, seed: int) -> tuple[str, ...]:
    """Name .38, alias .1, keyword .2, three keywords .1, name and category .12, category alone .1."""
    draw = random.Random(key(seed, "caption", row))
    name, category = emoji.names[row], draw.choice((emoji.categories[row], emoji.subcategories[row]))
    keywords = [word for word in map(clean, emoji.keywords[row]) if word] or [name]
    made = {
        "name": lambda: name,
        "alias": lambda: draw.choice(emoji.short_names[row]),
        "keyword": lambda: draw.choice(keywords),
        "keywords": lambda: " ".join(draw.sample(keywords, min(3, len(keywords)))),
        "named": lambda: f"{name} {category}",
        "category": lambda: draw.choice((emoji.categories[row], emoji.subcategories[row])),
    }
    kinds = draw.choices(list(made), (0.38, 0.1, 0.2, 0.1, 0.12, 0.1), k=CAPTIONS)
    return tuple(draw.choice(_TEMPLATES).replace("{}", clean(made[kind]())) for kind in kinds)


def icon_batch(icons: Icons, count: int, seed: int, step: int) -> tuple[Tensor, list[str], Tensor]:
    """Return RGBA images in [0, 1] ``(count, 4, 32, 32)``, captions, and which icons they are; all different."""
    picks = torch.randperm(len(icons), generator=generator(seed, "icons", step))[:count]
    draw = random.Random(key(seed, "icons", step))
    images, captions = [], []
    for index in picks.tolist():
        tones = icons.variants.get(index)
        images.append(icons.images[index] if tones is None or draw.random() < 0.4 else draw.choice(tones))
        captions.append(draw.choice(icons.captions[index]))
    return torch.stack(images).permute(0, 3, 1, 2) / 255, captions, picks


def laid_on_ground(rgba: Tensor, numbers: torch.Generator) -> Tensor:
    """Return RGB: transparency laid on white (.4), black (.25) or a random color (.35)."""
    count = len(rgba)
    look, color = torch.rand(count, generator=numbers), torch.rand(count, 3, generator=numbers)
    color[look < 0.4], color[(look >= 0.4) & (look < 0.65)] = 1.0, 0.0
    alpha = rgba[:, 3:]
    return rgba[:, :3] * alpha + color[:, :, None, None] * (1 - alpha)


def bent(images: Tensor, numbers: torch.Generator, mirror: float = 0.0, turn: float = 0.15) -> Tensor:
    """Return images ``(B, C, H, W)`` turned, scaled, sheared and moved a little; ``mirror`` is the share mirrored."""
    count = len(images)
    angle = turn * (2 * torch.rand(count, generator=numbers) - 1)
    scale = 1 + 0.15 * (2 * torch.rand(count, 2, generator=numbers) - 1)
    shear = 0.1 * (2 * torch.rand(count, generator=numbers) - 1)
    move = 0.16 * (2 * torch.rand(count, 2, generator=numbers) - 1)
    sign = torch.where(torch.rand(count, generator=numbers) < mirror, -1.0, 1.0)
    first = torch.stack((scale[:, 0] * angle.cos() * sign, -angle.sin() + shear, move[:, 0]), 1)
    second = torch.stack((angle.sin() * sign, scale[:, 1] * angle.cos(), move[:, 1]), 1)
    grid = F.affine_grid(torch.stack((first, second), 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def recolored(images: Tensor, numbers: torch.Generator, gray: float = 0.0, inverted: float = 0.0) -> Tensor:
    """Return RGB images with other contrast, brightness and noise, and shares of them gray and inverted."""
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=numbers))[:, None, None, None]

    mixed = torch.where(draw(0, 1) < gray, images.mean(1, keepdim=True).expand_as(images), images)
    mixed = torch.where(draw(0, 1) < inverted, 1 - mixed, mixed)
    mixed = (mixed - 0.5) * draw(0.75, 1.2) + 0.5 + draw(-0.1, 0.1)
    noise = torch.randn(mixed.shape, generator=numbers) * draw(0, 0.04)
    return (mixed + noise).clamp(0, 1)


def scaled(images: Tensor) -> Tensor:
    """Return images in [0, 1] as the model takes them."""
    return (images - 0.5) / 0.25
