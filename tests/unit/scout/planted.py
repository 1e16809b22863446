"""Networks and tasks of which it is known what must move."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.seeds import generator


class Gates(nn.Module):
    """Features that see b alone; layer 1, or a vector of biases, can make them see a, too.

    h = tanh(W1 a + W2 b) + a_0 gate.bias + const, with W1 = 0 and gate.bias = 0; the head is random.
    """

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, width, bias=False), nn.Linear(4, width)])
        self.gate = nn.Module()
        self.gate.bias = nn.Parameter(torch.zeros(width))
        self.head = nn.Linear(width, 2)
        drawn = generator(0, "gates")
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=drawn) / p.shape[-1] ** 0.5)
            self.layers[0].weight.zero_()  # type: ignore[operator]
            self.gate.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[:, :4], x[:, 4:]
        return self.head(torch.tanh(self.layers[0](a) + self.layers[1](b)) + a[:, :1] * self.gate.bias)


def inputs(count: int, seed: int = 0) -> Tensor:
    """Return standard normal inputs (count, 8)."""
    return torch.randn(count, 8, generator=generator(seed, "inputs"))


def sign_of(x: Tensor, column: int) -> Tensor:
    """Return labels: the sign of a column, which W2 sees for columns from 4 on alone."""
    return (x[:, column] > 0).long()


class Small(nn.Module):
    """Two layers of tanh and a head, in float64."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 10), nn.Linear(10, 10)])
        self.head = nn.Linear(10, classes)
        drawn = generator(1, "small")
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=drawn) / p.shape[-1] ** 0.5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def tiny_bert() -> nn.Module:
    """Return a random BERT of two small layers."""
    from transformers import BertConfig, BertModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=40,
        )  # fmt: skip
        return BertModel(config).eval()


def sentences(count: int, classes: int = 2) -> Iterator[dict[str, Any]]:
    """Yield batches of 10 token sequences of two lengths, labeled by their second token."""
    drawn = generator(0, "sentences")
    for start in range(0, count, 10):
        ids = torch.randint(5, 50, (10, 7 if start % 20 else 9), generator=drawn)
        mask = torch.ones_like(ids)
        mask[:4, -2:] = 0
        yield {"input_ids": ids, "attention_mask": mask, "labels": ids[:, 1] % classes}
