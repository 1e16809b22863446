"""Laws of the base: applying changes nothing for good, extracting is its inverse, and a wrong base is refused."""

from __future__ import annotations

import copy
from contextlib import ExitStack

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dtheta.core.apply import applied, bind, merge
from dtheta.core.delta import Delta, total
from dtheta.core.extract import extract
from dtheta.core.fingerprint import fingerprint
from dtheta.core.tensors import base_tensors
from dtheta.errors import BaseMismatch
from tests.laws.strategies import MODELS, deltas, make_model, reference, size, unbound

pytestmark = pytest.mark.filterwarnings("ignore:the delta .* changes nothing")  # tiny deltas are drawn on purpose

NAMES = sorted(MODELS)
FEW = settings(max_examples=15)


def bits(model: nn.Module) -> dict[str, bytes]:
    """Every bit of a model's parameters and buffers."""
    tensors = base_tensors(model).items()
    return {n: t.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for n, t in tensors}


def places(model: nn.Module) -> dict[str, int]:
    """Where in memory every tensor of a model is."""
    return {n: t.data_ptr() for n, t in base_tensors(model).items()}


def _expected(base: nn.Module, delta: Delta) -> dict[str, Tensor]:
    tensors = {n: t.detach().double() for n, t in base_tensors(base).items()}
    return {n: t + reference(delta[n]) if n in delta else t for n, t in tensors.items()}


def _assert_close(model: nn.Module, expected: dict[str, Tensor], delta: Delta) -> None:
    for name, tensor in base_tensors(model).items():
        slack = 1e-6 * (float(expected[name].norm()) + (size(delta[name]) if name in delta else 0.0))
        assert float((tensor.detach().double() - expected[name]).norm()) <= slack, name


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.data())
def test_leaving_applied_restores_every_bit(name: str, data: st.DataObject) -> None:
    model = make_model(name)
    delta = data.draw(deltas(model))
    before, where, expected = bits(model), places(model), _expected(model, delta)
    parameters = {n: id(p) for n, p in model.named_parameters()}
    with pytest.raises(KeyError) if data.draw(st.booleans()) else ExitStack() as raised:
        with applied(model, delta) as shown:
            assert shown is model
            _assert_close(model, expected, delta)
            assert {n: id(p) for n, p in model.named_parameters()} == parameters
            model(MODELS[name][1]())
            if not isinstance(raised, ExitStack):
                raise KeyError("inside")
    assert bits(model) == before and places(model) == where


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.data())
def test_blocks_may_end_in_any_order(name: str, data: st.DataObject) -> None:
    model = make_model(name)
    found = [data.draw(deltas(model)) for _ in range(3)]
    before, where = bits(model), places(model)
    blocks = [applied(model, delta) for delta in found]
    for block in blocks:
        block.__enter__()
    left = list(zip(found, blocks, strict=True))
    data.draw(st.randoms(use_true_random=False)).shuffle(left)
    plain = make_model(name)
    while left:
        now = total([delta for delta, _ in left])
        _assert_close(model, _expected(plain, now), now)
        left.pop()[1].__exit__(None, None, None)
    assert bits(model) == before and places(model) == where


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.data())
def test_extract_is_the_inverse_of_applied_and_merge(name: str, data: st.DataObject) -> None:
    base, model = make_model(name), make_model(name)
    delta = data.draw(deltas(model))
    expected = _expected(base, delta)
    with applied(model, delta):
        shown = bits(model)
        back = extract(base, model)
        exact = extract(base, model, dtype=torch.float64)
    assert set(back) <= set(delta)
    for n, tensor in base_tensors(base).items():
        if n in delta:
            found = back[n].dense().double() if n in back else torch.zeros(tensor.shape, dtype=torch.float64)
            slack = 1e-6 * (float(expected[n].norm()) + float(tensor.detach().double().norm()))
            assert float((found - reference(delta[n])).norm()) <= slack + 1e-6 * size(delta[n])
    if name != "double":  # float64 holds differences of float32 exactly, but not its own
        with applied(base, exact):
            assert bits(base) == shown
    assert back.base.root == fingerprint(base).root
    merged = merge(model, delta)
    assert bits(merged) == shown and bits(model) == bits(base)
    assert merge(base, delta) is not base


@FEW
@given(st.data())
def test_applied_twice_is_the_sum(data: st.DataObject) -> None:
    model = make_model("linear")
    a, b = data.draw(deltas(model)), data.draw(deltas(model))
    with applied(model, a), applied(model, b):
        one = {n: t.detach().clone() for n, t in base_tensors(model).items()}
    with applied(model, a + b):
        other = {n: t.detach() for n, t in base_tensors(model).items()}
        assert all(torch.allclose(one[n], t, rtol=1e-6, atol=1e-6 * float(t.abs().max())) for n, t in other.items())


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.data())
def test_a_wrong_base_is_refused_by_name_and_only_touched_tensors_count(name: str, data: st.DataObject) -> None:
    model = make_model(name)
    delta = data.draw(deltas(model))
    touched = sorted(delta)[0]
    other = next((n for n, t in base_tensors(model).items() if n not in delta and t.is_floating_point()), None)
    if other is not None:
        with torch.no_grad():
            base_tensors(model)[other].add_(1)
        with applied(model, delta):
            pass
    with torch.no_grad():
        base_tensors(model)[touched].add_(1)
    before = bits(model)
    for refused in (lambda: applied(model, delta).__enter__(), lambda: merge(model, delta), lambda: bind(delta, model)):
        with pytest.raises(BaseMismatch, match=touched.replace(".", r"\.")):
            refused()
    assert bits(model) == before
    with applied(model, delta, strict=False):
        pass
    assert bits(model) == before


@FEW
@given(st.data())
def test_binding_gives_back_the_displacement(data: st.DataObject) -> None:
    model = make_model("attention")
    delta = data.draw(deltas(model))
    loose = delta.map(lambda _, change: unbound(change))
    found = bind(loose, model)
    assert found == delta
    for name in delta:
        assert float((found[name].dense() - delta[name].dense()).norm()) <= 1e-5 * size(delta[name])
    copied = copy.deepcopy(model)
    with applied(copied, loose), applied(model, delta):
        for one, two in zip(base_tensors(copied).values(), base_tensors(model).values(), strict=True):
            assert torch.allclose(one, two, atol=1e-5 * (1 + float(two.detach().abs().max())))
