"""Laws of composition: it is the sum, its gradient is the sum's, it runs again from JSON, and the base stays."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dtheta.compose.coefficients import Coefficients, blocks, changed
from dtheta.compose.compose import compose
from dtheta.compose.gradient import composed
from dtheta.compose.partition import part_ids
from dtheta.compose.subspace import Subspace
from dtheta.core.delta import Delta
from dtheta.core.seeds import generator
from tests.laws.strategies import FACTORS, SHAPES, changes, deltas, make_model, reference, size
from tests.unit.compose.examples import bits


@st.composite
def drawn(draw: st.DrawFn, name: str, count: int = 2) -> tuple[nn.Module, list[Delta]]:
    model = make_model(name)
    return model, [draw(deltas(model)) for _ in range(count)]


@settings(max_examples=30)
@given(st.data())
def test_composition_is_the_weighted_sum(data: st.DataObject) -> None:
    _model, found = data.draw(drawn("linear"))
    a, b = data.draw(FACTORS), data.draw(FACTORS)
    whole = compose(found, [a, b])
    for name in blocks(found):
        parts = [(w, d[name]) for w, d in zip((a, b), found, strict=True) if name in d]
        expected = sum((w * reference(c) for w, c in parts), torch.zeros(parts[0][1].shape, dtype=torch.float64))
        scale = sum(abs(w) * size(c) for w, c in parts)
        assert float((whole[name].dense().double() - expected).norm()) <= 1e-6 * scale + 1e-30


@settings(max_examples=25)
@given(st.data())
def test_composition_runs_again_from_json(data: st.DataObject) -> None:
    _, found = data.draw(drawn("linear"))
    parts, seed = data.draw(st.sampled_from([1, 1, 2, 7])), data.draw(st.integers(0, 99))
    values = torch.randn(2, len(blocks(found)), parts, generator=generator(seed, "values"), dtype=torch.float64)
    values *= changed(found, blocks(found))[..., None]
    first = compose(found, Coefficients(tuple(d.digest for d in found), blocks(found), values, seed))
    stored = json.loads(json.dumps(first.provenance.settings["coefficients"]))
    assert compose(found, Coefficients.from_settings(stored)).digest == first.digest


@settings(max_examples=60)
@given(st.data())
def test_down_and_up_are_transposes(data: st.DataObject) -> None:
    """<G, down(c) - base> = <c, up(G)> for changes of any kind, nested as they may be, split or not."""
    shape = data.draw(SHAPES)
    found = {i: data.draw(changes(shape)) for i in range(2)}
    parts = data.draw(st.sampled_from([1, 3]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dtheta.compose.subspace._SMALL", data.draw(st.sampled_from([-1, 1 << 13])))
        space = Subspace("w", found, 2, parts, 5)
    seed = data.draw(st.integers(0, 999))
    gradient = torch.randn(shape, generator=generator(seed, "g"), dtype=torch.float64)
    values = torch.randn(2, parts, generator=generator(seed, "c"), dtype=torch.float64)
    out = torch.empty(shape, dtype=torch.float64)
    space.down(None, values, out)
    scale = sum(size(c) for c in found.values()) * float(values.abs().max()) * float(gradient.norm())
    # dense forms of other kinds are float32: that is what both sides agree to
    assert abs(float((gradient * out).sum() - (values * space.up(gradient)).sum())) <= 2e-6 * scale + 1e-30
    ids = part_ids(5, "w", parts, 0, out.numel()).reshape(shape)
    wanted = sum((values[i][ids] * reference(c) for i, c in found.items()), torch.zeros(shape, dtype=torch.float64))
    assert float((out - wanted).norm()) <= 1e-6 * scale / max(float(gradient.norm()), 1e-9) + 1e-30


@settings(max_examples=15)
@given(st.sampled_from(["linear", "embedding", "attention", "gpt2"]), st.data())
def test_gradients_are_those_of_the_sum_and_the_base_stays(name: str, data: st.DataObject) -> None:
    model, drawn_ = data.draw(drawn(name))
    parameters = dict(model.named_parameters())
    found = [Delta({n: c for n, c in d.changes.items() if n in parameters}, d.base) for d in drawn_]
    names = blocks(found)
    from tests.laws.strategies import MODELS

    batch = MODELS[name][1]()
    before = bits(model)
    values = 0.1 * torch.randn(2, len(names), generator=generator(1, "v"), dtype=torch.float64)

    def loss(output: object) -> Tensor:
        return getattr(output, "logits", output).square().mean()  # type: ignore[attr-defined]

    with composed(model, found, names, changed(found, names)) as composition:
        composition.show(values[..., None])
        composition.backward(loss(model(batch)))
        gradient = composition.gradient[..., 0].clone()
    assert bits(model) == before
    c = values.clone().requires_grad_()
    double = {n: p.detach().double() for n, p in parameters.items()}
    for j, n in enumerate(names):
        double[n] = double[n] + sum(c[i, j] * reference(d[n]) for i, d in enumerate(found) if n in d)
    wide = batch.double() if batch.is_floating_point() else batch
    (wanted,) = torch.autograd.grad(loss(torch.func.functional_call(model, double, (wide,))), c)
    scale = float(wanted.abs().max())
    assert float((gradient - wanted).abs().max()) <= 1e-4 * scale + 1e-6
