"""The tangent kernel of what an adapter trains, from the captured passes of the base, equals its definition."""

from __future__ import annotations

import warnings

import pytest
import torch

import dtheta as dt
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, DthetaWarning
from dtheta.kernels.outputs import logits
from dtheta.kernels.tangent import tangent_kernel
from tests.unit.kernels.tangent_models import MODELS, N, bert, gpt, made, next_token, texts
from tests.unit.kernels.tangent_reference import error, jacobian, kernel

METHODS = {
    "LoRA": (dt.LoRA(rank=2), {}),
    "LoRA everywhere": (dt.LoRA(rank=1), {"select": "@all"}),
    "PiSSA": (dt.PiSSA(rank=2), {}),
    "PiSSA, weight and biases": (dt.PiSSA(rank=2), {"also": "*bias", "weight": 0.5}),
    "SORSA": (dt.SORSA(rank=2), {}),
    "CLIPSVD": (dt.CLIPSVD(), {}),
    "BitFit": (dt.BitFit(), {}),
    "Full": (dt.Full(), {"select": "@all"}),
}
PROMPTS = {
    "prompt tuning": dt.PromptTuning(length=3),
    "p-tuning": dt.PTuning(length=2),
    "DePT": dt.DePT(length=2, rank=2),
    "ADePT": dt.ADePT(length=2),
}
BASES = {
    "bert": (bert, texts, logits),
    "gpt": (gpt, texts, next_token),
    "tokens": (lambda: made(MODELS["tokens"])[0], lambda: made(MODELS["tokens"])[1], logits),
}


def attached(model, method, **settings):
    """Attach, and move every factor off its start."""
    adapter = dt.attach(model, method, **settings).double()
    with torch.no_grad():
        for name, p in adapter.trainable().items():
            p.add_(torch.randn(p.shape, generator=generator(0, name), dtype=p.dtype), alpha=0.1)
    return adapter


def check(adapter, batch, function, tolerance: float = 1e-11) -> None:
    J = jacobian(adapter, batch, list(adapter.trainable().values()), N, function)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DthetaWarning)
        for outputs, chunk in (("full", 4), ("mean", None)):
            K = tangent_kernel(adapter, batch, outputs=outputs, function=function, chunk=chunk)
            assert error(K, kernel(J, outputs)) < tolerance


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_on_every_kind_of_layer(base: str, name: str) -> None:
    make, batch, function = BASES[base]
    method, settings = METHODS[name]
    if (base, name) == ("tokens", "LoRA everywhere"):
        settings = {"select": "@all|!table"}  # see test_a_use_that_a_term_does_not_reach_is_noticed
    check(attached(make(), method, **settings), batch(), function)


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts(name: str) -> None:
    check(attached(bert(layers=1), PROMPTS[name]), texts(), logits)


def test_rows_of_a_term_train_also_where_the_table_has_padding() -> None:
    model, batch = bert(layers=1), texts()
    batch["input_ids"] = batch["input_ids"].clone()
    batch["input_ids"][5, 2] = 0  # padding_idx, at a place that is seen
    for method in (dt.LoRA(rank=2), dt.CLIPSVD(), dt.Full()):
        adapter = attached(model, method, select="*word_embeddings*")
        check(adapter, batch, logits)
        adapter.detach()


def test_a_use_that_a_term_does_not_reach_is_noticed() -> None:
    """The table's term acts in its own forward, and not where the model slices the table's weight."""
    model, x = made(MODELS["tokens"])
    adapter = attached(model, dt.LoRA(rank=2), select="table")
    J = jacobian(adapter, x, list(adapter.trainable().values()), N)
    with pytest.warns(DthetaWarning, match="do not add up"):
        assert error(tangent_kernel(adapter, x), kernel(J, "mean")) < 1e-12


def test_prefixes_of_a_decoder() -> None:
    check(attached(gpt(), dt.PrefixTuning(length=2)), texts(), next_token)


def test_convolutions_and_tied_tables() -> None:
    for name in ("cnn", "conv1d", "tied"):
        model, x = made(MODELS[name])
        adapter = attached(model, dt.PiSSA(rank=2), select="@conv" if name != "tied" else "@all")
        J = jacobian(adapter, x, list(adapter.trainable().values()), N)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DthetaWarning)  # a convolution of groups is no product of two factors
            assert error(tangent_kernel(adapter, x), kernel(J, "mean")) < 1e-11


def test_at_the_start_lora_is_a_projection_of_the_full_kernel() -> None:
    """With L = 0 only dL moves, and <dL, dL'> = sum (R a) . (R a') g . g'."""
    model, x = made(MODELS["mlp"])
    adapter = dt.attach(model, dt.LoRA(rank=2), select="0").double()
    J = jacobian(adapter, x, list(adapter.trainable().values()), N)
    assert error(tangent_kernel(adapter, x), kernel(J, "mean")) < 1e-12


def test_the_base_is_never_written_to_and_the_adapter_is_left_attached() -> None:
    model = bert(layers=1)
    before = {name: (t.clone(), t._version) for name, t in model.state_dict().items()}
    adapter = attached(model, dt.LoRA(rank=2))
    flags = {name: p.requires_grad for name, p in adapter.named_parameters()}
    tangent_kernel(adapter, texts())
    assert {name: p.requires_grad for name, p in adapter.named_parameters()} == flags
    adapter.detach()
    assert all(torch.equal(t, before[n][0]) and t._version == before[n][1] for n, t in model.state_dict().items())


def test_an_adapter_that_is_off_has_no_kernel() -> None:
    adapter = attached(bert(layers=1), dt.LoRA(rank=2))
    with adapter.disabled(), pytest.raises(ConfigError, match="do not depend differentiably"):
        tangent_kernel(adapter, texts(), function=lambda m, b: m(**b).logits.detach())
    with adapter.disabled():
        assert float(tangent_kernel(adapter, texts()).abs().max()) == 0.0


def test_refusals() -> None:
    adapter = attached(bert(layers=1), dt.LoRA(rank=2))
    with pytest.raises(ConfigError, match="select is for plain models"):
        tangent_kernel(adapter, texts(), select="@all")
    adapter.detach()
    with pytest.raises(ConfigError, match="detached"):
        tangent_kernel(adapter, texts())
