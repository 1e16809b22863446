"""The whole protocol: exact sums whoever leaves, and what happens to messages that are not what they should be."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, FormatError, MissingExtra, ShapeMismatch
from dtheta.federate.secure import BelowThreshold, secure_sum
from dtheta.federate.secure.client import SecureClient
from dtheta.federate.secure.masks import agreed, boxed, mask, new_secret, public_of, unboxed
from dtheta.federate.secure.ring import unpacked
from dtheta.federate.secure.server import SecureServer
from dtheta.federate.secure.session import HEADER, Phase, Session, default_threshold, listed, listing
from dtheta.federate.secure.shamir import recovered

PHASES = ("keys", "shares", "masked", "unmask")


def _vectors(count: int, length: int = 23, seed: int = 0) -> dict[str, torch.Tensor]:
    draws = generator(seed, "secure")
    return {f"c{i}": torch.randint(-1, 2, (length,), generator=draws, dtype=torch.int32) for i in range(count)}


def _plain(vectors: dict[str, torch.Tensor], names: list[str]) -> torch.Tensor:
    return torch.stack([vectors[name] for name in names]).sum(0).int()


class _Parties:
    """A session of three or more up to a phase, message by message."""

    def __init__(self, count: int = 4, threshold: int = 3, length: int = 9) -> None:
        self.vectors = _vectors(count, length)
        self.session = Session(tuple(self.vectors), threshold, length)
        self.server = SecureServer(self.session)
        self.clients = {name: SecureClient(self.session, name) for name in self.vectors}
        self.sent: dict[Phase, dict[str, bytes]] = {}

    def keys(self) -> bytes:
        return self._collect(Phase.KEYS, {name: c.advertise() for name, c in self.clients.items()}).keys()

    def boxes(self) -> dict[str, bytes]:
        keys = self.keys()
        return self._collect(Phase.SHARES, {name: c.share(keys) for name, c in self.clients.items()}).boxes()

    def survivors(self, left: str | None = None) -> bytes:
        boxes = self.boxes()
        sent = {n: c.mask(self.vectors[n], boxes[n]) for n, c in self.clients.items() if n != left}
        return self._collect(Phase.MASKED, sent).survivors()

    def answers(self, left: str | None = None) -> dict[str, bytes]:
        survivors = self.survivors(left)
        return {name: c.unmask(survivors) for name, c in self.clients.items() if name != left}

    def _collect(self, phase: Phase, messages: dict[str, bytes]) -> SecureServer:
        self.sent[phase] = messages
        for message in messages.values():
            self.server.receive(message)
        return self.server


# ----------------------------------------------------------------------------------------------- exact sums


@given(st.integers(2, 9), st.integers(0, 40), st.integers(0, 10**6))
@settings(max_examples=15)
def test_the_sum_is_the_plain_sum(count, length, seed):
    vectors = _vectors(count, length, seed)
    found = secure_sum(vectors)
    assert found.total.dtype == torch.int32 and torch.equal(found.total, _plain(vectors, list(vectors)))
    assert found.included == list(vectors) and not found.reasons


@pytest.mark.parametrize("value", [-1, 0, 1])
@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_vectors_that_agree_reach_the_ends_of_the_ring(count, value):
    found = secure_sum({f"c{i}": torch.full((5,), value) for i in range(count)})
    assert found.total.tolist() == [count * value] * 5


@pytest.mark.parametrize("phases", list(itertools.combinations_with_replacement(PHASES, 2)), ids="-".join)
def test_two_of_seven_may_leave_at_any_time(phases):
    vectors = _vectors(7)
    drops = {"c0": phases[0], "c4": phases[1]}
    found = secure_sum(vectors, 5, drops=drops)
    assert found.included == [name for name in vectors if drops.get(name, "unmask") == "unmask"]
    assert torch.equal(found.total, _plain(vectors, found.included))
    assert set(found.reasons) == {"c0", "c4"} and found.reasons["c0"] == f"silent from phase {phases[0]} on"


@pytest.mark.parametrize("phase", PHASES)
def test_below_the_threshold_there_is_no_sum(phase):
    with pytest.raises(BelowThreshold, match=f"3 of 6 clients are left after phase {phase}; the sum needs 4"):
        secure_sum(_vectors(6), 4, drops=dict.fromkeys(("c0", "c2", "c5"), phase))


@pytest.mark.parametrize("phase", PHASES)
def test_when_all_leave_there_is_no_sum(phase):
    with pytest.raises(BelowThreshold, match="0 of 3"):
        secure_sum(_vectors(3), drops=dict.fromkeys(("c0", "c1", "c2"), phase))


def test_bits_are_those_of_the_packed_ring_and_little_more():
    length, count = 100_000, 8
    found = secure_sum(_vectors(count, length))
    bits = 5  # of -8 ... 8
    for name, sent in found.bits.items():
        assert bits * length < sent < bits * length + 8 * 2000, name
    assert all(0 < received < 8 * 3000 for received in found.received.values())
    assert secure_sum(_vectors(3), drops={"c1": "masked"}, threshold=2).bits["c1"] < min(
        secure_sum(_vectors(3)).bits.values()
    )


def test_default_threshold_is_more_than_two_thirds():
    assert [default_threshold(n) for n in (2, 3, 4, 6, 8, 100)] == [2, 3, 3, 5, 6, 67]
    for n in range(2, 50):
        assert n >= default_threshold(n) > 2 * n / 3


# ----------------------------------------------------------------------------------------------- what is hidden


def test_a_masked_vector_looks_uniform_and_differs_each_time():
    length = 20_000
    zero = {f"c{i}": torch.zeros(length, dtype=torch.int32) for i in range(3)}
    rows = []
    for _ in range(2):
        parties = _Parties(3, 2, length)
        parties.vectors = zero
        parties.survivors()
        rows.append(unpacked(parties.sent[Phase.MASKED]["c0"][HEADER:], length, parties.session.bits))
    for row in rows:
        counts = np.bincount(row, minlength=8)
        assert parties.session.bits == 3 and float(((counts - 2500) ** 2 / 2500).sum()) < 35  # chi2 of 7, p about 1e-5
    assert np.mean(rows[0] == rows[1]) < 0.16


def test_the_server_gets_one_half_of_each_clients_shares_only():
    parties = _Parties(4, 3)
    answers = parties.answers(left="c2")
    seeds = {name: client._seed for name, client in parties.clients.items()}
    secrets_ = {name: client._mask_secret for name, client in parties.clients.items()}
    found = [listed(answer[HEADER:], 33, 4) for answer in answers.values()]
    points = [parties.session.clients.index(name) + 1 for name in answers]
    for index, name in enumerate(parties.session.clients):
        secret = recovered({x: f[index] for x, f in zip(points, found, strict=True)}, 3)
        assert secret == (secrets_ if name == "c2" else seeds)[name]


def test_a_client_answers_once():
    parties = _Parties()
    survivors = parties.survivors(left="c2")
    client = parties.clients["c0"]
    client.unmask(survivors)
    everybody = parties.session.message(Phase.UNMASK, 0xFFFFFFFF, listing(dict.fromkeys(range(4), b"")))
    for request in (survivors, everybody):
        with pytest.raises(FormatError, match="answered already"):
            client.unmask(request)
    assert not client._shares


def test_masks_of_a_pair_are_the_same_on_both_sides():
    one, other = new_secret(), new_secret()
    seeds = agreed(one, public_of(other), b"x"), agreed(other, public_of(one), b"x")
    assert seeds[0] == seeds[1] != agreed(one, public_of(other), b"y")
    for bits in (1, 5, 8, 9, 16, 17, 32):
        found = mask(seeds[0], 5000, bits)
        assert np.array_equal(found, mask(seeds[1], 5000, bits)) and int(found.max()) < 2**bits
        assert abs(float(found.mean()) / (2**bits - 1) - 0.5) < 0.05
    assert len(mask(seeds[0], 0, 5)) == 0


def test_a_box_opens_under_its_key_and_context_only():
    key = bytes(32)
    box = boxed(key, b"text", b"here")
    assert unboxed(key, box, b"here") == b"text"
    assert unboxed(key, box, b"there") is None and unboxed(b"\1" + key[1:], box, b"here") is None
    assert unboxed(key, box[:-1] + bytes([box[-1] ^ 1]), b"here") is None


def test_a_key_that_agrees_with_everybody_is_refused():
    with pytest.raises(FormatError, match="public key"):
        agreed(new_secret(), bytes(32), b"x")


# ----------------------------------------------------------------------------------------------- bad messages


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("phase", [Phase.KEYS, Phase.SHARES, Phase.MASKED])
@pytest.mark.parametrize(
    "change",
    [lambda m: m[:-1], lambda m: m + b"x", lambda m: b"", lambda m: _flipped(m, 0), lambda m: _flipped(m, 10)],
    ids=["short", "long", "empty", "magic", "session"],
)
def test_who_sends_a_damaged_message_is_left_out(phase, change):
    vectors = _vectors(5)
    found = secure_sum(vectors, 3, tamper=lambda name, p, m: change(m) if (name, p) == ("c3", phase) else m)
    assert found.included == ["c0", "c1", "c2", "c4"] and torch.equal(found.total, _plain(vectors, found.included))
    assert found.reasons["c3"].startswith(f"phase {phase.name.lower()}: ")


def test_a_damaged_answer_in_the_last_phase_is_left_out_while_its_vector_stays():
    vectors = _vectors(5)
    found = secure_sum(vectors, 3, tamper=lambda n, p, m: m[:-1] if (n, p) == ("c3", Phase.UNMASK) else m)
    assert found.included == list(vectors) and torch.equal(found.total, _plain(vectors, list(vectors)))
    assert "c3" in found.reasons


@pytest.mark.parametrize(
    ("drops", "record"), [({"c4": "unmask"}, 0), ({"c1": "masked"}, 1)], ids=["seed", "mask secret"]
)
@pytest.mark.parametrize("threshold", [3, 4])
def test_a_wrong_share_is_noticed(drops, record, threshold):
    # with as many answers as the threshold by what was published, with more by the shares themselves
    def tamper(name: str, phase: Phase, message: bytes) -> bytes:
        wrong = name == "c3" and phase == Phase.UNMASK
        return _flipped(message, HEADER + 37 * record + 4 + 32) if wrong else message

    with pytest.raises(FormatError, match=f"of 'c{record}': a client has sent a wrong one"):
        secure_sum(_vectors(5), threshold, drops=drops, tamper=tamper)


def test_shares_changed_on_their_way_are_noticed_by_who_gets_them():
    # the box of c0 for c1, changed: c1 says so and leaves; the others have their sum
    def tamper(name: str, phase: Phase, message: bytes) -> bytes:
        return _flipped(message, HEADER + 32 + 4 + 5) if (name, phase) == ("c0", Phase.SHARES) else message

    vectors = _vectors(5)
    found = secure_sum(vectors, 3, tamper=tamper)
    assert found.included == ["c0", "c2", "c3", "c4"] and torch.equal(found.total, _plain(vectors, found.included))
    assert "'c0' were changed" in found.reasons["c1"]


def test_duplicates_are_refused_and_change_nothing():
    parties = _Parties()
    for name, client in parties.clients.items():
        message = client.advertise()
        parties.server.receive(message)
        with pytest.raises(FormatError, match=f"'{name}' has sent two messages"):
            parties.server.receive(message)
    parties.server.keys()


def test_messages_of_another_session_are_refused():
    old, new = _Parties(), _Parties()
    old.answers()
    for phase in old.sent:
        for message in old.sent[phase].values():
            with pytest.raises(FormatError, match="another session"):
                new.server.receive(message)
    new.clients["c0"].advertise()
    with pytest.raises(FormatError, match="another session"):
        new.clients["c0"].share(old.session.message(Phase.SHARES, 0xFFFFFFFF, b""))


def test_sessions_differ_by_their_terms_and_their_nonce():
    terms = [(("a", "b"), 2, 3, 0), (("a", "b"), 2, 4, 0), (("a", "b"), 2, 3, 1), (("a", "c"), 2, 3, 0)]
    same = [Session(*term, nonce=bytes(16)).digest for term in terms]
    assert len(set(same)) == 4 and Session(*terms[0], nonce=bytes(16)).digest == same[0]
    assert Session(*terms[0]).digest != Session(*terms[0]).digest


def test_messages_out_of_turn_are_refused():
    parties = _Parties()
    keys = parties.keys()
    with pytest.raises(FormatError, match="phase 1; expected 2"):
        parties.server.receive(parties.sent[Phase.KEYS]["c0"])
    with pytest.raises(FormatError, match="not due"):
        parties.server.survivors()
    client = parties.clients["c0"]
    with pytest.raises(FormatError, match="not due yet"):
        client.unmask(keys)
    with pytest.raises(FormatError, match="expected the server's"):
        client.share(parties.session.message(Phase.SHARES, 1, b""))


def test_who_left_cannot_come_back():
    parties = _Parties()
    for name in ("c0", "c1", "c2"):
        parties.server.receive(parties.clients[name].advertise())
    parties.server.keys()
    late = parties.session.message(Phase.SHARES, 3, bytes(32) + bytes(2 * (4 + 82)))
    with pytest.raises(FormatError, match="not taken part"):
        parties.server.receive(late)


def test_a_client_checks_the_keys():
    parties = _Parties()
    keys = listed(parties.keys()[HEADER:], 64, 4)
    client = parties.clients["c0"]
    for changed, message in (
        ({**keys, 0: keys[1]}, "not those that it sent"),
        ({**keys, 2: keys[1]}, "the same public key"),
        ({0: keys[0], 1: keys[1]}, None),
    ):
        sent = parties.session.message(Phase.SHARES, 0xFFFFFFFF, listing(changed))
        with pytest.raises(FormatError if message else BelowThreshold, match=message):
            client.share(sent)


def test_a_client_checks_boxes_and_survivors():
    parties = _Parties()
    boxes = listed(parties.boxes()["c0"][HEADER:], 82, 4)
    client, session = parties.clients["c0"], parties.session

    def message(phase: Phase, records: dict[int, bytes]) -> bytes:
        return session.message(phase, 0xFFFFFFFF, listing(records))

    with pytest.raises(FormatError, match="this client itself"):
        client.mask(parties.vectors["c0"], message(Phase.MASKED, {**boxes, 0: boxes[1]}))
    with pytest.raises(BelowThreshold):
        client.mask(parties.vectors["c0"], message(Phase.MASKED, {1: boxes[1]}))
    client.mask(parties.vectors["c0"], message(Phase.MASKED, {1: boxes[1], 2: boxes[2]}))
    with pytest.raises(FormatError, match="survivors"):
        client.unmask(message(Phase.UNMASK, dict.fromkeys((1, 2, 3), b"")))
    with pytest.raises(FormatError, match="survivors"):
        client.unmask(message(Phase.UNMASK, dict.fromkeys((0, 1, 3), b"")))
    with pytest.raises(BelowThreshold):
        client.unmask(message(Phase.UNMASK, dict.fromkeys((0, 1), b"")))


def test_an_answer_without_a_share_of_everybody_is_refused():
    parties = _Parties()
    answer = parties.answers()["c0"]
    records = listed(answer[HEADER:], 33, 4)
    short = parties.session.message(Phase.UNMASK, 0, listing({i: records[i] for i in (0, 1, 2)}))
    with pytest.raises(FormatError, match="expected 148"):
        parties.server.receive(short)


@pytest.mark.parametrize("body", [b"\0\0\0\0", bytes([1, 0, 0, 0, 9, 0, 0, 0, 0, 9]), bytes([4, 0, 0, 0, 9])])
def test_records_are_of_clients_in_order(body):
    with pytest.raises(FormatError):
        listed(body, 1, 4)


@given(st.binary(max_size=80))
def test_no_bytes_are_taken_for_a_message(data):
    parties = _Parties(2, 2, 3)
    with pytest.raises(FormatError):
        parties.server.receive(data)


# ----------------------------------------------------------------------------------------------- arguments


def test_one_client_has_no_secure_sum():
    with pytest.raises(ConfigError, match="at least 2"):
        secure_sum(_vectors(1))
    with pytest.raises(ConfigError, match="at least 2"):
        secure_sum({})


@pytest.mark.parametrize("threshold", [0, 1, 4, 2.5])
def test_the_threshold_fits_the_clients(threshold):
    with pytest.raises(ConfigError, match="threshold"):
        secure_sum(_vectors(3), threshold)


def test_names_are_clients_and_different():
    with pytest.raises(ConfigError, match="all different"):
        Session(("a", "a"), 2, 3)
    with pytest.raises(ConfigError, match="no client 'x'"):
        SecureClient(Session(("a", "b"), 2, 3), "x")
    with pytest.raises(ConfigError, match="'x' is to leave"):
        secure_sum(_vectors(3), drops={"x": "keys"})


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        (torch.zeros(3, dtype=torch.int32), ShapeMismatch),
        (torch.zeros(23), ShapeMismatch),
        (torch.full((23,), 2), ConfigError),
    ],
)
def test_vectors_are_ternary_and_of_one_length(vector, error):
    with pytest.raises(error):
        secure_sum({**_vectors(3), "c3": vector})


def test_without_cryptography_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.x25519", None)
    with pytest.raises(MissingExtra, match=r"dtheta\[secure\]"):
        secure_sum(_vectors(3))
