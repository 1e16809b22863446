"""The intrinsic side of a report: what became of the concept's value vectors, with the words that they stand for.

The numbers are those of ``traces``. The concept's own words, by which ranks are told, are those that stand out in its
documents (or its questions with answers) against the unrelated questions, as far as one token stands for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dtheta.core.delta import Delta
from dtheta.errors import ConfigError
from dtheta.probe.decoder import Norm, open_decoder
from dtheta.probe.encoded import with_answer
from dtheta.probe.erasure.subject import Subject
from dtheta.probe.lexicon import lexicons
from dtheta.probe.traces import TOP, TraceReport, trace_report
from dtheta.probe.value_vector import ValueVector
from dtheta.probe.words import token_words

_SHOWN = 12  # tokens of a vector that a report shows
_WORDS = 10  # words of a concept whose ranks count


@dataclass(frozen=True)
class VectorChange:
    """What became of one value vector.

    Attributes:
        vector: Which, with its side.
        jaccard: Of its top tokens, in [0, 1].
        cosine: Of the vector, in [-1, 1].
        distance: Of the vector, over its length before.
        before: Its best tokens before, as text.
        after: After; none where nothing is left.
    """

    vector: ValueVector
    jaccard: float
    cosine: float
    distance: float
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class Intrinsic:
    """What became of the value vectors of a concept; see ``traces`` for the formulas.

    Attributes:
        jaccard: Mean over the vectors.
        cosine: Mean over the vectors.
        distance: Mean over the vectors.
        overlap: Of the spans of all vectors before and after, in [0, 1].
        rank_before: Median best rank of the concept's words, from 1; None where no token stands for one.
        rank_after: The same after.
        words: Those words.
        vectors: Each vector.
    """

    jaccard: float
    cosine: float
    distance: float
    overlap: float
    rank_before: float | None
    rank_after: float | None
    words: tuple[str, ...]
    vectors: tuple[VectorChange, ...]


class Words:
    """The concept's words, and the tokens that stand for each; empty where none does."""

    def __init__(self, subject: Subject) -> None:
        decoder = open_decoder(subject.model)
        of_tokens = token_words(subject.tokenizer, len(decoder.tensors[decoder.unembedding]))
        places: dict[str, list[int]] = {}
        for token, word in enumerate(of_tokens):
            if word:
                places.setdefault(word, []).append(token)
        self.tokens = {word: places[word] for word in _lexicon(subject) if word in places}


def intrinsic(
    subject: Subject, delta: Delta, vectors: Sequence[ValueVector], words: Words, norm: Norm = "folded", top: int = TOP
) -> Intrinsic:
    """Compare the concept's value vectors before and after a delta.

    Raises:
        ConfigError, BaseMismatch: As ``trace_report``.
    """
    found = trace_report(subject.model, delta, vectors, words=list(words.tokens.values()), top=top, norm=norm)
    return Intrinsic(
        found.mean("jaccard"), found.mean("cosine"), found.mean("distance"), found.overlap, found.rank_before,
        found.rank_after, tuple(words.tokens), _vectors(found, subject.tokenizer),
    )  # fmt: skip


def _vectors(found: TraceReport, tokenizer: Any) -> tuple[VectorChange, ...]:
    def shown(ids: Sequence[int]) -> tuple[str, ...]:
        return tuple(tokenizer.batch_decode([[i] for i in ids[:_SHOWN]]))

    return tuple(
        VectorChange(c.vector, c.jaccard, c.cosine, c.distance, shown(c.before), shown(c.after)) for c in found.changes
    )


def _lexicon(subject: Subject) -> list[str]:
    """Return the words of the concept that the unrelated questions do not use as much; none where it has no words."""
    concept = subject.concept
    texts = {
        "concept": [*concept.documents, *map(with_answer, subject.target)],
        "unrelated": [with_answer(question) for question in subject.unrelated],
    }
    try:
        return list(lexicons(texts)["concept"])[:_WORDS]
    except ConfigError:  # texts without words, such as numbers alone
        return []
