"""Messages: they come back as they went, and damaged ones are refused before anything is cut out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtheta.errors import FormatError
from dtheta.federate.message import Failure, Reply, Task, message
from dtheta.federate.payload import Payload

PAYLOADS = (Payload(b"abc", 24), Payload(b"", 0), Payload(b"q" * 9, 3, 12, 4))
MESSAGES = [
    Task("c", 3, 0, "f", "o", "s", 2, 1, {"name": "dense"}, {"name": "exact"}, 1.5, {"name": "Secure"}, PAYLOADS),
    Reply("ü", 3, "f", "s", 20, {"loss": 0.25}, PAYLOADS[:1]),
    Failure("c", 3, "died", "why"),
]


@pytest.mark.parametrize("one", MESSAGES, ids=lambda m: m.kind)
def test_a_message_comes_back_as_it_went(one):
    assert message(one.to_bytes()) == one
    assert type(one).from_bytes(one.to_bytes()) == one


def _header(change):
    data = MESSAGES[1].to_bytes()
    length = int.from_bytes(data[4:8], "little")
    record = json.loads(data[8 : 8 + length])
    change(record)
    text = json.dumps(record).encode()
    return data[:4] + len(text).to_bytes(4, "little") + text + data[8 + length :]


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(kind="other"),
        lambda r: r.update(examples="many"),
        lambda r: r.update(examples=True),
        lambda r: r.update(more=1),
        lambda r: r.pop("round"),
        lambda r: r.update(metrics={"loss": "low"}),
        lambda r: r.update(payloads=[[1 << 60, 8, 0, None, None]]),
        lambda r: r.update(payloads=[[-3, 8, 0, None, None]]),
        lambda r: r.update(payloads=[[3, 24, 0, None, None]]),
        lambda r: r.update(payloads=[[3, 8]]),
        lambda r: r.update(payloads=7),
    ],
)
def test_a_header_that_claims_what_is_not_there_is_refused(change):
    with pytest.raises(FormatError):
        message(_header(change))


@given(st.binary(max_size=200))
def test_noise_is_no_message(noise):
    with pytest.raises(FormatError):
        message(noise)


@given(st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_damage_is_refused_or_stays_a_message(at, noise):
    data = MESSAGES[0].to_bytes()
    at = min(at, len(data))
    try:
        found = message(data[:at] + noise + data[at + len(noise) :])
    except FormatError:
        return
    assert sum(len(p.data) for p in getattr(found, "payloads", ())) <= len(data) + len(noise)


def test_another_kind_is_refused():
    with pytest.raises(FormatError, match="kind 'failure'; expected 'task'"):
        Task.from_bytes(MESSAGES[2].to_bytes())


@pytest.mark.parametrize(
    ("old", "new"), [(b'"loss":0.5', b'"loss":1' + b"0" * 400), (b"[[3,24,", b"[[3,1" + b"0" * 30 + b",")]
)
def test_numbers_that_nothing_can_hold_are_refused(old, new):
    whole = Reply("a", 1, "f", "", 2, {"loss": 0.5}, (Payload(b"abc", 24),)).to_bytes()
    header = whole[8:-3].replace(old, new)
    assert header != whole[8:-3]
    with pytest.raises(FormatError):
        message(b"DTFM" + len(header).to_bytes(4, "little") + header + b"abc")
