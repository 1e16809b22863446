"""IDX files: read, or refused with their name."""

from __future__ import annotations

import gzip
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtheta.data.idx import read_idx
from dtheta.errors import FormatError


def _idx(sizes, content, kind=8):
    return struct.pack(f">HBB{len(sizes)}I", 0, kind, len(sizes), *sizes) + content


def test_reads_plain_and_gzipped(tmp_path):
    content = _idx((2, 3), bytes(range(6)))
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    for name in ("a", "a.gz"):
        assert torch.equal(read_idx(tmp_path / name), torch.arange(6, dtype=torch.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        _idx((2, 3), bytes(5)),
        _idx((2, 3), bytes(7)),
        _idx((2**32 - 1, 2**32 - 1, 2**32 - 1), bytes(9)),
        _idx((2, 3), bytes(6), kind=13),
        b"\1" + _idx((2, 3), bytes(6))[1:],
        b"\0\0\x08\0",
    ],
)
def test_headers_that_do_not_fit_are_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    for name in ("a", "a.gz"):
        with pytest.raises(FormatError, match=name):
            read_idx(tmp_path / name)


def test_damaged_gzip_and_missing_files(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(_idx((2, 3), bytes(6)))[:-9])
    for name in ("a.gz", "none.gz"):
        with pytest.raises(FormatError, match=name):
            read_idx(tmp_path / name)


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("idx") / "a"
    path.write_bytes(content)
    try:
        assert read_idx(path).numel() <= len(content)
    except FormatError:
        pass
