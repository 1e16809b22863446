"""Laws 1, 3 and 4 of attach, on every kind of layer: nothing moves before training, and no base tensor ever does."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import dtheta.core.files as files
from dtheta.adapt import wiring
from dtheta.adapt.adapter import Adapter
from dtheta.adapt.attach import attach
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.adapt.method import Method
from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.sorsa import SORSA
from dtheta.core.apply import applied
from dtheta.core.delta import total
from dtheta.core.seeds import generator
from dtheta.core.selection import select as select_sites
from dtheta.errors import BaseMismatch


class Bare(nn.Module):
    """A parameter of its own, as CLIP's projections are, beside one in a ParameterList."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.randn(6, 5))
        self.more = nn.ParameterList([torch.randn(5, 4)])

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.projection @ self.more[0]


class Tied(nn.Module):
    """A table that is the output head as well."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 6, padding_idx=0)
        self.inner = nn.Linear(6, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, index: Tensor) -> Tensor:
        return self.head(self.inner(self.table(index)).tanh())


class Scaled(nn.Embedding):
    """An embedding that scales its output, as Gemma's does."""

    def forward(self, index: Tensor) -> Tensor:
        return super().forward(index) * 3.0


class SelfAttention(nn.Module):
    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=12, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def llama() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=12, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "numbers"))


def indices(most: int, *shape: int) -> Tensor:
    return torch.randint(0, most, shape, generator=generator(0, "indices"))


# name: (build, inputs, selections)
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, Sequence[str | None]]] = {
    "linear, few tokens": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 7)), numbers(1, 6), [None]),
    "linear, many tokens": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 7, bias=False)), numbers(4, 9, 6), [None, "0"],
    ),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(4, 6, 3, stride=2, dilation=2)), numbers(2, 4, 11), ["@conv"]),
    "conv2d": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, groups=2)),
        numbers(2, 3, 7, 7), ["@conv", "1"],
    ),
    "convtranspose2d": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 3, 3)), numbers(2, 4, 5, 5), ["@conv"]),
    "embedding": (lambda: nn.Sequential(nn.Embedding(9, 6, padding_idx=0)), indices(9, 3, 5), ["@embedding"]),
    "embedding that scales": (lambda: nn.Sequential(Scaled(9, 6)), indices(9, 3, 5), ["@embedding"]),
    "attention": (
        SelfAttention, numbers(2, 5, 8), ["*.in_proj_weight", "*.in_proj_weight:qv", "*.out_proj", "@attention"],
    ),
    "attention, tokens first": (lambda: SelfAttention(False), numbers(5, 2, 8), ["@attention"]),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), numbers(2, 5, 8),
        ["@linear", "linear1", "self_attn:q|linear2"],
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), 2),
        numbers(2, 5, 8), [None, "@mlp", "layers.1.self_attn"],
    ),
    "gpt2": (gpt2, indices(20, 2, 7), [None, "*.c_attn:qv", "*.c_attn:k|*.c_proj", "*.wpe|@mlp", "*.wte"]),
    "llama, tied": (llama, indices(20, 2, 7), [None, "*.embed_tokens", "lm_head|*.q_proj"]),
    "tied": (Tied, indices(9, 2, 7), ["table", "@all", "head|inner"]),
    "bare": (Bare, numbers(3, 6), ["projection", "projection|more.0"]),
}  # fmt: skip
ATTENTION = ("attention", "attention, tokens first", "encoder layer", "encoder", "gpt2", "llama, tied")
PAIRS = [(name, select) for name, (_, _, selections) in CASES.items() for select in selections]
METHODS: list[Method] = [
    LoRA(rank=2), PiSSA(rank=2, alpha=1.0), CLIPSVD(), SORSA(rank=2), LoRA(rank=2, alpha=6.0, rslora=True),
    PiSSA(rank=2), CLIPSVD(ratio=0.5), SORSA(rank=2, alpha=6.0), Full(),
]  # fmt: skip
places = pytest.mark.parametrize(("name", "select"), PAIRS, ids=[f"{n}-{s}" for n, s in PAIRS])


