"""Applying and merging: exact revert, ties, dtypes, adapters, and everything that cannot be done right."""

from __future__ import annotations

import contextlib
import copy
import math
import threading
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from dtheta.core import apply
from dtheta.core.apply import Rounding, applied, bind, merge, originals
from dtheta.core.block import Block
from dtheta.core.change import Change, Dense, New
from dtheta.core.delta import Delta
from dtheta.core.displace import displaced
from dtheta.core.fingerprint import fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from dtheta.core.spectral import Spectral
from dtheta.core.tensors import base_tensors
from dtheta.errors import (
    BaseMismatch,
    ConfigError,
    DthetaWarning,
    NonFinite,
    ShapeMismatch,
    UnknownParameter,
    UnsupportedLayer,
)


def normal(*shape: int, index: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "apply", index))


def made(model: nn.Module, changes: dict[str, Change]) -> Delta:
    names = set(base_tensors(model))
    return Delta(changes, fingerprint(model).restrict(n for n in changes if n in names))


class Term(nn.Module):
    """What an adapter registers as a parametrization."""

    is_dtheta_term = True

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def test_storage_of_the_base_is_never_written_to(tiny_mlp: nn.Module) -> None:
    weight = tiny_mlp[0].weight
    alias, before, version = weight.detach(), weight.detach().clone(), weight._version
    with applied(tiny_mlp, made(tiny_mlp, {"0.weight": Dense(normal(16, 12))})):
        assert torch.equal(alias, before) and weight.data_ptr() != alias.data_ptr()
        with torch.no_grad():
            weight.zero_()  # even what the block itself writes stays out of the base
    assert torch.equal(weight, before) and weight.data_ptr() == alias.data_ptr() and weight._version == version


def test_entering_fails_as_a_whole(tiny_mlp: nn.Module) -> None:
    """The second tensor cannot be moved: the first must not be either."""
    before = {n: t.clone() for n, t in base_tensors(tiny_mlp).items()}
    delta = made(tiny_mlp, {"0.weight": Dense(normal(16, 12)), "2.bias": Dense(torch.full((8,), 3e38))})
    with torch.no_grad():
        tiny_mlp[2].bias.fill_(3e38)
    before["2.bias"] = tiny_mlp[2].bias.detach().clone()
    with pytest.raises(NonFinite, match=r"^2\.bias: "), applied(tiny_mlp, delta, strict=False):
        pass
    assert all(torch.equal(t, before[n]) for n, t in base_tensors(tiny_mlp).items())


def test_float64_accumulation_rounds_once() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    half_ulp = 2.0**-24
    delta = made(model, {"weight": Dense(torch.tensor([[half_ulp]])) + Dense(torch.tensor([[2.0**-40]]))})
    with applied(model, delta):
        assert float(model.weight.detach()) == 1.0 + 2.0**-23  # float32 steps would round 1 + half an ulp to 1


def test_nested_blocks_round_once_as_well() -> None:
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1.0)
    step = made(model, {"weight": Dense(torch.tensor([[2.0**-9]]))})  # a quarter of the distance to the next bfloat16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DthetaWarning)
        with applied(model, step), applied(model, step), applied(model, step):
            assert float(model.weight.detach()) == 1.0 + 2.0**-7


def test_tied_tensors_move_together(tiny_gpt2: nn.Module) -> None:
    for name in ("transformer.wte.weight", "lm_head.weight"):  # either name will do
        change = Rows(torch.tensor([3]), normal(1, 16), (64, 16))
        delta = Delta({name: change})
        with applied(tiny_gpt2, delta):
            assert tiny_gpt2.lm_head.weight is tiny_gpt2.transformer.wte.weight
            moved = tiny_gpt2.lm_head.weight[3].detach().clone()
        assert torch.allclose(moved, tiny_gpt2.lm_head.weight[3] + change.values[0])
        merged = merge(tiny_gpt2, delta)
        assert merged.lm_head.weight is merged.transformer.wte.weight and torch.equal(merged.lm_head.weight[3], moved)
    both = Delta({name: Dense(normal(64, 16)) for name in ("transformer.wte.weight", "lm_head.weight")})
    with pytest.raises(UnsupportedLayer, match="one tied tensor"), applied(tiny_gpt2, both):
        pass


def test_two_parameters_on_one_memory_move_together() -> None:
    model = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])
    model[1].weight.data = model[0].weight.data
    with applied(model, made(model, {"0.weight": Dense(normal(3, 3))})):
        assert model[0].weight.data_ptr() == model[1].weight.data_ptr()
        assert torch.equal(model[0].weight, model[1].weight)
    assert model[0].weight.data_ptr() == model[1].weight.data_ptr()


