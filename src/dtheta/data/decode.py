"""Picture files to bytes: any mode becomes RGB, upright as its EXIF tag says, transparency laid on white.

    16-bit grey -> v / 257       palette, CMYK, YCbCr, Lab -> RGB       of an animation the first frame

How large a picture is stands in its header and is checked before anything is decoded, so that a small file cannot fill
the memory. Pillow decodes; formats for which it would start another program (EPS) are not read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dtheta.data.images import on_white
from dtheta.errors import ConfigError, FormatError, MissingExtra

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {
    ".bmp": "BMP", ".gif": "GIF", ".jpeg": "JPEG", ".jpg": "JPEG", ".pgm": "PPM", ".png": "PNG", ".ppm": "PPM",
    ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP",
}  # fmt: skip
_MAX_16_BIT = 65535
_TO_8_BIT = 257  # 65535 / 255


def read_square(path: Path, size: int) -> UInt8[Tensor, "size size 3"]:
    """Return the middle square of a picture, ``size`` pixels a side, RGB; resized by antialiased bicubic filtering.

    Raises:
        ConfigError: there is no such file, its suffix is not one of ``FORMATS``, or ``size`` is below 1.
        FormatError: it is damaged, is no picture, has far too many pixels or a mode of unknown range.
        MissingExtra: Pillow is not installed.
    """
    if size < 1:
        raise ConfigError(f"size={size} must be at least 1 pixel")
    with _decoded(path) as image:
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        return _bytes(image.resize((size, size), _pillow().Resampling.BICUBIC, box))


def read_rgba(path: Path) -> UInt8[Tensor, "H W 4"]:
    """Return all pixels of a picture with their opacity, 255 where it has none; errors as in ``read_square``."""
    with _decoded(path, "RGBA") as image:
        return _bytes(image)


def read_grey(path: Path) -> UInt8[Tensor, "H W"]:
    """Return the brightness of all pixels of a picture; errors as in ``read_square``."""
    with _decoded(path) as image:
        return _bytes(image.convert("L"))


@contextmanager
def _decoded(path: Path, mode: str = "RGB") -> Iterator[Image]:
    """Open, check and decode a picture; what goes wrong in Pillow is told with the name of the file."""
    pillow = _pillow()
    if not path.is_file():
        raise ConfigError(
            f"{path}: " + ("this is a folder, not a picture" if path.is_dir() else "there is no such file")
        )
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: not a picture that is read; known by their suffix are {', '.join(FORMATS)}")
    try:
        with _no_bombs(pillow), pillow.open(path, formats=tuple(set(FORMATS.values()))) as image:
            _check_size(image, path)
            yield _upright(image, mode, path)
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise FormatError(
            f"{path}: its header promises more than {pillow.MAX_IMAGE_PIXELS} pixels, which would fill the memory; "
            "make the picture smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        ) from error
    except FormatError:
        raise
    except Exception as error:  # a damaged file can make Pillow raise almost anything
        raise FormatError(
            f"{path}: cannot be decoded as a picture ({error}); the file is damaged or is no picture. Save it again "
            "from its source, or remove it"
        ) from error


@contextmanager
def _no_bombs(pillow: Any) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pillow.DecompressionBombWarning)
        yield


def _check_size(image: Image, path: Path) -> None:
    if min(image.size) < 1:
        raise FormatError(f"{path}: the picture is {image.width} x {image.height} pixels, so it shows nothing")


def _upright(image: Image, mode: str, path: Path) -> Image:
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):
        return _pillow().fromarray(_from_16_bit(np.asarray(turned), path)).convert(mode)
    if turned.mode == "F":
        raise FormatError(f"{path}: holds floating-point numbers of unknown range; save it with 8 or 16 bits a pixel")
    if mode == "RGBA" or not turned.has_transparency_data:
        return turned.convert(mode)
    return _pillow().fromarray(on_white(_bytes(turned.convert("RGBA"))).numpy())


def _from_16_bit(values: np.ndarray, path: Path) -> np.ndarray:
    if values.min() < 0 or values.max() > _MAX_16_BIT:
        raise FormatError(
            f"{path}: holds integers from {values.min()} to {values.max()}; save it with 8 or 16 bits a pixel"
        )
    return np.rint(values / _TO_8_BIT).astype(np.uint8)


def _bytes(image: Image) -> UInt8[Tensor, "H W *C"]:
    return torch.from_numpy(np.array(image))


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("reading pictures needs Pillow: pip install 'dtheta[image]'") from error
    return Image
