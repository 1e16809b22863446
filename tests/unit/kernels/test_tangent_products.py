"""tangent_operator: products, trace, eigenpairs and solutions are those of the kernel that it never forms."""

from __future__ import annotations

import pytest
import torch

import dtheta as dt
from dtheta.errors import ConfigError, NotConverged, ShapeMismatch, UnsupportedLayer
from dtheta.kernels.tangent import tangent_kernel
from dtheta.kernels.tangent_products import tangent_operator
from tests.unit.kernels.tangent_models import MODELS, N, bert, drawn, made, mlp, texts


def matrix(model, x, outputs: str) -> torch.Tensor:
    K = tangent_kernel(model, x, outputs=outputs)  # type: ignore[arg-type]
    return K if K.ndim == 2 else K.transpose(1, 2).reshape(K.shape[0] * K.shape[2], -1)


@pytest.mark.parametrize("name", ["mlp", "cnn", "tokens"])
@pytest.mark.parametrize("outputs", ["full", "mean", "pseudo"])
def test_products_are_those_of_the_kernel(name: str, outputs: str) -> None:
    model, x = made(MODELS[name])
    K, operator = matrix(model, x, outputs), tangent_operator(model, x, outputs, chunk=4)
    assert operator.size == len(K)
    V = drawn(len(K), 2, name="V")
    assert torch.allclose(operator @ V, K @ V, atol=1e-10 * float(K.abs().max()))
    assert torch.allclose(operator @ V[:, 0], K @ V[:, 0], atol=1e-10 * float(K.abs().max()))


def test_an_adapter_on_a_text_model() -> None:
    adapter = dt.attach(bert(layers=1), dt.PiSSA(rank=2)).double()
    K, operator = matrix(adapter, texts(), "full"), tangent_operator(adapter, texts(), chunk=4)
    v = drawn(len(K), name="v")
    assert torch.allclose(operator @ v, K @ v, atol=1e-9 * float(K.abs().max()))


@pytest.mark.parametrize("select", ["*.in_proj_weight:qv", "*.in_proj_weight:k|linear1.weight"])
def test_slices_of_a_parameter_move_alone(select: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    x, pooled = drawn(N, 5, 8), lambda m, b: m(b).mean(1)[:, :1]
    K = tangent_kernel(model, x, select=select, function=pooled)
    operator = tangent_operator(model, x, "mean", select=select, function=pooled)
    assert torch.allclose(operator @ torch.eye(N, dtype=torch.float64), K, atol=1e-12 * float(K.max()))
    estimate, deviation = operator.trace(samples=64)
    assert abs(estimate - float(K.trace())) < 4 * deviation


def test_what_moves_may_have_no_part_in_the_outputs() -> None:
    adapter = dt.attach(bert(layers=1), dt.PiSSA(rank=2)).double()
    with adapter.disabled():
        operator = tangent_operator(adapter, texts())
        assert float((operator @ torch.ones(operator.size, dtype=torch.float64)).abs().max()) == 0.0


def test_a_layer_without_a_second_derivative_is_named() -> None:
    model = torch.nn.Sequential(torch.nn.EmbeddingBag(9, 3), torch.nn.Linear(3, 2))
    operator = tangent_operator(model, torch.randint(9, (N, 4)))
    with pytest.raises(UnsupportedLayer, match=r"twice .*embedding_bag.*dt.tangent_kernel"):
        operator @ torch.ones(operator.size)


def test_the_trace_is_unbiased() -> None:
    model, x = made(mlp)
    K, operator = matrix(model, x, "full"), tangent_operator(model, x)
    estimate, deviation = operator.trace(samples=64)
    assert deviation > 0 and abs(estimate - float(K.trace())) < 4 * deviation
    assert operator.trace(8, seed=1) == operator.trace(8, seed=1) != operator.trace(8, seed=2)


@pytest.mark.parametrize("examples", [6, 60])  # a matrix that is small; block Lanczos
def test_leading_eigenpairs(examples: int) -> None:
    model, _ = made(mlp)
    x = drawn(examples, 6, name="more")
    K, operator = matrix(model, x, "full"), tangent_operator(model, x)
    values, vectors = operator.top(3, accuracy=1e-6)
    assert torch.allclose(values, torch.linalg.eigvalsh(K).flip(0)[:3], rtol=1e-5)
    assert torch.allclose(K @ vectors, vectors * values, atol=1e-3 * float(values[0]))


def test_solutions_by_conjugate_gradients() -> None:
    model, x = made(mlp)
    K, y = matrix(model, x, "mean"), drawn(N, name="y")
    operator = tangent_operator(model, x, "mean")
    wanted = torch.linalg.solve(K + 0.5 * torch.eye(N, dtype=torch.float64), y)
    assert torch.allclose(operator.solve(y, ridge=0.5, tolerance=1e-10), wanted, atol=1e-8)
    assert float(operator.solve(torch.zeros(N), ridge=1.0).abs().max()) == 0.0
    with pytest.raises(NotConverged, match="raise ridge="):
        operator.solve(y, ridge=1e-9, tolerance=1e-14, most=2)


def test_refusals() -> None:
    model, x = made(mlp)
    operator = tangent_operator(model, x)
    with pytest.raises(ShapeMismatch, match=r"\(18,\)"):
        operator @ torch.zeros(5)
    with pytest.raises(ConfigError, match="1 to 18"):
        operator.top(19)
    with pytest.raises(ConfigError, match="above 0"):
        operator.solve(torch.zeros(18), ridge=0.0)
    with pytest.raises(ConfigError, match="expected one of"):
        tangent_operator(model, x, "trace")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedLayer, match="mixes the batch"):
        tangent_operator(model, x, function=lambda m, b: m(b) - m(b).mean(0))


def test_a_right_side_of_another_shape_is_refused() -> None:
    operator = tangent_operator(torch.nn.Linear(3, 2), torch.randn(4, 3))
    for y in (torch.ones(8, 1), torch.ones(4), torch.ones(4, 2)):
        with pytest.raises(ShapeMismatch, match=r"expected \(8,\)"):
            operator.solve(y, 1.0)
