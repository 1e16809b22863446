"""``load_pixels``: the size and scale of the images that a pretrained model was made for, from its folder.

Read is transformers' ``preprocessor_config.json``, or the image part of ``processor_config.json``. What a ``Pixels``
cannot do exactly is refused, except that images which the file would stretch to a square are cut to one instead, and
that all are resized by a bicubic filter, with a warning where the file names another.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

from dtheta.data.pixels import Pixels
from dtheta.errors import ConfigError, DthetaWarning, FormatError
from dtheta.models.zoo import model_folder

_FILES = ("preprocessor_config.json", "processor_config.json")
_BYTE = 255
_BICUBIC = 3  # among Pillow's filters


def load_pixels(name_or_folder: str | Path) -> Pixels:
    """Return what a model's images must look like.

    Args:
        name_or_folder: ``"dual"`` or a local Hugging Face folder.

    Raises:
        ConfigError: an unknown name or folder, or one of a model that says nothing of images.
        FormatError: the file cannot be read, or asks for what ``Pixels`` does not do.
    """
    folder = model_folder(name_or_folder)
    path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if path is None:
        raise ConfigError(
            f"{name_or_folder} does not say what its images look like: it has no {_FILES[0]}. If it is a model of "
            f"images, give them yourself: Pixels(size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))"
        )
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return _pixels(said.get("image_processor", said))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise FormatError(f"{path} cannot be read as the description of images: {type(error).__name__}: {error}") from (
            error
        )


def _pixels(said: dict[str, Any]) -> Pixels:
    if not math.isclose(said.get("rescale_factor", 1 / _BYTE), 1 / _BYTE, rel_tol=1e-6):
        raise ValueError(f"rescale_factor is {said['rescale_factor']}, expected 1/255")
    if not (said.get("do_resize", True) and said.get("do_rescale", True)):
        raise ValueError("do_resize or do_rescale is false; Pixels resizes images and divides their bytes by 255")
    if (resample := said.get("resample", _BICUBIC)) != _BICUBIC:
        warnings.warn(
            f"the model's images were resized by filter {resample}, and Pixels resizes by {_BICUBIC}, bicubic; "
            "its numbers come near those that transformers gives, and are not the same",
            DthetaWarning,
            stacklevel=3,
        )
    normalized = said.get("do_normalize", True)
    mean, std = (said["image_mean"], said["image_std"]) if normalized else ([0.0] * 3, [1.0] * 3)
    return Pixels(_square(said), _color(mean), _color(std))


def _color(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _square(said: dict[str, Any]) -> int:
    """The side of the square: of the cut where there is one, which must be all of the shorter side."""
    resized = _side(said["size"])
    cut = _side(said["crop_size"]) if said.get("do_center_crop", True) and said.get("crop_size") else resized
    if cut != resized:
        raise ValueError(f"images are resized to {resized} and cut to {cut} pixels; Pixels cuts what it resized to")
    return cut


def _side(size: int | dict[str, int]) -> int:
    sides = set(size.values()) if isinstance(size, dict) else {size}
    if len(sides) != 1:
        raise ValueError(f"images of {size} pixels are no squares")
    return sides.pop()
