"""Where peft 0.21 goes wrong: each test shows its side and ours. A failure on its side means that peft was mended."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import dtheta.core.files as files
from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.adapt.pissa import PiSSA
from dtheta.core.interop import to_peft
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError
from tests.parity.adapted import moved, outputs
from tests.shaken import shaken

peft = pytest.importorskip("peft")

TOKENS = torch.randint(5, 30000, (4, 16), generator=generator(0, "tokens"))
TARGETS = ["query", "value", "dense"]


def difference(a, b):
    return float((a - b).abs().max())


def in_peft(model, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**settings))


@pytest.fixture(scope="module")
def encoder(minilm_factory):
    """Two layers of MiniLM."""
    model = minilm_factory()
    model.encoder.layer = model.encoder.layer[:2]
    return model


def test_reload_of_fast_pissa(encoder, tmp_path):
    """peft draws another random start when it loads the folder; we store the start beside the trained factors."""
    torch.manual_seed(1)
    theirs = in_peft(encoder, r=16, lora_alpha=16, target_modules=TARGETS, init_lora_weights="pissa_niter_1")
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator(0, name)), alpha=1e-3)
    trained = outputs(theirs, [TOKENS])
    theirs.save_pretrained(str(tmp_path / "theirs"))
    again = outputs(peft.PeftModel.from_pretrained(copy.deepcopy(encoder), str(tmp_path / "theirs")), [TOKENS])
    effect = difference(trained, outputs(encoder, [TOKENS]))
    assert difference(again, trained) > 0.5 * effect

    adapter = attach(encoder, PiSSA(rank=16, accuracy=None))
    shaken(adapter, 1e-3)
    ours = outputs(adapter, [TOKENS])
    path = files.save(adapter.delta(), tmp_path / "ours.delta")
    adapter.detach()
    reloaded = attach(encoder, files.load(path))
    assert torch.equal(outputs(reloaded, [TOKENS]), ours)
    reloaded.detach()
    exported = to_peft(files.load(path), tmp_path / "ours", model=encoder)
    there = outputs(peft.PeftModel.from_pretrained(copy.deepcopy(encoder), str(exported)), [TOKENS])
    assert difference(there, ours) < 1e-5


def test_linear_combination(encoder, tmp_path):
    """peft adds factors, which brings in cross terms; we stack them, which is the sum."""
    first, second = (moved(encoder, LoRA(rank=4, alpha=8.0), "*.query|*.value", size=s) for s in (0.05, 0.08))
    a, b = to_peft(first, tmp_path / "a"), to_peft(second, tmp_path / "b")
    model = peft.PeftModel.from_pretrained(copy.deepcopy(encoder), str(a), adapter_name="a")
    model.load_adapter(str(b), adapter_name="b")
    model.add_weighted_adapter(["a", "b"], [0.7, 0.4], adapter_name="sum", combination_type="linear")
    model.set_adapter("sum")
    wanted = copy.deepcopy(encoder)
    parameters = dict(wanted.named_parameters())
    with torch.no_grad():
        for name in first:
            parameters[name].add_(0.7 * first[name].dense() + 0.4 * second[name].dense())
    exact, base = outputs(wanted, [TOKENS]), outputs(encoder, [TOKENS])
    assert difference(outputs(model, [TOKENS]), exact) > 0.1 * difference(exact, base)
    adapter = attach(encoder, 0.7 * first + 0.4 * second)
    assert difference(outputs(adapter, [TOKENS]), exact) < 1e-5
    adapter.detach()
    adapter = attach(encoder, [first, second], weights=[0.7, 0.4])
    assert difference(outputs(adapter, [TOKENS]), exact) < 1e-5
    adapter.detach()


def test_base_after_two_pissa_adapters(encoder):
    """peft's base is the residual of both starts, and disabling or unloading leaves it so; ours is never written to."""
    base = outputs(encoder, [TOKENS])
    settings = {"r": 16, "lora_alpha": 16, "target_modules": TARGETS, "init_lora_weights": "pissa"}
    theirs = in_peft(encoder, **settings)
    theirs.add_adapter("second", peft.LoraConfig(**settings))
    theirs.set_adapter("second")
    assert difference(outputs(theirs, [TOKENS]), base) > 0.01  # untrained, alone, and not the base
    with theirs.disable_adapter():
        assert difference(outputs(theirs, [TOKENS]), base) > 0.01
    assert difference(outputs(theirs.unload(), [TOKENS]), base) > 0.01

    first, second = attach(encoder, PiSSA(rank=16)), attach(encoder, PiSSA(rank=16))
    assert torch.equal(outputs(second, [TOKENS]), base)
    shaken(first, 1e-3)
    with first.disabled():
        assert torch.equal(outputs(encoder, [TOKENS]), base)
    first.detach()
    assert torch.equal(outputs(encoder, [TOKENS]), base)
    second.detach()
    assert torch.equal(outputs(encoder, [TOKENS]), base)


