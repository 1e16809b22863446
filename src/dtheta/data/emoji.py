"""Emoji: small pictures with names, keywords and categories, drawn by two vendors.

    google     Noto Emoji, Apache-2.0           twitter    Twemoji, CC-BY-4.0

Both draw the same 1906 concepts, in the same order. Of every category 15 % of the concepts are held out: they take part
in no pretraining of ours, so that zero-shot is measured on them. A concept that a vendor draws exactly as another one
is never held out. Else they are held out one by one, not by family: a near twin of a held-out concept (a man and a
woman doing the same) may lie on the other side, so that figures on held-out concepts are optimistic.

Source: the packages emoji-datasource (pictures, aliases, categories) and emojilib (CLDR names and keywords).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from dtheta.data.decode import read_rgba
from dtheta.data.images import contents, on_white
from dtheta.data.sources import EMOJI, EMOJI_WORDS, fetch
from dtheta.data.text import keyed_order
from dtheta.errors import ConfigError, did_you_mean

Vendor = Literal["google", "twitter"]
HELD_FRACTION = 0.15
_SIZE = 32  # pixels a side
_PITCH = _SIZE + 2  # each picture of a sheet has a border of one pixel
_NO_CONCEPT = "Component"  # five bare skin tones
_JOINER = "-"


@dataclass(frozen=True)
class Emoji:
    """The emoji of one vendor.

    Attributes:
        images: RGBA ``(N, 32, 32, 4)``, 0 to 255; colors are not premultiplied.
        names: CLDR short names, such as "grinning face"; where two are the same, the alias. All different.
        keywords: words that go with each, such as "happy"; the name is not among them.
        short_names: aliases of each, as chat programs use them, such as "man-biking".
        categories: "Smileys & Emotion" and eight others.
        subcategories: 99 finer ones, such as "face-smiling".
        held: ``(N,)``, concepts held out of every pretraining, and so are their variants, ``held[variant_of]``; the
            same for all vendors.
        variants: RGBA ``(V, 32, 32, 4)``, emoji of people in one of five skin tones.
        variant_of: ``(V,)``, the place of each variant's emoji.
    """

    images: UInt8[Tensor, "N 32 32 4"]
    names: tuple[str, ...]
    keywords: tuple[tuple[str, ...], ...]
    short_names: tuple[tuple[str, ...], ...]
    categories: tuple[str, ...]
    subcategories: tuple[str, ...]
    held: Bool[Tensor, " N"]
    variants: UInt8[Tensor, "V 32 32 4"]
    variant_of: Int64[Tensor, " V"]

    def __len__(self) -> int:
        return len(self.names)


def load_emoji(vendor: Vendor) -> Emoji:
    """Return the emoji of a vendor, 1906 with 1580 variants in a single skin tone; their packages come at first use.

    Raises:
        ConfigError: another vendor.
        MissingExtra: Pillow is not installed, or a package cannot be had.
    """
    if vendor not in get_args(Vendor):
        known = get_args(Vendor)
        raise ConfigError(f"no free emoji of {vendor!r}; known: {', '.join(known)}{did_you_mean(vendor, known)}")
    folder = fetch(EMOJI.name) / "package"
    words = json.loads((fetch(EMOJI_WORDS.name) / "package/dist/emoji-en-US.json").read_text(encoding="utf-8"))
    rows = _concepts(folder)
    tones = [(row, tone) for row, concept in enumerate(rows) for tone in _tones(concept)]
    sheets = {name: read_rgba(folder / f"img/{name}/sheets/{_SIZE}.png") for name in get_args(Vendor)}
    images = {name: _cut(sheet, rows) for name, sheet in sheets.items()}
    described: list[list[str]] = [words[_characters(row["unified"])] for row in rows]
    aliases = [tuple(row["short_names"]) for row in rows]
    return Emoji(
        images=images[vendor],
        names=_names([first for first, *_ in described], [first for first, *_ in aliases]),
        keywords=tuple(tuple(rest) for _, *rest in described),
        short_names=tuple(aliases),
        categories=tuple(row["category"] for row in rows),
        subcategories=tuple(row["subcategory"] for row in rows),
        held=held_out([row["category"] for row in rows], [drawn_alone(found) for found in images.values()]),
        variants=_cut(sheets[vendor], [tone for _, tone in tones]),
        variant_of=torch.tensor([row for row, _ in tones]),
    )


def held_out(categories: list[str], alone: list[Bool[Tensor, " N"]]) -> Bool[Tensor, " N"]:
    """Return which concepts are held out of pretraining: 15 % of each category, by a key that no seed changes.

    Args:
        categories: of each concept.
        alone: by vendor, which concepts have a picture of their own; only those that have one of all are held out.
    """
    held = torch.zeros(len(categories), dtype=torch.bool)
    own = torch.stack(alone).all(0)
    for category in dict.fromkeys(categories):
        members = [index for index, found in enumerate(categories) if found == category]
        order = [members[place] for place in keyed_order(len(members), 0, f"emoji/held/{category}")]
        wanted = round(HELD_FRACTION * len(members))
        held[[index for index in order if own[index]][:wanted]] = True
    return held


def drawn_alone(images: UInt8[Tensor, "N 32 32 4"]) -> Bool[Tensor, " N"]:
    """Return which concepts have a picture that no other one has: the flags of Norway and Bouvet Island are one."""
    pictures = contents(on_white(images))
    often = Counter(pictures)
    return torch.tensor([often[picture] == 1 for picture in pictures])


def _names(cldr: list[str], aliases: list[str]) -> tuple[str, ...]:
    plain = [name.replace("_", " ") for name in cldr]
    often = Counter(plain)
    return tuple(
        name if often[name] == 1 else alias.replace("_", " ") for name, alias in zip(plain, aliases, strict=True)
    )


def _concepts(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    return [row for row in rows if row["category"] != _NO_CONCEPT]


def _tones(concept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The variants of one skin tone; a pair of people in two tones has a key of two, as in ``1F3FB-1F3FC``."""
    found: dict[str, dict[str, Any]] = concept.get("skin_variations", {})
    return [variant for tones, variant in found.items() if _JOINER not in tones]


def _characters(unified: str) -> str:
    return "".join(chr(int(code, 16)) for code in unified.split(_JOINER))


def _cut(sheet: UInt8[Tensor, "H W 4"], rows: list[dict[str, Any]]) -> UInt8[Tensor, "N 32 32 4"]:
    """Return the pictures of the sheet that the rows' ``sheet_x`` and ``sheet_y`` count, in pictures."""
    corners = [(1 + _PITCH * row["sheet_y"], 1 + _PITCH * row["sheet_x"]) for row in rows]
    return torch.stack([sheet[top : top + _SIZE, left : left + _SIZE] for top, left in corners])
