"""Picture files of every mode, upright, on white; damaged, empty and absurd ones refused by name."""

from __future__ import annotations

import struct
import sys
import zlib

import numpy as np
import pytest
import torch

from dtheta.data.decode import read_grey, read_rgba, read_square
from dtheta.errors import ConfigError, FormatError, MissingExtra

Image = pytest.importorskip("PIL.Image")

RED, HALF = (200, 40, 20), (200, 40, 20, 128)


def _saved(picture, path, **options):
    picture.save(path, **options)
    return path


def _flat(mode, color):
    return Image.new(mode, (4, 4), color)


def _color(path):
    """The color of a one-colored picture."""
    pixels = read_square(path, 4)
    assert pixels.shape == (4, 4, 3) and pixels.dtype == torch.uint8
    assert (pixels == pixels[0, 0]).all()
    return tuple(pixels[0, 0].tolist())


@pytest.mark.parametrize(
    ("mode", "color", "name", "expected"),
    [
        ("RGB", RED, "a.png", RED),
        ("RGB", RED, "A.BMP", RED),
        ("RGB", RED, "a.ppm", RED),
        ("L", 90, "a.png", (90, 90, 90)),
        ("L", 90, "a.pgm", (90, 90, 90)),
        ("1", 1, "a.png", (255, 255, 255)),
        ("LA", (0, 0), "a.png", (255, 255, 255)),
        ("LA", (0, 51), "a.png", (204, 204, 204)),
        ("RGBA", (*RED, 255), "a.png", RED),
        ("RGBA", (0, 0, 0, 0), "a.png", (255, 255, 255)),
        ("RGBA", HALF, "a.png", (227, 147, 137)),
        ("RGBA", HALF, "a.tiff", (227, 147, 137)),
        ("CMYK", (0, 255, 255, 0), "a.tif", (255, 0, 0)),
        ("I;16", 257 * 90, "a.png", (90, 90, 90)),
        ("I;16", 65535, "a.tif", (255, 255, 255)),
        ("I", 65535, "a.tif", (255, 255, 255)),
        ("I", 257 * 90, "a.tif", (90, 90, 90)),
    ],
)
def test_modes_become_rgb_on_white(tmp_path, mode, color, name, expected):
    assert _color(_saved(_flat(mode, color), tmp_path / name)) == expected


def test_palettes_with_and_without_transparency(tmp_path):
    picture = _flat("P", 1)
    picture.putpalette([0, 0, 0, *RED])
    assert _color(_saved(picture, tmp_path / "a.png")) == RED
    assert _color(_saved(picture, tmp_path / "a.gif")) == RED
    assert _color(_saved(picture, tmp_path / "b.png", transparency=1)) == (255, 255, 255)
    assert _color(_saved(picture, tmp_path / "c.png", transparency=bytes([0, 128]))) == (227, 147, 137)


