"""Perturbed parameters: a Delta for every member, drawn around one network.

    SingularValueShifts       s_i <- s_i (1 + scale xi_i)              of the weights that are selected
    TaskVectorCoefficients    sum_i (mean + scale xi_i) delta_i        along deltas that one has
    LastLayerLaplace          Gaussian posterior of the last layer     (laplace.py)

where xi is standard normal, keyed by the seed and the number of the parameter set. Independently trained checkpoints,
which are what Mahesh et al. (2025, arXiv 2408.03100) perturb parameters by, need none of this: they are given as they
are. These are for the one who has a single checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from dtheta.core.apply import bind
from dtheta.core.arguments import listed, number
from dtheta.core.basis import spectral_basis
from dtheta.core.delta import Delta, total
from dtheta.core.fingerprint import fingerprint
from dtheta.core.provenance import Provenance
from dtheta.core.seeds import generator
from dtheta.core.selection import select
from dtheta.core.spectral import Spectral
from dtheta.errors import ConfigError, UnsupportedLayer

#: (seed, number of the parameter set) -> its Delta.
Sampler: TypeAlias = Callable[[int, int], Delta]


class ParameterPerturbation(ABC):
    """What draws a Delta for every parameter set; each touches the same parameters."""

    @abstractmethod
    def sampler(self, base: nn.Module) -> Sampler:
        """Return the function that draws, made ready for a base once."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""


@dataclass(frozen=True)
class SingularValueShifts(ParameterPerturbation):
    """Relative normal noise on the singular values of weights; directions stay.

    Attributes:
        scale: standard deviation of the relative shifts.
        select: which parameters, see ``dt.attach``; real matrices only.
        rank: how many leading singular values; None for all.
    """

    scale: float = 0.01
    select: str | None = None
    rank: int | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for a scale that is no positive number."""
        _positive(self.scale)

    def sampler(self, base: nn.Module) -> Sampler:
        """Decompose the selected weights and return the function that shifts them.

        Raises:
            ConfigError, UnknownParameter: if the selection takes nothing, or the rank does not fit.
            UnsupportedLayer: for a complex weight, or a slice of one.
        """
        sites = select(base, self.select)
        for site in sites:
            if site.tensor.is_complex() or site.window is not None:
                raise UnsupportedLayer(f"{site.key}: singular values are shifted of whole real weights; select others")
        parts = {site.name: _triplets(site.matrix(), self.rank) for site in sites}
        shapes = {site.name: tuple(site.tensor.shape) for site in sites}
        held = fingerprint(base).restrict(parts)

        def draw(seed: int, index: int) -> Delta:
            changes = {}
            for name, (left, S, right) in parts.items():
                xi = torch.randn(len(S), generator=generator(seed, f"ensemble/shifts/{name}", index), dtype=S.dtype)
                changes[name] = Spectral(self.scale * xi * S, shapes[name], left, right)
            return Delta(changes, held, Provenance("perturb", self.to_dict(), seed=seed, settings={"index": index}))

        return draw

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""
        return {"name": "SingularValueShifts", "scale": self.scale, "select": self.select, "rank": self.rank}


@dataclass(frozen=True, eq=False)
class TaskVectorCoefficients(ParameterPerturbation):
    """Normal coefficients of deltas of one base.

    Attributes:
        deltas: the directions, such as ``dt.extract(base, checkpoint)`` of other seeds or tasks.
        scale: standard deviation of the coefficients.
        mean: what they are drawn around.
    """

    deltas: Sequence[Delta]
    scale: float = 0.1
    mean: float = 0.0

    def __post_init__(self) -> None:
        """Raise ConfigError where there is no delta, or the scale is no positive number."""
        object.__setattr__(self, "deltas", tuple(listed(self.deltas)))
        _positive(self.scale)
        number(self.mean, "mean")

    def sampler(self, base: nn.Module) -> Sampler:
        """Return the function that combines the deltas.

        Raises:
            BaseMismatch: if a delta is of another base.
        """
        bound = [bind(delta, base) for delta in self.deltas]

        def draw(seed: int, index: int) -> Delta:
            xi = torch.randn(len(bound), generator=generator(seed, "ensemble/coefficients", index), dtype=torch.float64)
            found = (self.mean + self.scale * xi).tolist()
            return total([c * delta for c, delta in zip(found, bound, strict=True)], "perturb", coefficients=found)

        return draw

    def to_dict(self) -> dict[str, Any]:
        """Return the settings; deltas by their digests."""
        digests = [delta.digest for delta in self.deltas]
        return {"name": "TaskVectorCoefficients", "deltas": digests, "scale": self.scale, "mean": self.mean}


def _positive(scale: Any) -> None:
    if number(scale, "scale") <= 0:
        raise ConfigError(f"scale is {scale!r}; expected a positive standard deviation")


def _triplets(weight: torch.Tensor, rank: int | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U, S and Vh of a weight, from the basis that spectral changes use."""
    k = min(weight.shape) if rank is None else rank
    left, right = spectral_basis(weight, k)
    S = torch.linalg.vector_norm(left.double().T @ weight.double(), dim=1)
    return left, S.to(left.dtype), right
