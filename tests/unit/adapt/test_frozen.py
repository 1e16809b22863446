"""The frozen-encoder baseline: features and logits that do not depend on how they are batched."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dtheta.adapt.frozen import pooled_features, predicted_logits
from dtheta.core.seeds import generator
from dtheta.data.batches import EncodedTexts
from dtheta.data.text import Texts
from dtheta.models.classifier import classifier


class Words:
    """A tokenizer of single letters."""

    model_max_length, pad_token_id = 16, 0

    def __call__(self, texts: list[str], max_length: int, **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1 + ord(letter) % 60 for letter in text][:max_length] for text in texts]}


def test_features_and_logits_do_not_depend_on_the_batches(tiny_bert: nn.Module) -> None:
    net = classifier(tiny_bert, ["a", "b"]).train()
    tiny_bert.encoder.eval()
    texts = Texts(("one", "two words", "a", "something longer", "mid size"), (0, 1, 0, 1, 0))
    encoded = EncodedTexts(texts, Words(), 12)
    features = pooled_features(net, encoded, batch_size=64)
    assert torch.allclose(features, pooled_features(net, encoded, batch_size=2), atol=1e-5)
    with torch.no_grad():
        net.head.weight.copy_(torch.randn(net.head.weight.shape, generator=generator(0, "head")))
    logits = predicted_logits(net, encoded, batch_size=2)
    assert torch.allclose(logits, features @ net.head.weight.T, atol=1e-5)
    assert net.training and not tiny_bert.encoder.training  # every module's mode is given back
    assert not net.head._forward_pre_hooks


def test_what_is_computed_does_not_depend_on_the_dtype_that_torch_has_by_default(tiny_bert: nn.Module) -> None:
    net = classifier(tiny_bert, ["a", "b"])
    with torch.no_grad():
        net.head.weight.copy_(torch.randn(net.head.weight.shape, generator=generator(0, "head")))
    encoded = EncodedTexts(Texts(("one", "two words"), (0, 1)), Words(), 12)
    for compute in (pooled_features, predicted_logits):
        expected = compute(net, encoded)
        torch.set_default_dtype(torch.bfloat16)
        try:
            found = compute(net, encoded)
        finally:
            torch.set_default_dtype(torch.float32)
        assert found.dtype == torch.float32 and torch.equal(found, expected)
