"""SFNO: symmetry, exact norms, coarser blocks, keys, gradients, vmap and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dtheta.core.sphere import Grid, SphericalTransform
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.models.sfno import SFNO, SpectralFilter, SphericalNorm

GRID = Grid(12, 24)


def network(**settings) -> SFNO:
    return SFNO(**({"inputs": 3, "outputs": 2, "grid": GRID, "embed": 4, "layers": 2} | settings))


def smooth(*leading: int) -> Tensor:
    """Random fields within degree 11."""
    return SphericalTransform(GRID, 11).truncate(torch.randn(*leading, *GRID.shape))


@pytest.mark.parametrize("norm", ["none", "instance", "layer"])
@pytest.mark.parametrize("scale_factor", [1, 2])
def test_shapes_and_gradients(norm: str, scale_factor: int) -> None:
    net = network(norm=norm, scale_factor=scale_factor)
    out = net(smooth(5, 3))
    assert out.shape == (5, 2, 12, 24) and torch.isfinite(out).all()
    out.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.blocks[0].filter.weight.grad.abs().max() > 0


def test_members_of_a_batch_do_not_meet() -> None:
    net, x = network(), smooth(4, 3)
    torch.testing.assert_close(net(x)[2:3], net(x[2:3]))


def test_without_position_embedding_turning_the_planet_turns_the_output() -> None:
    net, x = network(position_embedding=False), smooth(2, 3)
    turned = net(x.roll(7, -1))
    torch.testing.assert_close(turned, net(x).roll(7, -1), rtol=1e-4, atol=1e-6)
    net = network(position_embedding=True)
    nn.init.normal_(net.position)
    assert not torch.allclose(net(x.roll(7, -1)), net(x).roll(7, -1), atol=1e-6)


def test_the_filter_is_one_complex_matrix_for_each_degree() -> None:
    transform = SphericalTransform(GRID, 11)
    found = SpectralFilter(12, 4, 0, 0)
    planes = transform.to_planes(torch.randn(24, 12, 2 * 4)).unflatten(-1, (2, 4))
    out = found(planes)
    weight = torch.complex(found.weight[:, 0], found.weight[:, 1])  # (L, in, out)
    expected = torch.einsum("olbi,lij->olbj", torch.complex(planes[:, 0], planes[:, 1]), weight)
    torch.testing.assert_close(torch.complex(out[:, 0], out[:, 1]), expected)


def test_the_instance_norm_is_that_of_the_area_weighted_field() -> None:
    transform = SphericalTransform(GRID, 11, dtype=torch.float64)
    norm = SphericalNorm(transform, 4, "instance").double()
    nn.init.normal_(norm.scale), nn.init.normal_(norm.shift)
    field = 3 + torch.randn(24, 12, 2 * 4, dtype=torch.float64)
    planes = transform.to_planes(field).unflatten(-1, (2, 4))
    planes[0, 1] = 7  # imaginary parts of m = 0 make no field
    scale, shift, same = norm.of(planes)
    found = transform.from_planes((same * scale).flatten(3)).unflatten(-1, (2, 4)) + shift
    field = transform.from_planes(planes.flatten(3)).unflatten(-1, (2, 4))
    area = GRID.area_HW().T[..., None, None]
    mean = (area * field).mean((0, 1))
    deviation = (area * (field - mean).square()).mean((0, 1)).add(1e-6).sqrt()
    torch.testing.assert_close(found, norm.scale * (field - mean) / deviation + norm.shift)


def test_a_residual_prediction_begins_near_persistence() -> None:
    x = smooth(2, 3)
    out = network(outputs=3, residual_prediction=True)(x)
    assert 0 < (out - x).abs().max() < 0.05


def test_seeds_are_keys() -> None:
    def weights(seed: int) -> Tensor:
        return torch.cat([p.flatten() for p in network(seed=seed).parameters()])

    assert torch.equal(weights(3), weights(3)) and not torch.equal(weights(3), weights(4))


def test_stacked_parameters_under_vmap_are_the_loop() -> None:
    nets, x = [network(seed=s) for s in range(3)], smooth(2, 3)
    parameters, buffers = torch.func.stack_module_state(nets)

    def call(p: dict, b: dict) -> Tensor:
        return torch.func.functional_call(nets[0], (p, b), (x,))

    torch.testing.assert_close(torch.vmap(call)(parameters, buffers), torch.stack([net(x) for net in nets]))


def test_the_state_dict_holds_parameters_alone() -> None:
    net = network()
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}


def test_equiangular_grids_with_poles() -> None:
    assert network(grid=Grid(13, 24, "equiangular"))(torch.randn(1, 3, 13, 24)).shape == (1, 2, 13, 24)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "batch"}, "none, instance, layer, got 'batch'"),
        ({"residual_prediction": True}, "there are 3 and 2 channels"),
        ({"scale_factor": 5}, "scale_factor=5 does not divide the 24 longitudes"),
        ({"scale_factor": 12}, "leaves fewer than 2 of the 12 latitudes"),
        ({"mlp_ratio": 0.01}, "no hidden channel"),
        ({"degree": 12}, "degree 12 needs 13 latitudes"),
        ({"layers": 0}, "layers is 0"),
    ],
)
def test_refused_settings(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network(**settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            torch.zeros(1, 3, 12, 24, dtype=torch.float64),
            "torch.float64 on cpu, and the weights are torch.float32 on cpu",
        ),
        (torch.zeros(1, 3, 12, 24, dtype=torch.float16), "input is torch.float16"),
        (torch.zeros(1, 3, 12, 24, dtype=torch.int64), "input is torch.int64"),
        (torch.zeros(1, 3, 12, 24, device="meta"), "on meta, and the weights are torch.float32 on cpu"),
        (torch.zeros(1, 3, 12, 24).numpy(), "input is a ndarray; expected a tensor of torch.float32"),
        (None, "input is a NoneType"),
    ],
)
def test_inputs_of_another_kind_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network()(given)


def test_weights_and_input_may_both_be_float64() -> None:
    assert network().double()(smooth(1, 3).double()).dtype == torch.float64


@pytest.mark.parametrize("shape", [(1, 2, 12, 24), (3, 12, 24), (1, 3, 12, 23)])
def test_refused_inputs(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatch, match="input has the shape"):
        network()(torch.zeros(shape))
