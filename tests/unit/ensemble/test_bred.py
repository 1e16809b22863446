"""Bred vectors: the cycle written out, valid at the start, aligned with the Lyapunov vectors of Lorenz-96."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dtheta.data.flows.lorenz96 import Lorenz96
from dtheta.data.flows.lyapunov import lyapunov
from dtheta.ensemble.bred import BredVectors
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.members import Member, cross
from dtheta.ensemble.noise import WhiteNoise
from dtheta.ensemble.rescaling import GlobalRescaling, VariableRescaling
from dtheta.errors import ConfigError

FLOW = Lorenz96()
STARTS = FLOW.spin_up(16, dtype=torch.float64)


def trajectory(steps: int) -> Tensor:
    return FLOW.run(STARTS[0], steps)


def first_states(bred: BredVectors, states: Tensor, members: int | list[Member] = 1, rows: int = 1) -> Tensor:
    found = Ensemble(FLOW.step, members, perturbation=bred, rows=rows)
    return next(found.run(states[-1], [0], past=states[:-1]))[1]


def test_the_cycle_is_the_one_written_out_and_ends_at_the_start() -> None:
    states = trajectory(3)
    x = first_states(BredVectors(0.2, WhiteNoise(0.5), cycles=3), states)[0]
    noise = next(Ensemble(FLOW.step, 1, perturbation=WhiteNoise(0.5)).run(torch.zeros(40, dtype=torch.float64), [0]))
    d = noise[1][0]
    for k in (3, 2, 1):  # the analysis k steps before the start is states[-1 - k]
        before = states[-1 - k]
        d = FLOW.step(before + d) - FLOW.step(before)
        d = d * 0.2 / d.square().mean().sqrt()
    assert torch.allclose(x, states[-1] + d, atol=1e-12)


def test_a_vector_is_valid_at_the_start_and_not_a_step_later() -> None:
    """Of long breeding nothing is left of the noise, so the vectors are those of the flow at their time."""
    states = trajectory(400)
    vector = first_states(BredVectors(1e-6, WhiteNoise(1e-6), cycles=399), states[:-1])[0] - states[-2]
    found = lyapunov(FLOW.tangent, states[0], 399, count=1, dt=FLOW.dt)
    later = lyapunov(FLOW.tangent, states[0], 400, count=1, dt=FLOW.dt)
    assert torch.allclose(found.state, states[-2], atol=1e-3)
    cosine = abs(float(torch.nn.functional.normalize(vector, dim=0) @ found.vectors[:, 0]))
    assert cosine > 0.999
    assert abs(float(torch.nn.functional.normalize(vector, dim=0) @ later.vectors[:, 0])) < cosine - 0.005


def test_bred_vectors_align_with_the_growing_directions_and_noise_does_not() -> None:
    """13 of 40 directions grow. White noise has 13/40 of its variance in them, 20 cycles of breeding nearly all."""
    states = trajectory(600)
    growing = lyapunov(FLOW.tangent, states[0], 600, count=13, dt=FLOW.dt).vectors
    shares = {}
    for cycles in (1, 5, 20, 60):
        bred = BredVectors(1e-4, WhiteNoise(1e-4), cycles=cycles)
        vectors = first_states(bred, states, 64, rows=64) - states[-1]
        shares[cycles] = float(((vectors @ growing).square().sum(1) / vectors.square().sum(1)).mean())
    assert 13 / 40 < shares[1] < shares[5] < shares[20] < shares[60]
    assert shares[20] > 0.9 and shares[60] > 0.97
    noise = torch.randn(4000, 40, dtype=torch.float64)
    assert float(((noise @ growing).square().sum(1) / noise.square().sum(1)).mean()) == pytest.approx(13 / 40, abs=0.01)


def growth(cycles: int, leads: list[int]) -> list[float]:
    """Geometric mean growth of 16 x 16 perturbations of size 0.001 after these leads; of white noise for 0 cycles."""
    noise = WhiteNoise(1e-3)
    found = Ensemble(FLOW.step, 16, perturbation=BredVectors(1e-3, noise, cycles=cycles) if cycles else noise)
    logs = []
    for seed, states in enumerate(FLOW.run(STARTS, max(cycles, 1)).unbind(1)):
        control = FLOW.run(states[-1], leads[-1])
        run = found.run(states[-1], leads, past=states[:-1], time=seed)
        logs.append([float((x - control[lead]).square().mean(1).sqrt().log().mean()) for lead, x in run])
    return (torch.tensor(logs).mean(0).exp() / 1e-3).tolist()


def test_bred_vectors_grow_at_once_and_noise_shrinks_first() -> None:
    """After a day bred vectors of three cycles are ahead by a fifth; more cycles fall behind noise at two days.

    Long breeding leaves the leading Lyapunov vectors, which grow at their rate and no faster, while noise still holds
    the directions whose growth is transient and faster.
    """
    noise, three, many = (growth(cycles, [1, 4, 8]) for cycles in (0, 3, 60))
    assert noise[0] < 1 < many[0] < three[0]
    assert three[1] > 1.15 * noise[1] and three[2] > 1.05 * noise[2]
    assert many[2] < noise[2]


def test_vectors_of_other_draws_point_elsewhere_and_signs_share_one() -> None:
    states = trajectory(3)
    bred = BredVectors(0.1, WhiteNoise(0.1), cycles=3)
    vectors = first_states(bred, states, cross(1, 8), rows=4) - states[-1]
    assert torch.allclose(vectors[::2], -vectors[1::2], atol=1e-12)
    cosines = torch.corrcoef(vectors[::2])
    assert float((cosines - torch.eye(8, dtype=torch.float64)).abs().max()) < 0.9


def test_both_signs_of_a_draw_are_bred_once_and_the_control_once_a_network() -> None:
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return FLOW.step(x)

    states = trajectory(2)
    bred = BredVectors(0.1, WhiteNoise(0.1), cycles=2)
    next(Ensemble(counted, cross(1, 8), perturbation=bred, rows=4).run(states[-1], [0], past=states[:-1]))
    assert calls == [4] * (2 + 2 * 2)  # the control of each cycle, and for two blocks of draws two cycles


def test_each_member_is_bred_with_its_own_network() -> None:
    states, bred = trajectory(2), BredVectors(0.1, WhiteNoise(0.1), cycles=2)
    flows = [FLOW.step, Lorenz96(forcing=12).step]
    both = Ensemble(flows[0], cross(2, 3), parameters=flows, perturbation=bred, rows=4)
    x = next(both.run(states[-1], [0], past=states[:-1]))[1]
    for i, member in enumerate(both.members):
        alone = Ensemble(flows[0], [member], parameters=flows, perturbation=bred, rows=4)
        assert torch.equal(next(alone.run(states[-1], [0], past=states[:-1]))[1][0], x[i])


def test_rescalings_are_applied_one_after_the_other() -> None:
    states = trajectory(2).reshape(3, 2, 20)
    bred = BredVectors(
        [0.1, 0.4], WhiteNoise(0.1), cycles=2, rescaling=[VariableRescaling(), GlobalRescaling(channels=[0])]
    )

    def step(x: Tensor) -> Tensor:
        return FLOW.step(x.flatten(1)).reshape(x.shape)

    x = next(Ensemble(step, 3, perturbation=bred).run(states[-1], [0], past=states[:-1]))[1] - states[-1]
    assert torch.allclose(x.square().mean(2).sqrt(), torch.tensor([0.1, 0.4], dtype=torch.float64).expand(3, 2))


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match="cycles is 0"):
        BredVectors(0.1, WhiteNoise(0.1), cycles=0)
    with pytest.raises(ConfigError, match="expected a perturbation"):
        BredVectors(0.1, 0.1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="earlier analyses itself"):
        BredVectors(0.1, BredVectors(0.1, WhiteNoise(0.1)))
    with pytest.raises(ConfigError, match="expected a Rescaling"):
        BredVectors(0.1, WhiteNoise(0.1), rescaling=())
    with pytest.raises(ConfigError, match="rescaling is 5; expected a Rescaling"):
        BredVectors(0.1, WhiteNoise(0.1), rescaling=5)  # type: ignore[arg-type]
