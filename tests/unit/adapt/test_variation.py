"""Variation: exact small cases, and the same on real deltas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.sorsa import SORSA
from dtheta.adapt.variation import log_condition, variation, weight_variation
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.seeds import generator
from dtheta.errors import BaseMismatch, ConfigError, NonFinite, ShapeMismatch

EXACT = 1e-10


def drawn(*shape: int, index: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "test_variation", index), dtype=torch.float64)


def bases(m: int, n: int) -> tuple[Tensor, Tensor]:
    k = min(m, n)
    return torch.linalg.qr(drawn(m, k)).Q, torch.linalg.qr(drawn(n, k, index=1)).Q.mT


def plane_rotation(size: int, i: int, j: int, angle: float) -> Tensor:
    rotation = torch.eye(size, dtype=torch.float64)
    rotation[i, i] = rotation[j, j] = math.cos(angle)
    rotation[i, j], rotation[j, i] = -math.sin(angle), math.sin(angle)
    return rotation


@pytest.mark.parametrize("shape", [(6, 6), (9, 5), (5, 9)])
def test_scaling_moves_values_and_turns_nothing(shape: tuple[int, int]):
    U, Vh = bases(*shape)
    S = torch.arange(len(Vh), 0, -1, dtype=torch.float64)
    found = weight_variation("w", (U * S) @ Vh, (U * (1.25 * S)) @ Vh)
    assert found.d_sigma == pytest.approx(0.25 * float(S.mean()), abs=EXACT)
    assert found.d_sigma_relative == pytest.approx(0.25, abs=EXACT)
    assert found.d_direction == pytest.approx(0, abs=EXACT)
    assert found.d_subspace == pytest.approx(0, abs=EXACT)
    assert max(found.angle_left, found.angle_right) < 1e-7


def test_a_rotation_turns_the_left_side_and_moves_no_value():
    U, Vh = bases(6, 6)
    S = torch.arange(6, 0, -1, dtype=torch.float64)
    angle = 0.3
    turned = (U @ plane_rotation(6, 1, 4, angle)) * S @ Vh  # left directions 1 (inside the leading 3) and 4 (outside)
    found = weight_variation("w", (U * S) @ Vh, turned)
    assert found.d_sigma == pytest.approx(0, abs=EXACT)
    assert found.d_direction == pytest.approx((1 - math.cos(angle)) / 2 * 2 / 6, abs=EXACT)
    assert found.dimension == 3
    assert found.angle_left == pytest.approx(angle, abs=EXACT)
    assert found.angle_right == pytest.approx(0, abs=1e-7)
    assert found.d_subspace == pytest.approx((1 - math.cos(angle)) / 3 / 2, abs=EXACT)


def test_crossing_values_look_like_a_full_turn_by_index_but_not_by_subspace():
    U, Vh = bases(8, 6)
    S = torch.tensor([5.0, 4.99, 3.0, 2.99, 1.0, 0.99], dtype=torch.float64)
    crossed = S.view(3, 2).flip(1).flatten()
    found = weight_variation("w", (U * S) @ Vh, (U * crossed) @ Vh, dimension=2)
    assert found.d_sigma == pytest.approx(0, abs=EXACT)
    assert found.d_direction == pytest.approx(1, abs=EXACT)
    assert found.d_subspace == pytest.approx(0, abs=EXACT)
    assert max(found.angle_left, found.angle_right) < 1e-7


def test_nothing_moved():
    weight = drawn(7, 5)
    found = weight_variation("w", weight, weight.clone())
    assert found.d_sigma == 0
    assert found.d_direction == pytest.approx(0, abs=EXACT)
    assert found.angle_left < 1e-7


def test_directions_of_rounding_noise_do_not_count():
    U, Vh = bases(6, 6)
    S = torch.tensor([3.0, 2.0, 1.0, 0, 0, 0], dtype=torch.float64)
    found = weight_variation("w", (U * S) @ Vh, (U * (2 * S)) @ Vh)
    assert found.d_direction == pytest.approx(0, abs=EXACT)
    assert found.d_sigma == pytest.approx(1.0, abs=EXACT)


@pytest.mark.parametrize("shape", [(12, 12), (20, 8), (8, 20)])
def test_all_triplets_agree_with_the_definition(shape: tuple[int, int]):
    before, after = drawn(*shape), drawn(*shape) + 0.3 * drawn(*shape, index=2)
    U0, S0, Vh0 = torch.linalg.svd(before, full_matrices=False)
    U, S, Vh = torch.linalg.svd(after, full_matrices=False)
    found = weight_variation("w", before, after)
    assert found.count == min(shape)
    assert found.d_sigma == pytest.approx(float((S - S0).abs().mean()), abs=EXACT)
    cosines = ((U0 * U).sum(0).abs() + (Vh0 * Vh).sum(1).abs()) / 2
    assert found.d_direction == pytest.approx(1 - float(cosines.mean()), abs=1e-9)


def test_leading_triplets_only():
    U, Vh = bases(30, 20)
    S = torch.linspace(10, 1, 20, dtype=torch.float64)
    shifted = S.clone()
    shifted[:4] += 0.2
    shifted[10] = 0.0
    found = weight_variation("w", (U * S) @ Vh, (U * shifted) @ Vh, rank=4)
    assert (found.count, found.dimension) == (4, 4)
    assert found.d_sigma == pytest.approx(0.2, abs=1e-4)
    assert found.d_direction == pytest.approx(0, abs=1e-6)


def test_condition_number_of_a_product():
    U, Vh = bases(9, 7)
    S = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    assert log_condition(LowRank(U[:, :3], Vh[:3], S)) == pytest.approx(math.log(4))
    assert log_condition(LowRank(2 * U[:, :3], Vh[:3], torch.ones(3))) == pytest.approx(0, abs=1e-12)
    assert math.isnan(log_condition(LowRank(torch.zeros(9, 3), Vh[:3].clone())))
    left = U[:, :3].clone()
    left[:, 2] = left[:, 1]
    right = Vh[:3].clone()
    right[2] = right[1]
    assert math.isinf(log_condition(LowRank(left, right)))


def nudged(model: nn.Module, method: object, select: str | None = None) -> Delta:
    """The delta of a method after a keyed step away from its start."""
    adapter = attach(model, method, select)  # type: ignore[arg-type]
    with torch.no_grad():
        for index, parameter in enumerate(adapter.trainable().values()):
            parameter.add_(drawn(*parameter.shape, index=10 + index).float(), alpha=0.05)
    delta = adapter.delta()
    adapter.detach()
    return delta


@pytest.mark.parametrize("method", [LoRA(rank=2), PiSSA(rank=2), SORSA(rank=2), CLIPSVD(), Full()])
def test_every_method_agrees_with_the_dense_weights(tiny_mlp: nn.Module, method: object):
    delta = nudged(tiny_mlp, method)
    found = {v.name: v for v in variation(tiny_mlp, delta)}
    assert set(found) == {"0.weight", "2.weight"}  # vectors have no directions
    for name, v in found.items():
        weight = tiny_mlp.get_parameter(name).detach().double()
        direct = weight_variation(name, weight, weight + delta.bind(tiny_mlp)[name].dense(), dimension=v.dimension)
        assert v.d_sigma == pytest.approx(direct.d_sigma, rel=1e-4, abs=1e-7)
        assert v.d_direction == pytest.approx(direct.d_direction, rel=1e-3, abs=1e-7)
        assert v.angle_left == pytest.approx(direct.angle_left, rel=1e-3, abs=1e-6)
        assert v.d_sigma > 0


def test_the_rank_of_the_delta_sets_the_subspace_and_the_product(tiny_mlp: nn.Module):
    sorsa = variation(tiny_mlp, nudged(tiny_mlp, SORSA(rank=3)))
    assert [v.dimension for v in sorsa] == [3, 3]
    assert all(v.log_condition is not None and 0 < v.log_condition < 10 for v in sorsa)
    dense = variation(tiny_mlp, nudged(tiny_mlp, Full(), "*.weight"))
    assert [v.dimension for v in dense] == [6, 4]
    assert all(v.log_condition is None for v in dense)


def test_a_spectral_delta_turns_nothing(tiny_mlp: nn.Module):
    for v in variation(tiny_mlp, nudged(tiny_mlp, CLIPSVD(), "*.weight"), rank=1):
        assert v.angle_left < 1e-2
        assert v.d_sigma > 0


def test_an_untrained_product_has_no_condition(tiny_mlp: nn.Module):
    adapter = attach(tiny_mlp, LoRA(rank=2))
    found = variation(tiny_mlp, adapter.delta())
    assert all(v.d_sigma == 0 and v.log_condition is not None and math.isnan(v.log_condition) for v in found)


def test_slices_of_a_fused_projection(tiny_mha: nn.Module):
    delta = nudged(tiny_mha, LoRA(rank=2), "*.in_proj_weight:qv")
    (found,) = variation(tiny_mha, delta)
    assert found.name == "attention.in_proj_weight"
    assert found.d_sigma > 0


def test_bad_input(tiny_mlp: nn.Module):
    delta = nudged(tiny_mlp, LoRA(rank=2))
    with pytest.raises(ConfigError, match=r"0\.weight: rank 99"):
        variation(tiny_mlp, delta, rank=99)
    with pytest.raises(ShapeMismatch, match="two matrices of one shape"):
        weight_variation("w", torch.ones(2, 3), torch.ones(3, 2))
    with pytest.raises(NonFinite, match="NaN"):
        weight_variation("w", torch.ones(2, 3), torch.full((2, 3), math.nan))
    broken = Delta({"0.weight": Dense(torch.full((16, 12), math.nan))}, fingerprint(tiny_mlp))
    with pytest.raises(NonFinite, match=r"0\.weight"):
        variation(tiny_mlp, broken)
    with torch.no_grad():
        tiny_mlp[0].weight[0, 0] += 1.0
    with pytest.raises(BaseMismatch, match=r"0\.weight"):
        variation(tiny_mlp, delta)
    assert variation(tiny_mlp, delta, strict=False)
