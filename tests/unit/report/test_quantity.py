"""Quantities as text."""

from __future__ import annotations

import math

import pytest

from dtheta.report import quantity as q


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1, "1"), (40.0, "40"), (0.012346, "0.01235"), (12.3, "12.3"), (1234.56, "1,235"), (-0.5, "−0.5"),
        (1.2e-7, "1.200e−07"), (2.5e12, "2.500e+12"), (999.96, "1,000"), (math.nan, "–"), (math.inf, "inf"),
    ],
)  # fmt: skip
def test_significant(value: float, text: str) -> None:
    assert q.significant(value) == text


def test_padding_keeps_zeros_for_columns() -> None:
    assert [q.significant(v, 4, pad=True) for v in (3.7, 1.527)] == ["3.700", "1.527"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (594_112, "594 kB"), (1_186_400, "1.19 MB"), (999_600, "1 MB"),
        (9e15, "9,000 TB"),
    ],
)  # fmt: skip
def test_byte_size(value: float, text: str) -> None:
    assert q.byte_size(value).replace(q.THIN, " ") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4231, "0.42 s"), (9.99, "10 s"), (38.4, "38 s"), (59.7, "1 min"), (192, "3 min 12 s"), (7500, "2 h 5 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert q.duration(seconds).replace(q.THIN, " ") == text


@pytest.mark.parametrize(("value", "text"), [(1.94, "+1.9"), (-1.23, "−1.2"), (0.0, "+0.0"), (-0.01, "+0.0")])
def test_signed(value: float, text: str) -> None:
    assert q.signed(value, 1) == text


def test_words() -> None:
    assert q.plural(1, "task") == "1 task" and q.plural(2, "class", "classes") == "2 classes"
    assert q.listed([]) == "" and q.listed(["a"]) == "a" and q.listed(["a", "b", "c"]) == "a, b and c"


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0.00 %"), (1.7e-5, "0.0017 %"), (4e-4, "0.04 %"), (0.0123, "1.23 %"), (1.0, "100.00 %")]
)
def test_a_small_part_does_not_read_as_none(share: float, text: str) -> None:
    assert q.part(share).replace("\u202f", " ") == text