def test_adapters_keep_working_on_top(tiny_mlp: nn.Module) -> None:
    parametrize.register_parametrization(tiny_mlp[0], "weight", Term(), unsafe=True)
    base = tiny_mlp[0].parametrizations.weight.original
    before = base.detach().clone()
    change = Dense(normal(16, 12))
    with applied(tiny_mlp, made(tiny_mlp, {"0.weight": change})):
        assert torch.allclose(tiny_mlp[0].weight, 2 * (before + change.values))
    assert torch.equal(base, before) and torch.equal(tiny_mlp[0].weight, 2 * before)


def test_an_adapter_may_come_and_go_inside_the_block(tiny_mlp: nn.Module) -> None:
    parameter, before = tiny_mlp[0].weight, tiny_mlp[0].weight.detach().clone()
    delta = made(tiny_mlp, {"0.weight": Dense(normal(16, 12))})
    with applied(tiny_mlp, delta):
        parametrize.register_parametrization(tiny_mlp[0], "weight", Term(), unsafe=True)
    assert torch.equal(tiny_mlp[0].parametrizations.weight.original, before)
    with applied(tiny_mlp, delta):
        parametrize.remove_parametrizations(tiny_mlp[0], "weight", leave_parametrized=False)
    assert tiny_mlp[0].weight is parameter and torch.equal(parameter, before)


def test_own_parametrizations_of_a_model_are_moved_at_their_originals() -> None:
    model = parametrizations.weight_norm(nn.Linear(3, 2))
    name = "parametrizations.weight.original1"
    before, shown = model.parametrizations.weight.original1.detach().clone(), model.weight.detach().clone()
    with applied(model, made(model, {name: Dense(normal(2, 3))})):
        assert not torch.allclose(model.weight, shown)
    assert torch.equal(model.parametrizations.weight.original1, before) and torch.equal(model.weight, shown)


def test_optimizers_and_flat_weights_see_the_block() -> None:
    model = nn.LSTM(3, 4)
    optimizer = torch.optim.SGD(model.parameters())
    held = optimizer.param_groups[0]["params"][0]
    x = normal(2, 1, 3)
    before = model(x)[0].detach()
    with applied(model, made(model, {"weight_ih_l0": Dense(normal(16, 3))})):
        assert held is model.weight_ih_l0 and not torch.allclose(model(x)[0], before)
    assert torch.equal(model(x)[0], before)


def test_memory_format_is_kept() -> None:
    model = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    strides = model.weight.stride()
    delta = made(model, {"weight": LowRank(normal(6, 1), normal(1, 36), full_shape=(6, 4, 3, 3))})
    expected = model.weight.detach() + delta["weight"].dense()
    with applied(model, delta):
        assert model.weight.stride() == strides and torch.allclose(model.weight, expected, atol=1e-6)
    assert model.weight.stride() == strides and merge(model, delta).weight.stride() == strides


def test_backward_through_a_graph_of_the_block_after_it_is_refused(tiny_mlp: nn.Module) -> None:
    delta = made(tiny_mlp, {"2.weight": Dense(normal(8, 16))})
    x = normal(2, 12).requires_grad_()
    before = tiny_mlp(x).sum()
    with applied(tiny_mlp, delta):
        tiny_mlp(x).sum().backward()  # inside is fine
        inside = tiny_mlp(x).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        inside.backward()
    with applied(tiny_mlp, delta):
        crossed = tiny_mlp(x).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"), applied(tiny_mlp, 2 * delta):
        crossed.backward()
    before.backward()  # a graph of the plain base is as valid as before


def test_inference_tensors_can_be_applied_to() -> None:
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    before = model.weight.clone()
    delta = made(model, {"weight": Dense(normal(2, 2))})
    with torch.inference_mode(), applied(model, delta):
        assert not torch.equal(model.weight, before)
    assert torch.equal(model.weight, before)


def test_blocks_left_in_the_wrong_order(tiny_mlp: nn.Module) -> None:
    before = tiny_mlp[0].weight.detach().clone()
    a, b = (made(tiny_mlp, {"0.weight": Dense(normal(16, 12, index=i))}) for i in (1, 2))
    first, second = applied(tiny_mlp, a), applied(tiny_mlp, b)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.allclose(tiny_mlp[0].weight, before + b["0.weight"].dense(), atol=1e-6)
    second.__exit__(None, None, None)
    assert torch.equal(tiny_mlp[0].weight, before)


