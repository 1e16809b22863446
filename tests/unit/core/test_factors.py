"""The cache of factors: the same numbers without the work, and never a wrong or half-written entry."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dtheta.core import factorfile, factors
from dtheta.core.factors import cached_svd, cached_svds, weight_digest
from dtheta.core.svd import TruncatedSVD, truncated_svd
from dtheta.errors import ConfigError, DthetaWarning, NonFinite, ShapeMismatch
from tests.unit.core.spectra import SPECTRA, matrix


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache of our own."""
    monkeypatch.setenv("DTHETA_CACHE", str(tmp_path))
    monkeypatch.delenv("DTHETA_FACTOR_CACHE_BYTES", raising=False)
    return tmp_path / "factors"


@pytest.fixture
def computed(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes that were really factored, in order."""
    shapes: list[tuple[int, ...]] = []

    def counted(weight: Tensor, *arguments, **options) -> TruncatedSVD:
        shapes.append(tuple(weight.shape))
        return truncated_svd(weight, *arguments, **options)

    monkeypatch.setattr(factors, "truncated_svd", counted)
    return shapes


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return {name: matrix(SPECTRA["decay"], *shape) for name, shape in (("a", (30, 40)), ("b", (50, 20)), ("c", (9, 9)))}


def equal(a: TruncatedSVD, b: TruncatedSVD) -> bool:
    same = all(torch.equal(getattr(a, part), getattr(b, part)) for part in ("U", "S", "Vh"))
    return same and (a.error, a.residual, a.route) == (b.error, b.residual, b.route)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_the_second_time_costs_nothing_and_gives_the_same(folder, computed, weights):
    first = cached_svds(weights, 5)
    assert len(computed) == 3 and len(files(folder)) == 1
    again = cached_svds(weights, 5)
    assert len(computed) == 3
    assert all(equal(first[name], again[name]) for name in weights)
    assert all(equal(first[name], truncated_svd(weights[name], 5)) for name in weights)


def test_content_counts_and_names_do_not(folder, computed, weights):
    cached_svds(weights, 5)
    renamed = {f"model.{name}": weight.clone() for name, weight in reversed(weights.items())}
    cached_svds(renamed, 5)
    assert len(computed) == 3
    weights["a"][0, 0] += 1e-6
    cached_svds(weights, 5)
    assert computed[3:] == [(30, 40)]


def test_one_matrix_and_some_matrices_are_found_in_the_file_of_all(folder, computed, weights):
    everything = cached_svds(weights, 5)
    assert equal(cached_svd(weights["b"], 5), everything["b"])
    assert equal(cached_svds({"c": weights["c"], "a": weights["a"]}, 5)["a"], everything["a"])
    assert len(computed) == 3 and len(files(folder)) == 1


@pytest.mark.parametrize("earlier", [[6], [1, 3], [2, 6, 7]])
def test_a_result_does_not_depend_on_what_was_asked_for_before(folder, computed, weights, earlier):
    for rank in earlier:
        cached_svds(weights, rank)
    for _ in range(2):
        found = cached_svds(weights, 2)
        assert all(equal(found[name], truncated_svd(weight, 2)) for name, weight in weights.items())
    assert len(computed) == 3 * len({*earlier, 2}) == 3 * len(files(folder))


def test_how_a_matrix_lies_in_memory_does_not_show(folder, computed, weights):
    turned = {name: weight.mT.contiguous().mT for name, weight in weights.items()}
    found = {name: truncated_svd(weight, 2) for name, weight in turned.items()}
    assert all(equal(found[name], truncated_svd(weight, 2)) for name, weight in weights.items())
    cached_svds(turned, 2)
    assert all(equal(found[name], again) for name, again in cached_svds(weights, 2).items()) and len(computed) == 3


def test_one_file_holds_matrices_of_both_precisions(folder, computed):
    """An odd number of float32 elements before a float64 tensor would leave that one where it cannot be mapped."""
    odd = {f"{dtype}{i}": matrix(SPECTRA["decay"], 9, 7, seed=i).to(dtype) for i in range(5) for dtype in _PRECISIONS}
    first = cached_svds(odd, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = cached_svds(odd, 3)
    assert len(computed) == 10 and all(equal(first[name], again[name]) for name in odd)


_PRECISIONS = (torch.float32, torch.float64)


@pytest.mark.parametrize("other", [{"accuracy": 1e-4}, {"accuracy": None}, {"seed": 1}, {"route": "full"}])
def test_another_request_is_another_entry(folder, computed, weights, other):
    cached_svds(weights, 5)
    cached_svds(weights, 5, **other)
    assert len(computed) == 6


def test_tied_weights_are_factored_once(folder, computed, weights):
    found = cached_svds({"in": weights["a"], "out": weights["a"].clone()}, 3)
    assert len(computed) == 1 and equal(found["in"], found["out"])


def test_writing_to_a_result_does_not_reach_the_file(folder, computed, weights):
    cached_svds(weights, 5)
    before = files(folder)[0].read_bytes()
    found = cached_svds(weights, 5)["a"]
    found.U.zero_()
    assert files(folder)[0].read_bytes() == before
    assert not torch.equal(cached_svds(weights, 5)["a"].U, found.U)


def test_results_outlive_the_file(folder, computed, weights):
    cached_svds(weights, 5)
    found = cached_svds(weights, 5)["a"]
    files(folder)[0].unlink()
    assert equal(found, truncated_svd(weights["a"], 5))


def damages() -> dict[str, object]:
    def flip(at: int):
        return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return {
        "bit of a number": flip(-40),
        "request": lambda data: data.replace(b"seed=0", b"seed=1"),
        "route": lambda data: data.replace(b"gram", b"tram"),
        "bit of the length": flip(0),
        "cut short": lambda data: data[:-100],
        "header only": lambda data: data[:50],
        "empty": lambda data: b"",
        "longer": lambda data: data + b"x",
        "other file": lambda data: b"PK\x03\x04" + bytes(5000),
        "no checksum": lambda data: data.replace(b'"checksum"', b'"checksun"'),
        "other shape": lambda data: data.replace(b"[30,40,5", b"[40,30,5"),
        "huge shape": lambda data: data.replace(b"[30,40,5", b"[99,99,5"),
        "table without numbers": lambda data: data.replace(b"[30,40,5", b"[30,40,{}".ljust(8)),
    }


@pytest.mark.parametrize("kind", damages())
def test_a_damaged_entry_is_said_to_be_so_and_never_used(folder, computed, weights, kind):
    good = cached_svds(weights, 5)
    path = files(folder)[0]
    damaged = damages()[kind](path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again = cached_svds(weights, 5)
    assert all(equal(good[name], again[name]) for name in weights)
    assert len(computed) == 6
    if kind != "request":  # reads as the entry of another request, and is replaced
        assert [w.category for w in caught] == [DthetaWarning] and "damaged" in str(caught[0].message)
    computed.clear()
    cached_svds(weights, 5)
    assert not computed


def test_one_request_makes_one_file_whatever_the_order(folder, computed, weights):
    cached_svds(weights, 5)
    first = files(folder)[0].read_bytes()
    files(folder)[0].unlink()
    cached_svds(dict(reversed(weights.items())), 5)
    assert files(folder)[0].read_bytes() == first


def test_an_entry_that_another_process_writes_anew_or_evicts_is_not_called_damaged(
    folder, computed, weights, monkeypatch
):
    good = cached_svds(weights, 5)
    path = files(folder)[0]
    original = factorfile.open_tensors

    def replaced_after_the_header_was_read(opened):
        file = original(opened)
        twin = path.with_suffix(".twin")
        twin.write_bytes(path.read_bytes())
        twin.replace(path)
        return file

    def removed(opened):
        file = original(opened)
        path.unlink()
        return file

    for happens in (replaced_after_the_header_was_read, removed):
        monkeypatch.setattr(factorfile, "open_tensors", happens)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = cached_svds(weights, 5)
        assert all(equal(good[name], again[name]) for name in weights)


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path, monkeypatch, computed, weights):
    monkeypatch.delenv("DTHETA_FACTOR_CACHE_BYTES", raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DTHETA_CACHE", str(tmp_path / "file"))
    with pytest.warns(DthetaWarning, match="DTHETA_FACTOR_CACHE_BYTES=0"):
        found = cached_svds(weights, 5)
    assert equal(found["a"], truncated_svd(weights["a"], 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached_svds(weights, 5)
    assert len(computed) == 6


def test_zero_bytes_turn_it_off(folder, computed, weights, monkeypatch):
    cached_svds(weights, 5)
    monkeypatch.setenv("DTHETA_FACTOR_CACHE_BYTES", "0")
    cached_svds(weights, 5)
    assert len(computed) == 6 and len(files(folder)) == 1
    monkeypatch.setenv("DTHETA_FACTOR_CACHE_BYTES", "lots")
    with pytest.raises(ConfigError, match="'lots' is not a number of bytes"):
        cached_svds(weights, 5)


def test_without_a_cache_no_weight_is_digested_and_tied_ones_are_still_factored_once(
    folder, computed, weights, monkeypatch
):
    expected = cached_svds(weights, 5)
    computed.clear()
    monkeypatch.setenv("DTHETA_FACTOR_CACHE_BYTES", "0")
    monkeypatch.setattr(factors, "weight_digest", None)
    found = cached_svds(weights | {"tied": weights["a"], "turned": weights["a"].mT}, 5)
    assert computed == [(30, 40), (50, 20), (9, 9), (40, 30)]
    assert found["tied"] is found["a"] and all(equal(found[name], expected[name]) for name in weights)


def test_what_was_used_longest_ago_goes_first(folder, computed, monkeypatch):
    stored = [matrix(SPECTRA["decay"], 40, 40, seed=i) for i in range(4)]
    for i, weight in enumerate(stored[:3]):
        cached_svd(weight, 8)
        os.utime(max(files(folder), key=lambda p: p.stat().st_mtime_ns), (i + 1, i + 1))
    size = files(folder)[0].stat().st_size
    cached_svd(stored[0], 8)  # used again: now the newest
    monkeypatch.setenv("DTHETA_FACTOR_CACHE_BYTES", str(3 * size + size // 2))
    cached_svd(stored[3], 8)
    assert len(files(folder)) == 3
    computed.clear()
    for weight in (stored[3], stored[0], stored[2]):
        cached_svd(weight, 8)
    assert not computed
    cached_svd(stored[1], 8)
    assert len(computed) == 1


def test_what_is_larger_than_the_cache_is_not_stored(folder, computed, weights, monkeypatch):
    monkeypatch.setenv("DTHETA_FACTOR_CACHE_BYTES", "100")
    cached_svds(weights, 5)
    assert not folder.exists() or not files(folder)


def test_errors_name_the_matrix_and_leave_nothing_behind(folder, weights):
    with pytest.raises(ShapeMismatch, match=r"^layer\.bias: "):
        cached_svds({**weights, "layer.bias": torch.ones(3)}, 2)
    with pytest.raises(ConfigError, match=r"^c: rank 10 is not in"):
        cached_svds(weights, 10)
    with pytest.raises(NonFinite, match=r"^bad: "):
        cached_svds({**weights, "bad": torch.full((4, 4), float("nan"))}, 2)
    assert not folder.exists() or not files(folder)


def test_the_digest_sees_dtype_shape_and_bytes():
    weight = matrix(SPECTRA["decay"], 6, 8)
    same = {
        weight_digest(w) for w in (weight, weight.clone(), weight.mT.contiguous().mT, weight.clone().requires_grad_())
    }
    others = {weight_digest(w) for w in (weight.mT, weight.reshape(8, 6), weight.bfloat16(), weight.double(), -weight)}
    zeros = {weight_digest(torch.zeros(2, 2)), weight_digest(-torch.zeros(2, 2)), weight_digest(torch.zeros(4, 1))}
    assert len(same) == 1 and len(others) == 5 and len(zeros) == 3


def test_bfloat16_weights_are_cached_too(folder, computed, weights):
    half = {name: weight.bfloat16() for name, weight in weights.items()}
    first = cached_svds(half, 4)
    assert equal(first["a"], cached_svds(half, 4)["a"]) and len(computed) == 3


def test_an_empty_request(folder):
    assert cached_svds({}, 4) == {}
