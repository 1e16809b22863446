"""Causal validation: noise by noise, against the deltas applied by hand, and the pass rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from dtheta.core.apply import applied
from dtheta.core.fingerprint import fingerprint
from dtheta.data.concepts import Concept, Question
from dtheta.errors import ConfigError
from dtheta.probe.ablation import noise
from dtheta.probe.answers import answer_scores, continuations
from dtheta.probe.validation import Validation, validate
from dtheta.probe.value_vector import ValueVector
from dtheta.score.text import bleu, rouge_l
from tests.unit.probe.decoders import D, N, gpt2, llama
from tests.unit.probe.memorized import known_concepts
from tests.unit.probe.word_tokens import word_tokenizer

SOME = [ValueVector(2, 5), ValueVector(0, 7, -1), ValueVector(2, 1)]


def concept_of(model: Any) -> Concept:
    alpha, beta, gamma, _ = known_concepts(model)
    return replace(alpha, unrelated=(*beta.questions, *gamma.questions))


@pytest.mark.parametrize("make", [llama, gpt2])
def test_the_likelihood_is_that_of_the_model_with_the_noise(make: Any) -> None:
    model = make(eos_token_id=None) if make is llama else make()
    concept, tokenizer = concept_of(model), word_tokenizer()
    before = fingerprint(model).digest

    def mean(questions: Sequence[Question]) -> float:
        return float(answer_scores(model, tokenizer, questions).logprob.mean())

    plain = mean(concept.questions), mean(concept.unrelated)
    found = validate(model, tokenizer, concept, SOME, strength=2.0, draws=3, seed=5)
    for draw, (target, unrelated) in enumerate(found.draws):
        with applied(model, noise(model, SOME, strength=2.0, seed=5, draw=draw)):
            changed = mean(concept.questions), mean(concept.unrelated)
        expected = [float(torch.tensor(now - was).exp()) for now, was in zip(changed, plain, strict=True)]
        assert (target, unrelated) == pytest.approx(expected, rel=1e-4)
    assert len({target for target, _ in found.draws}) == 3
    assert found.vectors == (ValueVector(0, 7), ValueVector(2, 1), ValueVector(2, 5))
    assert fingerprint(model).digest == before


@pytest.mark.parametrize(("measure", "score"), [("bleu", bleu), ("rouge_l", rouge_l)])
def test_texts_are_compared_with_the_models_own(measure: Any, score: Any) -> None:
    model = llama(eos_token_id=None)
    concept, tokenizer = concept_of(model), word_tokenizer()
    concept = replace(concept, questions=tuple(Question(q.prompt, "") for q in concept.questions))  # as published
    prompts = [question.prompt for question in concept.questions]
    original = continuations(model, tokenizer, prompts, new_tokens=6)
    found = validate(model, tokenizer, concept, SOME, measure=measure, strength=3.0, draws=2, new_tokens=6)
    with applied(model, noise(model, SOME, strength=3.0, draw=1)):
        written = continuations(model, tokenizer, prompts, new_tokens=6)
    expected = [score(now, reference=was) for now, was in zip(written, original, strict=True)]
    assert found.draws[1][0] == pytest.approx(sum(expected) / len(expected))
    assert 0 < found.draws[1][0] < 1


@pytest.mark.parametrize("measure", ["likelihood", "bleu", "rouge_l"])
def test_no_noise_changes_nothing_and_does_not_pass(measure: Any) -> None:
    model = llama(eos_token_id=None)
    found = validate(model, word_tokenizer(), concept_of(model), SOME, measure=measure, strength=0.0, draws=2)
    assert found.draws == (pytest.approx((1.0, 1.0)),) * 2
    assert not found.passed


def test_a_planted_vector_passes_and_others_do_not() -> None:
    """A neuron that answers the questions of one concept alone: its noise takes the answers, other noise does not."""
    model = planted()
    concept = Concept(
        "planted",
        questions=tuple(Question(f"w{i} w1", "w40") for i in range(10, 16)),
        unrelated=tuple(Question(f"w{i} w2", "w41") for i in range(10, 16)),
    )
    assert answer_scores(model, word_tokenizer(), [*concept.questions, *concept.unrelated]).exact.all()
    right = validate(model, word_tokenizer(), concept, [ValueVector(0, 3)], strength=4.0, draws=8)
    assert right.passed
    assert right.unrelated.estimate == pytest.approx(1, abs=0.05)
    assert right.target.estimate < 0.5
    assert not validate(model, word_tokenizer(), concept, [ValueVector(0, 4)], strength=4.0, draws=8).passed
    assert not validate(model, word_tokenizer(), concept, [ValueVector(1, 3)], strength=4.0, draws=8).passed


def planted() -> Any:
    """w1 turns on neuron 3 of layer 0, which writes w40; w2 turns on neuron 4, which writes w41; all else is silent."""
    model: Any = llama(eos_token_id=None, tie_word_embeddings=False)
    first = model.model.layers[0].mlp
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight.fill_(1)
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight.copy_(torch.randn(50, D, generator=torch.Generator().manual_seed(1)) * 0.01)
        first.gate_proj.weight.zero_()
        first.up_proj.weight.zero_()
        for token, neuron, feature in ((1, 3, 0), (2, 4, 1)):
            model.model.embed_tokens.weight[token] = torch.eye(D)[feature]
            first.gate_proj.weight[neuron] = first.up_proj.weight[neuron] = torch.eye(D)[feature] * 3
            first.down_proj.weight[:, neuron] = torch.eye(D)[feature + 4]
        model.lm_head.weight.zero_()
        for token, feature in ((40, 4), (41, 5)):
            model.lm_head.weight[token, feature] = 2.0
    assert first.down_proj.weight.shape == (D, N)
    return model


def test_the_pass_rule_looks_at_the_whole_intervals() -> None:
    def made(*draws: tuple[float, float]) -> Validation:
        return Validation("x", (ValueVector(0, 0),), "likelihood", 1.0, draws)

    assert made((0.30, 0.90), (0.32, 0.91), (0.31, 0.92)).passed
    assert not made((0.80, 0.90), (0.82, 0.91), (0.81, 0.92)).passed  # too small a difference
    assert not made((0.10, 0.50), (0.12, 0.51), (0.11, 0.52)).passed  # too little left elsewhere
    assert not made((0.10, 0.90), (0.90, 0.92), (0.11, 0.92)).passed  # it depends on the draw
    assert made((0.30, 0.90), (0.32, 0.91), (0.31, 0.92)).difference.estimate == pytest.approx(0.6)
    assert "passes (gap 0.2, floor 0.6)" in str(made((0.30, 0.90), (0.32, 0.91)))


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        ({"questions": ()}, {}, "has no questions"),
        ({"unrelated": ()}, {}, "has no unrelated questions"),
        ({}, {"measure": "meteor"}, "measure='meteor'"),
        ({}, {"draws": 1}, "draws is 1"),
        ({"unrelated": (Question("w1", ""),)}, {}, "has no answer"),
    ],
)
def test_what_cannot_be_validated_is_refused(change: dict[str, Any], more: dict[str, Any], said: str) -> None:
    model = llama(eos_token_id=None)
    with pytest.raises(ConfigError, match=said):
        validate(model, word_tokenizer(), replace(concept_of(model), **change), SOME, **more)
