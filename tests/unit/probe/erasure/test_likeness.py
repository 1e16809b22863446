"""Likeness of texts: the original's are the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dtheta.probe.answers import continuations
from dtheta.probe.erasure.likeness import likeness, prompts_of, written
from dtheta.score.text import bleu, rouge_l
from tests.unit.probe.erasure.examined import subject_of
from tests.unit.probe.planted import Words, network

ORIGINAL = ["the cat sat on the mat today", "paris is large"]
CHANGED = ["the cat sat", "paris is large"]


def test_scores_are_means_against_the_original() -> None:
    found = likeness(CHANGED, reference=ORIGINAL)
    pairs = list(zip(CHANGED, ORIGINAL, strict=True))
    assert found.bleu.estimate == pytest.approx(sum(bleu(ours, reference=its) for ours, its in pairs) / 2)
    assert found.rouge_l.estimate == pytest.approx(sum(rouge_l(ours, reference=its) for ours, its in pairs) / 2)
    assert (found.prompts, found.same) == (2, 0.5) and found.bleu.high <= 1.0
    swapped = likeness(ORIGINAL, reference=CHANGED)
    assert swapped.bleu.estimate != pytest.approx(found.bleu.estimate)  # the two ways round are two numbers


def test_texts_are_greedy_and_by_group() -> None:
    model = network()
    examined = subject_of(model)
    found = written(examined, 2)
    assert set(found) == {"target", "completions", "unrelated"}
    prompts = [question.prompt for question in examined.target]
    assert found["target"] == continuations(model, Words(), prompts, new_tokens=2)


def test_a_group_of_fewer_than_two_is_left_out() -> None:
    examined = subject_of(network())
    alone = replace(examined, concept=replace(examined.concept, completions=examined.concept.completions[:1]))
    assert set(prompts_of(alone)) == {"target", "unrelated"}
