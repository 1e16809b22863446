"""Attribution against exact derivatives: each neuron scaled by itself, and its value vector's gradient."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from dtheta.core.apply import applied
from dtheta.data.concepts import Question
from dtheta.errors import ConfigError
from dtheta.probe.ablation import ablation
from dtheta.probe.attribution import Attribution, attribution, contrasts, drops, log_odds
from dtheta.probe.decoder import open_decoder
from dtheta.probe.encoded import collate, encode
from dtheta.probe.value_vector import ValueVector
from tests.unit.probe.decoders import DECODERS, L, N, V, llama
from tests.unit.probe.tokens import Letters
from tests.unit.probe.word_tokens import word_tokenizer

ASKED = [Question("abc de", "fg"), Question("hij", "k"), Question("abcd abc", "dd")]


@pytest.mark.parametrize("kind", DECODERS)
def test_it_is_gradient_times_weight(kind: str) -> None:
    model, tokenizer = DECODERS[kind](), Letters()
    decoder = open_decoder(model)
    found = drops(model, decoder, tokenizer, ASKED, batch=2)
    for q, row in enumerate(encode(tokenizer, ASKED)):
        odds = log_odds(model, collate([row])).sum()
        for matrix in decoder.matrices.values():
            weight = dict(model.named_parameters())[matrix.name]
            (gradient,) = torch.autograd.grad(odds, weight, retain_graph=True)
            wanted = (gradient * weight).sum(1 if matrix.rows else 0)
            assert np.allclose(found[matrix.layer][q], wanted.detach(), atol=1e-4)


def test_it_is_what_a_little_ablation_does() -> None:
    model, tokenizer = llama(), Letters()
    found, eps = drops(model, open_decoder(model), tokenizer, ASKED), 1e-2
    for layer, column in [(0, 3), (1, 20), (2, 11)]:
        ends = []
        for keep in (1 - eps, 1 + eps):
            with applied(model, ablation(model, [ValueVector(layer, column)], keep=keep)):
                ends.append(torch.cat([log_odds(model, collate([row])) for row in encode(tokenizer, ASKED)]).detach())
        slope = (ends[1] - ends[0]) / (2 * eps)
        assert np.allclose(found[layer][:, column], slope, atol=2e-3)


def test_log_odds_are_those_of_the_probabilities() -> None:
    model = llama()
    for row in encode(Letters(), ASKED):
        logits = model(input_ids=torch.tensor([row.ids])).logits[0].double()
        p = [logits[t - 1].softmax(-1)[row.ids[t]] for t in range(row.start, len(row.ids))]
        wanted = torch.stack([torch.log(each / (1 - each)) for each in p]).sum()
        assert torch.allclose(log_odds(model, collate([row])).double(), wanted, rtol=1e-4)


def test_nothing_is_left_on_the_model() -> None:
    model = llama()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    drops(model, open_decoder(model), Letters(), ASKED)
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_another_models_tokenizer_is_refused() -> None:
    model, foreign = llama(), word_tokenizer([f"w{i}" for i in range(V + 3)])
    with pytest.raises(ConfigError, match=f"token {V + 1}, the model has {V}: they do not belong together"):
        drops(model, open_decoder(model), foreign, [Question("w1", f"w{V + 1}")])


def test_contrast_is_one_against_the_rest() -> None:
    model = llama()
    questions = {"a": ASKED[:1], "b": ASKED[1:2], "c": ASKED[2:]}
    found = attribution(model, open_decoder(model), Letters(), questions)
    each = drops(model, open_decoder(model), Letters(), ASKED)
    assert set(found.drops) == set(range(L))
    for layer in range(L):
        assert found.drops[layer].shape == (3, N)
        assert np.allclose(found.contrast("b")[layer], each[layer][1] - each[layer][[0, 2]].mean(0), atol=1e-5)
    with pytest.raises(ConfigError, match="'d': expected one of"):
        found.contrast("d")
    with pytest.raises(ConfigError, match="two or more"):
        Attribution(("a",), {}).contrast("a")


def test_contrasts_are_those_of_the_means_and_their_p_that_of_all_orders() -> None:
    drops_QM = np.array([[3.0, 1.0], [2.0, 0.0], [0.0, 1.0], [1.0, 2.0], [0.5, 5.0]])
    concept_Q = np.array([0, 0, 1, 2, 2])
    values_CM, p_CM = contrasts(drops_QM, concept_Q, permutations=4000)
    means = [drops_QM[concept_Q == c].mean(0) for c in range(3)]
    assert np.allclose(values_CM[0], means[0] - (means[1] + means[2]) / 2)
    assert np.allclose(values_CM[2], means[2] - (means[0] + means[1]) / 2)

    def contrast(order: tuple[int, ...]) -> float:
        own, *others = (drops_QM[list(order)][concept_Q == c, 0].mean() for c in range(3))
        return float(own - np.mean(others))

    exact = np.mean([contrast(order) >= values_CM[0, 0] for order in permutations(range(5))])
    assert abs(p_CM[0, 0] - exact) < 0.03
    assert p_CM.min() >= 1 / 4001


def test_contrasts_agree_with_the_attribution() -> None:
    model, tokenizer = llama(), Letters()
    asked = {"one": ASKED[:1], "two": ASKED[1:]}
    decoder = open_decoder(model)
    found = drops(model, decoder, tokenizer, ASKED)
    values_CM, _ = contrasts(found[1], np.array([0, 1, 1]), permutations=1)
    assert np.allclose(values_CM[1], attribution(model, decoder, tokenizer, asked).contrast("two")[1], atol=1e-5)
