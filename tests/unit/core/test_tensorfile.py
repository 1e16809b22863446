"""Safetensors files: ours are read by the safetensors library and its are read by us; lies are refused."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dtheta.core.tensorfile import DTYPES, Replaced, data_of, header_bytes, open_tensors, write_tensors
from dtheta.errors import ConfigError, FormatError


def every_dtype() -> dict[str, torch.Tensor]:
    found = {code: torch.arange(6).to(dtype).reshape(2, 3) for code, dtype in DTYPES.items()}
    found["BOOL"] = torch.tensor([[True, False, True]])
    return {**found, "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}


def test_files_of_the_library_are_read(tmp_path: Path) -> None:
    tensors = every_dtype()
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    file = open_tensors(tmp_path / "a.safetensors")
    assert file.metadata == {"format": "pt"} and set(file.entries) == set(tensors)
    for name, tensor in tensors.items():
        found = file.read(name)
        assert found.dtype == tensor.dtype and found.shape == tensor.shape
        assert bytes(data_of(found)) == bytes(data_of(tensor)) == b"".join(file.blocks(name))


def test_our_files_are_read_by_the_library(tmp_path: Path) -> None:
    tensors = every_dtype()
    order = sorted(tensors, key=lambda n: -tensors[n].element_size())
    specs = {name: (tensors[name].dtype, tuple(tensors[name].shape)) for name in order}
    with (tmp_path / "a.safetensors").open("wb") as handle:
        written = write_tensors(handle, specs, {"key": "välue"}, lambda name: [data_of(tensors[name])])
    assert written == (tmp_path / "a.safetensors").stat().st_size
    found = load_file(tmp_path / "a.safetensors")
    assert set(found) == set(tensors)
    assert all(bytes(data_of(found[name])) == bytes(data_of(tensors[name])) for name in tensors)


def test_views_are_written_as_they_look(tmp_path: Path) -> None:
    view = torch.arange(12.0).reshape(3, 4).T[1:3]
    with (tmp_path / "a").open("wb") as handle:
        write_tensors(handle, {"v": (view.dtype, tuple(view.shape))}, {}, lambda name: [data_of(view)])
    assert torch.equal(open_tensors(tmp_path / "a").read("v"), view)


def test_dtypes_outside_the_format_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"x: .*complex128"):
        header_bytes({"x": (torch.complex128, (1,))}, {})


def _file(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def _spec(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": _spec(offsets=(4, 8))}, "leaves a gap"),
        ({"a": _spec(), "b": _spec()}, "overlaps"),
        ({"a": _spec(offsets=(0, 0), shape=(0,))}, "bytes that belong to no tensor"),
        ({"a": _spec(shape=(2,), offsets=(0, 8))}, "cut short"),
        ({"a": _spec(shape=(10**12,))}, "needs 4,000,000,000,000 bytes, but has 4"),
        ({"a": _spec(shape=(2**40, 2**40), offsets=(0, 2**82))}, "no valid shape"),
        ({"a": _spec(shape=(-1,))}, "no valid shape"),
        ({"a": _spec(shape=(True,))}, "no valid shape"),
        ({"a": _spec(shape="1")}, "no valid shape"),
        ({"a": _spec(shape=(1,) * 40)}, "no valid shape"),
        ({"a": _spec(offsets=(4, 0))}, "but has -4"),
        ({"a": _spec(offsets=(0.0, 4.0))}, "no valid offsets"),
        ({"a": _spec(dtype="F4")}, "dtype F4; expected one of F64"),
        ({"a": _spec(dtype=["F32"])}, "dtype"),
        ({"a": {**_spec(), "extra": 1}}, "not described by"),
        ({"a": 5}, "not described by"),
        ({"__metadata__": {"a": 1}}, "table of strings"),
        (b'{"a":1,"a":2}', "occurs twice"),
        (b'{"a":NaN}', "not a finite number"),
        (b'{"a":1e999}', "not a finite number"),
        (b'{"a":' + b"9" * 5000 + b"}", "valid JSON"),
        (b'{"\xff":1}', "valid JSON"),
        (b'{"a":', "valid JSON"),
        (b"{" * 100_000, "JSON"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_headers_that_cannot_be(tmp_path: Path, header: object, message: str) -> None:
    with pytest.raises(FormatError, match=message) as error:
        open_tensors(_file(tmp_path / "a.safetensors", header, b"\0" * 4))
    assert "a.safetensors" in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"1234567", "7 bytes"),
        (b"PK\x03\x04" + b"0" * 20, "pickle"),
        (b"\x80\x02}q\x00." + b"0" * 20, "pickle"),
        (b"GGUF\x03\0\0\0" + b"0" * 20, "dt.load_model"),
        ((10**15).to_bytes(8, "little") + b"{}", "claim a header"),
        ((1000).to_bytes(8, "little") + b"{}", "cut short"),
        ((2).to_bytes(8, "little") + b"[]", "no safetensors file"),
        (b"<!DOCTYPE html>", "no safetensors"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        open_tensors(path)


def test_a_missing_file_suggests_its_neighbors(tmp_path: Path) -> None:
    (tmp_path / "news.delta").touch()
    with pytest.raises(ConfigError, match=r"did you mean 'news\.delta'"):
        open_tensors(tmp_path / "nwes.delta")
    with pytest.raises(ConfigError, match="no folder"):
        open_tensors(tmp_path / "none" / "a")
    with pytest.raises(ConfigError, match="no file"):
        open_tensors("a\0b")


def test_a_file_that_shrinks_under_the_reader_is_noticed(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1000)}, tmp_path / "a")
    file = open_tensors(tmp_path / "a")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:2000])
    for read in (lambda: file.read("a"), lambda: b"".join(file.blocks("a"))):
        with pytest.raises(FormatError, match="was changed or replaced"):
            read()
    (tmp_path / "a").unlink()
    with pytest.raises(FormatError, match="was removed"):
        file.read("a")


def test_booleans_must_be_zero_or_one(tmp_path: Path) -> None:
    file = open_tensors(_file(tmp_path / "a", {"a": _spec("BOOL", (2,), (0, 2))}, b"\x01\x02"))
    with pytest.raises(FormatError, match="no booleans"):
        file.read("a")


def test_nan_in_a_tensor_is_no_damage(tmp_path: Path) -> None:
    save_file({"a": torch.tensor([math.nan])}, tmp_path / "a")
    assert math.isnan(float(open_tensors(tmp_path / "a").read("a")))


def test_a_header_is_never_read_with_the_data_of_another_file(
    tmp_path: Path,
) -> None:
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"x": torch.zeros(4)}, path)
    save_file({"x": torch.ones(4)}, other)
    file = open_tensors(path)
    other.replace(path)
    with pytest.raises(Replaced, match="was changed or replaced by another file while it was read"):
        file.read("x")
    assert torch.equal(open_tensors(path).read("x"), torch.ones(4))
    file = open_tensors(path)
    path.unlink()
    with pytest.raises(Replaced, match="was removed"):
        file.read("x")


def test_offsets_beyond_a_hundred_megabytes(tmp_path: Path) -> None:
    """Their product says nothing; a file with a hole stands for a large one."""
    half = 300_000_000
    specs = {"a": _spec("U8", (half,), (0, half)), "b": _spec("F32", (2,), (half, half + 8))}
    path = _file(tmp_path / "large", specs, b"")
    start = path.stat().st_size
    with path.open("r+b") as handle:
        handle.truncate(start + half)
        handle.seek(start + half)
        handle.write(torch.tensor([1.5, -2.0]).numpy().tobytes())
    assert open_tensors(path).read("b").tolist() == [1.5, -2.0]
    for offsets in ((8, 0), (-8, 0), (0, 8.0), (0, 1 << 70)):
        bad = _file(tmp_path / "bad", {"b": _spec("F32", (2,), offsets)}, b"\0" * 8)
        with pytest.raises(FormatError):
            open_tensors(bad)


def test_a_file_that_got_the_number_of_the_one_before_is_another(tmp_path: Path) -> None:
    """File systems give the number of a file that is gone to the next one: here it is written in its place."""
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(3)}, path)
    file = open_tensors(path)
    before = path.stat()
    other = path.read_bytes()[:-12] + torch.ones(3).numpy().tobytes()
    path.write_bytes(other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert path.stat().st_ino == before.st_ino and path.stat().st_size == before.st_size
    with pytest.raises(Replaced):
        file.read("w")
