"""Keys: fixed for all time, different for different draws, and deaf to everything else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtheta.core.seeds import generator, key, normal, permutation, uniform
from dtheta.errors import ConfigError

draws = st.tuples(st.integers(-(2**70), 2**70), st.text(), st.integers(0, 2**70))


def test_keys_never_change():
    # written once by this code; files store only the seed, so another value would make old deltas another delta
    assert key(0, "", 0) == 1008604553049231396
    assert key(1, "layer.0.weight", 7) == 2475864459176487397
    assert key(-1, "übung") == 999692444299870835


@given(draws, draws)
def test_different_draws_have_different_keys(a, b):
    assert (key(*a) == key(*b)) == (a == b)
    assert 0 <= key(*a) < 2**63


def test_fields_cannot_run_into_each_other():
    assert len({key(1, "2", 3), key(12, "", 3), key(1, "23", 0), key(1, "", 23), key(0, "12", 3)}) == 5


def test_a_generator_depends_on_its_key_alone():
    alone = torch.randn(5, generator=generator(3, "x", 2))
    torch.manual_seed(9)
    torch.randn(100)
    state = torch.get_rng_state()
    generator(3, "x", 1)
    among_others = torch.randn(5, generator=generator(3, "x", 2))
    assert torch.equal(alone, among_others)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(alone, torch.randn(5, generator=generator(4, "x", 2)))


def test_a_generator_stays_on_the_cpu_under_another_default_device():
    with torch.device("meta"):
        assert generator(0, "x").device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "draw",
    [
        lambda: uniform((3, 40), -0.5, 0.5, generator(0, "x")),
        lambda: normal((3, 40), 2.0, generator(0, "x")),
        lambda: permutation(50, generator(0, "x")),
    ],
)
def test_draws_do_not_depend_on_the_dtype_and_device_that_torch_has_by_default(draw, dtype):
    plain = draw()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            found = draw()
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.device.type == "cpu"
    assert found.dtype == plain.dtype
    assert torch.equal(found, plain)


def test_draws_are_those_that_torch_makes():
    torch.testing.assert_close(normal((4, 9), 1.0, generator(0, "x")), torch.randn(4, 9, generator=generator(0, "x")))
    torch.testing.assert_close(uniform((4, 9), 0, 1, generator(0, "x")), torch.rand(4, 9, generator=generator(0, "x")))
    assert torch.equal(permutation(9, generator(0, "x")), torch.randperm(9, generator=generator(0, "x")))


@pytest.mark.parametrize("seed", [None, 0.5, "1"])
def test_a_seed_is_a_whole_number_and_is_not_cut_to_one(seed):
    with pytest.raises(ConfigError, match=r"seed is .*; expected a whole number"):
        key(seed, "")


def test_whole_numbers_of_other_libraries_are_the_same_seeds():
    assert key(np.int64(7), "a") == key(torch.tensor(7), "a") == key(7, "a")


def test_a_name_that_is_no_text_has_a_key_of_its_own() -> None:
    """The name of a file may hold a byte of latin-1, which Python reads as half a surrogate pair."""
    assert key(0, "caf\udce9", 1) != key(0, "caf", 1)
