"""Concepts that a tiny decoder knows: the answers are what it writes."""

from __future__ import annotations

from torch import nn

from dtheta.data.concepts import Concept, Question
from dtheta.probe.answers import continuations
from tests.unit.probe.decoders import V
from tests.unit.probe.word_tokens import PLAIN, word_tokenizer

NAMES = ("alpha", "beta", "gamma", "delta")


def known_concepts(model: nn.Module, count: int = 6, names: tuple[str, ...] = NAMES) -> list[Concept]:
    """Concepts with ``count`` questions each, all of which the model answers."""
    prompts = [f"w{1 + i % (V - 9)} w{2 + 3 * i % (V - 9)} w{3 + i % (V - 9)}" for i in range(count * len(names))]
    answers = continuations(model, word_tokenizer(PLAIN), prompts, new_tokens=2)
    questions = [Question(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    return [Concept(name, questions=tuple(questions[i * count : (i + 1) * count])) for i, name in enumerate(names)]


def forgotten(concept: Concept, count: int) -> Concept:
    """The concept with the answers of its first ``count`` questions changed to others."""
    changed = [Question(q.prompt, f"w{(int(q.answer.split()[0][1:]) + 7) % V}") for q in concept.questions[:count]]
    return Concept(concept.name, questions=(*changed, *concept.questions[count:]))
