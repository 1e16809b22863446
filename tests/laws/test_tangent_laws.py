"""Laws of tangent kernels: a kernel is the sum of its parameters' kernels, and what moves less has less of it."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dtheta.kernels.tangent import tangent_kernel


def network(seed: int, widths: list[int]) -> nn.Module:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh(), nn.LayerNorm(after)]
    return nn.Sequential(*layers[:-2]).double()


networks = st.builds(network, st.integers(0, 9), st.lists(st.integers(1, 6), min_size=3, max_size=5))
examples = st.integers(1, 5)


@settings(max_examples=20, deadline=None)
@given(networks, examples, st.integers(1, 3), st.sampled_from([1.0, 500.0, 2.0**30]))
def test_the_kernel_is_the_sum_over_parameters_however_it_is_cut(model, n, chunk, memory) -> None:
    x = torch.randn(n, model[0].in_features, dtype=torch.float64)
    K = tangent_kernel(model, x, chunk=chunk, memory=memory)
    parts = [tangent_kernel(model, x, select=name) for name, _ in model.named_parameters()]
    assert torch.allclose(torch.stack(parts).sum(0), K, atol=1e-10 * float(K.abs().max()))


@settings(max_examples=20, deadline=None)
@given(networks, st.integers(2, 5))
def test_it_is_positive_semidefinite_and_follows_the_order_of_examples(model, n) -> None:
    x = torch.randn(n, model[0].in_features, dtype=torch.float64)
    K = tangent_kernel(model, x)
    assert float(torch.linalg.eigvalsh(K)[0]) > -1e-10 * float(K.trace())
    order = torch.arange(n).flip(0)
    assert torch.allclose(tangent_kernel(model, x[order]), K[order][:, order], atol=1e-10 * float(K.abs().max()))


@settings(max_examples=10, deadline=None)
@given(networks, examples, st.floats(-3, 3))
def test_outputs_that_are_scaled_scale_it_twice(model, n, factor) -> None:
    x = torch.randn(n, model[0].in_features, dtype=torch.float64)
    scaled = tangent_kernel(model, x, function=lambda m, b: factor * m(b))
    K = tangent_kernel(model, x)
    assert torch.allclose(scaled, factor**2 * K, atol=1e-10 * float(K.abs().max()))
