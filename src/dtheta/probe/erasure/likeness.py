"""How alike two models write: greedy continuations of the same prompts, scored against the ORIGINAL model's own.

    bleu, rouge_l = mean over prompts of score(changed model's text, reference: original model's text)

1 says that every text is word for word the original's. The reference is what the original writes and not the true
answer: what is asked is whether the delta shows. (The published code of ConceptVectors has reference and hypothesis of
BLEU swapped.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dtheta.probe.answers import continuations
from dtheta.probe.erasure.paired import LEAST, bounded_mean
from dtheta.probe.erasure.subject import Subject
from dtheta.score.interval import Interval
from dtheta.score.text import bleu, rouge_l


@dataclass(frozen=True)
class Likeness:
    """How much a changed model's texts are the original's.

    Attributes:
        prompts: How many.
        bleu: Mean sentence BLEU, in [0, 1].
        rouge_l: Mean ROUGE-L, in [0, 1].
        same: Share of texts that are the original's to the letter.
    """

    prompts: int
    bleu: Interval
    rouge_l: Interval
    same: float


def prompts_of(subject: Subject) -> dict[str, list[str]]:
    """Return the prompts of a report by group; a group of fewer than two is left out."""
    groups = {
        "target": [question.prompt for question in subject.target],
        "completions": [completion.first for completion in subject.concept.completions],
        "unrelated": [question.prompt for question in subject.unrelated],
    }
    return {name: prompts for name, prompts in groups.items() if len(prompts) >= LEAST}


def written(subject: Subject, new_tokens: int) -> dict[str, list[str]]:
    """Return what the model writes in the state that it is in, by group."""
    return {
        name: continuations(subject.model, subject.tokenizer, prompts, new_tokens=new_tokens)
        for name, prompts in prompts_of(subject).items()
    }


def likeness(texts: Sequence[str], *, reference: Sequence[str]) -> Likeness:
    """Score texts of a changed model against those of the original under the same prompts, two or more."""
    pairs = list(zip(texts, reference, strict=True))
    same = sum(ours == its for ours, its in pairs) / len(pairs)
    return Likeness(len(pairs), _mean(bleu, pairs), _mean(rouge_l, pairs), same)


def _mean(score: Callable[..., float], pairs: Sequence[tuple[str, str]]) -> Interval:
    return bounded_mean(torch.tensor([score(ours, reference=its) for ours, its in pairs]))
