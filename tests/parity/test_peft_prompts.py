"""Prompt tuning against peft's: the same logits where texts are padded on the right, and peft's error on the left."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dtheta.adapt.attach import attach
from dtheta.adapt.prompts.tuning import PromptTuning
from tests.unit.adapt.prompts.conftest import TEXT, make, of_text, padded

peft = pytest.importorskip("peft")
TASKS = {"llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}


def theirs(name: str, prompt: torch.Tensor, left: int, right: int) -> torch.Tensor:
    """Return peft's logits of the tokens of TEXT behind padding."""
    extra: dict[str, Any] = {"num_transformer_submodules": 1} if name == "t5" else {}
    config = peft.PromptTuningConfig(task_type=TASKS[name], num_virtual_tokens=len(prompt), **extra)
    model = peft.get_peft_model(make(name), config).eval()
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(prompt)
    given: dict[str, Any] = dict(padded(left, right))
    if name == "t5":
        return model(**given, decoder_input_ids=torch.tensor([[0, 5, 9]])).logits
    start = len(prompt) + left
    return model(**given).logits[:, start : start + TEXT.shape[1]]


@pytest.mark.parametrize("name", list(TASKS))
def test_padding_on_the_right_and_on_the_left(name: str) -> None:
    model = make(name)
    prompt = attach(model, PromptTuning(4)).term("prompt.input").matrix().detach()
    whole = of_text(model, 0, 0)
    for right in (0, 3):
        assert torch.allclose(of_text(model, 0, right), theirs(name, prompt, 0, right), atol=1e-5)
    assert torch.allclose(of_text(model, 3, 0), whole, atol=1e-5)
    wrong = (theirs(name, prompt, 3, 0) - whole).abs().max()
    assert wrong > 0.1, f"peft is right by now ({wrong:.1e}): say so in docs/prompts.md"
