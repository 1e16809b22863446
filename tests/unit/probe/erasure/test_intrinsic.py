"""Traces of a report: those of ``trace_report``, with words."""

from __future__ import annotations

from dataclasses import replace

from dtheta.data.concepts import Question
from dtheta.probe.erasure.intrinsic import Words as ConceptWords
from dtheta.probe.erasure.intrinsic import intrinsic
from dtheta.probe.traces import trace_report
from tests.unit.probe.erasure.examined import VECTORS, gone, nothing, subject_of
from tests.unit.probe.planted import VOCABULARY, network


def test_the_concepts_words_are_its_own() -> None:
    words = ConceptWords(subject_of(network()))
    assert next(iter(words.tokens)) in ("france", "fracapi") and "capital" not in words.tokens
    assert all(VOCABULARY[ids[0]] == word and len(ids) == 1 for word, ids in words.tokens.items())


def test_numbers_are_those_of_the_traces() -> None:
    model = network()
    examined, words = subject_of(model), ConceptWords(subject_of(model))
    found = intrinsic(examined, gone(model), VECTORS, words)
    plain = trace_report(model, gone(model), VECTORS, words=list(words.tokens.values()))
    assert (found.jaccard, found.cosine, found.distance) == (0.0, 0.0, 1.0)
    assert (found.overlap, found.rank_before, found.rank_after) == (plain.overlap, plain.rank_before, plain.rank_after)
    first = found.vectors[0]
    assert first.vector == VECTORS[0] and first.after == () and len(first.before) == 12
    assert first.before == tuple(VOCABULARY[i] for i in plain.changes[0].before[:12])
    kept = intrinsic(examined, nothing(model), VECTORS, words)
    assert kept.vectors[0].before == kept.vectors[0].after and kept.rank_before == kept.rank_after == 1.0


def test_texts_without_words_have_no_ranks() -> None:
    model = network()
    asked = tuple(Question(f"{i} is", str(i)) for i in range(3))
    bare = replace(subject_of(model), target=asked, unrelated=asked)
    bare = replace(bare, concept=replace(bare.concept, documents=()))
    words = ConceptWords(bare)
    found = intrinsic(bare, nothing(model), VECTORS, words)
    assert words.tokens == {} and found.rank_before is None and found.rank_after is None
