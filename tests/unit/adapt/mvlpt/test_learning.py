"""Source prompts, their average over seeds, and adaptation to one target or several: the base is never written to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import dtheta as dt
from dtheta.adapt.method import Method
from dtheta.adapt.mvlpt.learning import learn_prompt
from dtheta.adapt.prompts.coop import CoOp
from dtheta.adapt.prompts.upt import UPT
from dtheta.adapt.prompts.vpt import VPT
from dtheta.data.mixture import Mixture, mixture_loader
from dtheta.errors import ConfigError
from dtheta.models.multitask_images import MultiTaskImages

OPTIONS: dict[str, Any] = {"steps": 6, "lr": 0.05, "quiet": True}
METHODS = [CoOp(length=4), VPT(length=2), UPT(length=2, width=8)]


@pytest.fixture
def net(classifier: Callable[..., Any]) -> MultiTaskImages:
    return MultiTaskImages({"first": classifier(2, 3, 4), "second": classifier(5, 6)})


@pytest.fixture
def mixture(images: Callable[..., Any]) -> Mixture:
    return Mixture([images("first", 3), images("second", 2)], (3, 2))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_one_prompt_learns_several_tasks_and_starts_a_target(
    method: Method, net: MultiTaskImages, mixture: Mixture, classifier: Callable[..., Any], images: Callable[..., Any]
) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    source, record = learn_prompt(net, method, mixture_loader(mixture, 12), **OPTIONS)
    assert record.losses[-1][1] < record.losses[0][1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    target, data = classifier(7, 8), images("third", 2)
    batch = data.tensors
    start = dt.attach(target, source)
    with torch.no_grad():
        first = float(target(**batch).loss)
    start.detach()
    tuned, record = learn_prompt(target, source, data, **OPTIONS)
    assert record.losses[0][1] == pytest.approx(first, rel=1e-5)  # it goes on from the source prompt
    assert record.losses[-1][1] < first and set(tuned) == set(source)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_seeds_are_averaged_in_parameter_space(method: Method, net: MultiTaskImages, mixture: Mixture) -> None:
    options = {**OPTIONS, "steps": 2}
    a, b, c = (learn_prompt(net, method, mixture_loader(mixture, 12, s), seed=s, **options)[0] for s in range(3))
    mean = (a + b + c) / 3
    for name in a:
        wanted = (a[name].dense() + b[name].dense() + c[name].dense()) / 3
        assert torch.allclose(mean[name].dense(), wanted, atol=1e-6)
    group, _ = learn_prompt(net, mean, mixture_loader(mixture, 12), **options)  # several targets, jointly
    assert set(group) == set(a)


def test_the_mean_over_tasks_or_one_task_chooses_the_checkpoint(net: MultiTaskImages, mixture: Mixture) -> None:
    val = mixture_loader(mixture, 24, shuffle=False)
    options = {**OPTIONS, "eval": val, "eval_every": 2}
    for choose, task in ((None, None), ("second", 1)):
        prompt, record = learn_prompt(net, CoOp(length=4), mixture_loader(mixture, 12), choose=choose, **options)
        assert record.metric == "task_accuracy" and record.best is not None
        assert record.best.scores["task_accuracy"] == max(e.scores["task_accuracy"] for e in record.evals)
        adapter = dt.attach(net, prompt)
        with torch.no_grad():
            logits, labels = zip(*((net(**batch).logits, batch["labels"]) for batch in val), strict=True)
        adapter.detach()
        metric = net.accuracy() if task is None else net.accuracy(list(net.tasks)[task])
        found = dt.score.evaluate([metric], [(torch.cat(logits), torch.cat(labels))])
        assert found["task_accuracy"] == pytest.approx(record.best.scores["task_accuracy"])


def test_the_seed_decides(net: MultiTaskImages, mixture: Mixture) -> None:
    runs = [learn_prompt(net, CoOp(length=4), mixture_loader(mixture, 12, s), seed=s, **OPTIONS)[0] for s in (0, 0, 1)]
    assert runs[0] == runs[1] and runs[0] != runs[2]


def test_bad_input_is_refused_and_nothing_stays_attached(
    net: MultiTaskImages, mixture: Mixture, classifier: Callable[..., Any], images: Callable[..., Any]
) -> None:
    data = mixture_loader(mixture, 12)
    with pytest.raises(ConfigError, match="several tasks"):
        learn_prompt(classifier(2, 3), CoOp(length=4), images("x", 2), choose="first", **OPTIONS)
    with pytest.raises(ConfigError, match="eval="):
        learn_prompt(net, CoOp(length=4), data, choose="first", **OPTIONS)
    with pytest.raises(ConfigError, match="no task 'third'"):
        learn_prompt(net, CoOp(length=4), data, choose="third", eval=data, **OPTIONS)
    plain = net(mixture[0]["pixel_values"][None]).logits
    with pytest.raises(ConfigError, match="lr"):
        learn_prompt(net, CoOp(length=4), data, steps=2, lr=-1.0, quiet=True)
    assert torch.equal(net(mixture[0]["pixel_values"][None]).logits, plain)
    assert all(parameter.requires_grad for parameter in net.parameters())
