"""Training: the loop, its checkpoints, classifiers, and the recipe behind ``dtheta adapt``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dtheta.adapt.attach import attach
from dtheta.adapt.classify import adapt_classifier, require_classifier
from dtheta.adapt.frozen import pooled_features, predicted_logits
from dtheta.adapt.method import Method
from dtheta.adapt.prompts.adept import ADePT
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.p_tuning import PTuning
from dtheta.adapt.prompts.prefix_tuning import PrefixTuning
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.adapt.recipe import Recipe
from dtheta.adapt.tasks import task_model
from dtheta.adapt.text_problem import frozen_baseline, problem
from dtheta.core.files import load
from dtheta.core.logistic import logistic_regression
from dtheta.data.batches import EncodedTexts
from dtheta.data.text import TextTask
from dtheta.errors import ConfigError
from dtheta.fit.loop import fit
from dtheta.fit.optimizer import parameter_groups
from dtheta.fit.run import Step
from dtheta.fit.settings import Settings
from dtheta.models.classifier import classifier
from tests.unit.adapt.prompts.conftest import TEXT, make

METHODS = [PromptTuning(4), DePT(3, rank=2, positions=8), PTuning(3, hidden=8), PrefixTuning(3), ADePT(3, rank=4)]


def batches(count: int = 6) -> list[dict[str, torch.Tensor]]:
    """Texts of mixed lengths with their own ids as labels."""
    found = []
    for i in range(count):
        ids = torch.randint(2, 64, (4, 7), generator=torch.Generator().manual_seed(i))
        mask = (torch.arange(7)[None] < torch.tensor([[7], [4], [5], [7]])).long()
        found.append({"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)})
    return found


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_only_the_head_trains_at_the_rate_of_full_weights(method: Method) -> None:
    """Vectors are no displacement of a weight: ``lr`` is theirs, whatever the head beside them needs."""
    net = classifier(make("llama" if isinstance(method, PrefixTuning) else "bert"), 2)
    adapter = attach(net, method, also="head.*")
    groups = parameter_groups(adapter, Settings(steps=1, lr=0.05, full_lr=1e-3))
    names = {id(p): name for name, p in adapter.trainable().items()}
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    slow = {name for name, rate in rates.items() if rate == 1e-3}
    assert slow == {name for name in rates if "head" in name}


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_killed_run_ends_with_the_same_bits(method: Method, tmp_path: Path) -> None:
    def run(folder: Path | None, until: int | None = None, resume: bool = False) -> str:
        adapter = attach(make("llama"), method)

        def stop(step: Step) -> None:
            if step.step == until:
                raise KeyboardInterrupt

        saves: dict[str, Any] = {} if folder is None else {"checkpoint": folder, "checkpoint_every": 2}
        fit(adapter, batches(), steps=6, lr=0.05, callbacks=[stop], resume=resume, quiet=True, seed=3, **saves)
        return adapter.delta().digest

    whole = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", until=3)
    assert run(tmp_path / "run", resume=True) == whole


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_training_lowers_the_loss(method: Method) -> None:
    adapter = attach(make("llama"), method)
    record = fit(adapter, batches(1), steps=25, lr=0.05, quiet=True)
    assert record.losses[-1][1] < record.losses[0][1] - 0.1


def test_the_two_rates_of_dept_reach_the_optimizer() -> None:
    adapter = attach(make("llama"), DePT(3, rank=2, positions=8, offset_lr=1e-9))
    before = {n: p.detach().clone() for n, p in adapter.trainable().items()}
    fit(adapter, batches(), steps=3, lr=0.1, quiet=True)
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in adapter.trainable().items()}
    assert moved["prompt.input.values"] > 0.05 and moved["prompt.input.offset.right"] < 1e-7


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_classifier_pools_the_text_alone(name: str) -> None:
    net = classifier(make(name), ["a", "b"])
    with torch.no_grad():
        net.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    adapter = attach(net, DePT(3, rank=2, positions=8), also="head.*")
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    found = net(TEXT, mask).logits
    hidden = net.encoder(TEXT, attention_mask=mask).last_hidden_state
    pooled = hidden[:, :4].mean(1) if name == "bert" else hidden[:, 3]
    assert torch.allclose(found, net.head(pooled), atol=1e-5)
    assert torch.allclose(net(TEXT[:, :4], mask[:, :4]).logits, found, atol=1e-5)
    net(TEXT, mask, labels=torch.tensor([1])).loss.backward()
    assert {n.rpartition(".")[0] for n, p in adapter.trainable().items() if p.grad is not None and p.grad.any()} == {
        "prompt.input", "prompt.input.offset", "head.weight", "head.bias",
    }  # fmt: skip


@pytest.mark.parametrize("method", [PromptTuning(4), DePT(2, rank=2, positions=32)], ids=repr)
def test_the_recipe_on_minilm(
    method: Method, minilm_factory: Any, minilm_tokenizer: Any, bbc_small: TextTask, tmp_path: Path
) -> None:
    model = minilm_factory()
    posed = problem(model, minilm_tokenizer, bbc_small, max_length=32)
    recipe = Recipe(method, steps=2, batch_size=4, max_length=32)
    adapted = adapt_classifier(posed, recipe, frozen_baseline(posed), quiet=True)
    head = sum(p.numel() for p in posed.net.head.parameters())
    counted = method.parameters(384) if isinstance(method, DePT) else 4 * 384
    assert adapted.parameters == counted + head
    delta = load(adapted.delta.save(tmp_path / "a.delta"))
    net = task_model(delta, minilm_factory())
    attach(net, delta)
    texts = EncodedTexts(bbc_small.test, minilm_tokenizer, 32)
    score = (predicted_logits(net, texts).argmax(1) == torch.tensor(texts.labels)).double().mean()
    assert float(score) == pytest.approx(adapted.score.estimate)


def test_the_head_starts_at_the_regression_on_what_the_prompt_makes_of_the_texts(
    minilm_factory: Any, minilm_tokenizer: Any, bbc_small: TextTask
) -> None:
    posed = problem(minilm_factory(), minilm_tokenizer, bbc_small, max_length=24)
    recipe = Recipe(PromptTuning(8, "normal"), steps=1, batch_size=4, lr=1e-12, head_lr=1e-12, max_length=24)
    delta = adapt_classifier(posed, recipe, frozen_baseline(posed), quiet=True).delta
    attach(posed.net, recipe.method)
    features = pooled_features(posed.net, posed.train)
    expected = logistic_regression(features, torch.tensor(posed.train.labels), 5, recipe.head_C)
    assert torch.allclose(delta["head.weight"].dense(), expected.weight.float(), atol=1e-6)


def test_a_selection_is_refused_before_anything_is_computed(bbc_small: TextTask) -> None:
    net = classifier(make("bert"), bbc_small.classes)
    with pytest.raises(ConfigError, match="nothing to select"):
        require_classifier(net, bbc_small, Recipe(PromptTuning(4), select="*"))
