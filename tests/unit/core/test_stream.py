"""A stored tensor by ranges: the same elements as in one piece, and the same digest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dtheta.core.fingerprint import tensor_digest
from dtheta.core.seeds import generator
from dtheta.core.stream import StreamDigest, TensorStream, ranges
from dtheta.core.tensorfile import Replaced, TensorFile, data_of, open_tensors, write_tensors
from dtheta.errors import FormatError


def _file(path: Path, tensors: dict[str, Tensor]) -> TensorFile:
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with path.open("wb") as handle:
        write_tensors(handle, specs, {}, lambda name: [data_of(tensors[name])])
    return open_tensors(path)


def _numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=generator(0, "stream")).to(dtype)


TENSORS = {
    "a": _numbers(7, 11),
    "b": _numbers(13, 5, dtype=torch.bfloat16),
    "c": _numbers(3).double(),
    "empty": _numbers(0, 4),
    "number": _numbers(),
    "mask": torch.tensor([True, False, True]),
}


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_ranges_are_the_tensor(tmp_path: Path, resident: bool, size: int) -> None:
    file = _file(tmp_path / "x.safetensors", TENSORS)
    for name, tensor in TENSORS.items():
        digest = StreamDigest(tensor.dtype, tuple(tensor.shape))
        with TensorStream(file, name, resident) as stream:
            for _ in range(2):  # a second visit reads the same
                parts = [stream.read(start, stop).clone() for start, stop in ranges(tensor.numel(), size)]
                found = torch.cat(parts) if parts else tensor.reshape(-1)
                assert torch.equal(found, tensor.reshape(-1))
            for part in parts:
                digest.update(part)
        assert digest.hexdigest() == tensor_digest(tensor)


def test_the_buffer_is_used_again(tmp_path: Path) -> None:
    with TensorStream(_file(tmp_path / "x.safetensors", TENSORS), "a") as stream:
        first = stream.read(0, 10)
        assert stream.read(0, 10).data_ptr() == first.data_ptr()
        assert torch.equal(stream.read(10, 20), TENSORS["a"].reshape(-1)[10:20])
        assert torch.equal(first, TENSORS["a"].reshape(-1)[10:20])  # as documented: not to be kept


@pytest.mark.parametrize("resident", [True, False])
def test_a_file_that_changes_is_noticed(tmp_path: Path, resident: bool) -> None:
    file = _file(tmp_path / "x.safetensors", TENSORS)
    with file.path.open("r+b") as handle:
        handle.truncate(file.entries["number"].start)
    with pytest.raises(FormatError, match="was changed or replaced"), TensorStream(file, "number", resident) as stream:
        stream.read(0, 1)
    file.path.unlink()
    with pytest.raises(Replaced), TensorStream(file, "a", resident) as stream:
        stream.read(0, 1)
