"""The largest entries by magnitude: exactly k, the first of equals, against a full sort; visits, dtypes, refusals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dtheta.core.topk import kept_count, select, select_rows, selected, threshold
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch, UnsupportedLayer


@pytest.fixture(params=["1", "0"], ids=["compiled", "numpy"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DTHETA_NUMBA", request.param)
    return request.param


def reference(values: NDArray[Any], k: int) -> NDArray[np.int8]:
    """Signs of the k largest, by a stable sort; zeros have sign zero, so it does not matter whether they are taken."""
    order = np.argsort(-np.abs(values.astype(np.float64)), kind="stable")[:k]
    signs = np.zeros(values.size, np.int8)
    signs[order] = np.sign(values[order])
    return signs


def drawn(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) * 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 1000, 4097, 70_001])
def test_exactly_the_k_largest(dtype: torch.dtype, n: int):
    values = drawn(n).to(dtype)
    for k in sorted({0, 1, n // 20, n // 2, n - 1, n}):
        planes = select(values, k)
        assert np.array_equal(planes.to_signs(), reference(values.double().numpy(), k))
        assert planes.count == min(k, int(values.count_nonzero()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_of_equals_the_first_are_kept(dtype: type):
    values = np.array([1, -2, 2, 1, 2, -2, 3, -1] * 1000, dtype)
    for k in (1, 1000, 1001, 1500, 2500, 5000, 5003, 8000):
        assert np.array_equal(select(values, k).to_signs(), reference(values, k))


@pytest.mark.parametrize("value", [1.0, -1e-3, 1e-45, 3e38])
def test_a_constant_vector(value: float):
    values = torch.full((9001,), value)
    for k in (1, 8, 4500, 9001):
        signs = select(values, k).to_signs()
        assert np.array_equal(signs[:k], np.full(k, np.sign(value))) and not signs[k:].any()


def test_neighboring_floats_are_told_apart():
    start = torch.tensor(0.1)
    values = [start]
    for _ in range(999):
        values.append(torch.nextafter(values[-1], torch.tensor(1.0)))
    shuffled = torch.stack(values)[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    for wide in (shuffled, shuffled.double(), torch.stack([start.double() + i * 2**-56 for i in range(1000)])):
        for k in (1, 3, 500, 999):
            assert np.array_equal(select(wide, k).to_signs(), reference(wide.numpy(), k))


def test_zeros_are_never_kept():
    values = np.array([0.0, -0.0, 1e-45, -3.0, 0.0], np.float32)
    for k, expected in ((5, [0, 0, 1, -1, 0]), (3, [0, 0, 1, -1, 0]), (2, [0, 0, 1, -1, 0]), (1, [0, 0, 0, -1, 0])):
        found = threshold(values, k)
        assert select(values, k).to_signs().tolist() == expected and found.count == min(k, 2)
    assert select(np.zeros(100), 50).count == 0
    assert select(np.zeros(0), 0).length == 0


@pytest.mark.parametrize(
    ("total", "density", "expected"),
    [
        (0, 0.5, 0),
        (1, 1e-9, 1),
        (10, 0.04, 1),
        (10, 0.25, 3),
        (10, 0.24, 2),
        (10, 1.0, 10),
        (1000, 0.2, 200),
        (3, 0.5, 2),
    ],
)
def test_density_rounds_half_up_and_keeps_one_at_least(total: int, density: float, expected: int):
    assert kept_count(total, density) == expected
    assert select(np.arange(1.0, total + 1), density=density).count == expected


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, float("nan")])
def test_impossible_densities_are_refused(density: float):
    for operation in (lambda: kept_count(10, density), lambda: select(np.ones(10), density=density)):
        with pytest.raises(ConfigError, match=r"choose the share of entries to keep, in \(0, 1\]"):
            operation()


@pytest.mark.parametrize("k", [-1, 11])
def test_impossible_counts_are_refused(k: int):
    for operation in (lambda: select(np.ones(10), k), lambda: select_rows(np.ones((3, 10)), k)):
        with pytest.raises(ConfigError, match=r"there are 10 entries to choose from; take 0 \.\.\. 10"):
            operation()


def test_either_a_count_or_a_density():
    for options in ({}, {"k": 1, "density": 0.1}):
        for operation in (threshold, select, select_rows):
            with pytest.raises(ConfigError, match="either how many"):
                operation(np.ones((2, 2)), **options)


# many parts


def test_one_threshold_for_all_tensors():
    tensors = {"a": drawn(1001, 1).reshape(7, 143).T, "b": drawn(64, 2), "c": torch.zeros(0), "d": 3 * drawn(500, 3)}
    whole = torch.cat([t.reshape(-1) for t in tensors.values()])
    for k in (1, 100, 777, 1565):
        found = dict(selected(tensors, threshold(tensors, k)))
        assert list(found) == list(tensors)
        assert [p.length for p in found.values()] == [t.numel() for t in tensors.values()]
        signs = np.concatenate([p.to_signs() for p in found.values()])
        assert np.array_equal(signs, reference(whole.numpy(), k))


def test_ties_run_on_from_part_to_part():
    parts = [np.ones(5), -np.ones(3), np.ones(9)]
    found = [p.to_signs().tolist() for _, p in selected(parts, threshold(parts, 7))]
    assert found == [[1] * 5, [-1, -1, 0], [0] * 9]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_dtypes_mix(order: list[int]):
    parts = [drawn(300, 1).double() + 1e-12, drawn(301, 2).bfloat16(), drawn(302, 3)]
    parts = [parts[i] for i in order]
    whole = np.concatenate([p.double().numpy() for p in parts])
    found = threshold(parts, 400)
    assert found.dtype == np.float64
    assert np.array_equal(np.concatenate([p.to_signs() for _, p in selected(parts, found)]), reference(whole, 400))


class Visited(Mapping[str, Tensor]):
    """Tensors that are made when they are asked for, and counted."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors, self.visits = tensors, dict.fromkeys(tensors, 0)

    def __getitem__(self, name: str) -> Tensor:
        self.visits[name] += 1
        return self.tensors[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 3), (torch.float64, 4)])
