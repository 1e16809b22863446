"""The header of a payload."""

from __future__ import annotations

import hashlib
import zlib

import pytest
import torch

from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.errors import BaseMismatch, FormatError
from dtheta.federate.frame import Frame
from dtheta.federate.payload import HEADER, opened, sealed


def frame(name: str = "a", value: float = 1.0) -> Frame:
    changes = {name: Dense(torch.zeros(3))}
    return Frame.of(Delta(changes, fingerprint({name: torch.full((3,), value)})))


def test_a_body_comes_back_and_its_header_is_short():
    data = sealed(7, frame(), b"body")
    assert len(data) == HEADER + 4 == 30
    assert bytes(opened(data, 7, frame(), "x")) == b"body"
    assert bytes(opened(sealed(0, frame(), b""), 0, frame(), "x")) == b""


def test_the_bytes_are_those_of_the_format():
    tag = frame().tag
    check = zlib.crc32(b"DTFP\x01\x07" + tag + b"body")
    assert sealed(7, frame(), b"body") == b"DTFP\x01\x07" + tag + check.to_bytes(4, "little") + b"body"
    layout, origin = '[["a",[3],false]]', f'["{frame().base.digests["a"]}"]'
    assert tag == b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in (layout, origin))


def test_every_damaged_bit_is_noticed():
    data = sealed(7, frame(), b"body")
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            opened(bytes(damaged), 7, frame(), "x")


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", FormatError, "of 0 bytes; its header alone takes 26"),
        (b"GGUF" + bytes(30), FormatError, "starts with b'GGUF'"),
        (b"DTFP\x02" + bytes(30), FormatError, "version 2; this dtheta reads 1"),
        (sealed(7, frame(), b"body")[:-1], FormatError, "CRC-32"),
        (sealed(8, frame(), b"body"), FormatError, r"codec 8; expected 7 \(x\)"),
        (sealed(7, frame("b"), b"body"), FormatError, "other parameters"),
        (sealed(7, frame("a", 2.0), b"body"), BaseMismatch, "another base"),
    ],
)
def test_what_is_wrong_is_said(data, error, message):
    with pytest.raises(error, match=message):
        opened(data, 7, frame(), "x")
