"""Scores of value vectors: plain references, planted truth, and p values that chance keeps to."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from dtheta.data.concepts import Concept
from dtheta.errors import ConfigError
from dtheta.probe.decoder import open_decoder
from dtheta.probe.null import shuffled
from dtheta.probe.scan import scan
from dtheta.probe.scores import VectorScores, coherence_SN, vector_scores
from dtheta.probe.value_vector import ValueVector
from tests.unit.probe.decoders import N, llama, olmo2
from tests.unit.probe.planted import CONCEPTS, RELATIONS, Words, concepts, network, vectors
from tests.unit.probe.tokens import Letters

TEXTS = [text for concept in concepts() for text in concept.documents] * 2
EMPTY = [ValueVector(0, 30 + j, sign) for j in range(20) for sign in (1, -1)]  # they write at random


@pytest.fixture(scope="module")
def planted() -> dict[ValueVector, VectorScores]:
    asked = [vector for concept in CONCEPTS for vector in vectors(concept)] + EMPTY
    found = vector_scores(network(), asked, tokenizer=Words(), concepts=concepts(), corpus=TEXTS, best=2, null=200)
    assert [one.vector for one in found] == asked
    return dict(zip(asked, found, strict=True))


@pytest.mark.parametrize("concept", CONCEPTS)
def test_planted_vectors_are_named_and_hold_their_answers_up(
    concept: str, planted: dict[ValueVector, VectorScores]
) -> None:
    for relation, vector in zip(RELATIONS, vectors(concept), strict=True):
        one = planted[vector]
        assert one.concept == concept
        assert set(one.words) == {concept, f"{concept[:3]}{relation[:4]}"}
        assert one.projection is not None and one.npmi is not None and one.contrast is not None
        assert one.projection.p < 0.05 and one.peak.p < 0.05 and one.npmi.value > 0.5
        assert one.contrast.value > 0.3 and one.contrast.p < 0.2  # one of five answers hangs on it


def test_what_writes_at_random_is_told_from_it(planted: dict[ValueVector, VectorScores]) -> None:
    idle = [planted[vector] for vector in EMPTY]
    for name in ("peak", "projection", "contrast"):
        p = [getattr(one, name).p for one in idle if getattr(one, name) is not None]
        assert len(p) > 10 and np.mean(p) > 0.3, name
    assert max(abs(one.contrast.value) for one in idle if one.contrast is not None) < 0.1


def test_every_score_is_that_of_its_formula() -> None:
    model, given = llama(), [ValueVector(2, 5, -1), ValueVector(0, 3), ValueVector(2, 5)]
    alphabet = [Concept("vowels", documents=("aaa eee iii",)), Concept("rest", documents=("bbb ccc ddd",))]
    found = vector_scores(model, given, tokenizer=Letters(), concepts=alphabet, corpus=["aaa bbb", "ccc"], best=4)
    decoder, seen = open_decoder(model), scan(model, top=4)
    E = decoder.readout()
    rows = E - E.mean(0)
    for one, vector in zip(found, given, strict=True):
        assert one.vector == vector
        ids = seen.tokens(vector).tolist()
        pairs = [float(cosine_similarity(rows[a], rows[b], dim=0)) for a, b in combinations(ids, 2)]
        assert one.coherence.value == pytest.approx(np.mean(pairs), abs=1e-5)
        z = vector.sign * (E @ decoder.value(vector.layer, vector.column))
        assert one.peak.value == pytest.approx(float((z[ids].mean() - z.mean()) / z.std(correction=0)), rel=1e-4)
        assert one.contrast is None and one.concept is None  # letters are no words
        assert one.npmi is not None and (one.npmi.value, one.npmi.p) == (0.0, 1.0)


@pytest.mark.parametrize("make", [llama, olmo2])
def test_p_is_the_share_of_shuffled_directions_on_both_sides(make: Callable[[], Any]) -> None:
    """Shuffled are the vectors as they are stored; what stands between them and the stream comes after it."""
    model, vector = make(), ValueVector(0, 7)
    (one,) = vector_scores(model, [vector], tokenizer=Letters(), best=4, null=50, seed=3)
    decoder = open_decoder(model)
    z_NV = decoder.written(0, shuffled(decoder.values(0), 50, 3, 0)) @ decoder.readout().T
    spread = (z_NV.std(1, correction=0), z_NV.mean(1))
    peaks = [(sign * z_NV).topk(4, dim=1).values.mean(1) - sign * spread[1] for sign in (1, -1)]
    null = torch.cat([peak / spread[0] for peak in peaks])
    assert one.peak.p == pytest.approx((1 + int((null >= one.peak.value).sum())) / 101)


def test_chance_has_uniform_p() -> None:
    """A layer whose vectors hold nothing together: its own vectors are as its shuffled directions."""
    model = llama()
    with torch.no_grad():
        down = model.model.layers[1].mlp.down_proj.weight
        down.copy_(torch.randn(down.shape, generator=torch.Generator().manual_seed(0)))
    asked = [ValueVector(1, j, sign) for j in range(N) for sign in (1, -1)]
    found = vector_scores(model, asked, tokenizer=Letters(), best=5, null=400)
    for name in ("peak", "coherence"):
        p = np.sort([getattr(one, name).p for one in found])
        expected = (np.arange(len(p)) + 0.5) / len(p)
        assert np.abs(p - expected).max() < 0.25, name  # Kolmogorov, 48 values of which sides go in pairs


def test_coherence_of_known_rows() -> None:
    E = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [0.0, 3.0]])
    tokens_SNK = np.array([[[0, 1], [0, 2], [0, 3]]], np.int32)
    assert coherence_SN(E, torch.zeros(2), tokens_SNK)[0] == pytest.approx([1.0, -1.0, 0.0], abs=1e-6)


def test_a_folder_is_scored_as_the_model_is_but_for_what_takes_passes(tmp_path: Path) -> None:
    model, asked = network(), [*vectors("japan"), *EMPTY[:2]]
    model.save_pretrained(tmp_path)
    given = dict(tokenizer=Words(), concepts=concepts(), best=2, null=50)
    there, here = (vector_scores(source, asked, **given) for source in (tmp_path, model))
    assert all(one.contrast is None for one in there)
    assert [(one.concept, one.peak, one.projection) for one in there] == [
        (one.concept, one.peak, one.projection) for one in here
    ]


def test_draws_are_keyed_and_the_model_is_left_alone() -> None:
    model, asked = network(), [*vectors("dogs"), *EMPTY[:4]]
    before = {name: p.clone() for name, p in model.named_parameters()}
    given = dict(tokenizer=Words(), concepts=concepts(), best=2, null=40, permutations=50)
    found = vector_scores(model, asked, **given)
    assert vector_scores(model, asked, **given) == found
    other = vector_scores(model, asked, seed=1, **given)
    assert [one.peak.value for one in other] == [one.peak.value for one in found] and other != found
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_bad_input() -> None:
    model = llama()
    for given, said in (
        (dict(vectors=[]), "no value vectors"),
        (dict(vectors=[ValueVector(9, 0)]), "layers 0 to 2"),
        (dict(vectors=[ValueVector(0, N)]), "columns 0 to"),
        (dict(best=1), "best"),
        (dict(null=0), "null"),
        (dict(concepts=concepts()[:1]), "two or more"),
        (dict(corpus="one text"), "list of texts"),
        (dict(best=1000), "tokens are read"),
    ):
        with pytest.raises(ConfigError, match=said):
            vector_scores(model, **{"vectors": [ValueVector(0, 0)], "tokenizer": Letters(), **given})