def test_visits_are_few_whatever_the_data(dtype: torch.dtype, most: int):
    for tensor in (drawn(5000), torch.ones(5000), torch.linspace(1, 1 + 1e-5, 5000), torch.zeros(5000)):
        source = Visited({"a": tensor.to(dtype), "b": tensor.to(dtype)})
        list(selected(source, threshold(source, density=0.1)))
        later = most if dtype == torch.float32 else most + 1  # the first float64 part makes a float32 count begin anew
        assert source.visits["a"] <= later and source.visits["b"] <= most


def test_a_digit_that_ends_at_k_saves_a_visit():
    source = Visited({"a": torch.tensor([1.0, 2.0, 4.0, 8.0])})
    found = threshold(source, 2)
    assert source.visits == {"a": 1} and (found.ties, found.count, found.total) == (0, 2, 4)
    assert 2.0 < found.above < 4.0


def test_iterators_are_refused():
    with pytest.raises(ConfigError, match="can be visited once"):
        threshold((t for t in [np.ones(3)]), 1)


def test_a_source_that_changes_is_noticed():
    class Changing(Visited):
        def __getitem__(self, name: str) -> Tensor:
            self.visits[name] += 1
            return self.tensors[name] * 1.5 ** self.visits[name]

    with pytest.raises(ConfigError, match="changed between two visits"):
        threshold(Changing({"a": drawn(1000)}), 100)
    found = threshold([drawn(1000)], 100)
    for other in ([drawn(1000, 1)], [drawn(1000), torch.zeros(1)]):
        with pytest.raises(ConfigError, match="100 of 1000"):
            list(selected(other, found))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_nan_and_infinity_are_refused_by_name(bad: float, dtype: torch.dtype):
    tensors = {"fine": torch.ones(9).to(dtype), "layer.1.weight": torch.tensor([1.0, bad, 2.0]).to(dtype)}
    with pytest.raises(NonFinite, match=r"tensor 'layer\.1\.weight' holds NaN or infinity"):
        threshold(tensors, 3)
    rows = torch.ones(20, 3).to(dtype)
    rows[11, 2] = bad
    with pytest.raises(NonFinite, match="row 11 holds"):
        select_rows(rows, 1)


def test_what_has_no_magnitudes_is_refused_by_name():
    with pytest.raises(UnsupportedLayer, match="tensor 'a' is int64"):
        threshold({"a": torch.arange(3)}, 1)
    with pytest.raises(UnsupportedLayer, match="meta device"):
        select(torch.zeros(3, device="meta"), 1)


# rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (9, 8), (17, 33), (2, 3, 7), (6, 1000), (40,)])
def test_rows_have_their_own_thresholds(dtype: torch.dtype, shape: tuple[int, ...]):
    values = (drawn(int(np.prod(shape))) * 100).round().reshape(shape).to(dtype)  # many ties, and zeros
    C = shape[-1]
    for k in sorted({0, 1, C // 2, C}):
        expected = [reference(row, k) for row in values.double().numpy().reshape(-1, C)]
        planes = select_rows(values, k)
        assert np.array_equal(planes.to_signs(), np.concatenate(expected))


def test_rows_by_density_and_in_groups():
    values = drawn(3000 * 999).reshape(3000, 999)  # more than one group
    planes = select_rows(values, density=0.1)
    signs = planes.to_signs().reshape(3000, 999)
    assert (np.count_nonzero(signs, axis=1) == 100).all()
    for row in (0, 1047, 1048, 2999):
        assert np.array_equal(signs[row], reference(values[row].numpy(), 100))


def test_rows_that_are_not_there():
    assert select_rows(np.zeros((0, 5)), 2).length == 0
    assert select_rows(np.zeros((5, 0)), 0).length == 0
    with pytest.raises(ShapeMismatch, match="a number has no rows"):
        select_rows(np.array(1.0), 1)