def some_methods(count: int) -> Any:
    """Every place with ``count`` methods, each method at a third or so of the places: all pairs would take minutes."""
    rows = [(n, s, METHODS[(i * count + j) % len(METHODS)]) for i, (n, s) in enumerate(PAIRS) for j in range(count)]
    return pytest.mark.parametrize(("name", "select", "method"), rows, ids=[f"{n}-{s}-{m}" for n, s, m in rows])


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    make, inputs, _ = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().to(dtype)
    return model, inputs.to(dtype) if inputs.is_floating_point() else inputs


def run(model: nn.Module, inputs: Tensor, *, training: bool = False, grad: bool = False) -> Tensor:
    was = model.training
    model.train(training)
    with torch.set_grad_enabled(grad):
        result: Any = model(inputs)
    model.train(was)
    return result if isinstance(result, Tensor) else result.logits


def shake(adapter: Adapter, size: float = 0.3) -> None:
    with torch.no_grad():
        for name, p in adapter.trainable().items():
            p.add_(torch.randn(p.shape, generator=generator(1, name)).to(p), alpha=size)


def train(adapter: Adapter, inputs: Tensor, steps: int = 2) -> None:
    optimizer = torch.optim.SGD(adapter.trainable().values(), lr=0.05)
    for _ in range(steps):
        run(adapter, inputs, training=True, grad=True).float().sin().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


