"""Mixtures of tasks: offsets, quotas, and orders that are a pure function of (seed, epoch)."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from dtheta.data.mixture import Mixture, MixtureOrder, TensorItems, mixture_loader, quotas
from dtheta.errors import ConfigError, ShapeMismatch

COUNTS, SIZES = (6, 2, 12), (3, 2, 4)


def items(count: int, classes: int, start: float) -> TensorItems:
    return TensorItems(image_features=start + torch.arange(float(count))[:, None], labels=torch.arange(count) % classes)


def mixture() -> Mixture:
    return Mixture([items(n, c, 100.0 * t) for t, (n, c) in enumerate(zip(COUNTS, SIZES, strict=True))], SIZES)


def test_labels_are_offset_into_the_union() -> None:
    found = mixture()
    assert len(found) == 20 and found.starts == [0, 3, 5]
    for task, (count, size, start) in enumerate(zip(COUNTS, SIZES, (0, 3, 5), strict=True)):
        for k in range(count):
            item = found[sum(COUNTS[:task]) + k]
            assert float(item["image_features"]) == 100.0 * task + k
            assert int(item["labels"]) == start + k % size


def test_temperature_one_is_plain_shuffling_and_infinity_uniform() -> None:
    assert quotas(COUNTS, 1.0) == [6, 2, 12]
    assert quotas([4, 4, 4], 3.0) == [4, 4, 4]
    assert sorted(quotas(COUNTS, math.inf)) == [6, 7, 7]
    between = quotas([1000, 10], 2.0)  # square roots: 31.6 to 3.16
    assert between == [918, 92]
    order = list(MixtureOrder(COUNTS, 1.0))
    assert sorted(order) == list(range(20)) and order != list(range(20))


def test_a_small_task_is_gone_through_as_often_as_its_quota_says() -> None:
    drawn = Counter(MixtureOrder(COUNTS, math.inf))
    second = [drawn[6], drawn[7]]
    assert sum(second) == quotas(COUNTS, math.inf)[1] and max(second) - min(second) <= 1
    assert max(drawn[k] for k in range(8, 20)) == 1  # of the large one, nothing twice


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    order = MixtureOrder(COUNTS, 2.0, seed=1)
    first = list(order)
    assert list(order) == first
    order.set_epoch(1)
    assert list(order) != first
    order.set_epoch(0)
    assert list(order) == first and list(MixtureOrder(COUNTS, 2.0, seed=2)) != first


def test_batches_are_what_fit_takes() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    found = list(mixture_loader(mixture(), batch_size=8, seed=3))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [len(batch["labels"]) for batch in found] == [8, 8, 4]
    assert set(found[0]) == {"image_features", "labels"} and found[0]["labels"].dtype == torch.int64
    plain = list(mixture_loader(mixture(), batch_size=20, shuffle=False))
    assert plain[0]["image_features"].flatten().tolist() == [
        *range(6), 100, 101, *range(200, 212),
    ]  # fmt: skip


def test_tasks_learn_of_the_epoch() -> None:
    class Augmented(TensorItems):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    task = Augmented(labels=torch.zeros(2, dtype=torch.int64))
    Mixture([task], [1]).set_epoch(5)
    assert task.epoch == 5


def test_a_low_temperature_is_that_of_the_largest_task() -> None:
    assert quotas([10_000, 10], 0.001) == [10_010, 0]
    assert quotas([7, 7], 1e-9) == [7, 7]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="label 3 is none of its 3 classes"):
        Mixture([items(4, 4, 0.0)], [3])[3]
    with pytest.raises(ConfigError, match="one number of classes each"):
        Mixture([items(4, 4, 0.0)], [4, 4])
    with pytest.raises(ConfigError, match="temperature=0"):
        MixtureOrder(COUNTS, 0.0)
    with pytest.raises(ConfigError, match="batch_size"):
        mixture_loader(mixture(), batch_size=0)
    with pytest.raises(ShapeMismatch, match="as many rows"):
        TensorItems(a=torch.zeros(2), labels=torch.zeros(3))
