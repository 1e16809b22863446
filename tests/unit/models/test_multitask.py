"""Several classifiers on one encoder."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dtheta.errors import ConfigError
from dtheta.models.classifier import Classifier
from dtheta.models.multitask import MultiTask


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.config = SimpleNamespace(hidden_size=4)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.embedding(input_ids))


def test_each_task_answers_as_its_classifier_does() -> None:
    encoder = Encoder()
    nets = [Classifier(encoder, "ab", "mean"), Classifier(encoder, "abc", "last")]
    for net in nets:
        nn.init.normal_(net.head.weight)
    whole, ids, labels = MultiTask(nets), torch.randint(0, 10, (5, 3)), torch.tensor([0, 1, 0, 1, 0])
    for task, net in enumerate(nets):
        found, wanted = whole(task, input_ids=ids, labels=labels), net(ids, labels=labels)
        assert torch.equal(found.logits, wanted.logits)
        assert torch.equal(found.loss, wanted.loss)


def test_every_parameter_has_one_name() -> None:
    encoder = Encoder()
    whole = MultiTask([Classifier(encoder, "ab", "mean"), Classifier(encoder, "abc", "mean")])
    heads = [f"heads.{i}.{part}" for i in range(2) for part in ("weight", "bias")]
    assert list(whole.state_dict()) == ["encoder.embedding.weight", *heads]


def test_two_encoders_are_refused() -> None:
    with pytest.raises(ConfigError, match="one encoder object"):
        MultiTask([Classifier(Encoder(), "ab", "mean"), Classifier(Encoder(), "ab", "mean")])
    with pytest.raises(ConfigError, match="one encoder object"):
        MultiTask([])