class Snapshot:
    """Everything of a model that must be as it was: tensors by object and byte, order, flags, classes, hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.tensors = [(n, t, t.detach().clone(), t.requires_grad, t.grad) for n, t in self._named(model)]
        self.modules = [(type(m), sorted(m.__dict__), len(m._forward_hooks)) for m in model.modules()]

    @staticmethod
    def _named(model: nn.Module) -> list[tuple[str, Tensor]]:
        return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]

    def assert_bytes(self) -> None:
        for name, tensor, before, _, _ in self.tensors:
            assert torch.equal(tensor.detach().view(torch.uint8), before.view(torch.uint8)), name

    def assert_everything(self) -> None:
        self.assert_bytes()
        now = self._named(self.model)
        assert [n for n, _ in now] == [n for n, *_ in self.tensors]
        for (name, tensor), (_, was, _, flag, grad) in zip(now, self.tensors, strict=True):
            assert tensor is was, name
            assert tensor.requires_grad == flag, name
            assert tensor.grad is grad, name
        assert [(type(m), sorted(m.__dict__), len(m._forward_hooks)) for m in self.model.modules()] == self.modules


# ---- law 1


@some_methods(4)
def test_attach_changes_no_output_and_no_base_tensor_ever(name, select, method):
    model, inputs = build(name)
    before = Snapshot(model)
    # without gradients attention and encoder layers take their fused fast path
    modes = [{}, {"grad": True}, {"training": True, "grad": True}]
    outputs = [run(model, inputs, **mode) for mode in modes]
    adapter = attach(model, method, select)
    before.assert_bytes()
    for mode, output in zip(modes, outputs, strict=True):
        # torch picks attention's kernel by which of its inputs want gradients: then the same numbers in another order
        exact = not mode or name not in ATTENTION
        now = run(adapter, inputs, **mode)
        assert torch.equal(now, output) if exact else torch.allclose(now, output, atol=1e-6)
    train(adapter, inputs)
    before.assert_bytes()
    moved = run(model, inputs)
    assert not torch.equal(moved, outputs[0])
    with adapter.disabled():
        assert torch.equal(run(model, inputs), outputs[0])
    assert torch.equal(run(model, inputs), moved)
    adapter.detach()
    before.assert_everything()
    assert torch.equal(run(model, inputs), outputs[0])


@places
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_bases_are_untouched_at_the_start_and_train_in_float32(name, select, dtype):
    model, inputs = build(name, dtype=dtype)
    before, output = Snapshot(model), run(model, inputs)
    for method in (PiSSA(rank=2), CLIPSVD()):
        adapter = attach(model, method, select)
        assert torch.equal(run(adapter, inputs), output)
        assert run(adapter, inputs).dtype == dtype
        assert all(p.dtype == torch.float32 for p in adapter.trainable().values())
        if dtype == torch.bfloat16:
            train(adapter, inputs, steps=1)
        adapter.detach()
        before.assert_everything()


@some_methods(1)
def test_autocast_changes_no_output_at_the_start(name, select, method):
    model, inputs = build(name)
    for p in model.parameters():  # torch multiplies in another order where a weight wants a gradient
        p.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        output = run(model, inputs)
        adapter = attach(model, method, select)
        assert torch.equal(run(adapter, inputs), output)
        adapter.detach()


@some_methods(2)
def test_copies_are_adapters_of_their_own(name, select, method):
    model, inputs = build(name)
    before, output = Snapshot(model), run(model, inputs)
    adapter = attach(model, method, select)
    shake(adapter)
    twin = copy.deepcopy(adapter)
    moved = run(model, inputs)
    assert torch.equal(run(twin, inputs), moved)
    twin.detach()
    assert torch.equal(run(twin.model, inputs), output)
    assert torch.equal(run(model, inputs), moved)
    twin = copy.deepcopy(adapter)
    adapter.detach()
    before.assert_everything()
    assert torch.equal(run(twin, inputs), moved)
    twin.detach()
    assert torch.equal(run(twin.model, inputs), output)
    assert [type(m) for m in twin.model.modules()] == [type(m) for m in model.modules()]


@some_methods(2)
def test_delta_on_the_plain_base_gives_the_adapters_outputs(name, select, method):
    model, inputs = build(name, dtype=torch.float32)
    adapter = attach(model, method, select)
    shake(adapter)
    expected, delta = run(adapter, inputs), adapter.delta()
    adapter.detach()
    with applied(model, delta):
        torch.testing.assert_close(run(model, inputs), expected, rtol=1e-4, atol=1e-4)
    again = attach(model, delta)
    torch.testing.assert_close(run(again, inputs), expected, rtol=1e-4, atol=1e-4)
    again.detach()


def failing(*_: object) -> None:
    raise OSError("in the model")


def failing_at(number: int) -> Callable[..., Any]:
    """Wire terms as always, and fail at one of them."""
    calls = itertools.count(1)

    def connect(site: Any, source: Any) -> Any:
        if next(calls) == number:
            raise OSError("the last one")
        return wiring.connect(site, source)

    return connect


@given(name=st.sampled_from(sorted(CASES)), where=st.sampled_from(["forward", "attach"]), data=st.data())
@settings(max_examples=20)
def test_exceptions_leave_every_bit(name, where, data):
    model, inputs = build(name)
    select = data.draw(st.sampled_from(CASES[name][2]))
    before, output = Snapshot(model), run(model, inputs)
    if where == "forward":
        adapter = attach(model, PiSSA(rank=1), select)
        handle = model.register_forward_hook(failing)
        with pytest.raises(OSError, match="in the model"):
            run(model, inputs)
        handle.remove()
        adapter.detach()
    else:
        places = len(select_sites(model, select))
        with mock.patch("dtheta.adapt.adapter.connect", failing_at(places)), pytest.raises(OSError, match="last"):
            attach(model, LoRA(rank=1), select)
    before.assert_everything()
    assert torch.equal(run(model, inputs), output)


@given(
    name=st.sampled_from(sorted(CASES)),
    order=st.permutations(range(3)),
    weights=st.lists(st.sampled_from([1.0, 0.5, -2.0]), min_size=3, max_size=3),
    data=st.data(),
)
@settings(max_examples=40)
def test_several_adapters_add_up_and_leave_in_any_order(name, order, weights, data):
    model, inputs = build(name)
    before, base = Snapshot(model), run(model, inputs)
    methods = data.draw(st.lists(st.sampled_from(METHODS), min_size=3, max_size=3))
    selects = [data.draw(st.sampled_from(CASES[name][2])) for _ in range(3)]
    rows = zip(methods, selects, weights, strict=True)
    adapters = [attach(model, m, s, weight=w, seed=i) for i, (m, s, w) in enumerate(rows)]
    assert torch.equal(run(model, inputs), base)
    for adapter in adapters:
        shake(adapter, 0.1)
    deltas = [adapter.delta() for adapter in adapters]
    present = set(range(3))
    for i in order:
        with applied(build(name)[0], total([deltas[j] for j in sorted(present)])) as reference:
            torch.testing.assert_close(run(model, inputs), run(reference, inputs), rtol=1e-3, atol=1e-3)
        adapters[i].detach()
        present.remove(i)
        before.assert_bytes()
    before.assert_everything()
    assert torch.equal(run(model, inputs), base)


def test_flags_come_back_whatever_they_were():
    for flags in itertools.product([True, False], repeat=2):
        model = nn.Sequential(nn.Linear(4, 3))
        model[0].weight.requires_grad_(flags[0])
        model[0].bias.requires_grad_(flags[1])
        first, second = attach(model, LoRA(rank=1)), attach(model, PiSSA(rank=1))
        assert not any(p.requires_grad for p in model.parameters())
        first.detach()
        assert not any(p.requires_grad for p in model.parameters())
        second.detach()
        assert (model[0].weight.requires_grad, model[0].bias.requires_grad) == flags


# ---- going on from a delta


@some_methods(2)
def test_training_goes_on_from_a_file_bit_by_bit(name, select, method, tmp_path):
    model, inputs = build(name)
    adapter = attach(model, method, select)
    train(adapter, inputs, steps=1)
    path = files.save(adapter.delta(), tmp_path / "half.delta")
    halfway = {n: p.detach().clone() for n, p in adapter.trainable().items()}
    train(adapter, inputs, steps=1)
    expected, output = {n: p.detach().clone() for n, p in adapter.trainable().items()}, run(model, inputs)
    adapter.detach()
    again = attach(model, files.load(path))
    assert type(again.method) is type(method)
    assert {n for n in again.trainable()} == set(halfway)
    for n, p in again.trainable().items():
        assert torch.equal(p, halfway[n].reshape(p.shape)), n
    train(again, inputs, steps=1)
    for n, p in again.trainable().items():
        assert torch.equal(p, expected[n].reshape(p.shape)), n
    assert torch.equal(run(model, inputs), output)
    again.detach()


# ---- law 3


def test_delta_of_another_base_is_refused_by_name():
    model, _ = build("linear, many tokens")
    adapter = attach(model, PiSSA(rank=2))
    shake(adapter)
    delta = adapter.delta()
    adapter.detach()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[2].weight[0, 0] += 1e-6
    before = Snapshot(other)
    with pytest.raises(BaseMismatch, match=r"2\.weight"):
        attach(other, delta)
    before.assert_everything()
    attach(other, delta, strict=False).detach()
    with torch.no_grad():
        model[0].bias += 1.0  # not touched by the delta
    attach(model, delta).detach()


# ---- law 4


@given(seed=st.integers(0, 2**40), data=st.data())
@settings(max_examples=20)
def test_random_starts_depend_on_seed_and_name_alone(seed, data):
    model, _ = build("linear, many tokens")
    torch.manual_seed(data.draw(st.integers(0, 99)))
    state = torch.get_rng_state()
    whole = attach(model, LoRA(rank=2), seed=seed)
    part = attach(model, LoRA(rank=2), "2", seed=seed)
    other = attach(model, LoRA(rank=2), "2", seed=seed + 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(whole.term("2.weight").right, part.term("2.weight").right)
    assert not torch.equal(whole.term("2.weight").right, other.term("2.weight").right)
    assert not torch.equal(whole.term("2.weight").right[:, :5], whole.term("0.weight").right[:, :5])
    for adapter in (whole, part, other):
        adapter.detach()


@pytest.mark.parametrize("method", [PiSSA(rank=2), PiSSA(rank=2, accuracy=None), SORSA(rank=2), CLIPSVD()], ids=repr)
def test_starts_from_singular_vectors_are_the_same_every_time(method):
    starts = []
    for noise in (0, 1):
        model, _ = build("linear, many tokens")
        torch.manual_seed(noise)
        adapter = attach(model, method, seed=3)
        starts.append({n: t.detach().clone() for n, t in adapter.terms.state_dict(keep_vars=True).items()})
    assert all(torch.equal(starts[0][n], starts[1][n]) for n in starts[0])
