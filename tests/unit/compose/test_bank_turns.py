"""Threads, tasks, copies, and two banks of one model."""

from __future__ import annotations

import asyncio
import copy
import io
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from dtheta.compose.bank import Bank
from dtheta.core.apply import applied, merge
from dtheta.errors import ConfigError
from tests.unit.compose.banks import adapter, alone, same, tensors, under_applied
from tests.unit.compose.examples import bits, delta, normal


@pytest.fixture
def bank(tiny_mlp: nn.Module) -> Bank:
    bank = Bank(tiny_mlp)
    for i in range(3):
        bank.add(f"low-rank {i}", adapter(tiny_mlp, i))
        bank.add(f"signs {i}", delta(tiny_mlp, "ternary", i))
    return bank


def in_thread(run: Callable[[], Any]) -> Any:
    """What a call in another thread returns, or raises."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result(timeout=30)


def test_threads_get_what_they_ask_for(bank: Bank) -> None:
    """Many threads, blocks and mixed batches: each row as if its expert were alone."""
    before, names = bits(bank.model), [*bank, None]
    x = normal(3, 12)
    wanted = {name: alone(bank, [name], x[:1])[0] for name in names}

    def work(k: int) -> bool:
        chosen = [names[(k + i) % len(names)] for i in range(3)]
        rows = bank.run(x[:1].expand(3, -1), experts=chosen)
        with bank.using(chosen[0]) as model, torch.no_grad():
            row = model(x[:1])[0]
        return torch.allclose(row, wanted[chosen[0]], atol=1e-5) and all(
            torch.allclose(rows[i], wanted[name], atol=1e-5) for i, name in enumerate(chosen)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(60)))
    assert bits(bank.model) == before and bank.current is None


def test_one_may_look_while_others_use_it(bank: Bank) -> None:
    """What tells of the bank does not wait for blocks, and does not fail when they change what it tells of."""
    done, failed = threading.Event(), list[str]()

    def look() -> None:
        while not done.is_set():
            try:
                assert bank.nbytes and len(bank.loaded) == len(list(bank)) == 6 and repr(bank)
                assert bank.buffer_nbytes >= 0
            except RuntimeError as error:
                failed.append(str(error))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    watcher = threading.Thread(target=look)
    try:
        watcher.start()
        for i in range(600):
            with bank.using([*bank][i % 6]):
                bank.free()
    finally:
        done.set()
        watcher.join(30)
        sys.setswitchinterval(interval)
    assert not failed


def test_experts_may_be_removed_while_one_goes_through_them(bank: Bank) -> None:
    for name in bank:
        bank.remove(name)
    assert not len(bank)


def test_a_thread_waits_until_the_block_of_another_ends(bank: Bank) -> None:
    inside, leave, seen = threading.Event(), threading.Event(), []

    def hold() -> None:
        with bank.using("signs 0"):
            inside.set()
            leave.wait(30)
            seen.append(bank.current)

    def enter() -> None:
        with bank.using("signs 1"):
            seen.append(bank.current)

    threads = [threading.Thread(target=hold), threading.Thread(target=enter)]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()
    leave.set()
    for thread in threads:
        thread.join(30)
    assert seen == ["signs 0", "signs 1"] and bank.current is None


def test_a_thread_that_shows_an_expert_without_a_block_is_not_disturbed(bank: Bank) -> None:
    x = normal(1, 12)
    bank.switch("signs 0")
    for call in (lambda: bank.switch("signs 1"), lambda: bank.run(x, experts=["signs 1"]), lambda: bank.switch(None)):
        with pytest.raises(ConfigError, match=r"shows 'signs 0' by bank\.switch"):
            in_thread(call)
    assert bank.current == "signs 0"
    assert in_thread(lambda: len(bank["signs 1"])) == 4  # reading is no matter of what is shown
    with bank.using("signs 1"):  # and the thread itself goes on
        pass
    bank.switch(None)
    in_thread(lambda: bank.switch("signs 2"))
    bank.switch("signs 0")  # that thread ended
    bank.switch(None)


def test_blocks_of_tasks_that_overlap_are_refused(bank: Bank) -> None:
    before = bits(bank.model)

    async def task(name: str, start: float, end: float) -> None:
        await asyncio.sleep(start)
        with bank.using(name):
            await asyncio.sleep(end)

    async def both() -> list[Any]:
        return await asyncio.gather(task("signs 0", 0, 0.05), task("signs 1", 0.02, 0.1), return_exceptions=True)

    found = asyncio.run(both())
    assert isinstance(found[0], ConfigError) and "tasks that take turns" in str(found[0]) and found[1] is None
    assert bits(bank.model) == before and bank.current is None


def test_a_bank_is_not_copied(bank: Bank) -> None:
    for run in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ConfigError, match="make another"):
            run(bank)


def test_copies_and_state_of_the_model_are_what_is_shown(bank: Bank) -> None:
    model = bank.model
    names, merged = list(model.state_dict()), merge(model, bank["signs 0"])
    with bank.using("signs 0"):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        copied = copy.deepcopy(model)
        written = io.BytesIO()
        torch.save(model.state_dict(), written)
    with bank.using("signs 1"):
        pass
    assert list(state) == names
    written.seek(0)
    for found in (state, copied.state_dict(), torch.load(written)):
        assert same(found, merged.state_dict())


def test_a_model_is_not_copied_while_rows_have_experts(bank: Bank) -> None:
    with bank.batched(["low-rank 0", None]) as model:
        for run in (copy.deepcopy, pickle.dumps):
            with pytest.raises(ConfigError, match="after that block"):
                run(model)


def test_two_banks_of_one_model_show_the_sum(tiny_mlp: nn.Module) -> None:
    before, banks = bits(tiny_mlp), [Bank(tiny_mlp), Bank(tiny_mlp)]
    given = [delta(tiny_mlp, "dense", i) for i in range(2)]
    for i, bank in enumerate(banks):
        bank.add("a", given[i])
    alone_, both = [under_applied(tiny_mlp, one) for one in given], under_applied(tiny_mlp, given[0] + given[1])
    for first, second in ((0, 1), (1, 0)):
        banks[first].switch("a")
        banks[second].switch("a")
        assert same(tensors(tiny_mlp), both)
        banks[first].switch(None)
        assert same(tensors(tiny_mlp), alone_[second])
        banks[second].switch(None)
        assert bits(tiny_mlp) == before


def test_under_autocast_every_row_has_the_weights_of_its_expert(bank: Bank) -> None:
    """Autocast keeps casts of the weights; they must not outlive a switch."""
    x, names = normal(4, 12), ["signs 0", "low-rank 1", None, "signs 1"]
    wanted = alone(bank, names, x)
    for name in ("signs 0", "low-rank 1"):
        with bank.using(name):
            shown = tensors(bank.model)
        with torch.autocast("cpu", torch.bfloat16), bank.using(name):
            assert same(tensors(bank.model), shown)
    with torch.autocast("cpu", torch.bfloat16):
        found = bank.run(x, experts=names)
        assert found.dtype == torch.bfloat16 and torch.allclose(found.float(), wanted, rtol=0.02, atol=0.05)
        for i, name in enumerate(names):
            with bank.using(name):
                assert torch.allclose(bank.model(x[i]).float(), wanted[i], rtol=0.02, atol=0.05)


def test_a_base_in_bfloat16_takes_rows(tiny_mlp: nn.Module) -> None:
    tiny_mlp.to(torch.bfloat16)
    bank, x = Bank(tiny_mlp), normal(3, 12).to(torch.bfloat16)
    names = ["a", None, "b"]
    for i, name in enumerate("ab"):
        bank.add(name, adapter(tiny_mlp, i))
    found = bank.run(x, experts=names)
    assert found.dtype == torch.bfloat16
    for i, name in enumerate(names):
        with bank.using(name), torch.no_grad():
            assert torch.allclose(found[i], tiny_mlp(x[i]), rtol=0.05, atol=0.1)


def test_applied_and_a_bank_in_another_thread(bank: Bank) -> None:
    """Reading needs no turn, so an ``applied`` block of the same thread goes on."""
    with applied(bank.model, bank["signs 0"]):
        assert len(in_thread(lambda: bank["signs 1"])) == 4