def test_inner_blocks_are_checked_against_the_base(tiny_mlp: nn.Module) -> None:
    delta = made(tiny_mlp, {"0.weight": Dense(normal(16, 12))})
    shift = made(tiny_mlp, {"0.weight": Spectral(normal(12), (16, 12))})
    with applied(tiny_mlp, delta), applied(tiny_mlp, delta), applied(tiny_mlp, shift):
        assert torch.equal(originals(tiny_mlp)["0.weight"], fingerprint_source(tiny_mlp, delta))


def fingerprint_source(model: nn.Module, delta: Delta) -> torch.Tensor:
    """The one tensor of the base whose digest the delta carries."""
    from dtheta.core.fingerprint import tensor_digest

    tensor = originals(model)["0.weight"]
    assert tensor_digest(tensor) == delta.base.digests["0.weight"]
    return tensor


def test_a_model_moved_inside_the_block_gets_the_base_in_the_new_dtype(tiny_mlp: nn.Module) -> None:
    before = tiny_mlp[0].weight.detach().clone()
    with applied(tiny_mlp, made(tiny_mlp, {"0.weight": Dense(normal(16, 12))})):
        tiny_mlp.double()
    assert tiny_mlp[0].weight.dtype == torch.float64 and torch.equal(tiny_mlp[0].weight, before.double())


def test_a_parameter_replaced_inside_the_block_is_an_error_and_the_rest_is_restored(tiny_mlp: nn.Module) -> None:
    before = {n: t.detach().clone() for n, t in base_tensors(tiny_mlp).items()}
    old = tiny_mlp[0].weight
    delta = made(tiny_mlp, {"0.weight": Dense(normal(16, 12)), "2.weight": Dense(normal(8, 16))})
    with pytest.raises(UnsupportedLayer, match=r"^0\.weight: "), applied(tiny_mlp, delta):
        tiny_mlp[0].weight = nn.Parameter(torch.zeros(16, 12))
    assert torch.equal(old, before["0.weight"]) and torch.equal(tiny_mlp[2].weight, before["2.weight"])
    assert not originals(tiny_mlp)["2.weight"].data_ptr() != tiny_mlp[2].weight.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_floating_bases_are_rounded_to_their_dtype(dtype: torch.dtype) -> None:
    model = nn.Linear(4, 3, bias=False)
    model.weight.data = normal(3, 4).to(dtype)
    change = LowRank(normal(3, 1), normal(1, 4))
    expected = (model.weight.detach().double() + change.left.double() @ change.right.double()).to(dtype)
    before, delta = model.weight.detach().clone(), made(model, {"weight": change})
    with applied(model, delta):
        assert model.weight.dtype == dtype
        assert torch.equal(model.weight.detach().double(), expected.double())
    assert torch.equal(model.weight.detach().double(), before.double())
    assert torch.equal(merge(model, delta).weight.detach().double(), expected.double())
    assert torch.equal(model.weight.detach().double(), before.double())


def test_an_eight_bit_base_is_not_saturated() -> None:
    model = nn.Linear(4, 3, bias=False)
    model.weight.data = torch.full((3, 4), 400.0).to(torch.float8_e4m3fn)
    delta = made(model, {"weight": Dense(torch.full((3, 4), 100.0))})
    with pytest.raises(NonFinite, match=r"^weight: .* not finite in torch\.float8_e4m3fn"), applied(model, delta):
        pass
    with pytest.raises(NonFinite, match=r"^weight: .* not finite in torch\.float8_e4m3fn"):
        merge(model, delta)
    assert torch.equal(model.weight.float(), torch.full((3, 4), 384.0))


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
)
def test_eight_bits_round_as_torch_rounds_up_to_half_a_step_beyond_the_largest(dtype: torch.dtype) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    held = every[every.isfinite()].unique()
    step = held[-1] - held[-2]
    between = torch.cat([held, (held[1:] + held[:-1]) / 2, held[-1:] + 0.49 * step, held[:1] - 0.49 * step])
    found = displaced(torch.zeros(len(between), dtype=dtype), [Dense(between)], "w")
    assert torch.equal(found.float(), between.to(dtype).float()) and bool(found.float().isfinite().all())
    for beyond in (0.51, 1.0, 100.0):
        with pytest.raises(NonFinite, match="not finite"):
            displaced(torch.zeros(2, dtype=dtype), [Dense((held[-1] + beyond * step).expand(2))], "w")


