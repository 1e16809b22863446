"""tangent_kernel: equal to its definition for every kind of layer, however it is cut into chunks and groups."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from dtheta.errors import ConfigError, DthetaWarning, NonFinite, ShapeMismatch, UnknownParameter, UnsupportedLayer
from dtheta.fit.batch import taken
from dtheta.kernels.tangent import tangent_kernel
from tests.unit.kernels.tangent_models import MODELS, N, bert, drawn, gpt, ids, llama, made, mlp, next_token, odd, texts
from tests.unit.kernels.tangent_reference import error, jacobian, kernel, trained

each = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
OUTPUTS = ("mean", "full", "pseudo")


@each
def test_it_is_the_product_of_the_jacobians(make) -> None:
    model, x = made(make)
    J = jacobian(model, x, trained(model), N)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DthetaWarning)  # all of it is structured
        for outputs in OUTPUTS:
            assert error(tangent_kernel(model, x, outputs=outputs), kernel(J, outputs)) < 1e-12


@each
def test_chunks_and_groups_change_nothing(make) -> None:
    model, x = made(make)
    for outputs in ("mean", "full"):
        whole = tangent_kernel(model, x, outputs=outputs)
        assert error(tangent_kernel(model, x, outputs=outputs, chunk=4), whole) < 1e-12
        assert error(tangent_kernel(model, x, outputs=outputs, chunk=1, memory=2000), whole) < 1e-12


@each
def test_two_sets_give_the_block(make) -> None:
    model, x = made(make)
    first, second = taken(x, slice(0, 2)), taken(x, slice(1, N))  # one example is in both
    for outputs in OUTPUTS:
        whole = tangent_kernel(model, x, outputs=outputs)
        assert error(tangent_kernel(model, first, second, outputs), whole[:2, 1:]) < 1e-12


@each
def test_it_is_symmetric_and_positive_semidefinite(make) -> None:
    model, x = made(make)
    K = tangent_kernel(model, x, outputs="full").transpose(1, 2)
    flat = K.reshape(len(K) * K.shape[1], -1)
    assert torch.allclose(flat, flat.mT, rtol=0, atol=1e-12 * float(flat.max()))
    assert float(torch.linalg.eigvalsh(flat)[0]) > -1e-12 * float(flat.diagonal().sum())


@pytest.mark.parametrize("name", ["mlp", "conv1d", "tokens", "tied"])
def test_vmap_jacrev_agrees(name: str) -> None:
    model, x = made(MODELS[name])
    for outputs in ("mean", "full"):
        wanted = tangent_kernel(model, x, outputs=outputs, method="jacobian", chunk=4)
        assert error(tangent_kernel(model, x, outputs=outputs), wanted) < 1e-12


@pytest.mark.parametrize("name", ["mlp", "tokens"])
def test_float32_agrees_to_a_millionth(name: str) -> None:
    model, x = made(MODELS[name])
    wanted = kernel(jacobian(model, x, trained(model), N), "mean")
    x = x.float() if x.is_floating_point() else x
    assert error(tangent_kernel(model.float(), x), wanted) < 1e-6


@pytest.mark.parametrize(("make", "function"), [(bert, None), (gpt, next_token), (llama, next_token)])
def test_language_models_with_padding(make, function) -> None:
    model, batch = make(), texts()
    kept = {} if function is None else {"function": function}
    J = jacobian(model, batch, trained(model), N, **kept)
    for outputs in ("mean", "full"):
        with warnings.catch_warnings():
            warnings.simplefilter("error", DthetaWarning)
            K = tangent_kernel(model, batch, outputs=outputs, chunk=4, **kept)
        assert error(K, kernel(J, outputs)) < 1e-8  # llama normalizes in float32


def test_what_has_no_rule_goes_by_derivatives_of_each_example_and_says_so() -> None:
    model, x = made(odd)
    wanted = kernel(jacobian(model, x, trained(model), N), "full")
    with pytest.warns(DthetaWarning, match=r"slope.*no rule for prelu"):
        assert error(tangent_kernel(model, x, outputs="full"), wanted) < 1e-12
    with pytest.warns(DthetaWarning):
        assert error(tangent_kernel(model, x, outputs="full", memory=500, chunk=2), wanted) < 1e-12
    with pytest.raises(UnsupportedLayer, match="pass method='auto'"):
        tangent_kernel(model, x, method="structured")


class _Unseen(torch.autograd.Function):
    """A product that no torch function mode sees."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight.mT, x.mT @ grad


def test_a_use_that_is_not_seen_is_noticed() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4, bias=False)

        def forward(self, x):
            return _Unseen.apply(torch.tanh(self.inner(x)), self.inner.weight)

    torch.manual_seed(0)
    model, x = Hidden().double(), drawn(N, 4)
    wanted = kernel(jacobian(model, x, trained(model), N), "mean")
    with pytest.warns(DthetaWarning, match="do not add up"):
        assert error(tangent_kernel(model, x), wanted) < 1e-12


def test_a_selection_takes_frozen_parameters_too() -> None:
    model, x = made(mlp)
    model.requires_grad_(False)
    parameters = [model[0].weight, model[3].weight]  # type: ignore[index]
    K = tangent_kernel(model, x, select="0.weight|3.weight")
    for p in parameters:
        p.requires_grad_()
    assert error(K, kernel(jacobian(model, x, parameters, N), "mean")) < 1e-12
    with pytest.raises(UnknownParameter):
        tangent_kernel(model, x, select="7.weight")


def test_slices_of_a_fused_projection() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    x, pooled = drawn(N, 5, 8), lambda m, b: m(b).mean(1)[:, :3]
    J = jacobian(model, x, [model.self_attn.in_proj_weight], N, pooled)
    wanted = kernel(torch.cat([J[..., :64], J[..., 128:]], 2), "full")
    assert (
        error(tangent_kernel(model, x, outputs="full", select="*.in_proj_weight:qv", function=pooled), wanted) < 1e-12
    )