def test_a_transparent_color_of_rgb_and_grey(tmp_path):
    assert _color(_saved(_flat("RGB", RED), tmp_path / "a.png", transparency=RED)) == (255, 255, 255)
    assert _color(_saved(_flat("L", 9), tmp_path / "b.png", transparency=9)) == (255, 255, 255)
    assert _color(_saved(_flat("L", 9), tmp_path / "c.png", transparency=8)) == (9, 9, 9)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg(tmp_path, mode):
    picture = Image.new("RGB", (16, 16), RED).convert(mode)
    expected = np.asarray(picture.convert("RGB"))[0, 0]
    found = read_square(_saved(picture, tmp_path / "a.jpg", quality=100, subsampling=0), 16)
    assert (found.int() - torch.tensor(expected).int()).abs().max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_it_upright(tmp_path, orientation):
    """A bright corner, stored turned: the reading puts it where a viewer shows it."""
    stored = np.zeros((16, 16), np.uint8)
    stored[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _saved(Image.fromarray(stored), tmp_path / "a.png", exif=exif)
    found = read_square(path, 2)[..., 0]
    row, column = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    assert found.argmax() == 2 * row + column


def test_the_middle_square_of_a_wide_picture_is_kept(tmp_path):
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    path = _saved(Image.fromarray(wide), tmp_path / "a.png")
    assert (read_square(path, 5)[:, 1:4] > 190).all()
    assert torch.equal(read_square(path, 10)[..., 0], torch.from_numpy(wide[:, 10:20].copy()))
    tall = _saved(Image.fromarray(wide.T.copy()), tmp_path / "b.png")
    assert torch.equal(read_square(tall, 10), read_square(path, 10).transpose(0, 1))


def test_a_needle_needs_no_more_memory_than_a_square(tmp_path):
    path = _saved(Image.new("L", (60000, 1), 70), tmp_path / "a.png")
    assert (read_square(path, 224) == 70).all()


def test_rgba_and_grey_keep_all_pixels(tmp_path):
    path = _saved(_flat("RGBA", HALF), tmp_path / "a.png")
    assert torch.equal(read_rgba(path), torch.tensor(HALF, dtype=torch.uint8).expand(4, 4, 4))
    path = _saved(Image.new("RGB", (5, 3), RED), tmp_path / "b.png")
    assert read_rgba(path).shape == (3, 5, 4) and (read_rgba(path)[..., 3] == 255).all()
    assert read_grey(path).shape == (3, 5)
    assert torch.equal(read_grey(path), torch.full((3, 5), Image.new("RGB", (1, 1), RED).convert("L").getpixel((0, 0))))


def _png(width, height, body=b""):
    """A PNG whose header promises so many pixels, and whose body is ``body``."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 20_000, 2**31 - 1])
def test_a_bomb_is_refused_by_its_header(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(_png(side, side))
    with pytest.raises(FormatError, match=r"bomb\.png: its header promises more than"):
        read_square(tmp_path / "bomb.png", 8)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_picture_without_pixels(tmp_path, size):
    (tmp_path / "none.png").write_bytes(_png(*size))
    with pytest.raises(FormatError, match=r"none\.png"):
        read_square(tmp_path / "none.png", 8)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of tags that it passes over
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tiff", "webp", "ppm"])
def test_damaged_files_are_named(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = _saved(Image.fromarray(noise), tmp_path / f"whole.{suffix}").read_bytes()
    damaged = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"not a picture", "head": whole[:20]}
    for name, content in damaged.items():
        path = tmp_path / f"{name}.{suffix}"
        path.write_bytes(content)
        with pytest.raises(FormatError, match=rf"{name}\.{suffix}: cannot be decoded"):
            read_square(path, 8)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of tags that it passes over
@pytest.mark.parametrize("suffix", ["png", "gif", "tiff", "jpg"])
def test_flipped_bytes_are_read_or_refused(tmp_path, suffix):
    draws = np.random.default_rng(1)
    noise = draws.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    whole = _saved(Image.fromarray(noise), tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"a.{suffix}"
    for _ in range(25):
        broken = bytearray(whole)
        for place in draws.integers(0, len(whole), 3):
            broken[place] ^= int(draws.integers(1, 256))
        path.write_bytes(broken)
        try:
            found = read_square(path, 4)
        except FormatError:
            continue
        assert found.shape == (4, 4, 3)


def test_numbers_of_unknown_range_are_refused(tmp_path):
    with pytest.raises(FormatError, match="floating-point numbers"):
        read_square(_saved(_flat("F", 0.5), tmp_path / "a.tif"), 4)
    with pytest.raises(FormatError, match="integers from 70000 to 70000"):
        read_square(_saved(_flat("I", 70000), tmp_path / "b.tif"), 4)


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.png: there is no such file"):
        read_square(tmp_path / "none.png", 4)
    with pytest.raises(ConfigError, match="a folder"):
        read_square(tmp_path, 4)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"a\.txt: not a picture that is read.*\.png"):
        read_square(tmp_path / "a.txt", 4)
    with pytest.raises(ConfigError, match="size=0"):
        read_square(_saved(_flat("L", 1), tmp_path / "a.png"), 0)


def test_without_pillow_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"pip install 'dtheta\[image\]'"):
        read_square(tmp_path / "a.png", 4)
