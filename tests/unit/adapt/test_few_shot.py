"""Few-shot adaptation of image-text classifiers, and the baselines it must be above."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from dtheta.adapt.attach import attach
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.few_shot import FewShot, adapt_images, judge_delta
from dtheta.adapt.full import Full
from dtheta.adapt.image_problem import FrozenImages, image_problem, linear_probe, pixel_probe, zero_shot
from dtheta.adapt.lora import LoRA
from dtheta.adapt.prompts.cocoop import CoCoOp
from dtheta.adapt.prompts.coop import CoOp
from dtheta.adapt.prompts.upt import UPT
from dtheta.adapt.prompts.vpt import VPT
from dtheta.core.fingerprint import fingerprint
from dtheta.core.seeds import generator
from dtheta.data.image_batches import image_loader
from dtheta.data.images import Images
from dtheta.data.pixels import Pixels
from dtheta.data.shots import hold_out
from dtheta.errors import ConfigError
from dtheta.fit.loop import fit
from tests.unit.adapt.prompts.image_models import make_classifier, make_clip, make_dual

PIXELS = Pixels(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def pictures(count, name):
    """Noise whose red, green or blue is the class."""
    labels = torch.arange(count) % 3
    images = torch.randint(0, 120, (count, 16, 16, 3), generator=generator(0, name))
    images[torch.arange(count), :, :, labels] += 130
    return Images(images.to(torch.uint8), labels)


def posed(model=None, name="made"):
    net = make_classifier(model or make_clip())
    return image_problem(net, PIXELS, pictures(12, "support"), pictures(30, "test"), name)


def losses(record):
    return [loss for _, loss in record.losses]


def test_zero_shot_is_the_classifier_itself():
    problem = posed()
    with torch.no_grad():
        logits = problem.net(PIXELS(problem.test.images.images)).logits
    expected = (logits.argmax(1) == problem.test.labels).double()
    found = zero_shot(problem)
    assert torch.equal(found.correct, expected)
    assert found.accuracy.estimate == pytest.approx(float(expected.mean()))


@pytest.mark.parametrize(("side", "most"), [(16, 64), (224, 64), (448, 16), (3000, 1)])
def test_large_images_go_through_the_model_in_small_batches(side, most, monkeypatch):
    net = make_classifier(make_clip())
    part = FrozenImages(net, dataclasses.replace(PIXELS, size=side), pictures(2 if side == 3000 else 70, "many"))
    seen = []
    monkeypatch.setattr(FrozenImages, "seen", lambda self, images: seen.append(len(images)) or PIXELS(images))
    part.features, part.logits(moved=True)
    assert max(seen) == most and sum(seen) == 2 * len(part.images)


def test_probes_separate_what_can_be_separated():
    problem = posed()
    assert pixel_probe(problem).accuracy.estimate == 1.0
    with torch.no_grad():
        features = problem.net.image_features(PIXELS(problem.test.images.images))
    torch.testing.assert_close(problem.test.features, features)
    assert linear_probe(problem, C=100.0).accuracy.estimate > 0.9


METHODS = {
    "singular values": (CLIPSVD(), None, 3e-2),
    "low rank": (LoRA(rank=2), None, 1e-2),
    "vision only": (LoRA(rank=2), None, 1e-2),
    "full": (Full(), "@blocks", 1e-2),
    "text prompt": (CoOp(length=4), None, 1e-1),
    "visual prompt": (VPT(length=2), None, 1e-1),
    "both": (UPT(length=2), None, 1e-2),
    "by image": (CoCoOp(length=2), None, 1e-1),
}


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_learns_and_leaves_the_model_alone(kind):
    method, select, lr = METHODS[kind]
    select = "@blocks|!model.text_model.*" if kind == "vision only" else select
    problem = posed()
    before = fingerprint(problem.net)
    recipe = FewShot(method, select, steps=15, lr=lr)
    found = adapt_images(problem, recipe, model_name="tiny", quiet=True)
    assert losses(found.record)[-1] < losses(found.record)[0]
    assert fingerprint(problem.net) == before
    assert found.gain.estimate == pytest.approx(found.judged.accuracy.estimate - zero_shot(problem).accuracy.estimate)
    assert torch.equal(judge_delta(problem, found.delta).correct, found.judged.correct)
    task = found.delta.provenance.task
    assert (task["kind"], task["model"], task["data"]) == ("image-text-classification", "tiny", "made")
    assert (task["train"], task["test"], task["pixels"]["size"]) == (12, 30, 16)
    assert found.delta.provenance.settings["lr"] == lr


def reached(problem, kind):
    """How often each tower ran while a method trained for 5 steps."""
    counts = {"image": 0, "text": 0}
    model = problem.net.model
    hooks = [
        getattr(model, f"{tower}_model").register_forward_hook(lambda *_, n=name: counts.__setitem__(n, counts[n] + 1))
        for name, tower in (("image", "vision"), ("text", "text"))
    ]
    zero_shot(problem), problem.support.features  # what is computed once in any case
    start = dict(counts)
    adapt_images(problem, FewShot(*kind, steps=5), quiet=True)
    for hook in hooks:
        hook.remove()
    return {name: counts[name] - start[name] for name in counts}


@pytest.mark.parametrize(
    ("method", "select", "image", "text"),
    [
        (CLIPSVD(), "@blocks|!model.vision_model.*", 1, 5 + 3),
        (CLIPSVD(), "@blocks|!model.text_model.*", 5 + 2, 4),
        (CLIPSVD(), None, 5 + 2, 5 + 3),
    ],
)
def test_a_tower_that_is_left_alone_runs_once(method, select, image, text):
    # besides the steps: one look whether it moves, the test images, and the texts of zero-shot and of the test
    assert reached(posed(), (method, select)) == {"image": image, "text": text}


def test_cached_features_train_as_images_do():
    problem = posed()
    select = "@blocks|!model.vision_model.*"
    recipe = FewShot(CLIPSVD(), select, steps=6, batch_size=5, lr=3e-2, seed=3)
    found = adapt_images(problem, recipe, quiet=True)
    adapter = attach(problem.net, CLIPSVD(), select, seed=3)
    batches = image_loader(problem.support.images, PIXELS, 5, seed=3)
    record = fit(adapter, batches, steps=6, lr=3e-2, warmup=0.1, seed=3, quiet=True)
    delta = adapter.delta()
    adapter.detach()
    torch.testing.assert_close(losses(found.record), losses(record), rtol=1e-4, atol=1e-5)
    assert (found.delta - delta).norm() < 1e-3 * delta.norm()


@pytest.mark.parametrize(
    ("method", "select"),
    [(CLIPSVD(), None), (CLIPSVD(), "@blocks|!model.vision_model.*"), (CoCoOp(length=2), None)],
    ids=["both towers", "features", "by image"],
)
def test_the_best_evaluation_on_what_is_held_out_is_kept(method, select):
    clean, support = posed(), pictures(12, "support")
    train, held = hold_out(support, 3, 0)
    support.images[train] = support.images[train].roll(1, -1)  # what is learned is wrong on the others
    problem = image_problem(clean.net, PIXELS, support, clean.test.images)
    found = adapt_images(problem, FewShot(method, select, steps=8, lr=0.1, validate=3), quiet=True)
    record, task = found.record, found.delta.provenance.task
    assert record.best.step < 8 and record.best.scores["loss"] < record.evals[-1].scores["loss"]
    assert record.best.scores["accuracy"] == max(each.scores["accuracy"] for each in record.evals)
    other = image_problem(problem.net, PIXELS, support, support.take(held))
    on_held = judge_delta(other, found.delta) if found.delta.norm() else zero_shot(other)
    assert on_held.accuracy.estimate == pytest.approx(record.best.scores["accuracy"])
    assert (task["train"], found.delta.provenance.settings["validate"]) == (12, 3)


@pytest.mark.parametrize("augment", [False, True])
def test_nothing_is_trained_on_that_is_held_out(augment):
    problem = posed()
    select = "@blocks|!model.vision_model.*"
    recipe = FewShot(CLIPSVD(), select, steps=4, lr=1e-3, validate=6, augment=augment)
    losses_of = [losses(adapt_images(problem, recipe, quiet=True).record)]
    _, held = hold_out(problem.support.images, 6, 0)
    spoiled = problem.support.images.images.clone()
    spoiled[held] = 255 - spoiled[held]
    other = image_problem(problem.net, PIXELS, Images(spoiled, problem.support.labels), problem.test.images)
    losses_of.append(losses(adapt_images(other, recipe, quiet=True).record))
    assert losses_of[0] == pytest.approx(losses_of[1], abs=1e-6)


def test_augmented_images_are_new_each_epoch():
    problem = posed()
    plain = FewShot(LoRA(rank=1), "@blocks|!model.vision_model.*", steps=4)
    augmented = dataclasses.replace(plain, augment=True, flip=False)
    first, again, other = (adapt_images(problem, recipe, quiet=True) for recipe in (augmented, augmented, plain))
    assert first.delta == again.delta
    assert first.delta != other.delta


def test_features_are_made_anew_where_the_model_was_written_to():
    """As after a delta was merged into it: the scores were those of the model before."""
    problem = posed()
    before = zero_shot(problem).logits
    assert problem.test.features is problem.test.features
    with torch.no_grad():
        for parameter in problem.net.model.vision_model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator(0, "moved")), alpha=0.1)
        direct = problem.net(PIXELS(problem.test.images.images)).logits
    assert not torch.allclose(before, direct, atol=1e-2)
    assert torch.allclose(zero_shot(problem).logits, direct, atol=1e-5)


def test_dual_encoder_with_text_alone():
    problem = posed(make_dual())
    found = adapt_images(problem, FewShot(CLIPSVD(), steps=8), quiet=True)
    assert losses(found.record)[-1] < losses(found.record)[0]
    assert all(name.startswith("model.text.") for name in found.delta)
    inner = found.delta.rename(lambda name: name.removeprefix("model."))
    attach(problem.net.model, inner).detach()


def test_a_delta_is_judged_on_other_classes():
    problem = posed()
    found = adapt_images(problem, FewShot(CLIPSVD(), steps=3), quiet=True)
    net = make_classifier(problem.net.model)
    net.input_ids, net.attention_mask, net.classes = net.input_ids[:2], net.attention_mask[:2], net.classes[:2]
    two = pictures(30, "test")
    two = two.take((two.labels < 2).nonzero().flatten())
    other = judge_delta(image_problem(net, PIXELS, two, two), found.delta)
    adapter = attach(problem.net, found.delta)
    with torch.no_grad():
        logits = problem.net(PIXELS(two.images)).logits[:, :2]
    adapter.detach()
    assert torch.equal(other.correct, (logits.argmax(1) == two.labels).double())


def test_linear_probe_is_on_unit_features():
    problem = posed()
    from dtheta.core.logistic import logistic_regression

    fitted = logistic_regression(F.normalize(problem.support.features, dim=1), problem.support.labels, 3, 2.0)
    logits = fitted.logits(F.normalize(problem.test.features, dim=1))
    assert torch.equal(linear_probe(problem, 2.0).correct, (logits.argmax(1) == problem.test.labels).double())


def test_errors():
    with pytest.raises(ConfigError, match="augment is 'no'; expected True or False"):
        FewShot(CoOp(2), augment="no")  # type: ignore[arg-type]
    problem = posed()
    numbers = ("lr", math.nan), ("lr", 0.0), ("steps", 0), ("batch_size", 0), ("weight_decay", -1.0), ("validate", -1)
    for wrong in ({name: number} for name, number in numbers):
        with pytest.raises(ConfigError):
            FewShot(CLIPSVD(), **wrong)
    images = pictures(6, "support")
    with pytest.raises(ConfigError, match="labels 0 to 3, the classifier 3 classes"):
        image_problem(problem.net, PIXELS, images, Images(images.images, torch.arange(6) % 4))
    for labels in (torch.arange(5) % 3, (torch.arange(6) % 3).float(), torch.ones(6, 3, dtype=torch.long)):
        with pytest.raises(ConfigError, match="test labels must be a class id"):
            image_problem(problem.net, PIXELS, images, Images(images.images, labels))
    with pytest.raises(ConfigError, match="no support images"):
        image_problem(problem.net, PIXELS, images.take(torch.arange(0)), images)
    with pytest.raises(ConfigError, match="validate=10 must lie between 0 and 9"):
        adapt_images(problem, FewShot(CLIPSVD(), validate=10), quiet=True)
    adapter = attach(problem.net, LoRA(rank=1))
    for call in (zero_shot, linear_probe, lambda p: adapt_images(p, FewShot(CLIPSVD()))):
        with pytest.raises(ConfigError, match="detach it first"):
            call(problem)
    adapter.detach()


def test_a_mean_of_contexts_by_image_is_judged():
    problem = posed()
    made = [adapt_images(problem, FewShot(CoCoOp(length=2), steps=1, seed=s), quiet=True).delta for s in (0, 1)]
    assert judge_delta(problem, (made[0] + made[1]) / 2).logits.shape == (len(problem.test.labels), 3)