def test_infinities_of_an_eight_bit_base_stay() -> None:
    base = torch.tensor([math.inf, 1.0, -math.inf]).to(torch.float8_e5m2)
    assert displaced(base, [Dense(torch.ones(3))], "w").float().tolist() == [math.inf, 2.0, -math.inf]


def test_rounding_is_measured_and_a_swallowed_delta_is_said(tiny_mlp: nn.Module) -> None:
    model = tiny_mlp.bfloat16()
    large, small = Dense(normal(16, 12)), Dense(1e-6 * torch.ones(8))
    with torch.no_grad():
        model[2].bias.fill_(1.0)
    delta = made(model, {"0.weight": large, "2.bias": small})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rounding = merge(model, delta).dtheta_rounding
    assert isinstance(rounding, Rounding) and rounding.worst == "2.bias" and rounding.max_relative == 1.0
    wanted = large.values.double()
    realized = merge(model, delta)[0].weight.detach().double() - model[0].weight.detach().double()
    assert rounding.relative["0.weight"] == pytest.approx(float((realized - wanted).norm() / wanted.norm()), rel=1e-6)
    assert 1e-4 < rounding.relative["0.weight"] < 1e-2
    only = delta.restrict("2.bias")
    with pytest.warns(DthetaWarning, match="changes nothing") as merging:
        merge(model, only)
    with pytest.warns(DthetaWarning, match="bfloat16") as applying, applied(model, only):
        pass
    assert merging[0].filename == applying[0].filename == __file__  # the line of the user's


def test_nothing_is_no_warning(tiny_mlp: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for delta in (Delta({}), made(tiny_mlp, {"0.weight": Dense(torch.zeros(16, 12))})):
            with applied(tiny_mlp, delta):
                pass
            merged = merge(tiny_mlp, delta)
            assert merged.dtheta_rounding.max_relative == 0.0
    assert Rounding({}).worst is None


def test_overflow_is_an_error_and_infinities_of_the_base_are_not() -> None:
    model = nn.Linear(2, 2, bias=False, dtype=torch.float16)
    delta = Delta({"weight": Dense(torch.tensor([[1e5, 0.0], [0.0, 1.0]]))})
    with pytest.raises(NonFinite, match=r"weight: .*float16"):
        merge(model, delta)
    mask = nn.Module()
    mask.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    with applied(mask, Delta({"mask": Dense(torch.tensor([1.0, 0.0]))})):
        assert mask.mask.tolist() == [1.0, -math.inf]
    with pytest.raises(NonFinite), applied(model, Delta({"weight": Dense(torch.full((2, 2), math.nan))})):
        pass


def test_integer_buffers_take_integers_only() -> None:
    model = nn.BatchNorm1d(2)
    model.register_buffer("small", torch.tensor([250], dtype=torch.uint8))
    whole = made(model, {"num_batches_tracked": Dense(torch.tensor(3.0)), "small": Dense(torch.tensor([5.0]))})
    with applied(model, whole):
        assert model.num_batches_tracked.item() == 3 and model.num_batches_tracked.dtype == torch.int64
        assert model.small.tolist() == [255]
    assert model.num_batches_tracked.item() == 0
    for name, value in [("num_batches_tracked", torch.tensor(0.5)), ("small", torch.tensor([6.0])),
                        ("small", torch.tensor([-251.0]))]:  # fmt: skip
        with pytest.raises(UnsupportedLayer, match=f"{name}: .*integers"):
            merge(model, made(model, {name: Dense(value)}))


def test_merge_is_a_copy_with_everything_else_the_same(tiny_conv: nn.Module) -> None:
    tiny_conv[0].weight.requires_grad_(False)
    delta = made(tiny_conv, {"0.weight": Dense(normal(8, 3, 3, 3)), "4.bias": Dense(normal(5))})
    before = {n: t.detach().clone() for n, t in base_tensors(tiny_conv).items()}
    merged = merge(tiny_conv, delta)
    assert type(merged) is type(tiny_conv) and not merged.training
    for name, tensor in base_tensors(merged).items():
        expected = before[name] + delta[name].dense() if name in delta else before[name]
        assert torch.allclose(tensor, expected, atol=1e-6)
        assert tensor.data_ptr() != base_tensors(tiny_conv)[name].data_ptr()
        assert isinstance(tensor, nn.Parameter)
    assert not merged[0].weight.requires_grad and merged[4].bias.requires_grad
    assert all(torch.equal(t, before[n]) for n, t in base_tensors(tiny_conv).items())
    assert fingerprint(copy.deepcopy(merged)) == fingerprint(merged)


def test_merge_wants_the_plain_base(tiny_mlp: nn.Module) -> None:
    delta = made(tiny_mlp, {"0.weight": Dense(normal(16, 12))})
    with applied(tiny_mlp, delta), pytest.raises(ConfigError, match="leave that block"):
        merge(tiny_mlp, delta)
    parametrize.register_parametrization(tiny_mlp[0], "weight", Term(), unsafe=True)
    with pytest.raises(ConfigError, match=r"adapter is attached to '0'.*adapter\.detach\(\)"):
        merge(tiny_mlp, delta)


def test_new_vectors_must_be_attached(tiny_mlp: nn.Module) -> None:
    delta = Delta({"prompt": New(normal(2, 3)), "0.bias": Dense(normal(16))})
    for use in (lambda: merge(tiny_mlp, delta), lambda: applied(tiny_mlp, delta).__enter__()):
        with pytest.raises(UnsupportedLayer, match=r"^prompt: .*dt\.attach\(model, delta\)"):
            use()
    assert bind(delta, tiny_mlp) is delta


def test_names_and_shapes_must_fit_also_when_not_strict(tiny_mlp: nn.Module) -> None:
    for changes, error, message in [
        ({"0.wieght": Dense(normal(16, 12))}, UnknownParameter, r"'0\.wieght'.*did you mean '0\.weight'"),
        ({"0.weight": Dense(normal(12, 16))}, ShapeMismatch, r"^0\.weight: .*\(12, 16\).*\(16, 12\)"),
    ]:
        for strict in (True, False):
            with pytest.raises(error, match=message):
                merge(tiny_mlp, Delta(changes), strict=strict)
    known = made(tiny_mlp, {"0.weight": Dense(normal(16, 12))})
    with pytest.raises(BaseMismatch, match=r"1 are missing, first: 0\.weight"):
        merge(nn.Sequential(nn.ReLU(), nn.Linear(12, 16)), known)
    with pytest.raises(UnknownParameter, match=r"0\.weight"):
        merge(nn.Sequential(nn.ReLU(), nn.Linear(12, 16)), known, strict=False)


def test_tensors_that_cannot_be_moved() -> None:
    class Sharded(nn.Parameter):
        placements = ()

    class Virtual(nn.Parameter):
        why_unwritable = "it is kept in four bits"

    for model, message in [
        (nn.Linear(2, 2, device="meta"), "meta device"),
        (nn.LazyLinear(2), "lazy"),
        (_with_weight(Sharded(torch.zeros(2, 2))), "sharded"),
        (_with_weight(Virtual(torch.zeros(2, 2))), "four bits"),
        (_with_weight(nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64))), "complex"),
    ]:
        for use in (merge, lambda *both: applied(*both).__enter__()):
            with pytest.raises(UnsupportedLayer, match=f"weight: .*{message}"):
                use(model, Delta({"weight": Dense(normal(2, 2))}))


