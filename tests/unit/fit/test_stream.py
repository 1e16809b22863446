from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from dtheta.data.batches import KeyedOrder
from dtheta.errors import ConfigError
from dtheta.fit.randomness import kept_generators, seed_all
from dtheta.fit.stream import Stream, as_batches

NUMBERS = TensorDataset(torch.arange(10))


class Augmented(Dataset):
    """Items with noise from all three global generators."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index + random.random(), np.random.rand(), float(torch.rand(()))])  # noqa: NPY002


class Lines(IterableDataset):
    """Three items, of which batches have to be made without an index."""

    def __iter__(self) -> Iterator[int]:
        return iter([1, 2, 3])


def _taken(source: object, count: int, seed: int = 0) -> list[torch.Tensor]:
    stream = Stream(source, seed)  # type: ignore[arg-type]
    try:
        return [stream.next() for _ in range(count)]
    finally:
        stream.close()


def _flat(batches: list) -> list[int]:
    return [int(v) for batch in batches for v in batch[0]]


@pytest.fixture(autouse=True)
def _generators_kept() -> Iterator[None]:
    with kept_generators():
        yield


def test_a_shuffling_loader_is_a_function_of_the_seed_alone() -> None:
    def loader() -> DataLoader:
        return DataLoader(NUMBERS, 5, shuffle=True)

    first = _flat(_taken(loader(), 4))
    torch.manual_seed(123)
    torch.rand(7)
    assert _flat(_taken(loader(), 4)) == first
    assert sorted(first[:10]) == sorted(first[10:]) == list(range(10))
    assert first[:10] != first[10:]
    assert _flat(_taken(loader(), 4, seed=1)) != first


def test_a_loader_with_its_own_generator_repeats_and_gets_it_back() -> None:
    own = torch.Generator().manual_seed(5)
    loader = DataLoader(NUMBERS, 5, shuffle=True, generator=own)
    before = own.get_state()
    first = _flat(_taken(loader, 4))
    assert torch.equal(own.get_state(), before)
    assert _flat(_taken(loader, 4)) == first
    other = DataLoader(NUMBERS, 5, shuffle=True, generator=torch.Generator().manual_seed(6))
    assert _flat(_taken(other, 4)) != first


def test_epochs_reach_a_sampler_that_asks_for_them() -> None:
    loader = DataLoader(NUMBERS, 10, sampler=KeyedOrder(10, seed=3))
    first, second = _taken(loader, 2)
    expected = KeyedOrder(10, seed=3)
    expected.set_epoch(1)
    assert first[0].tolist() == list(KeyedOrder(10, seed=3))
    assert second[0].tolist() == list(expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_seeking_gives_the_batches_that_would_have_come(workers: int) -> None:
    def loader() -> DataLoader:
        return DataLoader(Augmented(), 2, shuffle=True, num_workers=workers)

    straight = Stream(loader(), 0)
    wanted = [straight.next() for _ in range(5)]
    position = straight.position()
    wanted += [straight.next() for _ in range(3)]
    resumed = Stream(loader(), 0)
    resumed.seek(position)
    assert all(torch.equal(resumed.next(), batch) for batch in wanted[5:])


def test_seeking_notices_other_data() -> None:
    stream = Stream(DataLoader(NUMBERS, 2), 0)
    stream.next()
    with pytest.raises(ConfigError, match="batch 1 of epoch 0 is not the one"):
        Stream(DataLoader(TensorDataset(torch.arange(10) + 1), 2), 0).seek(stream.position())
    stream.next()
    with pytest.raises(ConfigError, match="an epoch had 2 batches"):
        Stream([torch.zeros(1)], 0).seek(stream.position())


def test_an_iterator_serves_once_and_says_when_it_ended() -> None:
    stream = Stream(iter([torch.zeros(1), torch.zeros(1)]), 0)
    stream.next(), stream.next()
    with pytest.raises(ConfigError, match="ended after 2 batches"):
        stream.next()


@pytest.mark.parametrize("empty", [[], iter([]), DataLoader(TensorDataset(torch.zeros(0)), 2)])
def test_empty_data_is_refused(empty: object) -> None:
    with pytest.raises(ConfigError, match="no batch"):
        Stream(empty, 0).next()  # type: ignore[arg-type]


def test_a_dataset_becomes_batches_in_a_keyed_order() -> None:
    found = list(as_batches(NUMBERS, "train", 4, None, seed=0))
    assert [len(batch[0]) for batch in found] == [4, 4, 2]
    assert _flat(found) == list(KeyedOrder(10, 0))
    assert _flat(list(as_batches(NUMBERS, "eval", None, None, seed=None))) == list(range(10))
    assert [len(b) for b in as_batches(Lines(), "train", 2, None, seed=0)] == [2, 1]


def test_what_is_no_source_of_batches_is_refused() -> None:
    with pytest.raises(ConfigError, match="loader\\(texts, tokenizer\\)"):
        as_batches(7, "train", None, None, 0)
    with pytest.raises(ConfigError, match="batch_size"):
        as_batches([torch.zeros(1)], "train", 8, None, 0)


def test_seeding_and_keeping_the_generators() -> None:
    def draw() -> tuple:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    seed_all(3)
    first = draw()
    with kept_generators():
        seed_all(3)
        assert draw() == first
        seed_all(4)
        assert draw() != first
    after = draw()
    seed_all(3)
    draw()
    assert draw() == after
