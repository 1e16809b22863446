"""Terms on a weight: copies leave each other alone, others' parametrizations stay, and autocast rounds nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from dtheta.adapt.attach import attach
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.adapt.parametrization import AdditiveParametrization, parametrization_of, take_off
from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.sorsa import SORSA
from dtheta.adapt.source import Source
from dtheta.adapt.term import DenseTerm
from dtheta.core.fingerprint import fingerprint
from dtheta.core.seeds import generator
from dtheta.core.selection import Window
from dtheta.errors import ConfigError, UnsupportedLayer
from tests.shaken import shaken


def drawn(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, name))


class Doubled(nn.Module):
    """A parametrization of somebody else's."""

    def forward(self, weight):
        return 2.0 * weight


@pytest.fixture
def conv():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(3, 4, 1))


class Tied(nn.Module):
    """A table that is the head as well."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, index):
        return self.head(self.table(index).tanh())


@pytest.fixture
def tied():
    torch.manual_seed(0)
    return Tied()


def attention():
    torch.manual_seed(0)
    return nn.MultiheadAttention(8, 2, batch_first=True)


CASES = {
    "conv": (lambda: nn.Sequential(nn.Conv1d(3, 4, 1)), lambda m: m(drawn(2, 3, 5)), "0.weight", nn.Conv1d),
    "conv, both": (lambda: nn.Sequential(nn.Conv1d(3, 4, 1)), lambda m: m(drawn(2, 3, 5)), "0.*", nn.Conv1d),
    "tied": (Tied, lambda m: m(torch.arange(6)), "table", Tied),
    "attention": (attention, lambda m: m(*[drawn(2, 3, 8)] * 3)[0], "in_proj_weight", nn.MultiheadAttention),
    "linear": (lambda: nn.Sequential(nn.Linear(4, 3)), lambda m: m(drawn(2, 4)), "@all", nn.Linear),
}


@pytest.mark.parametrize("what", ["adapter", "model"])
@pytest.mark.parametrize("name", CASES)
def test_a_copy_and_its_original_leave_each_other_alone(name, what):
    make, run, select, _ = CASES[name]
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        base = run(model)
        adapter = shaken(attach(model, Full(), select))
        moved = run(model)
        twin = copy.deepcopy(adapter if what == "adapter" else model)
        copied = twin.model if what == "adapter" else twin
        assert torch.equal(run(copied), moved)
        if what == "adapter":
            twin.detach()
            assert torch.equal(run(copied), base)
            assert torch.equal(run(model), moved)
            twin = copy.deepcopy(adapter)
            copied = twin.model
        adapter.detach()
        assert torch.equal(run(model), base)
        assert torch.equal(run(copied), moved)
        if what == "adapter":
            twin.detach()
            assert torch.equal(run(copied), base)
    assert [type(m) for m in make().modules()] == [type(m) for m in model.modules()]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_one_of_two_parameters_of_a_copy(conv, order):
    x = drawn(2, 3, 5)
    base = conv(x)
    adapters = [shaken(attach(conv, Full(), name)) for name in ("0.weight", "0.bias")]
    moved = conv(x)
    twins = copy.deepcopy(nn.ModuleList(adapters))
    model = twins[0].model
    adapters[order[0]].detach()
    assert torch.equal(model(x), moved)
    twins[order[1]].detach()
    adapters[order[1]].detach()
    assert torch.equal(conv(x), base)
    twins[order[0]].detach()
    assert torch.equal(model(x), base)
    assert type(model[0]) is type(conv[0]) is nn.Conv1d
    assert [n for n, _ in model.named_parameters()] == ["0.weight", "0.bias"]


def test_more_on_a_copy_shows_on_the_copy_alone(conv):
    x = drawn(2, 3, 5)
    adapter = attach(conv, LoRA(rank=2), "0.weight")
    base, copied = conv(x), copy.deepcopy(conv)
    other = shaken(attach(copied, Full(), "0.bias"))
    assert torch.equal(conv(x), base)
    assert not torch.equal(copied(x), base)
    other.detach()
    assert torch.equal(copied(x), base)
    adapter.detach()


def test_an_adapter_whose_model_is_the_parametrized_module_copies_as_an_adapter():
    model = attention()
    adapter = attach(model, LoRA(rank=2), "in_proj_weight")
    twin = copy.deepcopy(adapter)
    assert type(twin) is type(adapter)
    assert twin.model is not model
    twin.detach()
    adapter.detach()


def test_a_buffer_on_the_memory_of_a_parameter_stays_a_buffer():
    model = nn.ModuleDict({"table": nn.Embedding(5, 4), "frozen": nn.Module()})
    model["frozen"].register_buffer("table", model["table"].weight.detach())
    buffer = model["frozen"].table
    adapter = shaken(attach(model, LoRA(rank=2), "table"))
    assert torch.equal(model["frozen"].table, model["table"](torch.arange(5)))
    adapter.detach()
    assert model["frozen"]._buffers["table"] is buffer
    assert list(dict(model.named_parameters())) == ["table.weight"]


# ---- parametrizations of others


def test_a_parametrization_put_on_top_stays(conv):
    x = drawn(2, 3, 5)
    adapter = shaken(attach(conv, LoRA(rank=2), "0.weight"))
    parametrize.register_parametrization(conv[0], "weight", Doubled())
    weight = conv[0].parametrizations.weight.original
    with pytest.raises(ConfigError, match=r"0\.weight: this parameter got another parametrization after attach"):
        adapter.delta()
    adapter.detach()
    assert [type(p) for p in conv[0].parametrizations.weight] == [Doubled]
    assert conv[0].parametrizations.weight.original is weight
    assert torch.equal(conv[0].weight, 2.0 * weight)
    assert conv(x).shape == (2, 4, 5)
    parametrize.remove_parametrizations(conv[0], "weight", leave_parametrized=False)
    assert conv[0].weight is weight
    assert type(conv[0]) is nn.Conv1d


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_adapters_below_and_beside_a_parametrization_put_on_top(conv, order):
    x = drawn(2, 3, 5)
    first = shaken(attach(conv, LoRA(rank=2), "0.weight"))
    parametrize.register_parametrization(conv[0], "weight", Doubled())
    second = shaken(attach(conv, Full(), "*original"))
    for i in order:
        (first, second)[i].detach()
    parametrize.remove_parametrizations(conv[0], "weight", leave_parametrized=False)
    assert torch.equal(conv(x), nn.Conv1d.forward(conv[0], x))
    assert [n for n, _ in conv.named_parameters()] == ["0.bias", "0.weight"]


def test_beside_a_weight_norm(conv):
    parametrizations.weight_norm(conv[0])
    x = drawn(2, 3, 5)
    base = conv(x)
    adapter = shaken(attach(conv, Full(), "*"))
    assert not torch.allclose(conv(x), base)
    adapter.detach()
    assert torch.equal(conv(x), base)
    parametrize.remove_parametrizations(conv[0], "weight")
    assert type(conv[0]) is nn.Conv1d


def test_a_class_put_in_front_is_no_way_back(conv):
    adapter = attach(conv, LoRA(rank=2), "0.weight")
    before = type(conv[0])
    conv[0].__class__ = type("Sharded", (before,), {})
    entry = parametrization_of(conv[0], "weight")
    with pytest.raises(ConfigError, match=r"Sharded\.weight: the module got another class after attach"):
        take_off(conv[0], "weight", entry)
    conv[0].__class__ = before
    adapter.detach()
    assert type(conv[0]) is nn.Conv1d


@pytest.mark.parametrize("name", ["keys", "values", "items", "pop", "update"])
def test_names_that_torch_cannot_parametrize_are_refused_before_anything_happens(name):
    model = nn.Module()
    setattr(model, name, nn.Parameter(drawn(4, 4)))
    weight = getattr(model, name)
    with pytest.raises(UnsupportedLayer, match=f"{name}: torch keeps parametrizations by name"):
        attach(model, LoRA(rank=2), name)
    assert getattr(model, name) is weight
    assert weight.requires_grad
    assert type(model) is nn.Module


# ---- the sum


@pytest.mark.parametrize("method", [LoRA(rank=2), PiSSA(rank=2), SORSA(rank=2), CLIPSVD(), Full()], ids=str)
def test_autocast_rounds_no_weight_at_the_start(tied, method):
    index = torch.arange(6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rows, out = tied.table(index), tied(index)
        adapter = attach(tied, method, "table")
        assert torch.equal(tied.table(index), rows)
        assert torch.equal(tied(index), out)
        adapter.detach()


def test_autocast_moves_the_weight_by_the_unrounded_displacement(tied):
    index = torch.arange(6)
    adapter = shaken(attach(tied, LoRA(rank=2), "table"))
    with torch.no_grad():
        expected = tied.table(index)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(tied.table(index), expected)
            assert torch.is_autocast_enabled("cpu")
    adapter.detach()


@pytest.mark.parametrize(
    ("weight", "term"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.bfloat16),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float8_e4m3fn, torch.float32),
    ],
    ids=str,
)
def test_a_zero_displacement_of_any_dtype_leaves_every_bit(weight, term):
    entry = AdditiveParametrization(["weight"])
    entry.sources.append(Source(DenseTerm(torch.zeros(4, 3, dtype=term)), None, lambda: 1.0))
    base = drawn(4, 3).to(weight)
    assert torch.equal(entry(base).detach().view(torch.uint8), base.view(torch.uint8))


def test_windows_and_weights_are_placed():
    entry = AdditiveParametrization(["weight"])
    terms = [drawn(2, 3, name="a"), drawn(4, 1, name="b")]
    entry.sources.append(Source(DenseTerm(terms[0]), Window(0, 1, 3, "x"), lambda: 0.5))
    entry.sources.append(Source(DenseTerm(terms[1]), Window(1, 2, 3, "y"), lambda: 1.0))
    entry.sources.append(Source(DenseTerm(drawn(4, 3)), None, lambda: 0.0))
    base = drawn(4, 3, name="w")
    expected = base.clone()
    expected[1:3] += 0.5 * terms[0]
    expected[:, 2:3] += terms[1]
    torch.testing.assert_close(entry(base).detach(), expected)


def test_the_base_is_whole_while_a_term_sits_on_another_parametrization() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.Linear(3, 2))
    before = fingerprint(model)
    adapter = attach(model, Full(), select="*original1")
    assert fingerprint(model) == before
    (name,) = adapter.delta().base.digests
    assert name == "0.parametrizations.weight.original1"
    assert adapter.attached
    adapter.detach()
    assert fingerprint(model) == before and not adapter.attached
