"""CLIP-SVD: the singular values train and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.core.seeds import generator


@pytest.mark.parametrize(
    ("ratio", "short", "k"),
    [
        (1.0, 7, 7),
        (1.0, 768, 768),
        (0.5, 768, 384),
        (0.5, 15, 4),
        (0.5, 7, 1),
        (0.1, 384, 36),
        (0.001, 64, 1),
        (0.999, 64, 60),
    ],
)
def test_count_as_in_the_released_code(ratio, short, k):
    assert CLIPSVD(ratio=ratio).count(short) == k


def test_one_number_a_singular_value():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 12), nn.Conv2d(3, 5, 2))
    adapter = attach(model, CLIPSVD(), "0|1")
    assert {n: tuple(p.shape) for n, p in adapter.trainable().items()} == {
        "0.weight.shift": (12,),
        "1.weight.shift": (5,),
    }
    assert not any(p.any() for p in adapter.trainable().values())
    delta = adapter.delta()
    assert delta["0.weight"].kind == "spectral"
    adapter.detach()


def test_a_shift_moves_its_singular_value_and_no_vector():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 12))
    W = model[0].weight.detach().double()
    adapter = attach(model, CLIPSVD())
    with torch.no_grad():
        adapter.term("0.weight").shift[0] = 1.5
        adapter.term("0.weight").shift[11] = -0.01
    moved = W + adapter.delta()["0.weight"].dense().double()
    expected = torch.linalg.svdvals(W)
    expected[0] += 1.5
    expected[11] -= 0.01
    torch.testing.assert_close(torch.linalg.svdvals(moved), expected.sort(descending=True).values, rtol=1e-4, atol=1e-5)
    adapter.detach()


def test_gradient_is_the_diagonal_in_the_basis():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 12))
    x = torch.randn(9, 20, generator=generator(0, "x"))
    expected = torch.autograd.grad(model(x).sin().sum(), model[0].weight)[0]
    adapter = attach(model, CLIPSVD())
    term = adapter.term("0.weight")
    adapter(x).sin().sum().backward()
    torch.testing.assert_close(
        term.shift.grad, (term.left.T @ expected @ term.right.T).diagonal(), rtol=1e-4, atol=1e-5
    )
    adapter.detach()
