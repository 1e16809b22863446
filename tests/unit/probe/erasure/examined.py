"""What the tests of the erasure report examine: the planted network, one concept of it, and deltas to measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import nn

from dtheta.core.delta import Delta
from dtheta.core.extract import extract
from dtheta.data.concepts import Completion, Concept
from dtheta.probe.ablation import ablation
from dtheta.probe.erasure.erasure import Examination
from dtheta.probe.erasure.subject import Subject
from tests.unit.probe.planted import RELATIONS, Words, concepts, network, vectors

NAME = "france"
VECTORS = vectors(NAME)


@cache
def france() -> Concept:
    """The concept, with paraphrases (the network does not care for the order of words) and completions."""
    found = next(one for one in concepts() if one.name == NAME)
    asked = tuple(replace(q, paraphrases=(" ".join(reversed(q.prompt.split()[:-1])) + " is",)) for q in found.questions)
    return replace(found, questions=asked, completions=tuple(Completion(q.prompt, q.answer) for q in asked[:2]))


UNRELATED = tuple(question for one in concepts() if one.name in ("japan", "dogs") for question in one.questions)
TEXTS = tuple(f"{question.prompt} {question.answer}" for question in UNRELATED[:4])


def nothing(model: nn.Module) -> Delta:
    """A delta that moves nothing."""
    return ablation(model, VECTORS, keep=1.0)


def gone(model: nn.Module) -> Delta:
    """The concept's value vectors taken out: erased."""
    return ablation(model, VECTORS)


def hidden(model: nn.Module) -> Delta:
    """The gates of the concept's neurons shut: no longer said, and every value vector where it was."""
    return _moved(model, lambda other: other.model.layers[0].mlp.gate_proj.weight[: len(RELATIONS)].zero_())


def ruined(model: nn.Module) -> Delta:
    """All value vectors taken out."""
    return _moved(model, lambda other: other.model.layers[0].mlp.down_proj.weight.zero_())


def _moved(model: nn.Module, move: Callable[..., object]) -> Delta:
    other = network()
    with torch.no_grad():
        move(other)
    return extract(model, other)


def examination(model: nn.Module, **more: object) -> Examination:
    """Examine the planted network."""
    settings = {"texts": TEXTS, "new_tokens": 3, "attacks": ()} | more
    return Examination(model, france(), tokenizer=Words(), unrelated=UNRELATED, **settings)  # type: ignore[arg-type]


def subject_of(model: nn.Module) -> Subject:
    """What an attack works on."""
    return examination(model, texts=()).subject
