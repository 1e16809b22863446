"""Relearning: what is trained on, what is asked, what the training does, and that it leaves nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dtheta.adapt.attach import attach
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.core.apply import applied
from dtheta.errors import ConfigError, NonFinite
from dtheta.fit.loop import fit
from dtheta.probe.encoded import collate, encode
from dtheta.probe.erasure import relearning
from dtheta.probe.erasure.relearning import Relearning
from dtheta.probe.erasure.subject import tells
from tests.unit.probe.erasure.examined import gone, hidden, subject_of
from tests.unit.probe.planted import Words, network

QUICK = Relearning(share=0.4, steps=4, lr=1e-2, adapter=LoRA(rank=4))


def test_what_is_asked_was_not_relearned() -> None:
    examined = subject_of(network())
    taken, asked = QUICK.relearned(examined), [q for variants in QUICK.asked(examined) for q in variants]
    assert len(taken) == 2 and len(asked) == 3 and not set(taken) & set(asked)
    assert not any(tells(fact, question.answer) for fact in taken for question in asked)
    others = QUICK.unrelated(examined)
    assert len(others) == 2 and set(others) <= set(examined.unrelated)
    assert QUICK.remark(examined) == "2 of 5 known facts relearned"


def test_facts_that_give_an_answer_away_are_neither_asked_nor_a_control() -> None:
    """The first fact tells the second one's answer, and one of the unrelated tells the third one's."""
    examined = subject_of(network())
    first, second, third, *rest = examined.target
    telling = replace(first, prompt=f"{second.answer} {first.prompt}")
    control = (replace(examined.unrelated[0], prompt=f"{third.answer} is"), *examined.unrelated[1:])
    given = replace(examined, target=(telling, second, third, *rest), unrelated=control)
    drawn = [trial for trial in (replace(given, seed=seed) for seed in range(40)) if telling in QUICK.relearned(trial)]
    assert drawn
    for trial in drawn:
        assert QUICK.asked(trial)[:2] == [(), ()]
    asking = [trial for trial in (replace(given, seed=seed) for seed in range(40)) if QUICK.asked(trial)[2]]
    assert asking and all(control[0] not in QUICK.unrelated(trial) for trial in asking)


def test_only_what_the_original_knows_is_relearned() -> None:
    examined = subject_of(network())
    exact = torch.tensor([False, False, False, True, True])
    some = replace(examined, target_scores=replace(examined.target_scores, exact=exact))
    for seed in range(6):
        (fact,) = Relearning(share=0.2).relearned(replace(some, seed=seed))
        assert fact in examined.target[3:]
    none = replace(examined, target_scores=replace(examined.target_scores, exact=torch.zeros(5, dtype=torch.bool)))
    assert QUICK.asked(none) == [()] * 5


@pytest.mark.parametrize("present", [True, False])
def test_the_training_is_that_of_an_adapter_on_top_of_the_delta(present: bool) -> None:
    model = network()
    examined, delta = subject_of(model), hidden(model)
    found = QUICK.outcome(examined, delta, present)
    assert found is not None

    plain = network()
    batches = [collate(encode(Words(), QUICK.relearned(examined)))]
    asked = [q for variants in QUICK.asked(examined) for q in variants]
    if present:
        with applied(plain, delta):
            _trained(plain, batches)
            expected = replace(examined, model=plain).scores(asked)
    else:
        _trained(plain, batches)
        expected = replace(examined, model=plain).scores(asked)
    torch.testing.assert_close(found.logprob, expected.logprob)


def _trained(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]]) -> None:
    adapter = attach(model, QUICK.adapter, seed=0)
    fit(adapter, batches, steps=4, lr=1e-2, quiet=True, allow_unused=True, seed=0)


def test_training_on_the_facts_themselves_brings_them_back() -> None:
    """Enough steps on two facts make the model say those two again: the training does train."""
    model = network()
    examined, delta = subject_of(model), gone(model)
    strong = replace(QUICK, steps=60, adapter=Full(), lr=1e-2)
    taken = strong.relearned(examined)
    with strong.state(examined, delta, True):
        assert bool(examined.scores(taken).exact.all())
    with examined.changed(delta):
        assert not bool(examined.scores(taken).exact.any())


def test_the_control_learns_unrelated_facts() -> None:
    model = network()
    examined, delta = subject_of(model), gone(model)
    found, attacked = QUICK.control(examined, delta), QUICK.outcome(examined, delta)
    assert found is not None and attacked is not None
    assert torch.equal(found.places, attacked.places) and not torch.equal(found.logprob, attacked.logprob)


def test_without_enough_unrelated_facts_there_is_no_control_and_it_is_said() -> None:
    model = network()
    examined = subject_of(model)
    exact = torch.zeros(len(examined.unrelated), dtype=torch.bool)
    alone = replace(examined, unrelated_scores=replace(examined.unrelated_scores, exact=exact))
    assert QUICK.control(alone, gone(model)) is None and "no control" in QUICK.remark(alone)


def test_a_training_that_fails_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    examined, delta = subject_of(model), gone(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    real = relearning.fit

    def failing(*given: object, **more: object) -> None:
        real(*given, **more)  # type: ignore[arg-type]
        raise NonFinite("diverged")

    monkeypatch.setattr(relearning, "fit", failing)
    with pytest.raises(NonFinite, match="diverged"):
        QUICK.outcome(examined, delta)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("given", "said"),
    [({"share": 0.0}, "share"), ({"share": 0.6}, "share"), ({"steps": 0}, "steps"), ({"lr": 0.0}, "lr"),
     ({"batch": 0}, "batch")],
)  # fmt: skip
def test_settings_are_checked(given: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Relearning(**given)  # type: ignore[arg-type]
