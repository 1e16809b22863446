"""A concept to unlearn, as token sequences: what to forget beside what to retain, in batches of pairs.

Forget are the questions about the concept with their answers (the answers' tokens count), or, where it has none, its
documents. Retain are the same of other concepts. Sequence i of one is paired with sequence i of the other, in an order
keyed by seed and epoch; the shorter list is gone through again.

Shape legend: B pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dtheta.core.seeds import generator, permutation
from dtheta.data.concepts import Concept
from dtheta.errors import ConfigError
from dtheta.probe.encoded import Encoded, answered, collate, encode
from dtheta.probe.examples import text_examples
from dtheta.probe.unlearning.watch import Watch

Pair = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Task:
    """What an unlearning method works on.

    Attributes:
        model: The decoder, never written to.
        tokenizer: Its tokenizer.
        forget: Sequences to forget.
        retain: Sequences to retain.
        watch: What looks at the model between steps.
        select: The parameters that may move, as for ``attach``.
        batch: B, pairs a step.
        seed: Of the order.
        concept: Name of the concept.
    """

    model: nn.Module
    tokenizer: Any
    forget: Sequence[Encoded]
    retain: Sequence[Encoded]
    watch: Watch
    select: str
    batch: int
    seed: int
    concept: str

    def pairs(self, steps: int) -> list[Pair]:
        """Return the batches of so many steps, whose ``forget`` and ``retain`` are batches of answers.py."""
        size = min(self.batch, len(self.forget))
        left, right = (self._order(name, steps * size) for name in ("forget", "retain"))
        return [
            {
                "forget": collate([next(left) for _ in range(size)]),
                "retain": collate([next(right) for _ in range(size)]),
            }
            for _ in range(steps)
        ]

    def _order(self, name: str, count: int) -> Iterator[Encoded]:
        rows: Sequence[Encoded] = getattr(self, name)
        for epoch in range(-(-count // len(rows))):
            order = permutation(len(rows), generator(self.seed, f"probe/unlearn/{name}", epoch))
            yield from (rows[i] for i in order.tolist())


def sequences(tokenizer: Any, concepts: Sequence[Concept], length: int) -> list[Encoded]:
    """Return what there is to learn about concepts: their questions with answers, else their documents.

    Raises:
        ConfigError: If a concept has neither.
    """
    found: list[Encoded] = []
    for concept in concepts:
        if asked := answered(concept):
            found += encode(tokenizer, asked)
        elif concept.documents:
            found += text_examples(tokenizer, concept.documents, length)
        else:
            raise ConfigError(f"the concept {concept.name!r} has neither questions with answers nor documents")
    return found


def split(concepts: Sequence[Concept], seed: int) -> tuple[list[Concept], list[Concept]]:
    """Return concepts to retain by training and concepts to watch, halves in a keyed order.

    Raises:
        ConfigError: If there are fewer than two.
    """
    if len(concepts) < 2:
        raise ConfigError(
            f"{len(concepts)} other concepts were given to retain; expected two or more: one half is trained on, the "
            "other one watched"
        )
    order = permutation(len(concepts), generator(seed, "probe/retain")).tolist()
    cut = len(order) // 2
    return [concepts[i] for i in sorted(order[:cut])], [concepts[i] for i in sorted(order[cut:])]
