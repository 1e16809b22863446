"""What a concept's tokens are: words that its documents use more than those of other concepts.

    weight_c(w) = clip( log-odds of w in the documents of c against the others / the highest of c, 0, 1 )

with half a count added everywhere. A value vector is read for a concept by the mean weight of its best tokens, each
word once. Documents are whatever text there is: articles, glosses, questions with their answers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dtheta.data.concepts import Concept
from dtheta.errors import ConfigError
from dtheta.probe.encoded import answered, with_answer
from dtheta.probe.words import words

_PRIOR = 0.5


def lexicons(documents: Mapping[str, Sequence[str]], size: int = 100) -> dict[str, dict[str, float]]:
    """Return the weights in (0, 1] of each concept's words, at most ``size``, the heaviest first.

    Args:
        documents: Texts by concept; two or more concepts.
        size: Words kept for each.

    Raises:
        ConfigError: For fewer than two concepts, or one whose texts hold no word.
    """
    if len(documents) < 2:
        raise ConfigError("a lexicon tells a concept from others: give the documents of two or more")
    counts = {name: Counter(word for text in texts for word in words(text)) for name, texts in documents.items()}
    if empty := [name for name, count in counts.items() if not count]:
        raise ConfigError(f"the documents of {empty[0]!r} hold no word; give it texts, or questions with answers")
    whole: Counter[str] = sum(counts.values(), Counter())
    return {name: _weights(count, whole, size) for name, count in counts.items()}


def _weights(count: Counter[str], whole: Counter[str], size: int) -> dict[str, float]:
    mine, rest, kinds = count.total(), whole.total() - count.total(), len(whole)

    def odds(word: str) -> float:
        here = (count[word] + _PRIOR) / (mine + _PRIOR * kinds)
        there = (whole[word] - count[word] + _PRIOR) / (rest + _PRIOR * kinds)
        return math.log(here / there)

    found = sorted(((odds(word), word) for word in count), key=lambda pair: (-pair[0], pair[1]))[:size]
    top = found[0][0]
    return {word: value / top for value, word in found if value > 0.0}


def texts_of(concept: Concept) -> list[str]:
    """Return the texts that make a concept's lexicon: its documents, or its questions with their answers."""
    return list(concept.documents) or [with_answer(question) for question in answered(concept)]


def concept_weights(concepts: Sequence[Concept], of_tokens: Sequence[str]) -> NDArray[np.float32]:
    """Return the weight of each token in the lexicon of each concept (C, V).

    Raises:
        ConfigError: As ``lexicons``.
    """
    lexicon = lexicons({concept.name: texts_of(concept) for concept in concepts})
    return np.stack([token_weights(lexicon[concept.name], of_tokens) for concept in concepts])


def token_weights(lexicon: Mapping[str, float], of_tokens: Sequence[str]) -> NDArray[np.float32]:
    """Return the weight of each token (V,): that of the word it stands for, 0 where it stands for none."""
    return np.array([lexicon.get(word, 0.0) for word in of_tokens], np.float32)


def distinct_words(of_tokens: Sequence[str]) -> tuple[NDArray[np.int32], int]:
    """Return a number for the word of each token (V,), -1 where there is none, and how many words there are."""
    numbers: dict[str, int] = {}
    found = [numbers.setdefault(word, len(numbers)) if word else -1 for word in of_tokens]
    return np.array(found, np.int32), len(numbers)
