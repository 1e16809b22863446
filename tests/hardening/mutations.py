"""Mutations of valid files: what a failing disk, a cut download or a hostile hand makes of them."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from hypothesis import strategies as st

_NUMBER = re.compile(rb"-?\d+")
_NUMBERS = (b"-1", b"0", b"1e999", b"NaN", b"-Infinity", b"2147483648", b"1099511627776", b"9" * 19, b"9" * 5000)
_PIECES = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"\n\n",
    b'"',
    b",,",
    b"\xe2\x80\xa8",
    b"~",
)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Return bytes with one to three faults: flips, cuts, insertions, exchanged or repeated spans, blown-up numbers."""
    for _ in range(draw(st.integers(1, 3))):
        data = _FAULTS[draw(st.sampled_from(sorted(_FAULTS)))](draw, data)
    return data


def _flip(draw: st.DrawFn, data: bytes) -> bytes:
    changed = bytearray(data)
    for at in draw(st.lists(st.integers(0, max(0, len(data) - 1)), min_size=1, max_size=4)):
        if data:
            changed[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def _cut(draw: st.DrawFn, data: bytes) -> bytes:
    return data[: draw(st.integers(0, len(data)))]


def _insert(draw: st.DrawFn, data: bytes) -> bytes:
    at, piece = draw(st.integers(0, len(data))), draw(st.sampled_from(_PIECES) | st.binary(min_size=1, max_size=9))
    return data[:at] + piece + data[at:]


def _exchange(draw: st.DrawFn, data: bytes) -> bytes:
    a, b, c = sorted(draw(st.integers(0, len(data))) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _repeat(draw: st.DrawFn, data: bytes) -> bytes:
    start, stop = sorted(draw(st.integers(0, len(data))) for _ in range(2))
    return data[:stop] + data[start:stop] + data[stop:]


def _number(draw: st.DrawFn, data: bytes) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    one = draw(st.sampled_from(found))
    return data[: one.start()] + draw(st.sampled_from(_NUMBERS)) + data[one.end() :]


def _length(draw: st.DrawFn, data: bytes) -> bytes:
    """Put another length in place of the first eight bytes, or of eight anywhere."""
    at = draw(st.just(0) | st.integers(0, max(0, len(data) - 8)))
    return data[:at] + draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little") + data[at + 8 :]


_FAULTS = {
    "flip": _flip, "cut": _cut, "insert": _insert, "exchange": _exchange, "repeat": _repeat, "number": _number,
    "length": _length,
}  # fmt: skip
_JUNK: tuple[Any, ...] = (
    None, True, False, -1, 0, 7, 2**31, 2**40, 2**53, 2**63, 10**30, -(2**63), 0.5, 1e308, float("inf"), float("nan"),
    "", "x", "0", "\0", "../x", "\ud800", "NaN", [], [[]], [0], [None, "x"], ["a", "a"], {}, {"": {}}, {"x": [2**40]},
)  # fmt: skip


@st.composite
def twisted(draw: st.DrawFn, value: Any) -> Any:
    """Return a JSON value with one or two of its parts replaced, removed, doubled, renamed or exchanged."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        holders = _holders(value)
        if holders:
            _twist(draw, draw(st.sampled_from(holders)))
    return value


def _holders(value: Any) -> list[Any]:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [*([value] if inner else []), *(one for part in inner for one in _holders(part))]


def _twist(draw: st.DrawFn, holder: Any) -> None:
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    one, other = draw(st.sampled_from(keys)), draw(st.sampled_from(keys))
    what = draw(st.sampled_from(["replace", "replace", "remove", "exchange", "add"]))
    if what == "remove":
        del holder[one]
    elif what == "exchange":
        holder[one], holder[other] = holder[other], holder[one]
    elif what == "add" and isinstance(holder, dict):
        holder[draw(st.sampled_from(["x", "", f"{one}s"]))] = holder[one]
    elif what == "add" and isinstance(holder, list):
        holder.insert(one, holder[other])
    else:
        holder[one] = copy.deepcopy(draw(st.sampled_from(_JUNK)))


@st.composite
def twisted_text(draw: st.DrawFn, data: bytes) -> bytes:
    """Return a JSON file, or JSON lines, with a value twisted; JSON within a text is twisted, too."""
    lines = data.split(b"\n")
    try:
        parts = [json.loads(data)]
    except ValueError:
        parts = [json.loads(line) for line in lines if line.strip()]
    at = draw(st.integers(0, len(parts) - 1))
    parts[at] = draw(twisted(_unfolded(parts[at])))
    return b"\n".join(json.dumps(_folded(part)).encode() for part in parts) + b"\n"


class _Inner(dict):
    """A table that was a text of JSON."""


def _unfolded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unfolded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unfolded(inner) for inner in value]
    if isinstance(value, str) and value.startswith("{"):
        return _Inner(_unfolded(json.loads(value)))
    return value


def _folded(value: Any) -> Any:
    if isinstance(value, _Inner):
        return json.dumps({key: _folded(inner) for key, inner in value.items()})
    if isinstance(value, dict):
        return {key: _folded(inner) for key, inner in value.items()}
    return [_folded(inner) for inner in value] if isinstance(value, list) else value
