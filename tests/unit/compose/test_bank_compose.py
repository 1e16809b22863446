"""Composition over a bank: learned and searched coefficients, deltas that re-execute from their own provenance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dtheta.compose.bank import Bank
from dtheta.compose.coefficients import Coefficients
from dtheta.core.apply import applied
from dtheta.core.files import load
from dtheta.errors import ConfigError
from tests.unit.compose.banks import same, tensors
from tests.unit.compose.examples import bits, delta, normal


@pytest.fixture
def few_shot(tiny_mlp: nn.Module) -> tuple[Bank, list[tuple[Tensor, Tensor]], Callable[[nn.Module, object], Tensor]]:
    """A bank of four, and a task that wants 0.8 of one and -0.5 of another."""
    bank = Bank(tiny_mlp)
    for i, kind in enumerate(("low-rank", "ternary", "dense", "ternary by row")):
        bank.add(kind, delta(tiny_mlp, kind, i))
    goal = 0.8 * bank["low-rank"] - 0.5 * bank["dense"]
    x = normal(64, 12, name="task")
    with applied(tiny_mlp, goal), torch.no_grad():
        y = tiny_mlp(x)

    def loss(model: nn.Module, batch: object) -> Tensor:
        inputs, wanted = batch  # type: ignore[misc]
        return (model(inputs) - wanted).square().mean()

    return bank, [(x[:32], y[:32]), (x[32:], y[32:])], loss


def test_learned_and_searched_coefficients(tiny_mlp: nn.Module, few_shot: tuple) -> None:
    bank, batches, loss = few_shot
    before, names = bits(tiny_mlp), list(bank)
    start = sum(float(loss(tiny_mlp, b).detach()) for b in batches) / 2
    learned = bank.learn(names, batches, loss, epochs=12, weight_decay=0.0)
    searched = bank.search(names, batches, loss, penalty=1e-4, evaluations=250)
    assert bits(tiny_mlp) == before
    for found in (learned, searched):
        bank.add(f"composed {id(found)}", bank.compose(names, found))
        with bank.using(f"composed {id(found)}"):
            assert sum(float(loss(tiny_mlp, b).detach()) for b in batches) / 2 < 0.1 * start
    numbers = dict(zip(names, searched.values[:, 0, 0].tolist(), strict=True))
    assert abs(numbers["low-rank"] - 0.8) < 0.1 and abs(numbers["dense"] + 0.5) < 0.1
    assert abs(numbers["ternary"]) < 0.1


def test_learning_begins_at_the_base_whatever_is_shown(tiny_mlp: nn.Module, few_shot: tuple) -> None:
    bank, batches, loss = few_shot
    alone = bank.search(list(bank), batches, loss, evaluations=20)
    with bank.using("dense"):
        shown = tensors(tiny_mlp)
        assert bank.search(list(bank), batches, loss, evaluations=20) == alone
        assert same(tensors(tiny_mlp), shown)
    with pytest.raises(ConfigError, match="list of names"):
        bank.search("dense", batches, loss)


def test_a_classifier_is_adapted_from_few_examples(tiny_mlp: nn.Module) -> None:
    bank = Bank(tiny_mlp)
    for i in range(3):
        bank.add(str(i), delta(tiny_mlp, "low-rank", i))
    x = normal(16, 12, name="few")
    with applied(tiny_mlp, 1.2 * bank["1"]):
        y = tiny_mlp(x).argmax(1)
    found = bank.search(list(bank), [(x, y)], lambda m, b: cross_entropy(m(b[0]), b[1]), penalty=0.0, evaluations=100)
    assert found.report is not None
    assert found.report.epochs[found.report.best].scores["objective"] < found.report.epochs[0].scores["objective"]


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("how", ["learn", "search"])
def test_what_was_composed_comes_again_from_its_provenance(tiny_mlp: nn.Module, tmp_path: Path, how: str) -> None:
    """Bit by bit, from files that were forgotten meanwhile, and by the same learning again."""
    kinds = ("low-rank", "ternary", "dense", "mixed")
    paths = {kind: delta(tiny_mlp, kind, i).save(tmp_path / f"{i}.delta") for i, kind in enumerate(kinds)}
    banks = [Bank(tiny_mlp), Bank(tiny_mlp)]
    for bank in banks:
        for kind, path in paths.items():
            bank.add(kind, path)
    x = normal(16, 12, name="few")
    batches, settings = [(x, x[:, :8].argmax(1))], {"evaluations": 60} if how == "search" else {"epochs": 4}
    found = [getattr(bank, how)(kinds, batches, loss_of, **settings) for bank in banks]
    assert found[0] == found[1] and found[0].values.any()
    made = banks[0].compose(kinds, found[0])
    stored = load(made.save(tmp_path / "made.delta"))
    again = Coefficients.from_settings(stored.provenance.settings["coefficients"])
    assert list(stored.provenance.parents) == [load(path).digest for path in paths.values()]
    redone = Bank(tiny_mlp)
    for kind, path in paths.items():
        redone.add(kind, path)
    assert redone.compose(kinds, again).digest == made.digest == stored.digest
    redone.add("made", tmp_path / "made.delta")
    with applied(tiny_mlp, made):
        wanted = tensors(tiny_mlp)
    exact = Bank(tiny_mlp, exact=True)
    exact.add("made", tmp_path / "made.delta")
    with exact.using("made"):
        assert same(tensors(tiny_mlp), wanted)


def test_few_shot_is_never_below_the_base_on_its_metric(tiny_mlp: nn.Module) -> None:
    bank, x = Bank(tiny_mlp), normal(16, 12, name="few")
    for i in range(3):
        bank.add(str(i), delta(tiny_mlp, "ternary", i))
    y = tiny_mlp(x).argmax(1)  # the base is perfect, so nothing can be gained
    wrong = [(x, (y + 1) % 8)]  # and what is learned makes it worse
    accuracy = lambda model: float((model(x).argmax(1) == y).float().mean())  # noqa: E731
    found = bank.learn(list(bank), wrong, loss_of, metric=accuracy)
    assert not found.values.any() and found.report is not None and found.report.best == 0
