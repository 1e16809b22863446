"""watch: what is written over in place is followed, or goes by derivatives of each example; never by a wrong rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.unit.kernels.tangent_models import drawn
from tests.unit.kernels.tangent_small import Small, check, small


def product_in_place(m: Small, x: Tensor) -> Tensor:
    return m.head((x * 1.5).mul_(m.p))


def copy_scaled(m: Small, x: Tensor) -> Tensor:
    q = m.p.clone()
    q.mul_(2)
    return m.head(x * q)


def copy_scaled_without_gradients(m: Small, x: Tensor) -> Tensor:
    q = m.p.clone()
    with torch.no_grad():
        q *= 2
    return m.head(x * q)


def slice_scaled(m: Small, x: Tensor) -> Tensor:
    q = m.p.clone()
    q[:2].mul_(3)
    return m.head(x * q)


def view_of_what_is_scaled(m: Small, x: Tensor) -> Tensor:
    q = m.p.clone()
    v = q[:2]
    q.mul_(3)
    return m.head(F.pad(x[:, :2] * v, (0, 2)) + x)


def sum_of_twice(m: Small, x: Tensor) -> Tensor:
    return m.head(x * torch.add(torch.ones_like(m.p), m.p, alpha=2))


def written_into_a_constant(m: Small, x: Tensor) -> Tensor:
    h = torch.zeros(len(x), 4, dtype=x.dtype)
    h[:] = m.p
    return m.head(x * h)


def through_a_view(m: Small, x: Tensor) -> Tensor:
    h = torch.stack([x, x * 2], 1)
    h[:, 0].add_(m.p)
    return m.head(h).sum(1)


PLAIN = [product_in_place, copy_scaled, copy_scaled_without_gradients, slice_scaled, view_of_what_is_scaled,
         sum_of_twice, written_into_a_constant, through_a_view]  # fmt: skip


@pytest.mark.parametrize("forward", PLAIN)
@pytest.mark.parametrize("silent", [False, True])
def test_writes_give_no_wrong_number(forward, silent: bool) -> None:
    """Also where the first three examples say nothing of what multiplies them."""
    x = drawn(7, 4)
    if silent:
        x[:3] = 0
    check(small(forward), x)


def kept_token(m: Small, x: Tensor) -> Tensor:
    tokens = m.p.expand(len(x), 3, -1).clone()
    tokens[:, 1:] = x[:, None]
    tokens *= x[:, None]
    return m.head(tokens).mean(1)


def copy_plus_batch(m: Small, x: Tensor) -> Tensor:
    q = m.p.expand(len(x), -1).clone()
    q += x
    return m.head(q)


def sum_in_place(m: Small, x: Tensor) -> Tensor:
    h = x * 2
    h += m.p
    return m.head(h)


def moved_by_name(m: Small, x: Tensor) -> Tensor:
    return m.head(x * torch.add(input=m.p, other=torch.ones_like(m.p)) + (m.p - torch.ones_like(m.p)))


def cached(m: Small, x: Tensor) -> Tensor:
    m.cache[: len(x)] = x.detach()
    return m.head(m.cache[: len(x)] * m.p)


@pytest.mark.parametrize("forward", [kept_token, copy_plus_batch, sum_in_place, moved_by_name, cached])
def test_writes_that_a_rule_follows(forward) -> None:
    assert not [w for w in check(small(forward), drawn(7, 4)) if not w.startswith(("w", "table", "t:"))]
