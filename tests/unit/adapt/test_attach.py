"""attach: what it takes, what it refuses and in which words, and that a refusal leaves nothing behind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.sorsa import SORSA
from dtheta.adapt.term import DenseTerm, FactoredTerm
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.fingerprint import fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.provenance import Provenance
from dtheta.core.seeds import generator
from dtheta.core.tensors import attached_to
from dtheta.errors import BaseMismatch, ConfigError, NonFinite, ShapeMismatch, UnknownParameter, UnsupportedLayer

FACTORING = [LoRA(rank=2), PiSSA(rank=2), SORSA(rank=2), CLIPSVD()]


def drawn(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, name))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.ModuleDict({"a": nn.Linear(6, 5), "b": nn.Linear(5, 4), "norm": nn.LayerNorm(4)})


@pytest.fixture(autouse=True)
def nothing_is_left_behind(model):
    """Every test that fails to attach must leave the model as it was."""
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    yield
    assert attached_to(model) == []
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags


def of(model, **changes) -> Delta:
    named = {name.replace("_", "."): change for name, change in changes.items()}
    return Delta(named, fingerprint(model).restrict(named))


# ---- methods


def test_selection_and_more_parameters_in_full(model):
    adapter = attach(model, LoRA(rank=2), "a", also="norm|b.bias")
    kinds = {key: type(adapter.term(key)) for key in adapter.sites}
    assert kinds == {"a.weight": FactoredTerm, "b.bias": DenseTerm, "norm.weight": DenseTerm}
    assert adapter.settings == {"select": "a", "also": "norm|b.bias"}
    adapter.detach()
    adapter = attach(model, LoRA(rank=2), "a|b", also="b.*")
    assert isinstance(adapter.term("b.weight"), DenseTerm)
    adapter.detach()


@pytest.mark.parametrize("method", [PiSSA(rank=6), SORSA(rank=6), LoRA(rank=6)], ids=repr)
def test_rank_too_large_names_the_parameter(model, method):
    with pytest.raises(ConfigError, match=r"a\.weight: rank 6 does not fit a matrix of 5 x 6"):
        attach(model, method)


def test_empty_selection(model):
    with pytest.raises(ConfigError, match="takes no parameter"):
        attach(model, PiSSA(rank=2), "*.query")
    with pytest.raises(UnknownParameter, match="'c'"):
        attach(model, PiSSA(rank=2), "c")
    with pytest.raises(ConfigError, match="takes no parameter"):
        attach(model, PiSSA(rank=2), "a", also="head.*")


@pytest.mark.parametrize("method", [*FACTORING, Full()], ids=repr)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights(model, method, value):
    model["b"].weight.data[1, 2] = value
    with pytest.raises(NonFinite, match=r"b\.weight.*NaN or infinity"):
        attach(model, method, "a|b")


@pytest.mark.parametrize("method", [*FACTORING, Full()], ids=repr)
def test_meta_and_integer_weights(method):
    with torch.device("meta"):
        nowhere = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(UnsupportedLayer, match=r"0\.weight: the weight is on the meta device"):
        attach(nowhere, method, "0")
    whole = nn.Sequential(nn.Linear(4, 4))
    whole[0].weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int32), requires_grad=False)
    with pytest.raises(UnsupportedLayer, match=r"0\.weight: cannot move a weight of torch.int32"):
        attach(whole, method, "0")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (LoRA(rank=2, alpha=-1.0), "alpha must be a positive number, found -1"),
        (LoRA(rank=2, alpha=math.nan), "alpha"),
        (LoRA(rank=2, dropout=1.0), r"dropout must be in \[0, 1\)"),
        (SORSA(rank=2, gamma=-1.0), "gamma must be zero or a positive number"),
        (CLIPSVD(ratio=0.0), r"ratio must be in \(0, 1\]"),
        (CLIPSVD(ratio=1.5), "ratio"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant(model, method, message):
    with pytest.raises(ConfigError, match=message):
        attach(model, method, "a")


def test_attach_to_an_adapter_says_what_to_do(model):
    adapter = attach(model, LoRA(rank=2))
    with pytest.raises(ConfigError, match=r"adapter\.model"):
        attach(adapter, LoRA(rank=2))
    adapter.detach()


@pytest.mark.parametrize("weight", [math.nan, math.inf, "1", None, True])
def test_weight_must_be_a_number(model, weight):
    with pytest.raises(ConfigError, match="weight must be a finite number"):
        attach(model, LoRA(rank=2), weight=weight)
    delta = of(model, a_weight=Dense(drawn(5, 6)))
    with pytest.raises(ConfigError, match="a factor in weights must be a finite number"):
        attach(model, [delta, delta], weights=[1.0, weight])


@pytest.mark.parametrize("seed", [1.0, "1", None, True])
def test_seed_must_be_a_whole_number(model, seed):
    with pytest.raises(ConfigError, match=f"seed must be int, found {seed!r}"):
        attach(model, LoRA(rank=2), seed=seed)


def test_numbers_of_numpy_reach_a_file(model, tmp_path):
    adapter = attach(model, LoRA(rank=np.int64(2)), weight=np.float32(0.5), seed=np.int16(3))
    path = adapter.delta().save(tmp_path / "a.delta")
    adapter.detach()
    assert load(path).provenance.seed == 3
    again = attach(model, load(path))
    assert again.method == LoRA(rank=2)
    again.detach()


def test_an_input_that_is_infinite(model):
    """The limit that attach states: zero times infinity, where the term acts by itself."""
    x = drawn(1, 6)
    x[0, 0] = math.inf
    adapter = attach(model, LoRA(rank=2), "a")
    assert bool(model["a"](x).isnan().all())
    assert not model["a"](x.expand(40, 6)).isnan().any()
    adapter.detach()
    assert not model["a"](x).isnan().any()


# ---- deltas


def test_weighted_list_is_the_weighted_sum(model):
    first, second = of(model, a_weight=LowRank(drawn(5, 2), drawn(2, 6))), of(model, a_weight=Dense(drawn(5, 6)))
    adapter = attach(model, [first, second], weights=[0.5, -2.0])
    expected = 0.5 * first["a.weight"].dense() - 2.0 * second["a.weight"].dense()
    torch.testing.assert_close(adapter.delta()["a.weight"].dense(), expected)
    adapter.detach()
    adapter = attach(model, [first, second], weight=2.0)
    expected = 2.0 * (first["a.weight"].dense() + second["a.weight"].dense())
    torch.testing.assert_close(adapter.delta()["a.weight"].dense(), expected)
    adapter.detach()


def test_continued_delta_names_its_parent(model):
    adapter = attach(model, SORSA(rank=2))
    first = adapter.delta()
    adapter.detach()
    again = attach(model, first)
    assert again.method == SORSA(rank=2)
    assert list(again.delta().provenance.parents) == [first.digest]
    again.detach()


def test_deltas_that_no_method_made_train_in_the_form_they_have(model):
    adapter = attach(model, of(model, a_weight=LowRank(drawn(5, 2), drawn(2, 6)), b_bias=Dense(drawn(4))))
    assert isinstance(adapter.term("a.weight"), FactoredTerm)
    assert isinstance(adapter.term("b.bias"), DenseTerm)
    assert adapter.delta().provenance.method == {}
    adapter.detach()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"select": "a"}, "select and also go with a method"),
        ({"also": "a"}, "delta.restrict"),
        ({"weights": [1.0]}, "weights go with a list of deltas"),
    ],
)
def test_arguments_that_do_not_go_with_a_delta(model, arguments, message):
    with pytest.raises(ConfigError, match=message):
        attach(model, of(model, a_weight=Dense(drawn(5, 6))), **arguments)


def test_arguments_that_do_not_go_with_a_method_or_each_other(model):
    delta = of(model, a_weight=Dense(drawn(5, 6)))
    with pytest.raises(ConfigError, match="weights go with a list of deltas; a method takes weight="):
        attach(model, LoRA(rank=2), weights=[1.0])
    with pytest.raises(ConfigError, match="2 deltas but 1 weights"):
        attach(model, [delta, delta], weights=[1.0])
    for nonsense in ([], [delta, "b"], "news.delta", 3):
        with pytest.raises(ConfigError, match="expected a method, a delta or a list of deltas"):
            attach(model, nonsense)


def test_deltas_that_do_not_fit(model):
    with pytest.raises(BaseMismatch, match=r"c\.weight"):
        attach(model, Delta({"c.weight": Dense(drawn(2, 2))}, fingerprint({"c.weight": drawn(2, 2)})))
    with pytest.raises(UnknownParameter, match=r"a\.weigth.*did you mean 'a\.weight'"):
        attach(model, Delta({"a.weigth": Dense(drawn(5, 6))}), strict=False)
    with pytest.raises(ShapeMismatch, match=r"a\.weight"):
        attach(model, Delta({"a.weight": Dense(drawn(6, 5))}))
    with pytest.raises(UnsupportedLayer, match="prompt"):
        attach(model, Delta({"prompt": New(drawn(2, 3))}))
    with pytest.raises(ConfigError, match="changes nothing"):
        attach(model, Delta({}))
    made = Provenance("train", {"name": "Unheard"})
    with pytest.raises(ConfigError, match="unknown method 'Unheard'"):
        attach(model, Delta({"a.weight": Dense(drawn(5, 6))}, provenance=made))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_damaged_deltas(model, value):
    changes = {
        "a.weight": LowRank(drawn(5, 2), drawn(2, 6)),
        "b.weight": LowRank(drawn(4, 2), drawn(2, 5), torch.ones(2)) + 2.0 * Dense(drawn(4, 5)),
        "b.bias": Dense(drawn(4)),
    }
    for name, change in changes.items():
        broken = change.map(torch.clone)
        next(iter(broken.tensors().values())).view(-1)[-1] = value
        delta = Delta({**changes, name: broken}, fingerprint(model).restrict(changes))
        with pytest.raises(NonFinite, match=f"{name}: the delta holds NaN or infinity"):
            attach(model, delta)
        attach(model, delta.restrict("|".join(set(changes) - {name}))).detach()


def test_buffers_cannot_be_attached_to():
    model = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(UnsupportedLayer, match=r"0\.running_mean.*applied"):
        attach(model, Delta({"0.running_mean": Dense(drawn(3))}))


def test_delta_under_another_name_of_a_tied_weight(tiny_gpt2):
    tokens = torch.arange(8).reshape(1, 8)
    delta = Delta({"lm_head.weight": LowRank(drawn(64, 2), drawn(2, 16))})
    adapter = attach(tiny_gpt2, delta)
    assert list(adapter.sites) == ["transformer.wte.weight"]
    assert tiny_gpt2(tokens).logits.isfinite().all()
    adapter.detach()


def test_continuing_slices_of_fused_attention(tiny_mha, tiny_gpt2):
    for model, select in ((tiny_mha, "attention:kv"), (tiny_gpt2, "*.c_attn#0:qv")):
        adapter = attach(model, PiSSA(rank=2), select)
        delta = adapter.delta()
        adapter.detach()
        again = attach(model, delta)
        assert list(again.sites) == list(adapter.sites)
        assert all(again.term(key).left0 is not None for key in again.sites)
        again.detach()
        doubled = attach(model, 2.0 * delta)
        torch.testing.assert_close(
            doubled.delta()[next(iter(delta))].dense(), 2.0 * delta[next(iter(delta))].dense(), rtol=1e-4, atol=1e-5
        )
        doubled.detach()


def test_uneven_blocks_keep_their_place(tiny_mha):
    from dtheta.core.block import Block

    change = Block(LowRank(drawn(5, 2), drawn(2, 16)), 0, 7, (48, 16)) + Block(
        LowRank(drawn(3, 1), drawn(1, 16)), 0, 20, (48, 16)
    )
    adapter = attach(tiny_mha, Delta({"attention.in_proj_weight": change}))
    assert list(adapter.sites) == ["attention.in_proj_weight[7:12]", "attention.in_proj_weight[20:23]"]
    torch.testing.assert_close(adapter.delta()["attention.in_proj_weight"].dense(), change.dense())
    adapter.detach()
    overlapping = change + Block(LowRank(drawn(5, 2), drawn(2, 16)), 0, 9, (48, 16))
    adapter = attach(tiny_mha, Delta({"attention.in_proj_weight": overlapping}))
    torch.testing.assert_close(adapter.delta()["attention.in_proj_weight"].dense(), overlapping.dense())
    adapter.detach()


def test_slices_are_called_q_k_and_v_only_where_a_method_calls_them_so(tiny_mha):
    from dtheta.core.block import Block

    class Grouped(nn.Module):
        """A projection of eight queries and two times two keys and values, as grouped-query attention has."""

        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(8, 12)
            self.up = nn.Linear(4, 12)

    def sites(model, name, width, *cuts):
        shape = (12, width) if name != "attention.in_proj_weight" else (48, width)
        terms = [Block(LowRank(drawn(b - a, 1), drawn(1, width)), 0, a, shape) for a, b in cuts]
        adapter = attach(model, Delta({name: terms[0] if len(terms) == 1 else terms[0] + terms[1]}))
        found = [key.removeprefix(name) for key in adapter.sites]
        adapter.detach()
        return found

    assert sites(Grouped(), "qkv.weight", 8, (0, 8), (8, 10)) == ["[0:8]", "[8:10]"]
    assert sites(Grouped(), "qkv.weight", 8, (4, 8)) == ["[4:8]"]  # the second third, and no k
    assert sites(Grouped(), "up.weight", 4, (0, 4)) == ["[0:4]"]
    assert sites(tiny_mha, "attention.in_proj_weight", 16, (16, 32), (32, 48)) == ["[k]", "[v]"]
    assert sites(tiny_mha, "attention.in_proj_weight", 16, (16, 33)) == ["[16:33]"]


@pytest.mark.parametrize("strict", ["no", "", 0, None])
def test_strict_is_a_flag(strict: object) -> None:
    model, other = nn.Linear(3, 3), nn.Linear(3, 3)
    delta = Delta({"weight": Dense(drawn(3, 3))}, fingerprint(other))
    with pytest.raises(ConfigError, match=r"strict is .*expected True or False"):
        attach(model, delta, strict=strict)  # type: ignore[arg-type]
    assert not attached_to(model)
