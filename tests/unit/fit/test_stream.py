from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from dtheta.data.batches import KeyedOrder
from dtheta.errors import ConfigError
from dtheta.fit import trail
from dtheta.fit.items import KeyedItems
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

    straight = Stream(loader(), 0, trailed=True)
    wanted = [straight.next() for _ in range(5)]
    position = straight.position()
    wanted += [straight.next() for _ in range(3)]
    resumed = Stream(loader(), 0)
    resumed.seek(position)
    assert all(torch.equal(resumed.next(), batch) for batch in wanted[5:])


def test_seeking_notices_other_data() -> None:
    stream = Stream(DataLoader(NUMBERS, 2), 0, trailed=True)
    stream.next()
    with pytest.raises(ConfigError, match="batch 1 of epoch 0 is not the one"):
        Stream(DataLoader(TensorDataset(torch.arange(10) + 1), 2), 0).seek(stream.position())
    stream.next()
    with pytest.raises(ConfigError, match="an epoch had 2 batches"):
        Stream([torch.zeros(1)], 0).seek(stream.position())


@pytest.mark.parametrize("changed", range(5))
def test_seeking_names_the_first_batch_that_differs(changed: int) -> None:
    stream = Stream(DataLoader(NUMBERS, 2), 0, trailed=True)
    position = [(stream.next(), stream.position())[1] for _ in range(5)][-1]
    other = torch.arange(10)
    other[2 * changed + 1] = 99
    with pytest.raises(ConfigError, match=f"resume: batch {changed + 1} of epoch 0 is not the one"):
        Stream(DataLoader(TensorDataset(other), 2), 0).seek(position)


def test_seeking_notices_a_changed_order_and_changed_texts() -> None:
    batches = [{"text": ["a", "b"], "y": torch.zeros(2)}, {"text": ["c"], "y": torch.zeros(1)}]
    stream = Stream(batches, 0, trailed=True)
    stream.next(), stream.next()
    with pytest.raises(ConfigError, match="batch 1 of epoch 0"):
        Stream(batches[::-1], 0).seek(stream.position())
    with pytest.raises(ConfigError, match="batch 1 of epoch 0"):
        Stream([{"text": ["a", "B"], "y": torch.zeros(2)}, batches[1]], 0).seek(stream.position())
    Stream(batches, 0).seek(stream.position())


def test_a_second_epoch_is_compared_up_to_its_place() -> None:
    stream = Stream(DataLoader(NUMBERS, 2), 0, trailed=True)
    for _ in range(7):
        stream.next()
    other = torch.arange(10)
    other[5] = 99  # in the third batch, which the second epoch has not come to
    Stream(DataLoader(TensorDataset(other), 2), 0).seek(stream.position())
    other[3] = 99
    with pytest.raises(ConfigError, match="batch 2 of epoch 1"):
        Stream(DataLoader(TensorDataset(other), 2), 0).seek(stream.position())


def test_a_long_trail_is_thinned_and_still_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "LIMIT", 4)
    numbers = list(torch.arange(23).float())
    stream = Stream(numbers, 0, trailed=True)
    position = [(stream.next(), stream.position())[1] for _ in numbers][-1]
    assert len(position["marks"]) < 4
    Stream(numbers, 0).seek(position)
    for changed in range(23):
        other = [n + 100 if i == changed else n for i, n in enumerate(numbers)]
        with pytest.raises(ConfigError, match=r"batches \d+ to \d+ of epoch 0") as caught:
            Stream(other, 0).seek(position)
        first, last = (int(word) for word in str(caught.value).split(" of epoch")[0].split() if word.isdecimal())
        assert first <= changed + 1 <= last <= first + 7


def test_a_stream_takes_no_digests_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "linked", None)
    assert len(_taken(DataLoader(NUMBERS, 2), 3)) == 3


def _rows_by_index(batches: list[torch.Tensor]) -> dict[int, list[float]]:
    return {int(row[0]): row.tolist() for batch in batches for row in batch}


def test_items_of_a_dataset_do_not_depend_on_the_batch_size() -> None:
    epochs = {}
    for size in (1, 2, 3, 6):
        taken = _taken(as_batches(Augmented(), "train", size, None, seed=0), 12 // size)
        epochs[size] = [_rows_by_index(part) for part in (taken[: 6 // size], taken[6 // size :])]
    assert epochs[1] == epochs[2] == epochs[3] == epochs[6]
    assert epochs[1][0] != epochs[1][1]
    assert len({tuple(v[1:]) for epoch in epochs[1] for v in epoch.values()}) == 12
    assert _rows_by_index(_taken(as_batches(Augmented(), "train", 6, None, seed=1), 1)) != epochs[1][0]


def test_keyed_items_do_not_depend_on_the_number_of_workers() -> None:
    found = []
    for workers in (0, 1, 2):
        loader = DataLoader(KeyedItems(Augmented(), 0), 2, shuffle=True, num_workers=workers)
        found.append(_taken(loader, 6))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    ours = _taken(as_batches(Augmented(), "train", 2, None, seed=0), 3)
    assert _rows_by_index(found[0][:3]) == _rows_by_index(ours)


def test_an_epoch_reaches_the_dataset_behind_keyed_items() -> None:
    inner = Augmented()
    inner.set_epoch = lambda epoch: setattr(inner, "epoch", epoch)  # type: ignore[attr-defined]
    _taken(as_batches(inner, "train", 6, None, seed=0), 2)
    assert inner.epoch == 1  # type: ignore[attr-defined]


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