def test_pissa_of_an_embedding(encoder):
    """peft ignores the request and starts plain LoRA; we start from the principal directions of the table."""
    layer = in_peft(encoder, r=4, target_modules=["position_embeddings"], init_lora_weights="pissa")
    table = layer.base_model.model.embeddings.position_embeddings
    assert not table.lora_embedding_A["default"].any()
    adapter = attach(encoder, PiSSA(rank=4), "embeddings.position_embeddings")
    term = adapter.term("embeddings.position_embeddings.weight")
    weight = encoder.embeddings.position_embeddings.weight
    S = torch.linalg.svdvals(weight.detach().double())
    left = torch.linalg.matrix_norm(weight.detach().double() - term.left.double() @ term.right.double())
    assert left <= S[4:].square().sum().sqrt() * (1 + 1e-5)
    adapter.detach()


def test_pissa_of_a_convolution(tiny_conv):
    """peft does not know the initialization there; ours changes nothing at the start and trains."""
    with pytest.raises(ValueError, match="Unknown initialization"):
        in_peft(tiny_conv, r=2, target_modules=["0"], init_lora_weights="pissa")
    images = torch.randn(2, 3, 8, 8, generator=generator(0, "images"))
    base = outputs(tiny_conv, [images])
    adapter = attach(tiny_conv, PiSSA(rank=2), "@conv")
    assert torch.equal(outputs(adapter, [images]), base)
    adapter(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapter.trainable().values())
    adapter.detach()


def test_rank_larger_than_the_matrix():
    """peft says rank 10 and holds factors of rank 4, scaled for 10; we refuse and say what fits."""
    model = nn.Sequential(nn.Linear(6, 4))
    layer = in_peft(model, r=10, lora_alpha=10, target_modules=["0"], init_lora_weights="pissa").base_model.model[0]
    assert (layer.r["default"], layer.lora_A["default"].weight.shape) == (10, (4, 6))
    with pytest.raises(ConfigError, match=r"0\.weight: rank 10 does not fit a matrix of 4 x 6; expected 1 to 4"):
        attach(model, PiSSA(rank=10), "@linear")


def test_output_projection_of_attention(tiny_mha):
    """peft adds its term twice; ours once, also where attention takes its fast path."""
    x = torch.randn(2, 5, 16, generator=generator(0, "x"))
    theirs = in_peft(tiny_mha, r=2, lora_alpha=2, target_modules=["attention"])
    layer = theirs.base_model.model.attention.base_layer.out_proj
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_(generator=generator(0, "B"))
    step = layer.lora_B["default"].weight @ layer.lora_A["default"].weight

    def with_step(times):
        model = copy.deepcopy(tiny_mha)
        with torch.no_grad():
            model.attention.out_proj.weight.add_(step, alpha=times)
        return outputs(model, [x])

    assert difference(outputs(theirs, [x]), with_step(2)) < 1e-5 < difference(with_step(1), with_step(2))
    adapter = attach(tiny_mha, LoRA(rank=2), "*.out_proj")
    term = adapter.term("attention.out_proj.weight")
    with torch.no_grad():
        term.left.copy_(layer.lora_B["default"].weight)
        term.right.copy_(layer.lora_A["default"].weight)
    assert difference(outputs(adapter, [x]), with_step(1)) < 1e-5
    adapter.detach()