def test_the_model_is_left_as_it_was() -> None:
    model, x = made(mlp)
    model.train()
    model[2].eval()  # type: ignore[index]
    model[3].requires_grad_(False)  # type: ignore[index]
    model[0].weight.grad = drawn(8, 6)  # type: ignore[index]
    before = {name: (p.clone(), p.grad, p.requires_grad, p._version) for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    tangent_kernel(model, x)
    with pytest.raises(ZeroDivisionError):
        tangent_kernel(model, x, function=lambda m, b: m(b) / (1 // 0))
    for name, p in model.named_parameters():
        values, grad, flag, version = before[name]
        assert torch.equal(p, values) and p.grad is grad and p.requires_grad == flag and p._version == version
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


def test_dropout_does_not_act_and_gradients_need_not_be_on() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 2)).double().train(), drawn(N, 4)
    K = tangent_kernel(model, x)
    with torch.no_grad():
        assert torch.equal(tangent_kernel(model, x), K)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tangent_kernel(model, x), K)
    assert model.training


def test_a_head_of_zeros_leaves_what_is_below_it_without_a_kernel() -> None:
    model, x = made(mlp)
    nn.init.zeros_(model[3].weight)  # type: ignore[index]
    J = jacobian(model, x, trained(model), N)
    assert error(tangent_kernel(model, x, outputs="full"), kernel(J, "full")) < 1e-12


def test_fewer_examples_than_a_study_takes() -> None:
    model, x = made(mlp)
    whole = tangent_kernel(model, x)
    assert error(tangent_kernel(model, x[:1]), whole[:1, :1]) < 1e-12
    assert error(tangent_kernel(model, x[:2], x[3:4]), whole[:2, 3:4]) < 1e-12


def test_half_precision_is_close() -> None:
    model, x = made(mlp)
    wanted = tangent_kernel(model, x)
    assert error(tangent_kernel(model.bfloat16(), x.bfloat16()), wanted) < 0.1


def test_one_output_may_come_without_an_axis() -> None:
    model, x = made(mlp)
    one = tangent_kernel(model, x, function=lambda m, b: m(b)[:, 0], outputs="full")
    assert error(one[..., 0, 0], tangent_kernel(model, x, outputs="full")[..., 0, 0]) < 1e-12


def test_batch_norm_without_statistics_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(UnsupportedLayer, match="no running statistics"):
        tangent_kernel(model, torch.randn(N, 4))


@pytest.mark.parametrize("mix", [lambda h: h - h.mean(0), lambda h: h + torch.rand_like(h)])
def test_outputs_that_mix_examples_or_are_random_are_refused(mix) -> None:
    model = nn.Linear(4, 2)
    with pytest.raises(UnsupportedLayer, match="mixes the batch"):
        tangent_kernel(model, torch.randn(N, 4), function=lambda m, b: mix(m(b)))


def test_errors_say_what_to_do() -> None:
    model, x = made(mlp)
    for wrong, message in (
        ({"outputs": "trace"}, "expected one of mean, full, pseudo"),
        ({"method": "jacobi"}, "did you mean 'jacobian'"),
        ({"chunk": 0}, "1 or more"),
        ({"memory": 0}, "above 0"),
        ({"function": lambda m, b: m(b).argmax(1)}, "return the logits"),
        ({"function": lambda m, b: m(b).detach()}, "do not depend differentiably"),
        ({"function": lambda m, b: None}, "returned a NoneType"),
    ):
        with pytest.raises(ConfigError, match=message):
            tangent_kernel(model, x, **wrong)
    with pytest.raises(ShapeMismatch, match=r"expected \(examples, outputs\)"):
        tangent_kernel(model, x, function=lambda m, b: m(b).unsqueeze(1))
    with pytest.raises(ConfigError, match="nothing of this model trains"):
        tangent_kernel(model.requires_grad_(False), x)
    with pytest.raises(ConfigError, match="no examples"):
        tangent_kernel(model.requires_grad_(), x[:0])


def test_a_model_that_takes_another_path_is_refused() -> None:
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(self.layer(x)) if bool((x > 100).any()) else self.layer(x)

    x = drawn(N, 3)
    x[5] = 200
    with pytest.raises(UnsupportedLayer, match="other things with it"):
        tangent_kernel(Fickle().double(), x, chunk=3)


def test_equal_ids_are_grouped_across_examples() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Embedding(4, 3), nn.Flatten(), nn.Linear(21, 2)).double(), ids(7, 4)
    J = jacobian(model, x, [model[0].weight], N)
    assert error(tangent_kernel(model, x, outputs="full", select="0.weight"), kernel(J, "full")) < 1e-12


def test_outputs_of_nan_are_called_so() -> None:
    x = torch.randn(4, 3)
    x[1, 0] = float("nan")
    with pytest.raises(NonFinite, match="first three examples hold NaN"):
        tangent_kernel(nn.Linear(3, 2), x)


def test_a_model_without_parameters_is_told_so() -> None:
    with pytest.raises(ConfigError, match="a ReLU has no parameters"):
        tangent_kernel(nn.ReLU(), torch.randn(4, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kernels_of_vectors_are_gram_matrices_in_half_precision_too(dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2)).to(dtype)
    x = torch.randn(40, 9, 6).to(dtype)  # more examples than entries that move: some eigenvalues are 0
    found = tangent_kernel(model, x, function=lambda m, b: m(b).sum(1), select="0.bias|1.weight|1.bias")
    values = torch.linalg.eigvalsh(found)
    assert float(values[0]) > -1e-6 * float(values[-1])
