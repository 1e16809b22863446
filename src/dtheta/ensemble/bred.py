"""Bred vectors: perturbations that the network itself has made grow, from small noise, over the last analyses.

    d <- noise
    for k = cycles ... 1:                          analyses x_k valid k steps before the start
        d <- M(x_k + d) - M(x_k)                   valid one step later: at the last k = 1, at the start
        d <- rescaled to the amplitude
    member's first state = x_0 + sign d

(Toth and Kalnay 1993, Bull. Am. Meteorol. Soc. 74; 1997, Mon. Weather Rev. 125; for networks Mahesh et al. 2025, arXiv
2408.03100, with three cycles of 6 h, an amplitude of 0.35 times the error at 48 h in each channel, and noise of 500 km
in the 500 hPa height alone to begin with.) Each member is bred with its own network.

The cycles end at the start, so a vector is valid when it is used. In the paper's released code the last cycle begins at
the start, and a difference valid 6 h later is added there; that is not done here. Nor is the time of the start given to
a network that takes the time, in cycles before it.

Both signs of one draw share the vector: ``cross(..., signs=(1, -1))`` makes centered pairs.

Shape legend: B rows, ... the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.ensemble.noise import Amplitude, settled
from dtheta.ensemble.perturbation import Advance, Perturbation, Rows, Start, amplitude_of
from dtheta.ensemble.rescaling import Rescaling, VariableRescaling
from dtheta.errors import ConfigError


@dataclass(frozen=True, eq=False)
class BredVectors(Perturbation):
    """Breeding over the analyses before the start, of which there must be ``cycles``.

    Attributes:
        amplitude: of the vectors: a number, one a channel, or one an element; 0.35 times the error of the network at
            48 h is the paper's.
        noise: what the first cycle starts from.
        cycles: how many steps of breeding, 1 or more.
        rescaling: what has the amplitude after each cycle: each channel by default, ``HemisphericRescaling`` in the
            paper; several are applied one after the other.
    """

    amplitude: Amplitude
    noise: Perturbation
    cycles: int = 3
    rescaling: Rescaling | Sequence[Rescaling] = field(default_factory=VariableRescaling)

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be meant."""
        whole(self.cycles, "cycles", least=1)
        if not isinstance(self.noise, Perturbation):
            raise ConfigError(f"noise is {self.noise!r:.80}; expected a perturbation, such as WhiteNoise(0.1)")
        if self.noise.past:
            raise ConfigError("noise needs earlier analyses itself; expected one that is drawn, such as SphericalNoise")
        if not self._rescalings or not all(isinstance(one, Rescaling) for one in self._rescalings):
            raise ConfigError(f"rescaling is {self.rescaling!r:.80}; expected a Rescaling, or several")

    @property
    def past(self) -> int:  # type: ignore[override]
        """How many analyses before the start it needs."""
        return self.cycles

    @property
    def _rescalings(self) -> tuple[Rescaling, ...]:
        return tuple(self.rescaling) if isinstance(self.rescaling, Sequence) else (self.rescaling,)

    def vectors(self, start: Start, rows: Rows, advance: Advance) -> Tensor:
        """Return the bred vectors (B, ...)."""
        return start.once("bred", rows.draws, lambda: self._bred(start, rows, advance))

    def _bred(self, start: Start, rows: Rows, advance: Advance) -> Tensor:
        amplitude = amplitude_of(self.amplitude, start.state)
        networks = tuple(network for network, _ in rows.draws)
        vectors = self.noise.vectors(start, rows, advance)
        for k in range(self.cycles, 0, -1):
            x = start.before(k).expand_as(vectors)
            control = start.once(f"control {k}", networks, lambda x=x, k=k: advance(x.contiguous(), -k))
            vectors = advance(x + vectors, -k) - control
            for rescaling in self._rescalings:
                vectors = rescaling(vectors, amplitude)
        return vectors

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""
        return {
            "name": "BredVectors", "amplitude": settled(self.amplitude), "cycles": self.cycles,
            "noise": settings_of(self.noise), "rescaling": [one.to_dict() for one in self._rescalings],
        }  # fmt: skip


def settings_of(perturbation: Any) -> Any:
    """Return the settings of a perturbation; of one that has no ``to_dict``, what it is called."""
    if perturbation is None:
        return None
    to_dict = getattr(perturbation, "to_dict", None)
    return to_dict() if callable(to_dict) else {"name": type(perturbation).__qualname__}
