"""Causal validation: does noise on some value vectors take a concept away, and little else.

    v <- v + eps,  eps ~ N(0, (s |v|)^2 / D I)        for each vector of the set, in each of several draws

    likelihood   exp of the mean change of log P(answer):  how likely the known answers still are; 1 is unchanged
    bleu         mean BLEU of what the noisy model writes against what the model itself writes;    1 is unchanged
    rouge_l      the same with ROUGE-L

A set passes if its questions suffer and the unrelated ones do not. Over draws, with Student's t intervals:

    unrelated - target >= gap  and  unrelated >= floor        at the lower ends of both intervals

The likelihood costs one pass over the questions a draw; writing costs one pass a token, but needs no known answers, as
in the published data. That data was validated with one draw of noise of an absolute 0.1, on the last ten unrelated
questions, with the two texts of BLEU swapped, and by looking at it (arXiv 2406.11614, notebook).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn

from dtheta.core.apply import applied
from dtheta.core.arguments import number, whole
from dtheta.data.concepts import Concept, Question
from dtheta.errors import ConfigError
from dtheta.probe.ablation import distinct, noise
from dtheta.probe.answers import answer_scores, continuations
from dtheta.probe.encoded import BATCH
from dtheta.probe.value_vector import ValueVector
from dtheta.score.interval import Interval, mean_interval, paired_interval
from dtheta.score.text import bleu, rouge_l

Measure = Literal["likelihood", "bleu", "rouge_l"]
Kept = Callable[[], tuple[float, float]]
GAP = 0.2
FLOOR = 0.6
_TEXTS = {"bleu": bleu, "rouge_l": rouge_l}


@dataclass(frozen=True)
class Validation:
    """What noise on a set of value vectors leaves of a concept, and of others; 1 is all of it.

    Attributes:
        concept: Name of the concept.
        vectors: The set.
        measure: What "leaves" means, see the module's text.
        strength: Noise relative to each vector.
        draws: For each draw, what is left of the concept and of the unrelated ones.
        gap: Least difference of the two that passes.
        floor: Least that must be left of the unrelated ones.
    """

    concept: str
    vectors: tuple[ValueVector, ...]
    measure: Measure
    strength: float
    draws: tuple[tuple[float, float], ...]
    gap: float = GAP
    floor: float = FLOOR

    @property
    def target(self) -> Interval:
        """What is left of the concept, mean over draws with its 95 % interval."""
        return mean_interval([target for target, _ in self.draws])

    @property
    def unrelated(self) -> Interval:
        """What is left of the unrelated ones."""
        return mean_interval([unrelated for _, unrelated in self.draws])

    @property
    def difference(self) -> Interval:
        """How much more is left of the unrelated ones than of the concept, paired by draw."""
        return paired_interval([unrelated for _, unrelated in self.draws], [target for target, _ in self.draws])

    @property
    def passed(self) -> bool:
        """Whether the whole intervals of ``difference`` and ``unrelated`` are at the thresholds or above."""
        return self.difference.low >= self.gap and self.unrelated.low >= self.floor

    def __str__(self) -> str:
        verdict = "passes" if self.passed else "does not pass"
        return (
            f"{self.concept}: of {self.measure}, {self.target} is left on it, {self.unrelated} elsewhere; "
            f"the difference {self.difference} {verdict} (gap {self.gap:g}, floor {self.floor:g})"
        )


def validate(
    model: nn.Module,
    tokenizer: Any,
    concept: Concept,
    vectors: Sequence[ValueVector],
    *,
    measure: Measure = "likelihood",
    strength: float = 1.0,
    draws: int = 5,
    gap: float = GAP,
    floor: float = FLOOR,
    new_tokens: int = 32,
    seed: int = 0,
    batch: int = BATCH,
) -> Validation:
    """Tell whether a set of value vectors holds a concept; the model is as before afterwards, in every bit.

    Args:
        model: A transformers decoder with its language modeling head.
        tokenizer: Its tokenizer.
        concept: With questions, and unrelated ones as ``build_benchmark`` draws them.
        vectors: The set.
        measure: "likelihood", "bleu" or "rouge_l".
        strength: Expected length of the noise over the length of each vector.
        draws: How many times noise is drawn, two or more.
        gap: Least difference that passes.
        floor: Least that must be left of the unrelated questions.
        new_tokens: Longest texts that are written, in tokens; not used for the likelihood.
        seed: Of the draws.
        batch: Questions at a time.

    Raises:
        ConfigError: If the concept has no questions or no unrelated ones, for the likelihood if one has no answer, or
            for another measure, fewer than two draws or a vector that the model does not have.
        UnsupportedLayer: If the model cannot be probed (see ``open_decoder``).
    """
    chosen, draws = tuple(distinct(vectors)), whole(draws, "draws", least=2)
    strength, gap, floor = number(strength, "strength"), number(gap, "gap"), number(floor, "floor")
    if not concept.questions or not concept.unrelated:
        missing = "unrelated questions" if concept.questions else "questions"
        raise ConfigError(f"the concept {concept.name!r} has no {missing}; build_benchmark gives concepts both")
    kept = _kept(model, tokenizer, concept, measure, new_tokens, batch)
    found = []
    for draw in range(draws):
        with applied(model, noise(model, chosen, strength=strength, seed=seed, draw=draw)):
            found.append(kept())
    return Validation(concept.name, chosen, measure, strength, tuple(found), gap, floor)


def _kept(model: nn.Module, tokenizer: Any, concept: Concept, measure: Measure, new_tokens: int, batch: int) -> Kept:
    """Return the function that says what is left, compared with the model as it is now."""
    if measure not in get_args(Measure):
        raise ConfigError(f"measure={measure!r}: expected one of {', '.join(map(repr, get_args(Measure)))}")
    questions, cut = [*concept.questions, *concept.unrelated], len(concept.questions)
    if measure == "likelihood":
        return _likelihood(model, tokenizer, questions, cut, batch)
    score = _TEXTS[measure]
    prompts = [question.prompt for question in questions]

    def written() -> list[str]:
        return continuations(model, tokenizer, prompts, new_tokens=new_tokens, batch=batch)

    before = written()

    def kept() -> tuple[float, float]:
        scores = [score(now, reference=text) for now, text in zip(written(), before, strict=True)]
        return math.fsum(scores[:cut]) / cut, math.fsum(scores[cut:]) / (len(scores) - cut)

    return kept


def _likelihood(model: nn.Module, tokenizer: Any, questions: Sequence[Question], cut: int, batch: int) -> Kept:
    before_Q = answer_scores(model, tokenizer, questions, batch=batch).logprob

    def kept() -> tuple[float, float]:
        change_Q = answer_scores(model, tokenizer, questions, batch=batch).logprob - before_Q
        return math.exp(float(change_Q[:cut].mean())), math.exp(float(change_Q[cut:].mean()))

    return kept
