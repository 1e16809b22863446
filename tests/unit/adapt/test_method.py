"""Methods as configuration: fields to JSON and back, checks of ranks and weights, and terms from any stored change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import nn

from dtheta.adapt import registry
from dtheta.adapt.attach import attach
from dtheta.adapt.bitfit import BitFit
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.full import Full
from dtheta.adapt.houlsby import Houlsby
from dtheta.adapt.lora import LoRA
from dtheta.adapt.method import Method, check_rank, check_weight, method_from_dict, restored, split_start, working_dtype
from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.prompts.adept import ADePT
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.p_tuning import PTuning
from dtheta.adapt.prompts.prefix_tuning import PrefixTuning
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.adapt.snnk import SNNK
from dtheta.adapt.sorsa import SORSA
from dtheta.adapt.term import DenseTerm, FactoredTerm, SpectralTerm
from dtheta.core.block import Block
from dtheta.core.change import Dense
from dtheta.core.lowrank import LowRank
from dtheta.core.rows import Rows
from dtheta.core.selection import sites
from dtheta.core.spectral import Spectral
from dtheta.errors import ConfigError, NonFinite, UnsupportedLayer

METHODS = [
    LoRA(rank=3, alpha=2.0, rslora=True, dropout=0.1),
    PiSSA(rank=2, accuracy=None),
    SORSA(gamma=0.0),
    CLIPSVD(0.5),
    Full(),
    BitFit(),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_to_dict_and_back(method):
    record = method.to_dict()
    assert record["name"] == method.name == type(method).__name__
    assert method_from_dict(record) == method


def test_methods_are_frozen():
    with pytest.raises(AttributeError):
        LoRA().rank = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"name": "LoRa2"}, "unknown method 'LoRa2'; did you mean 'LoRA'"),
        ({"name": ""}, "unknown method ''"),
        ({"name": "LoRA", "rnk": 3}, "LoRA has no field 'rnk'; did you mean 'rank'"),
        ({"name": "LoRA", "rank": "3"}, "rank must be int, found '3'"),
        ({"name": "LoRA", "rank": 3.5}, "rank must be int"),
        ({"name": "LoRA", "rank": True}, "rank must be int, found True"),
        ({"name": "LoRA", "alpha": "x"}, "alpha must be float"),
        ({"name": "PiSSA", "rslora": 1}, "rslora must be bool"),
    ],
)
def test_bad_records(record, message):
    with pytest.raises(ConfigError, match=message):
        method_from_dict(record)


def test_whole_numbers_are_numbers_and_none_is_kept():
    assert method_from_dict({"name": "PiSSA", "alpha": 2, "accuracy": None}) == PiSSA(alpha=2, accuracy=None)


@dataclass(frozen=True)
class Outside(Method):
    """A method from elsewhere, with fields of other types."""

    layers: tuple[int, ...] = ()
    kind: Literal["a", "b"] = "a"


def test_tuples_and_choices(monkeypatch):
    monkeypatch.setattr(registry, "method_class", lambda name: Outside)
    assert method_from_dict(Outside((1, 2), "b").to_dict() | {"layers": [1, 2]}) == Outside((1, 2), "b")
    with pytest.raises(ConfigError, match=r"kind must be Literal\['a', 'b'\], found 'c'"):
        method_from_dict({"name": "Outside", "kind": "c"})


def site(model: nn.Module, name: str = "0.weight"):
    return sites(model)[name]


@pytest.mark.parametrize("rank", [0, -1, 4, 1000])
def test_rank_outside_the_matrix(rank):
    with pytest.raises(ConfigError, match=rf"0\.weight: rank {rank} .* 3 x 5; expected 1 to 3.*!0\.weight"):
        check_rank(site(nn.Sequential(nn.Linear(5, 3))), rank)


def test_weights_that_cannot_be_moved():
    model = nn.Sequential(nn.Linear(5, 3))
    check_weight(site(model))
    model[0].weight.data[1, 1] = float("inf")
    with pytest.raises(NonFinite, match=r"0\.weight"):
        check_weight(site(model))
    check_weight(site(model), finite=False)
    model[0].weight.data = torch.full((3, 5), 3e38)  # the sum overflows and nothing is wrong
    check_weight(site(model))
    with pytest.raises(UnsupportedLayer, match="meta device"):
        check_weight(site(nn.Sequential(nn.Linear(5, 3, device="meta"))))
    integers = nn.Sequential(nn.Linear(5, 3))
    integers[0].weight = nn.Parameter(torch.ones(3, 5, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedLayer, match="int8"):
        check_weight(site(integers))


def test_check_weight_in_eight_bits():
    model = nn.Sequential(nn.Linear(5, 3))
    model[0].weight.data = torch.full((3, 5), 400.0).to(torch.float8_e4m3fn)  # the sum overflows its dtype
    check_weight(site(model))
    model[0].weight.data.view(torch.uint8)[1, 1] = 0x7F  # NaN, for which torch has no isfinite in this dtype
    with pytest.raises(NonFinite, match=r"0\.weight"):
        check_weight(site(model))


def test_working_dtype():
    dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    assert [working_dtype(torch.ones(1, dtype=d)) for d in dtypes] == [torch.float32] * 3 + [torch.float64]


CHANGES = {
    "low rank": LowRank(torch.randn(4, 2), torch.randn(2, 6)),
    "core": LowRank(torch.randn(4, 2), torch.randn(2, 6), torch.randn(2)),
    "scaled": -0.3 * LowRank(torch.randn(4, 2), torch.randn(2, 6), torch.randn(2)),
    "sum": LowRank(torch.randn(4, 2), torch.randn(2, 6)) + LowRank(torch.randn(4, 1), torch.randn(1, 6)),
    "block": Block(LowRank(torch.randn(2, 1), torch.randn(1, 6)), 0, 1, (4, 6)),
    "spectral": Spectral(torch.randn(2), (4, 6), torch.randn(4, 2), torch.randn(2, 6)),
    "dense": Dense(torch.randn(4, 6)),
    "rows": Rows(torch.tensor([1, 3]), torch.randn(2, 6), (4, 6)),
    "mixed": Dense(torch.randn(4, 6)) + LowRank(torch.randn(4, 2), torch.randn(2, 6)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_term_from_any_change(change):
    term = restored(change)
    torch.testing.assert_close(term.matrix(), change.matrix().float(), rtol=1e-5, atol=1e-6)
    kinds = {"low-rank": FactoredTerm, "spectral": SpectralTerm, "dense": DenseTerm, "rows": DenseTerm}
    assert isinstance(term, kinds.get(change.kind, (FactoredTerm, DenseTerm)))
    before = change.dense().clone()
    with torch.no_grad():
        for p in term.parameters():
            p.zero_()
    assert torch.equal(change.dense(), before)


def test_split_start_only_of_stacked_factors():
    stacked = LowRank(torch.randn(4, 4), torch.randn(4, 6), torch.tensor([1.0, 1, -1, -1]))
    now, start = split_start(stacked, 2)
    torch.testing.assert_close(now.dense() - start.dense(), stacked.dense())
    assert split_start(stacked, 3) is None
    assert split_start(LowRank(torch.randn(4, 4), torch.randn(4, 6)), 2) is None
    assert split_start(Dense(torch.ones(2, 2)), 1) is None


def test_groups_hold_every_trainable_parameter_once():
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 3))
    adapter = attach(model, SORSA(rank=2))
    (group,) = adapter.method.parameter_groups(adapter, 0.1)
    assert group["lr"] == 0.1
    assert {id(p) for p in group["params"]} == {id(p) for p in adapter.trainable().values()}
    adapter.detach()


def test_a_method_without_a_term_says_so():
    with pytest.raises(NotImplementedError):
        Method().term(site(nn.Sequential(nn.Linear(5, 3))), 0)


def _start(method: Method, model: nn.Module, select: str | None) -> dict[str, torch.Tensor]:
    adapter = attach(model, method, select)
    found = {name: p.detach().clone() for name, p in adapter.trainable().items()}
    adapter.detach()
    return found


@pytest.mark.parametrize(
    "method",
    [
        *(LoRA(rank=2), PiSSA(rank=2), SORSA(rank=2), CLIPSVD(), Full(), BitFit()),
        *(SNNK(features=4), SNNK(features=4, size=2, init="kaiming"), Houlsby(size=3)),
        *(PromptTuning(length=3, init="normal"), DePT(length=3), ADePT(length=3), PTuning(length=3, hidden=4)),
        PrefixTuning(length=3),
    ],
    ids=repr,
)
def test_a_start_does_not_depend_on_the_dtype_that_torch_has_by_default(tiny_gpt2, method):
    expected = _start(method, tiny_gpt2, None)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = _start(method, tiny_gpt2, None)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("method", [LoRA(rank=2), PiSSA(rank=2), SORSA(rank=2), Full(), SNNK(size=2), Houlsby(size=3)])
def test_a_start_does_not_depend_on_the_device_that_torch_has_by_default(tiny_gpt2, method):
    expected = _start(method, tiny_gpt2, None)
    with torch.device("meta"):
        found = _start(method, tiny_gpt2, None)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
