"""One budget for all methods: units of displacement, and the choice that all methods share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import dtheta as dt
from dtheta.core.selection import select
from dtheta.kernels.dynamics import kernel_dynamics
from dtheta.kernels.leave_one_out import leave_one_out
from dtheta.scout.budget import HEADS, PENALTIES, budgeted
from dtheta.scout.derivatives import units_of
from dtheta.scout.regression import normed
from tests.unit.scout.test_regression import half


def term(method):
    net = nn.Sequential(nn.Linear(120, 90, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(90, 120, generator=torch.Generator().manual_seed(0)))
    (site,) = select(net)
    return method.terms([site], 0)[site.key]


def test_units_are_the_mean_squared_displacement_by_a_move() -> None:
    lora = term(dt.LoRA(rank=4, alpha=8.0))
    left, right = units_of(lora)
    assert left == pytest.approx(4 * float(lora.right.detach().square().sum()) / 4, rel=0.1) and right == 0.0
    sorsa = term(dt.SORSA(rank=4))
    left, right, core = units_of(sorsa)
    wanted = float(sorsa.core.detach().square().mean())
    assert left == pytest.approx(wanted, rel=0.15) and right == pytest.approx(wanted, rel=0.15)
    assert core == pytest.approx(1.0, rel=0.02)
    assert units_of(term(dt.CLIPSVD()))[0] == pytest.approx(1.0, rel=0.02)
    assert units_of(term(dt.Full())) == [1.0]


def test_units_leave_every_bit_of_the_term() -> None:
    one = term(dt.PiSSA(rank=4))
    before = {name: t.clone() for name, t in one.state_dict().items()}
    units_of(one)
    assert all(torch.equal(t, before[name]) for name, t in one.state_dict().items())


def test_all_methods_share_the_choice_at_which_the_best_is_best_on_the_other_half() -> None:
    methods = [[half(0), half(1)], [half(2), half(3)]]
    found = budgeted(methods)
    for i in (0, 1):
        unit = torch.stack([m[i].moves.diagonal().mean() for m in methods]).log().mean().exp()
        other = torch.stack([m[1 - i].moves.diagonal().mean() for m in methods]).log().mean().exp()
        choice = min(
            ((h, p) for h in HEADS for p in PENALTIES),
            key=lambda hp: min(float(errors(m[1 - i], other, *hp).mean()) for m in methods),
        )
        for m, all_errors in zip(methods, found, strict=True):
            n = len(m[0].labels)
            torch.testing.assert_close(all_errors[i * n : (i + 1) * n], errors(m[i], unit, *choice))


def errors(one, unit, head, penalty):
    kernel = head * normed(one.head) + one.moves / unit
    left = leave_one_out(kernel_dynamics(kernel, one.target, one.prior), penalty=penalty)
    return left.residuals.square().sum(1)


def test_a_method_that_must_move_farther_comes_after_one_of_the_same_directions() -> None:
    near = [half(0), half(1)]
    far = [replace(one, moves=one.moves / 100) for one in near]
    first, second = budgeted([near, far])
    assert abs(float(first.mean() - second.mean())) > 1e-3
