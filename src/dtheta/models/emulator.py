"""An emulator of two-layer quasi-geostrophic flow: an SFNO between exact relations of balance.

    state     heights z1, z2
    inputs    potential vorticity, height and wind of both layers, all from z by exact spectral operators, and static
              maps: sin lat, cos lat cos lon, cos lat sin lon, mountains, the zonally asymmetric heating
    outputs   a (2 channels) and b (2 channels):   z <- z + truncated( sigma_z a + inverse( sigma_q b ) )

so that smooth errors are cheap in a and small scales in b, and the state never leaves the truncation, where noise could
pile up. Trained on the squared error of z, u, v of both layers over the variance of their six-hour differences, mean
over the six; by Parseval it is a weighted sum over the coefficients of psi, no field has to be formed for it.

Shape legend: B batch, S steps, H latitudes, W longitudes, L degrees, O orders; planes of psi are (O, 2, L, 2, B).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.sphere import Grid
from dtheta.core.sphere.transform import whn
from dtheta.core.sphere.vector import eigenvalues
from dtheta.data.flows.quasi_geostrophic import QuasiGeostrophic, mesh, mountains
from dtheta.data.flows.two_layer import HEIGHT, SPEED, TwoLayer
from dtheta.errors import ShapeMismatch
from dtheta.models.sfno import SFNO, Norm

_FIELDS = 8  # potential vorticity, height, eastward and northward wind of two layers


class TwoLayerEmulator(nn.Module):
    """A step of six hours; ``set_statistics`` before training, weights and statistics are in the state dict."""

    mean_8: Tensor
    std_8: Tensor
    step_std_8: Tensor
    static_WH1S: Tensor
    power_O2L11: Tensor
    eigenvalues_L11: Tensor

    def __init__(
        self,
        flow: QuasiGeostrophic,
        *,
        embed: int = 24,
        layers: int = 4,
        norm: Norm = "instance",
        mlp_ratio: float = 2.0,
        seed: int = 0,
    ) -> None:
        """Make an untrained emulator of a flow: it knows grid, truncation, balance and static maps of it.

        Args:
            flow: what is emulated.
            embed: channels inside, see ``SFNO``.
            layers: blocks.
            norm: of the blocks.
            mlp_ratio: of the blocks.
            seed: of the weights.
        """
        super().__init__()
        self.flow = flow
        self.balance = TwoLayer(flow.grid, flow.truncation, flow.deformation_radius)  # its own: it may move elsewhere
        self.settings = {"embed": embed, "layers": layers, "norm": norm, "mlp_ratio": mlp_ratio, "seed": seed}
        static = static_maps(flow)
        self.sfno = SFNO(
            _FIELDS + static.shape[-1], 4, flow.grid, degree=flow.truncation, embed=embed, layers=layers, norm=norm,
            mlp_ratio=mlp_ratio, seed=seed,
        )  # fmt: skip
        self.register_buffer("static_WH1S", static, persistent=False)
        for name, value in (("mean_8", 0.0), ("std_8", 1.0), ("step_std_8", 1.0)):
            self.register_buffer(name, torch.full((_FIELDS,), value))
        degrees, orders = self.balance.scalar.shape
        power = torch.full((orders, 2, degrees, 1, 1), 2.0)
        power[0, 0], power[0, 1] = 1, 0
        self.register_buffer("power_O2L11", power, persistent=False)
        n = -eigenvalues(degrees).float()[:, None, None]
        self.register_buffer("eigenvalues_L11", n, persistent=False)

    @property
    def grid(self) -> Grid:
        """Where heights live."""
        return self.flow.grid

    def forward(self, heights: Tensor) -> Tensor:
        """Return heights (B, 2, H, W) in m six hours after ``heights``.

        Raises:
            ShapeMismatch: heights of another grid, or not of two layers.
        """
        return self.balance.heights_of(self.advance(self.balance.psi_of(heights)))

    def advance(self, psi: Tensor) -> Tensor:
        """Return the planes of psi six hours later."""
        fields = (self.fields(psi) - self.mean_8) / self.std_8
        static = self.static_WH1S.expand(*fields.shape[:-1], -1)
        out = self.sfno.apply_last(torch.cat((fields, static), -1))
        scaled = out * torch.cat((self.step_std_8[2:4] / HEIGHT, self.step_std_8[:2]))
        planes = self.balance.scalar.to_planes(scaled.transpose(2, 3).flatten(2)).unflatten(-1, (4, psi.shape[-1]))
        smooth, vortical = planes.split(2, 3)
        return psi + smooth * (self.eigenvalues_L11 > 0) + self.balance.invert(vortical)

    def fields(self, psi: Tensor) -> Tensor:
        """Return potential vorticity (per day), heights (m) and winds (m/s) of both layers, (W, H, B, 8)."""
        scalars = torch.cat((self.balance.potential_vorticity(psi), psi * HEIGHT), 3)
        q_z = self.balance.scalar.from_planes(scalars.flatten(3)).unflatten(-1, scalars.shape[3:])
        east, north = self.balance.vector.gradient_planes((psi * SPEED).flatten(3))
        winds = torch.cat((-north, east), -1).unflatten(-1, scalars.shape[3:])
        return torch.cat((q_z, winds), 2).transpose(2, 3)

    def set_statistics(self, heights: Tensor) -> None:
        """Take means and deviations of inputs and of their six-hour differences from pairs of states.

        Args:
            heights: (B, 2, 2, H, W), states and the states six hours later, in m; some hundreds will do.
        """
        psi = self.balance.psi_of(heights.flatten(0, 1)).unflatten(-1, heights.shape[:2])
        before, after = (self.fields(part).flatten(0, 2) for part in psi.unbind(-1))
        area = self.sfno.grid.area_HW(torch.float32).T[..., None].expand(-1, -1, len(heights)).flatten()[:, None]
        self.mean_8.copy_((area * before).mean(0))
        self.std_8.copy_((area * (before - self.mean_8).square()).mean(0).sqrt())
        self.step_std_8.copy_((area * (after - before).square()).mean(0).sqrt())

    def error(self, difference: Tensor) -> Tensor:
        """Return the loss of the planes of a difference of psi; persistence over six hours has about 1.

        The mean over z, u, v of both layers of squared error over the variance of six-hour differences.
        """
        z, u, v = (self.step_std_8[i : i + 2].square()[:, None] for i in (2, 4, 6))
        per_degree = HEIGHT**2 / z + self.eigenvalues_L11 * (2 * SPEED**2 / (u + v))
        return (difference.square() * (self.power_O2L11 * per_degree)).sum() / (6 * difference.shape[-1])


def rollout_loss(model: Any, batch: Tensor) -> Tensor:
    """Return the mean loss over the steps of windows (B, S + 1, 2, H, W), each step fed with the one before.

    Args:
        model: an emulator, or a ``Whole`` around one.
        batch: heights in m.

    Raises:
        ShapeMismatch: windows without a step.
    """
    emulator: TwoLayerEmulator = getattr(model, "network", model)
    if batch.ndim != 5 or batch.shape[1] < 2:
        raise ShapeMismatch(f"windows have the shape {tuple(batch.shape)}; expected (B, steps + 1, 2, H, W)")
    truth = emulator.balance.psi_of(batch.transpose(0, 1).flatten(0, 1)).unflatten(-1, (batch.shape[1], len(batch)))
    psi, loss = truth[..., 0, :], torch.zeros(())
    for step in range(1, batch.shape[1]):
        psi = emulator.advance(psi)
        loss = loss + emulator.error(psi - truth[..., step, :])
    return loss / (batch.shape[1] - 1)


def static_maps(flow: QuasiGeostrophic) -> Tensor:
    """Return the static inputs (W, H, 1, 5) of a flow: the place on the sphere, mountains and asymmetric heating."""
    lat, lon = mesh(flow.grid)
    asymmetric = flow.equilibrium.clone()
    asymmetric[0] = 0
    heating = flow.balance.scalar.from_planes(asymmetric.flatten(3)).flatten(2)[..., 0].T
    ground = mountains(lat, lon)
    maps = (
        torch.sin(lat), torch.cos(lat) * torch.cos(lon), torch.cos(lat) * torch.sin(lon),
        ground / ground.std(), heating / heating.std(),
    )  # fmt: skip
    return whn(torch.stack([m.float() for m in maps]))[:, :, None].contiguous()
