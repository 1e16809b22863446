"""What images a model wants, as its folder says it."""

from __future__ import annotations

import json

import pytest

from dtheta.data.pixels import Pixels
from dtheta.errors import ConfigError, DthetaWarning, FormatError
from dtheta.models.pixels import load_pixels

CLIP = {
    "crop_size": {"height": 32, "width": 32},
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 32},
}
EXPECTED = Pixels(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def _say(folder, name="preprocessor_config.json", **changes):
    said = {key: value for key, value in {**CLIP, **changes}.items() if value is not None}
    (folder / name).write_text(json.dumps(said))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size": 32, "crop_size": 32},
        {"size": {"height": 32, "width": 32}, "crop_size": None},
        {"crop_size": {"height": 24, "width": 24}, "do_center_crop": False},
    ],
)
def test_forms_in_which_folders_say_it(folder, changes):
    _say(folder, **changes)
    assert load_pixels(folder) == EXPECTED


def test_image_part_of_a_processor(folder):
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": CLIP}))
    assert load_pixels(folder) == EXPECTED


def test_without_normalization(folder):
    _say(folder, do_normalize=False)
    assert load_pixels(folder) == Pixels(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": {"shortest_edge": 40}}, "resized to 40 and cut to 32"),
        ({"crop_size": {"height": 32, "width": 20}}, "no squares"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"do_rescale": False}, "do_resize or do_rescale is false"),
        ({"image_mean": None}, "image_mean"),
        ({"image_std": [0.5]}, "unpack"),
        ({"image_std": [0.5, 0.5, 0.0]}, "positive"),
    ],
)
def test_what_pixels_cannot_do_is_refused(folder, changes, message):
    _say(folder, **changes)
    with pytest.raises(FormatError, match=message):
        load_pixels(folder)


def test_another_filter_is_said(folder):
    _say(folder, resample=2)
    with pytest.warns(DthetaWarning, match="by filter 2"):
        assert load_pixels(folder) == EXPECTED


def test_a_folder_that_says_nothing_of_images(folder):
    with pytest.raises(ConfigError, match=r"no preprocessor_config\.json"):
        load_pixels(folder)


def test_damaged(folder):
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(FormatError, match="cannot be read"):
        load_pixels(folder)


def test_the_dual_encoder(dual):
    assert load_pixels("dual") == Pixels(128, (127 / 255,) * 3, (128 / 255,) * 3)
