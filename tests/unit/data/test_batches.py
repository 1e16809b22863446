"""Batches: right padding and masks, and an order that only the seed and the epoch decide."""

from __future__ import annotations

import pytest
import torch

from dtheta.data.batches import EncodedTexts, KeyedOrder, batches, loader
from dtheta.data.text import Texts
from dtheta.errors import ConfigError


class Letters:
    """A tokenizer in miniature: one token a letter, a = 1."""

    model_max_length = 8
    pad_token_id = 0

    def __call__(self, texts, truncation, max_length):
        assert truncation
        return {"input_ids": [[ord(letter) - 96 for letter in text][:max_length] for text in texts]}


TEXTS = Texts(("a", "bb", "ccc", "dddd", "eeeeeeee"), (0, 1, 0, 1, 0))


def test_padding_and_mask():
    batch = next(iter(loader(TEXTS, Letters(), batch_size=3, max_length=4, shuffle=False)))
    assert batch["input_ids"].tolist() == [[1, 0, 0], [2, 2, 0], [3, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [0, 1, 0]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_truncation():
    assert EncodedTexts(TEXTS, Letters(), max_length=4)[4] == ([5, 5, 5, 5], 0)


def _labels_and_lengths(source):
    return [(label, length) for batch in source for label, length in
            zip(batch["labels"].tolist(), batch["attention_mask"].sum(1).tolist(), strict=True)]  # fmt: skip


def test_the_order_does_not_depend_on_the_batch_size():
    orders = [_labels_and_lengths(loader(TEXTS, Letters(), size, 8, seed=3)) for size in (1, 2, 5)]
    assert orders[0] == orders[1] == orders[2]
    assert sorted(orders[0]) == sorted(_labels_and_lengths(loader(TEXTS, Letters(), 2, 8, shuffle=False)))


def test_epochs_are_keyed_and_an_epoch_alone_is_that_epoch_of_many():
    many = _labels_and_lengths(batches(TEXTS, Letters(), 5, 8, seed=1, epochs=4))
    for epoch in range(4):
        source = loader(TEXTS, Letters(), 5, 8, seed=1)
        source.sampler.set_epoch(epoch)
        assert _labels_and_lengths(source) == many[5 * epoch : 5 * epoch + 5]
    assert len({tuple(many[5 * epoch : 5 * epoch + 5]) for epoch in range(4)}) > 1


def test_batches_without_end():
    source = batches(TEXTS, Letters(), 4, 8, epochs=None)
    assert [len(next(source)["labels"]) for _ in range(6)] == [4, 1] * 3


def test_iterating_leaves_torchs_global_generator_alone():
    before = torch.random.get_rng_state()
    list(loader(TEXTS, Letters(), 2, 8))
    assert torch.equal(before, torch.random.get_rng_state())


def test_order_goes_with_seed_and_epoch():
    order = KeyedOrder(20, seed=5)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first
    order.set_epoch(0)
    assert list(order) == first != list(KeyedOrder(20, seed=6))


def test_a_real_tokenizer(minilm_tokenizer, bbc_small):
    batch = next(iter(loader(bbc_small.train, minilm_tokenizer, batch_size=8, max_length=32)))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["input_ids"].shape == (8, 32)
    assert (batch["input_ids"][:, 0] == minilm_tokenizer.cls_token_id).all()
    assert (batch["input_ids"][:, -1] == minilm_tokenizer.sep_token_id).all()


@pytest.mark.parametrize(("batch_size", "max_length"), [(0, 8), (2, 0), (2, 9)])
def test_sizes_that_cannot_be_meant(batch_size, max_length):
    with pytest.raises(ConfigError):
        loader(TEXTS, Letters(), batch_size, max_length)
