"""The main job as a function: what it promises of the base, the seed, the head's start and the comparison."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dtheta.adapt.bitfit import BitFit
from dtheta.adapt.classify import adapt_classifier
from dtheta.adapt.frozen import predicted_logits
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.adapt.recipe import Recipe
from dtheta.adapt.sorsa import SORSA
from dtheta.adapt.tasks import task_model
from dtheta.adapt.text_problem import Problem, frozen_baseline, problem
from dtheta.core.apply import applied
from dtheta.core.fingerprint import fingerprint
from dtheta.data.text import Texts, TextTask
from dtheta.errors import ConfigError
from tests.unit.adapt.test_frozen import Words

LETTERS = "abcdefghij"


@pytest.fixture
def posed(tiny_bert: nn.Module) -> Problem:
    """Which of two letters comes in a text."""
    texts = [f"{LETTERS[i % 7]}{'xy'[i % 2]}{LETTERS[(3 * i) % 10]}{i}" for i in range(60)]
    cut = lambda a, b: Texts(tuple(texts[a:b]), tuple(i % 2 for i in range(a, b)))  # noqa: E731
    task = TextTask("letters", ("x", "y"), cut(0, 40), cut(40, 60), "ours", "here")
    return problem(tiny_bert, Words(), task, max_length=12)


def test_base_and_modes_are_as_they_were_and_the_delta_gives_the_same_scores(posed: Problem) -> None:
    before, training = fingerprint(posed.net), posed.net.training
    frozen = frozen_baseline(posed)
    found = adapt_classifier(posed, Recipe(LoRA(rank=2), steps=5, max_length=12), frozen, model_name="tiny", quiet=True)
    assert fingerprint(posed.net) == before
    assert posed.net.training == training
    net = task_model(found.delta, posed.net.encoder)
    with applied(net, found.delta):
        right = predicted_logits(net, posed.test).argmax(1) == torch.tensor(posed.test.labels)
    assert float(right.double().mean()) == pytest.approx(found.score.estimate)
    assert found.gain.estimate == pytest.approx(found.score.estimate - frozen.accuracy.estimate)
    task = found.delta.provenance.task
    assert (task["model"], task["data"], task["train"], task["test"]) == ("tiny", "letters", 40, 20)


def test_the_head_starts_where_the_baseline_ends(posed: Problem) -> None:
    frozen = frozen_baseline(posed, C=1.0)
    recipe = Recipe(LoRA(rank=2), steps=1, lr=1e-12, head_lr=1e-12, head_C=1.0, max_length=12)
    found = adapt_classifier(posed, recipe, frozen, quiet=True)
    assert found.score == frozen.accuracy
    assert found.gain.estimate == 0.0
    zero = adapt_classifier(posed, Recipe(LoRA(rank=2), steps=1, head="zero", max_length=12), frozen, quiet=True)
    assert zero.record.losses[0][1] == pytest.approx(0.6931, abs=1e-4)


def test_every_method_sees_the_same_batches_and_start(posed: Problem) -> None:
    frozen = frozen_baseline(posed)
    recipes = [Recipe(method, steps=2, max_length=12) for method in (LoRA(rank=2), SORSA(rank=2), Full(), BitFit())]
    first = {adapt_classifier(posed, recipe, frozen, quiet=True).record.losses[0][1] for recipe in recipes}
    assert max(first) - min(first) < 1e-6


def test_orthogonality_is_watched_where_factors_start_orthonormal(posed: Problem) -> None:
    frozen = frozen_baseline(posed)
    found = adapt_classifier(posed, Recipe(SORSA(rank=2), steps=3, max_length=12), frozen, quiet=True)
    assert [step for step, _ in found.orthogonality] == [0, 1, 2, 3]
    assert adapt_classifier(posed, Recipe(LoRA(rank=2), steps=1, max_length=12), frozen, quiet=True).orthogonality == ()


def test_validation_texts_are_not_trained_on(posed: Problem) -> None:
    frozen = frozen_baseline(posed)
    recipe = Recipe(LoRA(rank=2), steps=4, validate=10, max_length=12)
    found = adapt_classifier(posed, recipe, frozen, quiet=True)
    assert found.record.best is not None
    for count in (39, -1):
        with pytest.raises(ConfigError, match=f"validate={count}"):
            adapt_classifier(posed, Recipe(LoRA(rank=2), validate=count, max_length=12), frozen, quiet=True)
