"""The same factors in peft and here: same outputs, same gradients, same start of PiSSA.

Tolerances: both sides compute in float32 but in another order of products (peft adds B (A x) to W x, we may multiply by
W + B A), so outputs and gradients agree to a few float32 roundings of their largest entry.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.adapt.pissa import PiSSA
from dtheta.core.seeds import generator
from tests.shaken import shaken

peft = pytest.importorskip("peft")

SELECT, TARGETS = "*.query|*.value|*.dense#0-5", r".*encoder.*\.(query|value|dense)"


def batch(tokens):
    ids = torch.randint(5, 30000, (tokens // 24, 24), generator=generator(0, "ids"))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def loss_of(model, inputs):
    return model(**inputs).last_hidden_state.square().mean()


def assert_close(ours, theirs, relative):
    largest = float(theirs.abs().max())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=relative * largest)


@pytest.fixture(scope="module")
def pair(minilm_factory):
    """The same moved LoRA on MiniLM, here and in peft."""
    adapter = attach(minilm_factory(), LoRA(rank=8, alpha=16.0), SELECT)
    shaken(adapter, 0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(minilm_factory(), peft.LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS))
    layers = {}
    for key in adapter.sites:
        layer = theirs.base_model.model.get_submodule(key.removesuffix(".weight"))
        layers[key] = layer
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(adapter.term(key).right)
            layer.lora_B["default"].weight.copy_(adapter.term(key).left)
    return adapter.eval(), theirs.eval(), layers


# few tokens go through the factors, many through the displaced weight
@pytest.mark.parametrize("tokens", [48, 384])
def test_lora_outputs_and_gradients(pair, tokens):
    adapter, theirs, layers = pair
    inputs = batch(tokens)
    for model in (adapter, theirs):
        model.zero_grad()
    ours, expected = loss_of(adapter, inputs), loss_of(theirs, inputs)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=0)
    ours.backward()
    expected.backward()
    assert set(layers) == set(adapter.sites)
    for key, layer in layers.items():
        assert_close(adapter.term(key).right.grad, layer.lora_A["default"].weight.grad, 1e-4)
        assert_close(adapter.term(key).left.grad, layer.lora_B["default"].weight.grad, 1e-4)
    with torch.no_grad():
        mine, other = adapter(**inputs).last_hidden_state, theirs(**inputs).last_hidden_state
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)


def test_exact_pissa_starts_from_the_same_triplets(minilm_factory):
    """Singular values to 1e-5; vectors up to sign wherever their gap to the neighbors lets float32 tell them apart.

    An error E of the matrix turns a singular vector by about |E| / gap. With |E| about 1e-6 of the largest value and
    gaps above 2e-3 of it, the cosine departs from one by less than 1e-5; smaller gaps say nothing about either side.
    """
    rank, model = 8, minilm_factory()
    adapter = attach(model, PiSSA(rank=rank), "*.query|*.value|*.dense#0-1")
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, init_lora_weights="pissa")
    theirs = peft.get_peft_model(copy.deepcopy(adapter.model), config)
    compared = 0
    for key, site in adapter.sites.items():
        layer = theirs.base_model.model.get_submodule(key.removesuffix(".weight"))
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        term = adapter.term(key)
        values, expected = term.left.square().sum(0), B.square().sum(0)
        torch.testing.assert_close(values, expected, rtol=2e-5, atol=0)
        spectrum = torch.linalg.svdvals(site.matrix().double())
        gaps = (spectrum[:-1] - spectrum[1:])[:rank] / spectrum[0]
        clear = torch.minimum(gaps, torch.cat([torch.ones(1), gaps[:-1]])) > 2e-3
        cosines = torch.nn.functional.cosine_similarity(term.right, A, dim=1)
        assert ((cosines[clear].abs() - 1).abs() < 1e-4).all()
        signs = cosines.sign()
        torch.testing.assert_close((term.left * signs)[:, clear], B[:, clear], rtol=0, atol=1e-2 * float(B.abs().max()))
        best = spectrum[rank:].square().sum().sqrt()
        for left, right in ((term.left, term.right), (B, A)):
            error = torch.linalg.matrix_norm(site.matrix().double() - left.double() @ right.double())
            assert error <= best * (1 + 1e-5)
        compared += int(clear.sum())
    assert compared > len(adapter.sites)
    adapter.detach()
