"""Scores of texts against plain references: n-grams counted one by one, the whole table of the subsequence."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtheta.errors import ConfigError
from dtheta.score.text import bleu, exact_match, rouge_l, starts_with, words

TEXTS = st.lists(st.sampled_from("a b c d".split()), max_size=12).map(" ".join)


def plain_bleu(said: list[str], wanted: list[str], order: int) -> float:
    """BLEU with smoothing method 3, in exact fractions up to the root."""
    precisions, misses = [], 0
    for n in range(1, min(order, len(said)) + 1):
        grams = [said[i : i + n] for i in range(len(said) - n + 1)]
        left = [wanted[i : i + n] for i in range(len(wanted) - n + 1)]
        matches = 0
        for gram in grams:
            if gram in left:
                left.remove(gram)
                matches += 1
        if matches == 0:
            misses += 1
            precisions.append(Fraction(1, 2**misses * len(grams)))
        else:
            precisions.append(Fraction(matches, len(grams)))
    penalty = 1.0 if len(said) > len(wanted) else math.exp(1 - len(wanted) / len(said))
    return penalty * float(math.prod(precisions)) ** (1 / len(precisions))


def plain_subsequence(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@given(TEXTS, TEXTS, st.integers(1, 5))
def test_bleu_is_that_of_counting_one_by_one(hypothesis, reference, order):
    said, wanted = hypothesis.split(), reference.split()
    found = bleu(hypothesis, reference=reference, order=order)
    if not set(said) & set(wanted):
        assert found == float(said == wanted)
    else:
        assert found == pytest.approx(plain_bleu(said, wanted, order))


def test_bleu_of_a_worked_example():
    """6 of 7 words, 4 of 6 pairs, 3 of 5 triples, 2 of 4 quadruples; 7 words against 8."""
    said = "the cat sat on the mat today"
    wanted = "the black cat sat on the mat yesterday"
    expected = (Fraction(6, 7) * Fraction(4, 6) * Fraction(3, 5) * Fraction(2, 4)) ** 0.25 * math.exp(1 - 8 / 7)
    assert bleu(said, reference=wanted) == pytest.approx(expected)


def test_a_word_counts_no_more_often_than_the_reference_has_it():
    """Papineni et al. 2002, example 2: two of seven "the" count; there is no penalty, for seven words against six."""
    assert bleu(" ".join(["the"] * 7), reference="the cat is on the mat", order=1) == pytest.approx(2 / 7)


@pytest.mark.parametrize(("words_of_hypothesis", "penalty"), [(12, 1.0), (11, math.exp(1 - 12 / 11)), (13, 1.0)])
def test_only_what_is_shorter_than_the_reference_pays_for_its_length(words_of_hypothesis, penalty):
    """Papineni et al. 2002, section 2.2.2: 1 for as many words or more, else exp(1 - r / c)."""
    shared = " ".join(["a"] * words_of_hypothesis)
    precision = min(1.0, 12 / words_of_hypothesis)
    assert bleu(shared, reference=" ".join(["a"] * 12), order=1) == pytest.approx(penalty * precision)


@pytest.mark.parametrize(
    ("hypothesis", "expected"),
    [("police kill the gunman", 3 / 4), ("the gunman kill police", 2 / 4), ("the gunman police killed", 2 / 4)],
)
def test_rouge_of_the_sentences_in_its_paper(hypothesis, expected):
    """Lin 2004, section 3.1, with beta = 1: only one of two common subsequences of one length counts."""
    assert rouge_l(hypothesis, reference="police killed the gunman") == pytest.approx(expected)


def test_smoothing_halves_with_each_order_that_has_no_match():
    """One word of 5 is shared: 1/5, then 1/(2*4), 1/(4*3), 1/(8*2)."""
    expected = (1 / 5 * 1 / 8 * 1 / 12 * 1 / 16) ** 0.25
    assert bleu("a v w x y", reference="p q a r s") == pytest.approx(expected)


@pytest.mark.parametrize("text", ["Paris", "Paris it is", "one two three four five", ""])
def test_a_text_scores_one_against_itself_however_short(text):
    assert bleu(text, reference=text) == pytest.approx(1)
    assert rouge_l(text, reference=text) == 1


def test_which_text_is_the_reference_matters():
    assert bleu("a b c d", reference="a b c d e f g h") == pytest.approx(math.exp(-1))  # all of it right, half missing
    swapped = bleu("a b c d e f g h", reference="a b c d")
    assert swapped == pytest.approx((4 / 8 * 3 / 7 * 2 / 6 * 1 / 5) ** 0.25)


def test_no_shared_word_and_one_empty_text_score_zero():
    for score in (bleu, rouge_l):
        assert score("a b", reference="c d") == score("", reference="a") == score("a", reference="") == 0


@given(TEXTS, TEXTS)
def test_rouge_is_that_of_the_whole_table(hypothesis, reference):
    said, wanted = hypothesis.split(), reference.split()
    if said and wanted:
        length = plain_subsequence(said, wanted)
        precision, recall = length / len(said), length / len(wanted)
        expected = 2 * precision * recall / (precision + recall) if length else 0.0
        assert rouge_l(hypothesis, reference=reference) == pytest.approx(expected)


def test_long_texts_have_the_subsequence_of_the_table():
    """More words than a machine integer has bits."""
    draw = random.Random(0)
    a, b = ([draw.choice("abcdefgh") for _ in range(150)] for _ in range(2))
    assert rouge_l(" ".join(a), reference=" ".join(b)) == pytest.approx(plain_subsequence(a, b) / 150)


def test_words_are_lower_case_runs_of_letters_and_digits():
    assert words("The U.S.A., in_1999: café's") == ["the", "u", "s", "a", "in", "1999", "café", "s"]
    assert words("caf\u00e9") == words("cafe\u0301")


def test_marks_are_of_the_letter_before_them():
    """They are the vowels of many scripts: without them these two would be the same word."""
    ki, ka = "\u0915\u093f", "\u0915\u093e"
    assert words(f"{ki} {ka}, \u0e17\u0e35\u0e48") == [ki, ka, "\u0e17\u0e35\u0e48"]
    assert not exact_match(ki, reference=ka) and rouge_l(ki, reference=ka) == 0.0
    assert words("\u0130stanbul's x\u0304y") == ["i\u0307stanbul", "s", "x\u0304y"]
    assert words("\u0301a 1\ufe0f\u20e3 \u2764\ufe0f") == ["a", "1"]


def test_an_order_below_one_is_refused():
    with pytest.raises(ConfigError, match="order is 0"):
        bleu("a b", reference="a b", order=0)


def test_matches_look_at_words_only():
    assert exact_match(" Paris.", reference="paris")
    assert not exact_match("Paris, France", reference="Paris")
    assert starts_with(" Paris, France", reference="Paris")
    assert not starts_with("Parisian", reference="Paris")
    assert not starts_with("in Paris", reference="Paris")
    assert not starts_with("anything", reference="?!")
