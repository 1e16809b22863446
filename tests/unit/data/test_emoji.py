"""Emoji read for real: both vendors, the held-out concepts, and no art that is not free."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.data.emoji import HELD_FRACTION, Emoji, _cut, drawn_alone, held_out, load_emoji
from dtheta.data.image_tasks import EMOJI_CLASSES, load_image_task
from dtheta.data.images import on_white
from dtheta.data.sources import EMOJI, fetch
from dtheta.errors import ConfigError, MissingExtra


@pytest.fixture(scope="module")
def vendors() -> dict[str, Emoji]:
    try:
        return {vendor: load_emoji(vendor) for vendor in ("google", "twitter")}
    except MissingExtra as error:
        pytest.skip(str(error))


def _color(emoji, name):
    """The mean color of the opaque pixels of an emoji."""
    pixels = emoji.images[emoji.names.index(name)].reshape(-1, 4).float()
    return pixels[pixels[:, 3] > 200, :3].mean(0)


def test_sizes_and_fields(vendors):
    for emoji in vendors.values():
        assert len(emoji) == 1906
        assert emoji.images.shape == (1906, 32, 32, 4) and emoji.images.dtype == torch.uint8
        assert emoji.variants.shape == (1580, 32, 32, 4) and emoji.variant_of.shape == (1580,)
        fields = (emoji.names, emoji.keywords, emoji.short_names, emoji.categories, emoji.subcategories, emoji.held)
        assert {len(field) for field in fields} == {1906}
        assert len(set(emoji.names)) == 1906
        assert set(emoji.categories) == set(EMOJI_CLASSES)
        assert not any("_" in name or name != name.strip() for name in emoji.names)


def test_names_fit_the_pictures(vendors):
    for emoji in vendors.values():
        red, blue, green = (_color(emoji, f"{name} square") for name in ("red", "blue", "green"))
        assert red.argmax() == 0 and blue.argmax() == 2 and green.argmax() == 1
        assert _color(emoji, "black large square").max() < 90 < 180 < _color(emoji, "white large square").min()
        assert "mammal" not in emoji.names and "fruit" in emoji.keywords[emoji.names.index("red apple")]


def test_vendors_share_concepts_but_not_pictures(vendors):
    google, twitter = vendors.values()
    assert google.names == twitter.names
    assert torch.equal(google.held, twitter.held)
    assert not torch.equal(google.images, twitter.images)
    assert (google.images[..., 3].amax((1, 2)) > 0).all() and (twitter.images[..., 3].amax((1, 2)) > 0).all()


def test_variants_are_their_emoji_in_another_tone(vendors):
    emoji = vendors["google"]
    assert set(Counter(emoji.variant_of.tolist()).values()) == {5}
    assert {emoji.categories[row] for row in emoji.variant_of.unique().tolist()} <= {"People & Body", "Activities"}
    shape = (emoji.variants[..., 3].int() - emoji.images[emoji.variant_of][..., 3].int()).abs().float().mean()
    other = (emoji.variants[..., 3].int() - emoji.images[emoji.variant_of.roll(200)][..., 3].int()).abs().float().mean()
    assert shape < other / 4


def test_held_out_is_a_share_of_each_category(vendors):
    emoji = vendors["google"]
    for category, count in Counter(emoji.categories).items():
        held = sum(bool(h) for h, c in zip(emoji.held, emoji.categories, strict=True) if c == category)
        assert held == round(HELD_FRACTION * count)
    assert emoji.held.sum() == 287


def test_held_out_of_a_category_does_not_depend_on_the_others():
    own = torch.ones(40, dtype=torch.bool)
    both = held_out(["a", "b"] * 20, [own])
    assert torch.equal(both[::2], held_out(["a"] * 20, [own[::2]]))
    assert both.sum() == 6


def test_concepts_without_a_picture_of_their_own_are_never_held_out():
    own = torch.arange(20) % 2 == 0
    held = held_out(["a"] * 20, [own, torch.arange(20) > 9])
    assert held.sum() == 3
    assert set(held.nonzero().flatten().tolist()) <= {10, 12, 14, 16, 18}


def test_pictures_are_cut_inside_their_border():
    sheet = torch.zeros(2 * 34, 3 * 34, 4, dtype=torch.uint8)
    sheet[35:67, 69:101] = 9  # second row, third column
    assert (_cut(sheet, [{"sheet_x": 2, "sheet_y": 1}]) == 9).all()


def test_drawn_alone_sees_what_the_eye_sees():
    images = torch.randint(0, 256, (4, 32, 32, 4), dtype=torch.uint8, generator=generator(0, "emoji"))
    images[:, :16, :, 3] = 0
    images[2] = images[0]
    images[2, 0, 0, :3] += 1  # under full transparency
    assert drawn_alone(images).tolist() == [False, True, False, True]


def test_the_task_tests_on_the_held_out_concepts(vendors):
    for vendor, emoji in vendors.items():
        task = load_image_task(f"emoji-{vendor}")
        assert len(task.classes) == 9 and len(task.train) == 1619 and len(task.test) == 287
        pictures = {image.numpy().tobytes() for image in on_white(emoji.images[emoji.held])}
        assert {image.numpy().tobytes() for image in task.test.images} == pictures
        assert not pictures & {image.numpy().tobytes() for image in task.train.images}


def test_art_that_is_not_free_is_not_unpacked(vendors):
    files = sorted(path.relative_to(fetch(EMOJI.name)).as_posix() for path in fetch(EMOJI.name).rglob("*.png"))
    assert files == ["package/img/google/sheets/32.png", "package/img/twitter/sheets/32.png"]


def test_other_vendors_are_refused():
    with pytest.raises(ConfigError, match="no free emoji of 'apple'; known: google, twitter"):
        load_emoji("apple")  # type: ignore[arg-type]
