"""Perplexity on texts, before and after, and their ratio.

    perplexity = exp( sum over texts of -log p(text) / sum over texts of predicted tokens )
    ratio      = after / before; 1: the texts are as likely as they were        all three at most e^700

Long texts are cut into sequences, whose first token nothing predicts. The interval of the ratio is a percentile
bootstrap over whole texts, since tokens of one text depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.core.modes import kept_modes
from dtheta.probe.encoded import Encoded, by_length, collate
from dtheta.probe.erasure.paired import LEAST
from dtheta.probe.erasure.subject import Subject
from dtheta.probe.examples import reach, text_examples
from dtheta.probe.predictions import predictions
from dtheta.score.interval import Interval, bootstrap

_MOST = 700.0  # nats a token: what a ruined model may reach, and a float just holds the exponential of
_BATCH = 4  # logits of a large vocabulary are the largest tensors of all


@dataclass(frozen=True)
class PerplexityChange:
    """What a delta did to the perplexity of texts.

    Attributes:
        texts: How many.
        tokens: Tokens predicted in all.
        before: Perplexity of the original.
        after: Perplexity with the delta.
        ratio: After over before; its interval is None for fewer than two texts.
    """

    texts: int
    tokens: int
    before: float
    after: float
    ratio: Interval | None


class Texts:
    """Texts as sequences."""

    def __init__(self, subject: Subject, texts: Sequence[str], length: int = 128) -> None:
        """Cut texts.

        Raises:
            ConfigError: If a text has no two tokens.
        """
        self.subject, self.count = subject, len(texts)
        size = min(length, reach(subject.model))
        pairs = [(i, row) for i, text in enumerate(texts) for row in text_examples(subject.tokenizer, [text], size)]
        self.of_text = torch.tensor([i for i, _ in pairs])
        self.rows: list[Encoded] = [row for _, row in pairs]
        predicted = torch.tensor([len(row.ids) - row.start for row in self.rows], dtype=torch.float64)
        self.tokens = self._by_text(predicted)

    def losses(self) -> Tensor:
        """Return -log p of each text in nats, float64 (texts,), in the state that the model is in."""
        model = self.subject.model
        found = torch.zeros(len(self.rows), dtype=torch.float64)
        with torch.no_grad(), kept_modes(model):
            for places in by_length([len(row.ids) for row in self.rows], _BATCH):
                made = predictions(model, collate([self.rows[i] for i in places]))
                found[places] = made.sums_B(made.losses_A().double()).cpu()
        return self._by_text(found)

    def _by_text(self, of_rows: Tensor) -> Tensor:
        return torch.zeros(self.count, dtype=torch.float64).index_add(0, self.of_text, of_rows)


def perplexity_change(texts: Texts, before: Tensor, after: Tensor) -> PerplexityChange:
    """Compare the losses of texts."""
    tokens = texts.tokens.sum()
    old, new = (math.exp(min(_MOST, float(losses.sum() / tokens))) for losses in (before, after))
    ratio = None
    if texts.count >= LEAST:
        ratio = bootstrap([after - before, texts.tokens], _ratio, kind="percentile")
    return PerplexityChange(texts.count, int(tokens), old, new, ratio)


def _ratio(more: Tensor, tokens: Tensor) -> Tensor:
    return (more / tokens).clamp(max=_MOST).exp()
