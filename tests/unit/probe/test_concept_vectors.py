"""Planted truth: the finder recovers the neurons that hold a concept, taking them out erases it and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dtheta.core.apply import applied
from dtheta.data.concepts import Concept, Question
from dtheta.errors import ConfigError, FormatError
from dtheta.probe.ablation import ablation
from dtheta.probe.answers import answer_scores
from dtheta.probe.concept_vectors import concept_vectors
from dtheta.probe.trace import Traces, load_traces
from tests.unit.probe.decoders import llama
from tests.unit.probe.planted import CONCEPTS, RELATIONS, Words, concepts, network, vectors
from tests.unit.probe.tokens import Letters


@pytest.fixture(scope="module")
def found() -> Traces:
    return concept_vectors(network(), concepts(), tokenizer=Words(), best=2, count=len(RELATIONS), null=500, draws=9)


def test_the_planted_network_knows_its_facts() -> None:
    questions = [question for concept in concepts() for question in concept.questions]
    assert bool(answer_scores(network(), Words(), questions).exact.all())


@pytest.mark.parametrize("concept", CONCEPTS)
def test_all_planted_vectors_are_found_and_no_others(concept: str, found: Traces) -> None:
    trace = found[concept]
    assert set(trace.vectors) == set(vectors(concept))
    assert all(candidate.p < 0.05 and candidate.contrast > 0.3 for candidate in trace.candidates)
    assert all(concept in candidate.words for candidate in trace.candidates)
    assert trace.effect.holds and trace.effect.p == 0.1
    assert trace.effect.target.low > 1.0 > abs(trace.effect.others.estimate)


@pytest.mark.parametrize("concept", ["japan", "dogs"])
def test_taking_them_out_erases_the_concept_and_random_ones_do_not(concept: str, found: Traces) -> None:
    model = network()
    mine = next(c.questions for c in concepts() if c.name == concept)
    rest = [q for c in concepts() if c.name != concept for q in c.questions]
    with applied(model, ablation(model, found[concept].vectors)):
        assert not bool(answer_scores(model, Words(), mine).exact.any())
        assert bool(answer_scores(model, Words(), rest).exact.all())
    assert max(found[concept].effect.null) < 0.2 * found[concept].effect.target.estimate


def test_a_vector_that_speaks_of_a_concept_and_does_nothing_is_not_its_trace() -> None:
    """An idle neuron that writes a concept's own words outdoes no neuron that holds a fact of it."""
    model = network()
    with torch.no_grad():
        down = model.model.layers[0].mlp
        down.down_proj.weight[:, -1] = down.down_proj.weight[:, :5].sum(1)
        down.gate_proj.weight[-1].zero_()
    found = concept_vectors(model, concepts(), tokenizer=Words(), best=2, count=5, null=200, draws=0)["france"]
    assert set(found.vectors) == set(vectors("france")) and found.effect.p is None


def test_the_model_is_left_alone() -> None:
    model = network()
    before = {name: p.clone() for name, p in model.named_parameters()}
    concept_vectors(model, concepts(), tokenizer=Words(), best=2, count=2, null=50, draws=1)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_draws_are_keyed(found: Traces) -> None:
    again = concept_vectors(network(), concepts(), tokenizer=Words(), best=2, count=len(RELATIONS), null=500, draws=9)
    assert again == found
    other = concept_vectors(
        network(), concepts(), tokenizer=Words(), best=2, count=len(RELATIONS), null=500, draws=9, seed=1
    )
    assert other["japan"].effect.null != found["japan"].effect.null


def test_what_is_contrast_alone_is_not_traced_and_counts_all_the_same(found: Traces) -> None:
    given = dict(tokenizer=Words(), best=2, count=len(RELATIONS), null=500, draws=9)
    some = concept_vectors(network(), concepts(), only=["dogs"], **given)
    assert list(some) == ["dogs"] and some["dogs"] == found["dogs"]
    with pytest.raises(ConfigError, match=r"no concept 'dog' was given; did you mean 'dogs'"):
        concept_vectors(network(), concepts(), only=["dog"], **given)


def test_a_corpus_tells_which_words_belong_together() -> None:
    texts = [c.documents[0] for c in concepts()] * 3
    trace = concept_vectors(
        network(), concepts(), tokenizer=Words(), best=2, count=3, null=50, draws=0, corpus=texts, layers=[0]
    )["music"]
    assert all(candidate.npmi is not None and 0.0 <= candidate.npmi <= 1.0 for candidate in trace.candidates)


def test_traces_read_back(found: Traces, tmp_path: Path) -> None:
    assert load_traces(found.save(tmp_path / "traces.json")) == found
    (tmp_path / "other.json").write_text('{"traces": [{"concept": "x"}]}')
    with pytest.raises(FormatError, match="holds no traces"):
        load_traces(tmp_path / "other.json")
    with pytest.raises(ConfigError, match="no trace of 'jappan'; did you mean 'japan'"):
        found["jappan"]


def test_bad_input() -> None:
    model = network()
    with pytest.raises(ConfigError, match="two or more"):
        concept_vectors(model, concepts()[:1], tokenizer=Words())
    with pytest.raises(ConfigError, match="one name"):
        concept_vectors(model, [concepts()[0], concepts()[0]], tokenizer=Words())
    with pytest.raises(ConfigError, match="'empty' has no questions with answers"):
        concept_vectors(model, [concepts()[0], Concept("empty")], tokenizer=Words())
    cut = llama(tie_word_embeddings=True)
    cut.resize_token_embeddings(8)
    with pytest.raises(ConfigError, match="do not belong together"):
        concept_vectors(
            cut, [Concept("a", questions=(Question("ab", "c"),)), Concept("b", questions=(Question("ba", "d"),))],
            tokenizer=Letters(), null=10,
        )  # fmt: skip
    one = [replace(concept, questions=concept.questions[:1]) for concept in concepts()]
    with pytest.raises(ConfigError, match=r"'france': 1 questions about it and 25 about the others"):
        concept_vectors(model, [one[0], *concepts()[1:]], tokenizer=Words(), best=2, null=10)
    with pytest.raises(ConfigError, match="the corpus is one text"):
        concept_vectors(model, concepts(), tokenizer=Words(), best=2, count=2, null=10, corpus="a text")  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [40, 70, 1000])
def test_a_trace_that_leaves_no_random_ones_to_compare_with_is_refused(count: int) -> None:
    """Fewer random vectors than its own would make any trace look as if it held."""
    given = dict(tokenizer=Words(), best=2, count=count, null=10, only=["dogs"])
    with pytest.raises(ConfigError, match=r"layer 0: \d+ of its 70 vectors are in one trace.*lower count"):
        concept_vectors(network(), concepts(), draws=2, **given)  # type: ignore[arg-type]
    assert concept_vectors(network(), concepts(), draws=0, **given)["dogs"].effect.p is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"concept": 5}, r"Traces\.traces\[0\]\.concept: expected str, found int"),
        ({"candidates": [{"vector": 3}]}, "expected the fields"),
        ({"effect": {"target": 1, "others": 1, "null": [], "p": None}}, "effect.target"),
    ],
)
def test_traces_of_another_form_are_refused(change: dict, said: str, found: Traces, tmp_path: Path) -> None:
    record = found.to_dict()["traces"][0] | change
    (tmp_path / "x.json").write_text(json.dumps({"traces": [record]}))
    with pytest.raises(FormatError, match=said):
        load_traces(tmp_path / "x.json")
    with pytest.raises(FormatError, match="cannot be read"):
        load_traces(tmp_path)
