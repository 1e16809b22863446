from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dtheta.fit.batch import digest, item_counter, linked, rows, share

Pair = namedtuple("Pair", ["x", "y"])


def test_shares_partition_the_rows_for_any_number_of_processes() -> None:
    x = torch.arange(7)
    for size in (1, 2, 3, 7):
        parts = [share({"x": x}, rank, size) for rank in range(size)]
        assert all(mine for _, mine in parts)
        assert torch.equal(torch.cat([part["x"] for part, _ in parts]), x)


def test_a_process_without_rows_gets_the_first_and_is_told_so() -> None:
    part, mine = share({"x": torch.tensor([5, 6])}, 0, 3)
    assert not mine
    assert part["x"].tolist() == [5]


def test_a_share_cuts_nested_batches_and_leaves_what_has_no_rows() -> None:
    batch = {"p": Pair(torch.zeros(4, 2), [torch.ones(4)]), "names": ["a", "b", "c", "d"], "scale": torch.tensor(2.0)}
    part, _ = share(batch, 1, 2)
    assert isinstance(part["p"], Pair)
    assert part["p"].x.shape == (2, 2)
    assert part["p"].y[0].shape == (2,)
    assert part["names"] == ["c", "d"]
    assert part["scale"] == 2.0


def test_a_pair_of_two_rows_is_not_taken_for_two_rows() -> None:
    part, _ = share((torch.tensor([1, 2]), torch.tensor([3, 4])), 1, 2)
    assert [t.tolist() for t in part] == [[2], [4]]


def test_a_single_process_gets_the_very_batch() -> None:
    batch = {"x": torch.zeros(3)}
    assert share(batch, 0, 1)[0] is batch


def test_rows_of_something_without_tensors_is_one() -> None:
    assert rows("text") == 1
    assert rows([]) == 1


def test_counts_leave_out_ignored_labels_and_the_first_of_a_causal_row() -> None:
    labels = torch.tensor([[1, 2, -100], [-100, 4, 5]])
    plain = item_counter(SimpleNamespace(), own_loss=True)
    causal = item_counter(SimpleNamespace(loss_type="ForCausalLM", config=SimpleNamespace()), own_loss=True)
    both = item_counter(SimpleNamespace(loss_type="ForCausalLM", config=SimpleNamespace(is_encoder_decoder=True)), True)
    unnamed = item_counter(SimpleNamespace(loss_type=None, can_generate=lambda: True), own_loss=True)
    assert plain({"labels": labels}) == 4
    assert unnamed({"labels": labels}) == 3
    assert causal({"labels": labels}) == 3
    assert causal({"labels": labels, "shift_labels": labels}) == 4
    assert both({"labels": labels}) == 4


def test_counts_are_rows_for_class_labels_numbers_and_own_losses() -> None:
    count = item_counter(SimpleNamespace(), own_loss=True)
    assert count({"labels": torch.tensor([0, 1, 1])}) == 3
    assert count({"labels": torch.zeros(3, 7)}) == 3
    assert count((torch.zeros(5, 2), torch.zeros(5))) == 5
    assert item_counter(SimpleNamespace(), own_loss=False)({"labels": torch.full((2, 9), -100)}) == 2


@pytest.mark.parametrize("other", [torch.tensor([1, 2, 4]), torch.tensor([1, 2, 3], dtype=torch.int32)])
def test_a_digest_knows_values_and_dtype(other: torch.Tensor) -> None:
    assert digest([torch.tensor([1, 2, 3])]) == digest((torch.tensor([1, 2, 3]),))
    assert digest([torch.tensor([1, 2, 3])]) != digest([other])


def test_a_linked_hash_tells_batches_and_their_order_apart() -> None:
    x = torch.zeros(2)
    found: list[object] = [
        x, torch.zeros(2, dtype=torch.int32), torch.zeros(2, 1), [x], [x, x], [[x], x], {"a": x}, {"b": x}, "a", "b",
        b"a", ["a", "b"], ["ab"], 1, 1.0, None, np.zeros(2), np.zeros(2, np.float32), "\ud800",
    ]  # fmt: skip
    assert len({linked("", batch) for batch in found}) == len(found)
    assert linked("", {"a": x}) == linked("", {"a": x.clone()})
    assert linked(linked("", "a"), "b") != linked(linked("", "b"), "a")
