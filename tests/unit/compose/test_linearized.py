"""The expansion around the base: its value, its linearity, its gradient, and outputs of any structure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dtheta.compose.coefficients import blocks, changed
from dtheta.compose.compose import compose
from dtheta.compose.linearized import Linearized, linearized, linearly_composed
from dtheta.core.delta import Delta
from dtheta.errors import BaseMismatch
from tests.unit.compose.examples import bits, delta, normal, shared


def hidden(model: nn.Module, ids: Tensor) -> Tensor:
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


@pytest.fixture
def deltas(tiny_bert: nn.Module) -> list[Delta]:
    return [delta(tiny_bert, kind, i) for i, kind in enumerate(("dense", "low-rank", "ternary"))]


def test_value_is_the_first_order_expansion(tiny_bert: nn.Module, deltas: list[Delta]) -> None:
    ids, v = torch.arange(12).reshape(2, 6), compose(deltas, [0.3, -0.2, 0.5])
    found = hidden(linearized(tiny_bert, v), ids)
    double = {n: p.detach().double() for n, p in tiny_bert.named_parameters()}

    def at(step: float) -> Tensor:
        moved = {n: p + step * v[n].dense().double() for n, p in double.items()}
        arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return torch.func.functional_call(tiny_bert, moved, (), arguments).last_hidden_state

    assert torch.allclose(found.double(), at(0.0) + (at(1e-4) - at(-1e-4)) / 2e-4, atol=1e-5)
    assert not torch.allclose(found.double(), at(1.0), atol=1e-3)  # the model itself is not linear


def test_zero_is_the_base(tiny_bert: nn.Module) -> None:
    ids = torch.arange(6).reshape(2, 3)
    zero = Linearized(tiny_bert, {"encoder.layer.0.output.dense.weight": torch.zeros(16, 32)})
    assert torch.allclose(hidden(zero, ids), hidden(tiny_bert, ids), atol=1e-6)
    assert zero.config is tiny_bert.config


def test_gradient_equals_that_through_the_sum(tiny_bert: nn.Module, deltas: list[Delta]) -> None:
    names, ids = blocks(deltas), torch.arange(12).reshape(2, 6)
    values = normal(3, len(names)).double()
    before = bits(tiny_bert)
    with linearly_composed(tiny_bert, deltas, names, changed(deltas, names)) as composition:
        composition.show(values[..., None])
        loss = hidden(composition.model, ids).square().mean()
        composition.backward(loss)
        found = composition.gradient[..., 0].clone()
    assert bits(tiny_bert) == before
    c = values.float().requires_grad_()
    tangents = {n: sum(c[i, j] * d[n].dense() for i, d in enumerate(deltas)) for j, n in enumerate(names)}
    again = hidden(Linearized(tiny_bert, tangents), ids).square().mean()  # type: ignore[arg-type]
    (wanted,) = torch.autograd.grad(again, c)
    assert torch.allclose(loss, again, rtol=1e-5)
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


def test_the_model_is_linear_in_the_coefficients() -> None:
    model = shared()
    deltas, ids = [delta(model, "every", i) for i in range(2)], torch.tensor([[1, 2, 3]])
    base = model(ids)
    parts = [linearized(model, d)(ids) - base for d in deltas]
    both = linearized(model, compose(deltas, [2.0, -3.0]))(ids) - base
    assert torch.allclose(both, 2 * parts[0] - 3 * parts[1], atol=1e-5)


def test_structured_outputs_keep_what_is_no_number() -> None:
    class Answers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor, *, name: str) -> dict[str, object]:
            y = self.layer(x)
            return {"logits": y, "classes": y.argmax(1), "name": name, "parts": (y * 2, None)}

    model = Answers()
    found = linearized(model, delta(model))(normal(4, 3), name="x")
    assert found["name"] == "x" and found["parts"][1] is None and found["classes"].dtype == torch.int64
    assert torch.allclose(found["parts"][0], 2 * found["logits"])


def test_another_base_is_refused(tiny_mlp: nn.Module) -> None:
    one = delta(tiny_mlp)
    with torch.no_grad():
        tiny_mlp[0].weight += 1
    with pytest.raises(BaseMismatch):
        linearized(tiny_mlp, one)
    assert linearized(tiny_mlp, one, strict=False)(normal(2, 12)).shape == (2, 8)
