"""Unlearning on a network whose facts are planted: the concept goes, other things stay, the base is left alone."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from dtheta.adapt.lora import LoRA
from dtheta.adapt.method import Method
from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.sorsa import SORSA
from dtheta.core.apply import applied
from dtheta.core.files import load
from dtheta.data.concepts import Concept, Question
from dtheta.errors import ConfigError
from dtheta.probe.ablation import silenced
from dtheta.probe.answers import answer_scores
from dtheta.probe.decoder import open_decoder
from dtheta.probe.unlearning.edit import Ablate, Edit, Needle, Negate, Repair
from dtheta.probe.unlearning.objective import Unlearning
from dtheta.probe.unlearning.task import split
from dtheta.probe.unlearning.train import Training
from dtheta.probe.unlearning.unlearn import METHODS, Unlearned, locate, unlearn
from dtheta.probe.unlearning.watch import Checkup, Watch
from dtheta.probe.value_vector import ValueVector
from tests.unit.probe.planted import Words, concepts, network, vectors

TARGET, *OTHERS = concepts()
TRAINING = Training(lr=0.01, steps=40, every=1)


def unlearned(method: str | Unlearning | Edit, **more: object) -> Unlearned:
    return unlearn(network(), TARGET, method, tokenizer=Words(), retain=OTHERS, training=TRAINING, batch=5, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_forgets_and_keeps(method: str) -> None:
    found = unlearned(Needle(vectors=5, strengths=(4.0,)) if method == "Needle" else method)
    model = network()
    with applied(model, found.delta):
        mine = answer_scores(model, Words(), TARGET.questions).exact.double().mean()
        rest = [q for concept in OTHERS for q in concept.questions]
        kept = answer_scores(model, Words(), rest).exact.double().mean()
    assert found.found.target == pytest.approx(float(mine))
    assert float(mine) <= (0.8 if method in ("RMU", "UNDIAL") else 0.4), method
    assert found.found.unrelated >= 0.95 and found.seen[-1] == found.found
    if method not in ("GradAscent", "NPO", "UNDIAL", "DPO", "Negate"):  # which do not train to keep anything
        assert float(kept) >= 0.9, method
    assert found.method["name"] == method
    assert found.delta.provenance.operation == "unlearn" and found.delta.provenance.settings["concept"] == TARGET.name


def test_what_is_no_better_than_nothing_is_nothing() -> None:
    """A rate at which all goes at once: no state keeps other things, so the delta is zero and says so."""
    wild = Training(lr=5.0, steps=6, every=1)
    found = unlearn(network(), TARGET, "GradAscent", tokenizer=Words(), retain=OTHERS, training=wild)
    assert not found.changed and found.found == Checkup(1.0, 1.0, pytest.approx(1.0), pytest.approx(0.0))
    assert any(look.unrelated < 0.95 for look in found.seen)


def test_the_located_vectors_are_the_planted_ones() -> None:
    model = network()
    assert set(locate(model, open_decoder(model), Words(), TARGET, OTHERS, count=5)) == set(vectors(TARGET.name))


def test_ablation_takes_no_more_than_it_must() -> None:
    found = unlearned(Ablate(counts=(1, 5, 20, 40)))
    assert found.found.target == 0.0 and found.found.unrelated == 1.0
    assert len(found.delta["model.layers.0.mlp.down_proj.weight"].dense().any(0).nonzero()) <= 20


def test_repaired_vectors_are_exactly_zero_whatever_trains() -> None:
    for adapter in (None, LoRA(rank=2)):
        training = TRAINING if adapter is None else Training(adapter, lr=0.02, steps=6, every=3)
        way = Repair(counts=(5,))
        model = network()
        found = unlearn(model, TARGET, way, tokenizer=Words(), retain=OTHERS, training=training, goal=0.0)
        with applied(model, found.delta):
            values = open_decoder(model).values(0)
            gone = values[[v.column for v in found.vectors[:5]]]
            assert float(gone.abs().max()) == 0.0
            assert float(values[[v.column for v in vectors(OTHERS[0].name)]].abs().max()) > 0.05


@pytest.mark.parametrize("adapter", [LoRA(rank=4), PiSSA(rank=8), SORSA(rank=8)], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("method", ["GradDiff", "NPO"])
def test_a_loss_forgets_by_any_adapter(method: str, adapter: Method) -> None:
    model = network()
    before = {name: p.clone() for name, p in model.named_parameters()}
    training = Training(adapter, lr=0.02, steps=20, every=2)
    found = unlearn(model, TARGET, method, tokenizer=Words(), retain=OTHERS, training=training)
    assert found.changed and found.found.probability < 0.9 and found.found.unrelated >= 0.95
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_repair_that_breaks_other_things_is_nothing() -> None:
    """No number of vectors leaves enough, and no training brings it back: the untouched model is the best seen."""
    for training in (Training(lr=5.0, steps=3, every=1), Training(lr=1e-9, steps=2, every=1)):
        found = unlearn(
            network(), TARGET, Repair(counts=(60,)), tokenizer=Words(), retain=OTHERS, training=training, keep=1.0
        )
        assert min(look.unrelated for look in found.seen) < 1.0
        assert not found.changed and found.found.unrelated == found.found.target == 1.0


def test_a_repair_that_gives_nothing_is_tried_with_fewer_vectors() -> None:
    training = Training(lr=1e-9, steps=2, every=1)  # nothing is repaired: 60 vectors take other things along, 5 do not
    found = unlearn(
        network(), TARGET, Repair(counts=(60, 5), hold=0.0), tokenizer=Words(), retain=OTHERS, training=training
    )
    assert min(look.unrelated for look in found.seen) < 0.95
    assert found.changed and found.found.target < 1.0 and found.found.unrelated == 1.0
    assert int(found.delta["model.layers.0.mlp.down_proj.weight"].dense().abs().gt(1e-6).any(0).sum()) == 5


def test_silenced_is_what_a_zero_column_is() -> None:
    model, ids = network(), torch.tensor([[3, 9, 1, 4]])
    chosen = vectors(TARGET.name)
    with silenced(model, chosen):
        quiet = model(input_ids=ids).logits
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[:, [v.column for v in chosen]] = 0.0
    assert torch.allclose(model(input_ids=ids).logits, quiet, atol=1e-6)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_the_model_is_as_it_was_and_the_delta_reads_back(tmp_path: object) -> None:
    model = network()
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = unlearn(model, TARGET, "NPO", tokenizer=Words(), retain=OTHERS, training=TRAINING)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert load(found.delta.save(tmp_path / "x.delta"), model) == found.delta  # type: ignore[operator]


def test_the_same_seed_gives_the_same_bits() -> None:
    first, again = (unlearned("GradDiff", seed=3) for _ in range(2))
    assert first.delta == again.delta and first.seen == again.seen


def test_negation_scales_one_task_vector() -> None:
    found = unlearned(Negate(scales=(0.1,)))
    assert len(found.seen) == 3  # the original, one scale, the result


def test_watching_needs_what_can_be_seen() -> None:
    nothing = Concept("nothing", questions=(Question("capital of france is", "dogs"),))
    with pytest.raises(ConfigError, match=r"answers none of the 1 questions about the concept"):
        unlearn(network(), nothing, "NPO", tokenizer=Words(), retain=OTHERS)
    with pytest.raises(ConfigError, match="no unrelated questions"):
        Watch(Words(), TARGET.questions, ())
    with pytest.raises(ConfigError, match=r"keep is 1.5"):
        Watch(Words(), TARGET.questions, OTHERS[0].questions, keep=1.5)
    with pytest.raises(ConfigError, match=r"start\(model\)"):
        Watch(Words(), TARGET.questions, OTHERS[0].questions).look(network())


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match=r"no unlearning method 'NOP'.*did you mean 'NPO'"):
        unlearned("NOP")
    with pytest.raises(ConfigError, match=r"to be unlearned and retained"):
        unlearn(network(), TARGET, "NPO", tokenizer=Words(), retain=[TARGET, *OTHERS])
    with pytest.raises(ConfigError, match=r"expected two or more"):
        unlearn(network(), TARGET, "NPO", tokenizer=Words(), retain=OTHERS[:1])
    with pytest.raises(ConfigError, match="retain holds two concepts 'japan'"):
        unlearn(network(), TARGET, "NPO", tokenizer=Words(), retain=[*OTHERS, OTHERS[0]])
    with pytest.raises(ConfigError, match="neither questions with answers nor documents"):
        unlearn(network(), TARGET, "NPO", tokenizer=Words(), retain=[*OTHERS, Concept("a"), Concept("b")])


def test_halves_do_not_overlap_and_are_keyed() -> None:
    trained, watched = split(OTHERS, seed=0)
    assert {c.name for c in trained} | {c.name for c in watched} == {c.name for c in OTHERS}
    assert not {c.name for c in trained} & {c.name for c in watched}
    assert any(split(OTHERS, seed=s) != (trained, watched) for s in range(1, 6))


@pytest.mark.parametrize("method", ["Ablate", "Repair", "Memit", "Needle"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "no value vectors were given"),
        ([ValueVector(9, 0)], "the model has MLP layers 0 to 0"),
        ([ValueVector(0, 70)], "layer 0 has columns 0 to 69"),
        ([ValueVector(0, -1)], "layer 0 has columns 0 to 69"),
        (["0/1/+"], "'0/1/\\+' is no value vector"),
    ],
)
def test_vectors_that_are_none_are_refused_and_not_replaced(method: str, given: list, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        unlearned(method, vectors=given)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Ablate(counts=()), "Ablate: counts is ()"),
        (lambda: Ablate(counts=(8, -1)), "counts is -1"),
        (lambda: Ablate(counts=3), "Ablate: counts is 3"),  # type: ignore[arg-type]
        (lambda: Repair(counts=(0,)), "counts is 0"),
        (lambda: Repair(hold=2.0), "Repair: hold is 2.0"),
        (lambda: Needle(vectors=-1), "vectors is -1"),
        (lambda: Needle(strengths=()), "Needle: strengths is ()"),
        (lambda: Needle(strengths=(-1.0,)), "strengths must be positive"),
        (lambda: Negate(scales=()), "Negate: scales is ()"),
        (lambda: METHODS["WGA"](beta="x"), "beta is 'x'"),
        (lambda: METHODS["UNDIAL"](beta=None), "beta is None"),
        (lambda: METHODS["RMU"](scale="a"), "scale is 'a'"),
        (lambda: Training(steps=2.5), "steps is 2.5"),  # type: ignore[arg-type]
        (lambda: Training(every=0), "every is 0"),
        (lambda: Training(lr=0.0), "lr must be positive"),
    ],
)
def test_settings_that_nothing_can_be_done_with_are_refused(made: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        made()


@pytest.mark.parametrize("method", ["Repair", "Memit", "GradDiff"])
def test_a_failure_on_the_way_leaves_the_model_as_it_was(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, modes, hooks, what trains and the state of the random numbers."""
    model = network().train()
    model.model.embed_tokens.weight.requires_grad_(False)  # type: ignore[union-attr]
    before = {name: (p.clone(), p.requires_grad) for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    looks = []

    def fails(watch: Watch, *_: object) -> Checkup:
        looks.append(watch)
        if len(looks) > 1:
            raise RuntimeError("stop")
        return Checkup(0.0, 1.0, 0.0, 0.0)

    monkeypatch.setattr(Watch, "look", fails)
    with pytest.raises(RuntimeError, match="stop"):
        unlearn(model, TARGET, method, tokenizer=Words(), retain=OTHERS, training=Training(lr=1e-2, steps=2, every=1))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name][0]) and p.requires_grad == before[name][1], name
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(state, torch.get_rng_state())
