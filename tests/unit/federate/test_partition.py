"""Partitions: every example once, nobody without, keyed by seed."""

from __future__ import annotations

import pytest
import torch

from dtheta.errors import ConfigError
from dtheta.federate.partition import dirichlet, iid, shards

LABELS = torch.arange(200) % 10

SPLITS = {
    "iid": lambda seed: iid(LABELS, 8, seed=seed),
    "dirichlet": lambda seed: dirichlet(LABELS, 8, alpha=0.3, seed=seed),
    "shards": lambda seed: shards(LABELS, 8, seed=seed),
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_every_example_is_in_one_part_and_the_seed_says_in_which(split):
    parts = split(0)
    assert len(parts) == 8 and min(map(len, parts)) >= 1
    assert torch.cat(parts).sort().values.tolist() == list(range(200))
    assert all(torch.equal(a, b) for a, b in zip(parts, split(0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(parts, split(1), strict=True))


def test_iid_parts_differ_by_one_at_most():
    assert sorted(map(len, iid(10, 4))) == [2, 2, 3, 3]


def _classes_a_client(parts):
    return sum(len(set(LABELS[p].tolist())) for p in parts) / len(parts)


def test_a_small_alpha_leaves_few_classes_and_a_large_one_all():
    few, many = (dirichlet(LABELS, 4, alpha=a, seed=0) for a in (0.05, 1e4))
    assert _classes_a_client(few) < 6 and _classes_a_client(many) == 10
    assert max(map(len, many)) - min(map(len, many)) < 10


def test_shards_have_few_classes_and_equal_sizes():
    parts = shards(LABELS, 10, each=2)
    assert {len(p) for p in parts} == {20} and all(len(set(LABELS[p].tolist())) <= 2 for p in parts)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: iid(3, 4), "3 examples for 4 clients"),
        (lambda: shards(LABELS, 101, each=2), "200 examples for 101 clients, 2 each"),
        (lambda: dirichlet(LABELS, 8, alpha=0.0), "alpha is 0.0"),
        (lambda: dirichlet(torch.zeros(8, dtype=torch.int64), 8, alpha=1e-3), "left one of 8 clients"),
        (lambda: dirichlet(torch.rand(9), 2), "one whole number an example"),
        (lambda: iid(LABELS, 0), "clients is 0"),
    ],
)
def test_what_cannot_be_split_is_refused(call, what):
    with pytest.raises(ConfigError, match=what):
        call()
