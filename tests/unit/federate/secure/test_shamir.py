"""Secret sharing over a prime field."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtheta.errors import ConfigError
from dtheta.federate.secure.shamir import PRIME, SHARE_BYTES, recovered, shares

secrets_ = st.one_of(st.binary(min_size=32, max_size=32), st.sampled_from([bytes(32), b"\xff" * 32]))


@st.composite
def _sharings(draw):
    points = draw(st.lists(st.integers(1, 2**32), min_size=1, max_size=12, unique=True))
    return draw(secrets_), draw(st.integers(1, len(points))), points


def test_the_modulus_is_the_first_prime_that_holds_every_key():
    sympy = pytest.importorskip("sympy")
    assert sympy.nextprime(2**256) == PRIME


@given(_sharings(), st.randoms())
def test_any_threshold_of_shares_give_the_secret(sharing, random):
    secret, threshold, points = sharing
    found = shares(secret, threshold, points)
    assert list(found) == points and all(len(share) == SHARE_BYTES for share in found.values())
    chosen = random.sample(points, random.randint(threshold, len(points)))
    assert recovered({x: found[x] for x in chosen}, threshold) == secret


@given(secrets_)
def test_fewer_shares_are_as_if_of_any_secret(secret):
    found = shares(secret, 3, range(1, 6))
    for pair in itertools.combinations(found, 2):
        assert recovered({x: found[x] for x in pair}, 3) is None
        assert recovered({x: found[x] for x in pair}, 2) != secret  # with probability 1 - 2^-256


def test_a_share_alone_is_uniform():
    found = [shares(bytes(32), 2, [1, 2])[1] for _ in range(400)]
    assert len(set(found)) == 400
    ones = sum(bin(share[1]).count("1") for share in found)
    assert abs(ones - 1600) < 5 * (400 * 8 / 4) ** 0.5


@given(_sharings(), st.data())
def test_a_wrong_share_among_more_than_the_threshold_is_noticed(sharing, data):
    secret, threshold, points = sharing
    if len(points) == threshold:
        return
    found = shares(secret, threshold, points)
    bad = data.draw(st.sampled_from(points))
    found[bad] = ((int.from_bytes(found[bad], "big") + data.draw(st.integers(1, PRIME - 1))) % PRIME).to_bytes(
        33, "big"
    )
    assert recovered(found, threshold) is None


def test_a_number_outside_the_field_is_no_share():
    found = shares(bytes(32), 2, [1, 2])
    assert recovered({**found, 1: b"\xff" * SHARE_BYTES}, 2) is None


def test_a_secret_that_no_key_has_is_none():
    # a line through P - 1 at 0
    found = {1: (0).to_bytes(33, "big"), 2: (1).to_bytes(33, "big")}
    assert recovered(found, 2) is None


@pytest.mark.parametrize(
    ("secret", "threshold", "points"),
    [
        (b"short", 1, [1]),
        (bytes(32), 0, [1]),
        (bytes(32), 3, [1, 2]),
        (bytes(32), 1, [0, 1]),
        (bytes(32), 1, [1, 1]),
        (bytes(32), 1, []),
    ],
)
def test_what_cannot_be_shared_is_refused(secret, threshold, points):
    with pytest.raises(ConfigError):
        shares(secret, threshold, points)
