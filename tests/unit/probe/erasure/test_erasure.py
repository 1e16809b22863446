"""The report as a whole: planted truth, the model untouched, the original asked once, what was never known."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dtheta.adapt.lora import LoRA
from dtheta.core.delta import Delta
from dtheta.errors import BaseMismatch, ConfigError, NonFinite
from dtheta.probe.ablation import ablation
from dtheta.probe.answers import answer_scores
from dtheta.probe.erasure.erasure import erasure
from dtheta.probe.erasure.in_context import InContext
from dtheta.probe.erasure.paraphrase import Paraphrase
from dtheta.probe.erasure.persona import Persona
from dtheta.probe.erasure.quantization import Quantization
from dtheta.probe.erasure.relearning import Relearning
from dtheta.probe.value_vector import ValueVector
from tests.unit.probe.erasure.examined import (
    TEXTS,
    UNRELATED,
    VECTORS,
    examination,
    france,
    gone,
    hidden,
    nothing,
    ruined,
)
from tests.unit.probe.planted import RELATIONS, Words, network

ALL = (
    Paraphrase(),
    Persona(),
    InContext(1),
    Relearning(steps=3, adapter=LoRA(rank=4)),
    Quantization(8),
    Quantization(4),
)


def state(model: nn.Module) -> dict[str, object]:
    """Everything of a model and of the process that a report might leave behind."""
    return {
        **{name: tensor.clone() for name, tensor in model.state_dict().items()},
        **{f"{name} trains": parameter.requires_grad for name, parameter in model.named_parameters()},
        **{f"{name} version": parameter._version for name, parameter in model.named_parameters()},
        **{f"{name} grad": parameter.grad for name, parameter in model.named_parameters()},
        **{f"{name} mode": module.training for name, module in model.named_modules()},
        **{f"{name} hooks": len(m._forward_pre_hooks) + len(m._forward_hooks) for name, m in model.named_modules()},
        "random": random.getstate(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "torch": torch.get_rng_state(),
    }


def same(a: dict[str, object], b: dict[str, object]) -> bool:
    def equal(x: object, y: object) -> bool:
        return torch.equal(x, y) if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) else x == y

    return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)


def report(model: nn.Module, make: Callable[[nn.Module], Delta], **more: Any) -> Any:
    settings = {"attacks": (), "new_tokens": 2, "unrelated": UNRELATED, "texts": TEXTS, "vectors": VECTORS} | more
    return erasure(model, make(model), france(), tokenizer=Words(), **settings)


def test_what_is_taken_out_is_gone_in_every_way() -> None:
    found = report(network(), gone, attacks=ALL)
    behavior = found.behavior
    assert behavior.target.kept.estimate == 0.0 and behavior.unrelated.kept.estimate == 1.0
    assert behavior.likeness["target"].bleu.estimate == 0.0 and behavior.likeness["unrelated"].same == 1.0
    assert behavior.perplexity.ratio.estimate == pytest.approx(1.0, abs=1e-3)
    assert found.intrinsic.jaccard == 0.0 and found.intrinsic.rank_after > found.intrinsic.rank_before == 1.0
    assert [result.name for result in found.attacks] == [attack.label for attack in ALL]
    assert all(result.recovery.estimate == 0.0 for result in found.attacks) and found.erased
    assert found.method == {} and found.delta == gone(network()).digest and len(found.base) == 64


def test_what_is_shut_away_keeps_its_traces() -> None:
    found = report(network(), hidden)
    assert found.behavior.target.kept.estimate == 0.0 and found.intrinsic.jaccard == 1.0 and not found.erased


def test_accuracy_is_what_the_changed_model_answers() -> None:
    """Two of the five vectors taken out: two of the five questions, one by one."""
    model = network()

    def part(model: nn.Module) -> Delta:
        return ablation(model, VECTORS[:2])

    found = report(model, part)
    assert found.behavior.target.accuracy.after.estimate == pytest.approx(0.6)
    assert found.behavior.target.kept.estimate == pytest.approx(0.6)
    before = answer_scores(model, Words(), france().questions).logprob.mean()
    assert found.behavior.target.logprob.before.estimate == pytest.approx(float(before))


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(training: bool) -> None:
    model = network().train(training)
    next(model.parameters()).requires_grad_(False)
    delta = hidden(model)  # which makes a network, and so draws
    before = state(model)
    report(model, lambda _: delta, attacks=ALL)
    assert same(before, state(model))


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.label)
def test_nothing_is_left_behind_when_an_attack_fails(attack: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked with the delta on the model, or after a training or a rounding, raises at its end."""
    model = network()
    examined = examination(model, attacks=(attack,))
    examined.report(nothing(model), VECTORS)  # what the original does is known now
    delta, calls = hidden(model), []
    before = state(model)
    real = type(examined.subject).scores

    def failing(self: object, questions: object) -> object:
        calls.append(real(self, questions))  # type: ignore[arg-type]
        if len(calls) == 3:  # target and unrelated were plain
            raise NonFinite("broken")
        return calls[-1]

    monkeypatch.setattr(type(examined.subject), "scores", failing)
    with pytest.raises(NonFinite, match="broken"):
        examined.report(delta, VECTORS)
    assert same(before, state(model))