def _with_weight(weight: nn.Parameter) -> nn.Module:
    model = nn.Module()
    model.weight = weight
    return model


def test_bind_reaches_windows_of_fused_projections(tiny_mha: nn.Module) -> None:
    name = "attention.in_proj_weight"
    loose = made(tiny_mha, {name: 2 * Block(Spectral(normal(16), (16, 16)), 0, 16, (48, 16))})
    found = bind(loose, tiny_mha)
    assert found == loose and bind(found, tiny_mha) is found
    key = base_tensors(tiny_mha)[name].detach()[16:32]
    U, _, Vh = torch.linalg.svd(key.double())
    expected = (U * (2 * loose[name].children()["term"].children()["term"].shift.double())) @ Vh  # type: ignore[union-attr]
    assert torch.allclose(found[name].dense()[16:32].double(), expected, atol=1e-5)
    assert loose.bind(tiny_mha) == found
    with applied(tiny_mha, loose):
        assert torch.allclose(base_tensors(tiny_mha)[name].detach()[16:32], key + expected.float(), atol=1e-5)
    with torch.no_grad():
        base_tensors(tiny_mha)[name][0] += 1
    with pytest.raises(BaseMismatch):
        bind(loose, tiny_mha)
    assert bind(loose, tiny_mha, strict=False) == found  # the window itself is as it was


