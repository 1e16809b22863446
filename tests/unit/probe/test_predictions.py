"""Logits at chosen tokens against all logits, of which the same are taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.adapt.attach import attach
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.probe.encoded import Encoded, collate
from dtheta.probe.predictions import logits_at, predictions
from tests.unit.probe.decoders import DECODERS, D, V, gemma2, llama

ROWS = [Encoded([5, 6, 7, 8, 9], 3), Encoded([11, 12], 1), Encoded([3, 4, 5, 6, 7, 8, 9], 6)]


class Unembedded(nn.Module):
    """A decoder that multiplies by its unembedding itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = llama()

    def get_output_embeddings(self) -> nn.Module:
        return self.inner.lm_head

    def forward(self, **inputs: Any) -> Any:
        output = self.inner.model(**inputs)
        output.logits = F.linear(output.last_hidden_state, self.inner.lm_head.weight)
        return output


MODELS = {**DECODERS, "soft cap": gemma2, "own product": Unembedded}


def plain(model: Any, chosen_BT: Tensor) -> Tensor:
    """All logits, then the chosen ones."""
    batch = collate(ROWS)
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[chosen_BT].float()


@pytest.mark.parametrize("kind", MODELS)
def test_they_are_the_models_logits(kind: str) -> None:
    model, batch = MODELS[kind](), collate(ROWS)
    chosen_BT = torch.rand(batch["input_ids"].shape, generator=torch.Generator().manual_seed(0)) < 0.4
    assert 0 < int(chosen_BT.sum()) < chosen_BT.numel()
    assert torch.allclose(logits_at(model, batch, chosen_BT), plain(model, chosen_BT), atol=1e-5)


@pytest.mark.parametrize("chosen", ["none", "all"])
def test_any_number_of_tokens(chosen: str) -> None:
    model, batch = llama(), collate(ROWS)
    chosen_BT = torch.full(batch["input_ids"].shape, chosen == "all")
    found_AV = logits_at(model, batch, chosen_BT)
    assert found_AV.shape == (int(chosen_BT.sum()), V)
    assert torch.allclose(found_AV, plain(model, chosen_BT), atol=1e-5)


def test_one_row_of_which_all_tokens_are_chosen() -> None:
    model, batch = llama(), collate(ROWS[:1])
    found_AV = logits_at(model, batch, torch.ones_like(batch["input_ids"], dtype=torch.bool))
    assert torch.allclose(found_AV, model(input_ids=batch["input_ids"]).logits[0], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_widths(dtype: torch.dtype) -> None:
    model, batch = llama().to(dtype), collate(ROWS)
    chosen_BT = torch.arange(7) < torch.tensor([[2], [1], [5]])
    wanted_AV = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[chosen_BT]
    found_AV = logits_at(model, batch, chosen_BT)
    assert found_AV.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.allclose(found_AV, wanted_AV.to(found_AV.dtype), atol=2e-2 if dtype == torch.bfloat16 else 1e-12)


class Before(nn.Module):
    """A decoder that writes two tokens before each text, and gives their logits too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = llama()

    def get_output_embeddings(self) -> nn.Module:
        return self.inner.lm_head

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **more: Any) -> Any:
        ids, mask = F.pad(input_ids, (2, 0), value=4), F.pad(attention_mask, (2, 0), value=1)
        return self.inner(input_ids=ids, attention_mask=mask, **more)


@pytest.mark.parametrize("rows", [1, 3])
def test_logits_of_prompts_before_the_text_are_left_out(rows: int) -> None:
    model, batch = Before(), collate(ROWS[-rows:])
    chosen_BT = batch["labels"] > 0
    wanted_AV = model(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits[:, 2:][chosen_BT]
    assert torch.allclose(logits_at(model, batch, chosen_BT), wanted_AV, atol=1e-5)


def test_the_unembedding_sees_the_chosen_tokens_only() -> None:
    model, seen = llama(), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    predictions(model, collate(ROWS))
    assert seen == [(1, 4, D)]  # two, one and one token of the answers


@pytest.mark.parametrize("method", [LoRA(rank=2), Full(), PromptTuning(3)], ids=lambda m: type(m).__name__)
def test_losses_and_gradients_under_an_adapter(method: Any) -> None:
    model, batch = llama(), collate(ROWS)
    adapter = attach(model, method, seed=1)
    with torch.no_grad():
        for p in adapter.trainable().values():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    wanted = adapter(**batch).loss  # transformers' own: the mean over the labelled tokens
    found = predictions(adapter, batch).losses_A().mean()
    assert torch.allclose(found, wanted, atol=1e-5)
    trained = list(adapter.trainable().values())
    for p, ours, theirs in zip(trained, *(torch.autograd.grad(x, trained) for x in (found, wanted)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
        assert ours.shape == p.shape


def test_tokens_are_summed_by_their_rows() -> None:
    model, batch = llama(), collate(ROWS)
    found = predictions(model, batch)
    assert found.target_A.tolist() == [8, 9, 12, 9]
    assert found.row_A.tolist() == [0, 0, 1, 2]
    for b, row in enumerate(ROWS):
        alone = predictions(model, collate([row])).losses_A().sum()
        assert torch.allclose(found.sums_B(found.losses_A())[b], alone, atol=1e-5)


def test_nothing_is_left_on_the_model() -> None:
    model = llama()
    with pytest.raises(IndexError):
        logits_at(model, {**collate(ROWS), "input_ids": torch.full((3, 7), V)}, torch.ones(3, 7, dtype=torch.bool))
    assert not model.lm_head._forward_pre_hooks
