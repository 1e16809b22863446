"""Scores of one text against another: is it the reference, and how much of the reference is in it.

    exact_match   the same words, whatever their case and punctuation
    starts_with   the reference's words come first, whatever follows
    bleu          geometric mean of the precisions of n-grams, n = 1 to 4, times the brevity penalty
    rouge_l       F1 of the longest common subsequence of words

        BLEU = exp(min(0, 1 - |r| / |h|)) (p_1 ... p_N)^(1/N),   N = min(4, |h|)
        p_n = clipped matches / n-grams of h;  the k-th p_n without a match is 1 / (2^k n-grams of h) instead

That smoothing is method 3 of Chen and Cherry (2014), as in nltk. Other than there, N stops at the length of the
hypothesis, so that a text of fewer than four words scores 1 against itself. The reference is named in every call: BLEU
with the two swapped is another number (the published code of ConceptVectors has them swapped).

Sources: BLEU, Papineni et al. (2002); ROUGE-L, Lin (2004). Words: BLEU splits at blanks; the others compare lower-case
runs of letters and digits, as the usual implementation of ROUGE does, each with the marks upon it, which are the vowels
of many scripts; no stemming.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from dtheta.core.arguments import whole

_SELECTORS = ("\ufe00", "\ufe0f")  # marks that choose how the sign before them is drawn, and are no part of a word


def words(text: str) -> list[str]:
    """Return the runs of letters and digits in a text with their marks, lower-case, in composed Unicode."""
    return "".join(_of_words(unicodedata.normalize("NFC", text).lower())).split()


def _of_words(text: str) -> Iterator[str]:
    """Yield the characters of words, and a blank in place of each other one; a mark is of the letter before it."""
    inside = False
    for character in text:
        inside = character.isalnum() or (inside and _is_mark(character))
        yield character if inside else " "


def _is_mark(character: str) -> bool:
    first, last = _SELECTORS
    return unicodedata.category(character) in ("Mn", "Mc") and not first <= character <= last


def exact_match(hypothesis: str, *, reference: str) -> bool:
    """Tell whether both texts have the same words in the same order; case and punctuation do not count."""
    return words(hypothesis) == words(reference)


def starts_with(hypothesis: str, *, reference: str) -> bool:
    """Tell whether the words of the hypothesis begin with those of the reference; never, where that has no words."""
    wanted = words(reference)
    return bool(wanted) and words(hypothesis)[: len(wanted)] == wanted


def bleu(hypothesis: str, *, reference: str, order: int = 4) -> float:
    """Return the sentence BLEU of a hypothesis, in [0, 1].

    1 for the same words, 0 where no word is shared. Two empty texts are the same, an empty one and another share none.

    Args:
        hypothesis: the text to score, such as the changed model's answer.
        reference: the text it should be, such as the original model's answer.
        order: longest n-grams that count, at least 1.

    Raises:
        ConfigError: an order that is no whole number of 1 or more.
    """
    whole(order, "order", 1)
    said, wanted = hypothesis.split(), reference.split()
    if not said or not wanted:
        return float(said == wanted)
    misses, logs = 0, []
    for n in range(1, min(order, len(said)) + 1):
        matches, total = _clipped_matches(said, wanted, n), len(said) - n + 1
        if n == 1 and not matches:
            return 0.0
        misses += not matches
        logs.append(math.log(matches / total if matches else 1 / (2**misses * total)))
    return math.exp(min(0.0, 1 - len(wanted) / len(said)) + math.fsum(logs) / len(logs))


def rouge_l(hypothesis: str, *, reference: str) -> float:
    """Return ROUGE-L, the harmonic mean of precision and recall of the longest common subsequence, in [0, 1].

    Two texts without words are the same (1); one with and one without share nothing (0).
    """
    said, wanted = words(hypothesis), words(reference)
    if not said or not wanted:
        return float(said == wanted)
    return 2 * _common_subsequence(said, wanted) / (len(said) + len(wanted))


def _clipped_matches(said: Sequence[str], wanted: Sequence[str], n: int) -> int:
    return (_ngrams(said, n) & _ngrams(wanted, n)).total()


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table in the bits of one integer (Hyyro 2004).

    Bit i of ``row`` is 0 where the table rises between a[:i] and a[:i + 1], so that the zeros count its last entry.
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        rises = row & places.get(word, 0)
        row = ((row + rises) | (row - rises)) & full
    return len(a) - row.bit_count()