def test_applied_in_a_transformer_changes_its_output_and_leaves_no_trace(tiny_llama: nn.Module) -> None:
    ids = torch.arange(6)[None]
    before = tiny_llama(ids).logits.detach()
    names = [n for n in base_tensors(tiny_llama) if n.endswith("q_proj.weight")]
    delta = made(tiny_llama, {n: LowRank(normal(16, 2), normal(2, 16)) for n in names})
    with applied(tiny_llama, delta):
        inside = tiny_llama(ids).logits.detach()
    assert not torch.allclose(inside, before) and torch.equal(tiny_llama(ids).logits, before)
    assert torch.allclose(merge(tiny_llama, delta)(ids).logits, inside, atol=1e-6)


def test_buffers_are_moved_by_normalization_inside_and_restored() -> None:
    model = nn.BatchNorm1d(3).train()
    delta = made(model, {"running_mean": Dense(normal(3)), "num_batches_tracked": Dense(torch.tensor(1))})
    before = model.running_mean.clone()
    with applied(model, delta):
        model(normal(4, 3))
        assert model.num_batches_tracked.item() == 2
    assert torch.equal(model.running_mean, before) and model.num_batches_tracked.item() == 0


def test_an_autocast_region_around_it_sees_the_delta_and_then_the_base_again(tiny_mlp: nn.Module) -> None:
    delta, x = made(tiny_mlp, {"0.weight": Dense(normal(16, 12))}), normal(4, 12, index=1)
    with torch.autocast("cpu", torch.bfloat16):
        before = tiny_mlp(x)  # autocast keeps its casts of the weights until it ends
        with applied(tiny_mlp, delta):
            shown = tiny_mlp(x)
        after = tiny_mlp(x)
    with applied(tiny_mlp, delta), torch.autocast("cpu", torch.bfloat16):
        expected = tiny_mlp(x)
    assert torch.equal(shown, expected) and torch.equal(after, before) and not torch.equal(shown, before)


def test_a_weight_in_place_of_strict_is_refused(tiny_mlp: nn.Module) -> None:
    delta = made(tiny_mlp, {"0.weight": Dense(normal(16, 12))})
    for strict in (0.3, 1, "no"):
        with pytest.raises(ConfigError, match=r"strict is .*True or False.*0\.3 \* delta"):
            merge(tiny_mlp, delta, strict)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="strict is"), applied(tiny_mlp, delta, strict):  # type: ignore[arg-type]
            pass
    merge(tiny_mlp, delta, np.equal(1, 1))


def test_what_is_no_delta_or_no_model_is_refused(tiny_mlp: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"a str was given; expected one delta, as dt\.load"):
        merge(tiny_mlp, "x.delta")  # type: ignore[arg-type]
    delta = made(tiny_mlp, {"0.weight": Dense(normal(16, 12))})
    with pytest.raises(ConfigError, match=r"a function was given in place of a model; expected an nn\.Module"):
        merge(lambda x: x, delta)  # type: ignore[arg-type]


def test_a_fraction_of_a_counter_says_how_to_leave_it_out() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    delta = made(model, {"0.weight": Dense(normal(2, 3)), "1.num_batches_tracked": Dense(torch.tensor(5.0).double())})
    with pytest.raises(UnsupportedLayer, match=r"leave it out: delta\.restrict") as caught:
        merge(model, 0.3 * delta)
    pattern = str(caught.value).split("restrict('")[1].removesuffix("')")
    assert list(delta.restrict(pattern)) == ["0.weight"]
    merge(model, 0.3 * delta.restrict(pattern))


def test_threads_that_apply_to_one_model_never_take_what_another_shows_for_the_base(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Linear(4, 4)
    before, digests = model.weight.detach().clone(), fingerprint(model)
    deltas = [Delta({"weight": Dense(normal(4, 4, index=i))}, digests) for i in (1, 2)]
    meeting, inside = threading.Barrier(2), threading.Barrier(2)
    seen: list[torch.Tensor] = []

    def slow(*args: Any, **kwargs: Any) -> torch.Tensor:
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(0.2)  # both threads are here at once only where nothing keeps them apart
        return displaced(*args, **kwargs)

    def work(delta: Delta) -> None:
        with applied(model, delta):
            inside.wait(10)
            seen.append(model.weight.detach().clone())
            inside.wait(10)

    monkeypatch.setattr(apply, "displaced", slow)
    threads = [threading.Thread(target=work, args=(delta,)) for delta in deltas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = (before.double() + deltas[0]["weight"].dense().double() + deltas[1]["weight"].dense().double()).float()
    assert all(torch.equal(each, wanted) for each in seen)
    assert len(seen) == 2
    assert torch.equal(before, model.weight)
