"""Rehearsed unlearning: the loss by hand, what a drift may touch, and that what was forgotten stays away."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.attach import attach
from dtheta.adapt.full import Full
from dtheta.core.apply import applied
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError
from dtheta.probe.encoded import answered, collate
from dtheta.probe.erasure.relearning import Relearning
from dtheta.probe.erasure.subject import subject
from dtheta.probe.unlearning.ascent import WGA
from dtheta.probe.unlearning.edit import Repair
from dtheta.probe.unlearning.objective import Side, Unlearning
from dtheta.probe.unlearning.preference import DPO, NPO
from dtheta.probe.unlearning.rehearsal import Rehearsal, Rehearsed
from dtheta.probe.unlearning.representation import RMU
from dtheta.probe.unlearning.task import Task, sequences
from dtheta.probe.unlearning.train import Training
from dtheta.probe.unlearning.unlearn import Unlearned, unlearn
from dtheta.probe.unlearning.watch import Watch
from tests.unit.probe.planted import Words, concepts, network

TARGET, *OTHERS = concepts()
UNRELATED = [question for other in OTHERS for question in other.questions]
PLAIN = WGA(retain=1.0, kl=1.0)


@pytest.fixture
def task() -> Task:
    model = network()
    forget, retain = (sequences(Words(), some, 32) for some in ([TARGET], OTHERS))
    watch = Watch(Words(), answered(TARGET), UNRELATED)
    watch.start(model)
    return Task(model, Words(), forget, retain, watch, "*.down_proj.*", 5, 0, TARGET.name)


@pytest.fixture
def adapter(task: Task) -> Iterator[Adapter]:
    """Full training of the down-projection, moved away from the base."""
    held = attach(task.model, Full(), task.select)
    with torch.no_grad():
        for parameter in held.trainable().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator(0, "moved")), alpha=0.02)
    yield held
    held.detach()


def unlearned(way: Unlearning | Repair, **more: object) -> Unlearned:
    training = Training(lr=3e-3, steps=40, every=2)
    return unlearn(network(), TARGET, way, tokenizer=Words(), retain=OTHERS, training=training, batch=5, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("plain", [PLAIN, NPO(retain=1.0), DPO()], ids=lambda loss: type(loss).__name__)
def test_the_loss_is_the_plain_one_and_the_forgetting_after_the_drift(
    plain: object, task: Task, adapter: Adapter
) -> None:
    settings = Rehearsed(plain=plain, begin=1, every=2, weight=0.5)  # type: ignore[arg-type]
    running, batch = Rehearsal(settings, task), task.pairs(1)[0]
    expected = settings.plain(adapter, batch)
    assert torch.equal(running(adapter, batch), expected) and running.drift is None  # before the first rehearsal
    found = running(adapter, batch)
    drift = running.drift
    assert drift is not None and not drift.enabled
    with torch.no_grad():
        asked = collate([task.forget[i] for i in running.asked[: task.batch]])
        drift.enabled = True
        retain = {name: rows[: len(asked["input_ids"])] for name, rows in batch["retain"].items()}
        after = settings.plain.forgetting(Side(adapter, asked), Side(adapter, retain))
        drift.enabled = False
    torch.testing.assert_close(found.detach(), expected.detach() + 0.5 * after)
    kept = running(adapter, batch)  # the second step of a drift
    assert running.drift is drift and torch.allclose(kept, found)
    running(adapter, batch)
    assert running.drift is not drift
    running.end()
    assert running.drift is None and torch.equal(settings.plain(adapter, batch), expected)


def test_a_drift_learns_some_facts_and_is_asked_the_others(task: Task, adapter: Adapter) -> None:
    running = Rehearsal(Rehearsed(share=0.4, relearn=30, lr=1e-2), task)
    with torch.no_grad():
        adapter.term("model.layers.0.mlp.down_proj.weight").values.fill_(0.05)  # type: ignore[union-attr]
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    mine = {name: p.detach().clone() for name, p in adapter.trainable().items()}
    seen = set()
    for trial in range(4):
        running.rehearse(trial)
        assert running.drift is not None
        taught = sorted(set(range(len(task.forget))) - set(running.asked))
        assert len(taught) == 2 and len(running.asked) == 3
        seen.add(tuple(taught))
        rows = collate([task.forget[i] for i in taught])
        with torch.no_grad():
            away = float(Side(adapter, rows).ce)
            running.drift.enabled = True
            assert float(Side(adapter, rows).ce) < 0.5 * away
            running.drift.enabled = False
    assert len(seen) > 1
    running.end()
    assert all(torch.equal(p, before[name]) for name, p in task.model.named_parameters())
    assert all(torch.equal(p, mine[name]) and p.grad is None for name, p in adapter.trainable().items())


def test_a_step_moves_the_adapter_alone(task: Task, adapter: Adapter) -> None:
    running = Rehearsal(Rehearsed(begin=0), task)
    running(adapter, task.pairs(1)[0]).backward()
    assert running.drift is not None
    assert all(p.grad is None and not p.requires_grad for p in running.drift.terms.parameters())
    assert all(p.grad is not None and bool(p.grad.any()) for p in adapter.trainable().values())
    running.end()


def test_what_was_forgotten_stays_away() -> None:
    """A relearning brings most of it back after the plain loss, and next to nothing after the rehearsed one."""

    def back(found: Unlearned) -> int:
        count = 0
        for seed in range(5):  # of the attack, which draws other facts than any rehearsal
            asked = subject(network(), Words(), TARGET, UNRELATED, seed)
            outcome = Relearning(lr=3e-3).outcome(asked, found.delta)
            assert outcome is not None
            count += int(outcome.exact.sum())
        return count

    plain, rehearsed = unlearned(PLAIN), unlearned(Rehearsed(lr=3e-3, begin=4))
    assert plain.found.target == rehearsed.found.target == 0.0
    assert plain.found.unrelated == rehearsed.found.unrelated == 1.0
    assert back(plain) >= 10 and back(rehearsed) <= 4  # of 20


def test_training_ends_at_the_goal_only_where_it_outlasts_relearnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """One relearning that brings too much back is enough to go on; each look asks once, for all steps to the next."""
    asked: list[int] = []

    def left(watch: Watch, *_: object) -> float:
        asked.append(len(watch.seen))
        return 0.2 if len(asked) in (2, 4) else 0.0

    monkeypatch.setattr(Watch, "left", left)
    looks, plain = len(unlearned(Rehearsed(begin=40)).seen), len(unlearned(PLAIN).seen)
    assert looks == plain + 2
    first = plain - 1  # the last look of all is at the delta
    assert asked == [first, first, first + 1, first + 1, first + 2, first + 2, first + 2]


def test_the_goal_is_asked_after_relearnings(task: Task) -> None:
    running = Rehearsal(Rehearsed(), task)
    assert not running.holds()  # nothing was unlearned yet
    with torch.no_grad():
        kept = task.model.lm_head.weight.clone()  # type: ignore[union-attr]
        task.model.lm_head.weight.zero_()  # type: ignore[union-attr,operator]
    task.watch.look(task.model)
    assert running.holds()
    with torch.no_grad():
        task.model.lm_head.weight.copy_(kept)  # type: ignore[union-attr,operator]
    running.end()


def test_repair_takes_it_as_its_loss_and_the_delta_says_so() -> None:
    found = unlearned(Repair(counts=(5,), loss=Rehearsed(lr=3e-3, begin=2)), goal=0.0)
    assert (
        found.changed and found.method["loss"]["name"] == "Rehearsed" and found.method["loss"]["plain"]["name"] == "WGA"
    )
    model = network()
    assert set(found.delta) == {"model.layers.0.mlp.down_proj.weight"}
    with applied(model, found.delta):
        pass
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), network().parameters(), strict=True))


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    first, again, other = (unlearned(Rehearsed(lr=3e-3, begin=2), seed=seed) for seed in (3, 3, 4))
    assert first.delta == again.delta and first.seen == again.seen and first.delta != other.delta


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"plain": RMU()}, "Rehearsed: plain is RMU"),
        ({"share": 0.0}, "share is 0.0"),
        ({"share": 0.6}, "share is 0.6"),
        ({"relearn": 0}, "relearn is 0"),
        ({"every": 1.5}, "every is 1.5"),
        ({"begin": -1}, "begin is -1"),
        ({"rank": 0}, "rank is 0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"weight": "much"}, "weight is 'much'"),
    ],
)
def test_settings_that_nothing_can_be_done_with_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        Rehearsed(**settings)
