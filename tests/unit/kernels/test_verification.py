"""verification: a parameter whose derivatives vanish on the examples tried is verified otherwise, or not believed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import dtheta as dt
from dtheta.kernels.outputs import logits
from dtheta.kernels.passes import Problem
from dtheta.kernels.study import study
from dtheta.kernels.subject import still, targets_of
from tests.unit.kernels.tangent_models import bert, drawn, texts
from tests.unit.kernels.tangent_small import Small, check, small


class _Hidden(torch.autograd.Function):
    """A product that no torch function mode sees."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight.mT, x.mT @ grad


def reasons(model: nn.Module, x) -> dict[str, str]:
    targets = targets_of(model, None)
    with still(model, targets):
        return dict(study(Problem(logits, model, targets), x).reasons)


def test_a_hidden_use_of_silent_examples_is_not_believed() -> None:
    x = drawn(7, 4)
    x[:3] = 0
    model = small(lambda m, x: m.head(_Hidden.apply(x, m.w)))
    assert "vanish" in reasons(model, x)["w"]
    check(model, x)


def test_a_head_of_zeros_leaves_structure_below_it() -> None:
    model = small(lambda m, x: m.head(x @ m.w + m.p))
    nn.init.zeros_(model.l.weight)
    assert not reasons(model, drawn(7, 4))
    check(model, drawn(7, 4))


def test_a_gate_at_zero_leaves_structure_behind_it() -> None:
    def gated(m: Small, x: Tensor) -> Tensor:
        return m.l(x + m.p * torch.tanh(x @ m.w)) + m.t

    model = small(gated)
    nn.init.zeros_(model.p)
    assert not reasons(model, drawn(7, 4))
    check(model, drawn(7, 4))


def test_two_parameters_that_make_one_tensor() -> None:
    model = small(lambda m, x: m.head(x + x @ (m.p[:, None] * m.w)))
    nn.init.zeros_(model.p)  # so that the derivatives by w are zero for every example
    assert not reasons(model, drawn(7, 4))
    check(model, drawn(7, 4))


def test_transformers_and_their_adapters_stay_structured_in_every_precision() -> None:
    """Biases of keys have no derivatives but rounding; what an adapter adds is zero at its start."""
    for dtype in (torch.float32, torch.bfloat16):
        assert not reasons(bert().to(dtype), texts())
        for method in (dt.LoRA(rank=2), dt.PiSSA(rank=2), dt.SNNK(), dt.Houlsby()):
            assert not reasons(dt.attach(bert(layers=1), method).to(dtype), texts())


def test_a_model_that_no_mode_sees_goes_the_plain_way() -> None:
    model = small(lambda m, x: torch.func.vmap(lambda row: m.head(row * m.p))(x))
    assert set(reasons(model, drawn(7, 4))) >= {"p", "l.weight", "l.bias"}
    check(model, drawn(7, 4))


def test_outputs_that_hold_a_derivative() -> None:
    def force(m: Small, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (found,) = torch.autograd.grad(torch.tanh(x @ m.w).square().sum(), x, create_graph=True)
        return m.head(found)

    check(small(force), drawn(7, 4))


def test_derivatives_that_come_back_transposed() -> None:
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(4, 2)).double()
    check(nn.Sequential(layer, nn.Tanh()), drawn(7, 4))
