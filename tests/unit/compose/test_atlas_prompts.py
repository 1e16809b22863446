"""Coefficients of prompts: their gradient, what they find, what stays as it is, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.adapt.method import Method
from dtheta.adapt.prompts.coop import CoOp
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.p_tuning import PTuning
from dtheta.adapt.prompts.prefix_tuning import PrefixTuning
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.adapt.prompts.upt import UPT
from dtheta.adapt.prompts.vpt import VPT
from dtheta.compose.atlas import learn_coefficients
from dtheta.compose.coefficients import Coefficients, blocks, changed
from dtheta.compose.compose import compose
from dtheta.compose.negation import learn_negation
from dtheta.compose.prompts import shown
from dtheta.core.change import New
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.seeds import generator
from dtheta.errors import BaseMismatch, ConfigError, ShapeMismatch, UnknownParameter, UnsupportedLayer
from tests.unit.adapt.prompts.conftest import TEXT, make
from tests.unit.adapt.prompts.image_models import (
    cosines,
    image_features,
    make_classifier,
    make_clip,
    pictures,
    text_features,
    with_context,
)  # fmt: skip
from tests.unit.compose.examples import bits, normal

Batch = dict[str, Tensor]
LABELS = torch.tensor([2, 0, 1, 2])
TABLE = "prompt.input.offset"


def prompts(model: nn.Module, method: Method, count: int = 3, size: float = 0.5) -> list[Delta]:
    """Prompts of one kind with different vectors; the model is as it was."""
    found = []
    for seed in range(count):
        adapter = attach(model, method, seed=seed)
        with torch.no_grad():
            for index, p in enumerate(adapter.trainable().values()):
                p.add_(torch.randn(p.shape, generator=generator(seed, "prompt", index)), alpha=size)
        found.append(adapter.folded())
        adapter.detach()
    return found


def text_loss(model: Any, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["input_ids"]).logits.flatten(0, 1), batch["labels"].flatten())


def image_loss(model: Any, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["pixel_values"]).logits, batch["labels"])


def gradient(adapter: nn.Module, deltas: Sequence[Delta], values_nm: Tensor, loss: Callable[..., Tensor]) -> Tensor:
    """The gradient (n, m) that learning takes."""
    names = blocks(deltas)
    with shown(adapter, deltas, names, changed(deltas, names)) as composition:
        composition.show(values_nm[..., None])
        composition.backward(loss(composition.model))
        return composition.gradient[..., 0].clone()


def mixed(deltas: Sequence[Delta], c_nm: Tensor) -> dict[str, Tensor]:
    """The explicit sums, through which torch differentiates."""
    return {
        name: sum((c_nm[i, j].float() * d[name].dense() for i, d in enumerate(deltas)), torch.zeros(()))
        for j, name in enumerate(blocks(deltas))
    }


TEXT_METHODS = [PromptTuning(4), DePT(3, rank=2, positions=8), DePT(2, rank=2, positions=600), PTuning(4, 8)]


@pytest.mark.parametrize("method", TEXT_METHODS, ids=repr)
def test_the_gradient_is_that_through_the_sum_in_a_text_model(method: Method) -> None:
    model = make("llama")
    deltas = prompts(model, method)
    values = normal(3, len(deltas[0]), name="values").double()
    labels = (TEXT * 5 + 1) % 64
    c = values.clone().requires_grad_()
    sums = mixed(deltas, c)
    words = model.get_input_embeddings()(TEXT) + (sums[TABLE][: TEXT.shape[1]] if TABLE in sums else 0)
    logits = model(inputs_embeds=torch.cat([sums["prompt.input"][None], words], 1)).logits[:, -TEXT.shape[1] :]
    (wanted,) = torch.autograd.grad(F.cross_entropy(logits.flatten(0, 1), labels.flatten()), c)
    batch = {"input_ids": TEXT, "labels": labels}
    found = gradient(attach(model, deltas[0]), deltas, values, lambda net: text_loss(net, batch))
    assert float(wanted.abs().min()) > 1e-4
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("method", [CoOp(4), VPT(2), UPT(4)], ids=repr)
def test_the_gradient_is_that_through_the_sum_in_an_image_model(method: Method) -> None:
    model = make_classifier(make_clip())
    deltas = prompts(model, method, size=0.1)
    values = normal(3, len(deltas[0]), name="values").double()
    c = values.clone().requires_grad_()
    sums, clip = mixed(deltas, c), model.model
    context = next((v for name, v in sums.items() if name.startswith("prompt.text")), None)
    layers = {int(name.rpartition(".")[2]): v for name, v in sums.items() if name.startswith("prompt.visual")}
    context = torch.zeros(0, 16) if context is None else context
    text = text_features(clip, with_context(clip, [context] * 3, "middle"))
    image = image_features(clip, pictures(), layers or {0: torch.zeros(0, 24)})
    (wanted,) = torch.autograd.grad(F.cross_entropy(cosines(image, text, clip), LABELS), c)
    batch = {"pixel_values": pictures(), "labels": LABELS}
    found = gradient(attach(model, deltas[0]), deltas, values, lambda net: image_loss(net, batch))
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def teach(model: nn.Module, target: Delta, count: int = 1) -> list[Batch]:
    """Texts, and what a prompt makes of them."""
    adapter = attach(model, target)
    ids = [torch.randint(2, 64, (4, 7), generator=generator(i, "ids")) for i in range(count)]
    with torch.no_grad():
        found = [{"input_ids": x, "logits": adapter(x).logits} for x in ids]
    adapter.detach()
    return found


def error(model: Any, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch["input_ids"]).logits, batch["logits"])


def mean_error(model: Any, batches: Sequence[Batch]) -> float:
    with torch.no_grad():
        return sum(float(error(model, batch)) for batch in batches) / len(batches)


SETTINGS: dict[str, Any] = {"epochs": 100, "lr": 5e-2, "weight_decay": 0.0, "schedule": "cosine", "clip": None}


PLANTED = [("gpt2", PromptTuning(4)), ("gpt2", DePT(2, rank=2, positions=8)), ("llama", PrefixTuning(3))]


@pytest.mark.parametrize(("family", "method"), PLANTED, ids=repr)
def test_the_coefficients_that_made_the_target_are_found_and_beat_the_mean(family: str, method: Method) -> None:
    model = make(family)
    deltas = prompts(model, method)
    table = 1 / 3 + 0.3 * normal(3, len(deltas[0]), name="table").double()
    batches = teach(model, compose(deltas, table))
    adapter = attach(model, deltas[0])
    metric = lambda net: mean_error(net, batches)  # noqa: E731
    found = learn_coefficients(adapter, deltas, batches, error, metric=metric, better="lower", **SETTINGS)
    assert torch.allclose(found.values[..., 0], table, atol=0.03)
    assert found.report is not None
    epochs = found.report.epochs
    assert epochs[-1].loss < 1e-2 * epochs[1].loss  # type: ignore[operator]
    adapter.detach()
    scores = []
    for delta in (compose(deltas, 1 / 3), compose(deltas, found)):
        again = attach(model, delta)
        scores.append(metric(again))
        again.detach()
    assert scores[0] == pytest.approx(epochs[0].scores["score"], rel=1e-4)  # the start is the mean
    assert scores[1] < 0.01 * scores[0]


def test_what_was_trained_is_what_compose_makes_again(tmp_path: Any) -> None:
    model = make("llama")
    for method in (PromptTuning(4), DePT(2, rank=2, positions=8, alpha=8.0)):
        deltas = prompts(model, method)
        batches, seen = teach(model, deltas[1]), []

        def metric(net: Any, batches: list[Batch] = batches, seen: list[Tensor] = seen) -> float:
            with torch.no_grad():
                seen.append(net(batches[0]["input_ids"]).logits)
            return -float(len(seen))

        adapter = attach(model, deltas[0])
        found = learn_coefficients(adapter, deltas, batches, error, metric=metric, better="lower", epochs=3, lr=0.1)
        adapter.detach()
        learned = compose(deltas, found)
        again = attach(model, learned)
        assert torch.allclose(again(batches[0]["input_ids"]).logits, seen[-1], rtol=1e-6, atol=1e-6)
        again.detach()
        learned.save(tmp_path / "learned.delta")
        record = Coefficients.from_settings(load(tmp_path / "learned.delta").provenance.settings["coefficients"])
        assert record == found and compose(deltas, record).digest == learned.digest


def test_an_image_classifier_learns_and_isotropic_ties_all_names() -> None:
    model = make_classifier(make_clip())
    deltas = prompts(model, UPT(4), size=0.1)
    batches = [{"pixel_values": pictures(), "labels": LABELS}]
    adapter = attach(model, deltas[0])
    found = learn_coefficients(adapter, deltas, batches, image_loss, isotropic=True, epochs=8, lr=0.1)
    assert torch.equal(found.values, found.values[:, :1].expand_as(found.values))
    losses = [epoch.loss for epoch in found.report.epochs[1:]]  # type: ignore[union-attr]
    assert losses[-1] < losses[0]  # type: ignore[operator]


def test_the_start_and_where_decay_pulls() -> None:
    """Without a gradient nothing moves, whatever the decay: the mean, or the start that was asked for."""
    model = make("llama")
    deltas = prompts(model, PromptTuning(4), count=4)
    still = lambda net, batch: 0.0 * text_loss(net, batch)  # noqa: E731
    batches = [{"input_ids": TEXT, "labels": TEXT}]
    adapter = attach(model, deltas[0])
    for start, wanted in ((None, 0.25), (0.5, 0.5)):
        found = learn_coefficients(adapter, deltas, batches, still, start=start, lr=0.1, weight_decay=0.5, epochs=3)
        assert torch.equal(found.values, torch.full((4, 1, 1), wanted, dtype=torch.float64))


def test_base_and_adapter_are_as_before() -> None:
    model = make("llama")
    deltas = prompts(model, DePT(2, rank=2, positions=8))
    batches = teach(model, deltas[1])
    adapter = attach(model, deltas[0]).train()
    with torch.no_grad():
        logits = adapter(TEXT).logits
    text_loss(adapter, {"input_ids": TEXT, "labels": TEXT}).backward()  # gradients of a training under way
    before = bits(adapter)
    learn_coefficients(adapter, deltas, batches, error, epochs=2)
    assert bits(adapter) == before
    with pytest.raises(ZeroDivisionError):
        learn_coefficients(adapter, deltas, batches, lambda net, batch: torch.tensor(1 / 0))
    assert bits(adapter) == before and torch.equal(adapter(TEXT).logits, logits)
    assert adapter.delta().digest == deltas[0].digest


def test_embeddings_of_float16_scale_the_loss() -> None:
    model = make("llama").half()
    deltas = prompts(model, PromptTuning(4))
    batches = [{"input_ids": TEXT, "labels": TEXT}]
    tiny = lambda net, batch: 1e-7 * text_loss(net, batch)  # noqa: E731
    found = learn_coefficients(attach(model, deltas[0]), deltas, batches, tiny, epochs=1, clip=None)
    assert bool((found.values != 1 / 3).all())


def test_other_names_and_shapes_are_refused() -> None:
    model = make("llama")
    deltas, batches = prompts(model, PromptTuning(4)), [{"input_ids": TEXT, "labels": TEXT}]
    adapter = attach(model, deltas[0])

    def refused(kind: type[Exception], match: str, *given: Delta, on: nn.Module = adapter, **extra: Any) -> None:
        with pytest.raises(kind, match=match):
            learn_coefficients(on, list(given) or deltas, batches, text_loss, **extra)

    refused(UnsupportedLayer, r"prompt\.input: a delta brings.*attach\(model, deltas\[0\]\)", on=model)
    refused(ShapeMismatch, r"prompt\.input: ", deltas[0], prompts(model, PromptTuning(5))[0])
    refused(ShapeMismatch, r"\(4, 16\) is attached, and \(5, 16\)", *prompts(model, PromptTuning(5)))
    table = prompts(model, DePT(4, rank=2, positions=8))
    refused(UnknownParameter, rf"delta 0 has no '{TABLE}'", deltas[0], table[0])
    refused(UnknownParameter, rf"the adapter has no '{TABLE}'", *table)
    refused(UnknownParameter, rf"the adapter has '{TABLE}'", on=attach(make("llama"), table[0]))
    low = attach(make("llama"), LoRA(rank=2), select="*q_proj*").delta()
    both = Delta({**deltas[0].changes, **low.changes}, deltas[0].base)
    refused(UnsupportedLayer, "apart", both)
    refused(ConfigError, "also moves", on=attach(make("llama"), both, strict=False))
    refused(ConfigError, "weight 0.5", on=attach(make("llama"), deltas[0], weight=0.5))
    off = attach(make("llama"), deltas[0])
    with off.disabled():
        refused(ConfigError, "enabled=False", on=off)
    off.detach()
    refused(ConfigError, "detached", on=off)
    refused(ConfigError, "prompt of zeros", start=0.0)
    refused(ConfigError, "budget=1", budget=1)
    refused(ConfigError, "one coefficient", parts=2)
    refused(ConfigError, "one coefficient", linearized=True)
    moved = make("llama")
    with torch.no_grad():
        moved.get_input_embeddings().weight.add_(1.0)
    refused(BaseMismatch, "embed_tokens", on=attach(moved, deltas[0], strict=False))
    with pytest.raises(UnsupportedLayer, match="no coefficient here"):
        learn_negation(
            adapter, deltas, batches, batches, text_loss, target_metric=lambda net: 0.0, control_metric=lambda net: 1.0
        )


def test_a_vector_of_another_shape_is_not_shown() -> None:
    adapter = attach(make("llama"), PromptTuning(4))
    with pytest.raises(UnknownParameter, match="no_such"), adapter.showing({"no_such": torch.zeros(4, 16)}):
        pass
    with adapter.showing({"prompt.input": (values := torch.zeros(4, 16))}) as leaves:
        assert leaves["prompt.input"].data_ptr() == values.data_ptr()
        zeros = adapter(TEXT).logits
        other = attach(make("llama"), Delta({"prompt.input": New(values)}))
        assert torch.equal(zeros, other(TEXT).logits)
    assert not torch.equal(adapter(TEXT).logits, zeros)