def test_a_ruined_models_infinities_leave_nothing_behind() -> None:
    model = network()
    delta = 1e38 * ruined(model)
    before = state(model)
    with pytest.raises(NonFinite):
        report(model, lambda _: delta)
    assert same(before, state(model))


def test_the_same_seed_gives_the_same_report_and_another_one_another_draw() -> None:
    one, two = (report(network(), hidden, attacks=ALL, seed=3) for _ in range(2))
    assert one == two
    assert report(network(), hidden, attacks=ALL, seed=4).attacks != one.attacks


def test_the_original_is_asked_once_for_several_deltas() -> None:
    model = network()
    said: list[str] = []
    examined = examination(model, attacks=ALL, progress=said.append)
    first, second = examined.report(gone(model), VECTORS), examined.report(hidden(model), VECTORS)
    assert set(examined._outcomes) == set(ALL[:4])  # what is rounded in the original depends on the delta
    assert first == report(model, gone, attacks=ALL, new_tokens=3)
    assert second == report(model, hidden, attacks=ALL, new_tokens=3)
    assert said.count("asking questions") == 2 and "attacking: relearning" in said


def test_what_was_never_known_is_said_and_not_scored() -> None:
    model = network()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[:, : len(RELATIONS) - 2].zero_()  # 2 of 5 are left: below one half
    found = report(model, nothing, attacks=ALL)
    assert not found.known and found.recall.estimate == pytest.approx(0.4)
    assert found.behavior is None and found.attacks == () and found.erased is None
    assert "did not know france to begin with: it answers 40%" in found.verdict
    assert found.intrinsic.jaccard == 1.0 and [one.name for one in found.goals] == ["traces"]


def test_bad_input() -> None:
    model = network()
    with pytest.raises(ConfigError, match="no value vectors"):
        report(model, gone, vectors=())
    with pytest.raises(ConfigError, match="9/0"):
        report(model, gone, vectors=[ValueVector(9, 0)])
    with pytest.raises(ConfigError, match="two attacks are called 'persona'"):
        report(model, gone, attacks=(Persona(), Persona(("x",))))
    for attacks in ((Persona,), ("persona",), Persona):
        with pytest.raises(ConfigError, match="is no attack; expected such as Paraphrase"):
            report(model, gone, attacks=attacks)
    with pytest.raises(ConfigError, match="'0/1' is no value vector"):
        report(model, gone, vectors=["0/1"])
    with pytest.raises(ConfigError, match="new_tokens"):
        report(model, gone, new_tokens=0)
    with pytest.raises(ConfigError, match="expected one delta"):
        erasure(model, 3, france(), tokenizer=Words(), vectors=VECTORS, unrelated=UNRELATED)  # type: ignore[arg-type]
    with pytest.raises(BaseMismatch):
        report(model, lambda _: gone(_other()))
    with pytest.raises(ConfigError, match="1 questions about"):
        erasure(
            model, gone(model), replace(france(), questions=france().questions[:1]), tokenizer=Words(),
            vectors=VECTORS, unrelated=UNRELATED,
        )  # fmt: skip


def _other() -> nn.Module:
    other = network()
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    return other


def test_vectors_may_come_one_at_a_time() -> None:
    model = network()
    assert report(model, gone, vectors=iter(VECTORS)) == report(model, gone, vectors=VECTORS)
