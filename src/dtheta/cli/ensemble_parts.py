"""Perturbations of ``dtheta ensemble``: as they are written, and what they become on a state.

    bred(cycles=3)  spherical(length_km=500)  white  random  lagged(lags=4)  none

An amplitude that is not given is ``share`` times the error of the network after two days, for each channel.

Shape legend: C channels, ... the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from dtheta.cli.written import built
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from dtheta.core.sphere import Grid
    from dtheta.ensemble.members import Member
    from dtheta.ensemble.perturbation import Perturbation

_SHARE = 0.35  # of the error at 48 h, Mahesh et al. 2025


@dataclass(frozen=True, eq=False)
class Ground:
    """What a perturbation stands on.

    Attributes:
        shape: of a state.
        grid: of its last two axes, one that harmonics are exact on; None for another, or none.
        amplitude: one number, or one a channel.
        climate: states (N, ...), where there are some.
    """

    shape: tuple[int, ...]
    grid: Grid | None
    amplitude: Sequence[float]
    climate: Tensor | None = None

    @property
    def channels(self) -> int:
        """C: 1 where states have no such axis."""
        return self.shape[0] if len(self.shape) > 1 else 1

    def filled(self) -> float | list[float]:
        """Return the amplitude as perturbations take it.

        Raises:
            ConfigError: for another number of amplitudes than channels.
        """
        if len(self.amplitude) == 1:
            return self.amplitude[0]
        if len(self.amplitude) != self.channels:
            raise ConfigError(f"{len(self.amplitude)} amplitudes for {self.channels} channels; give one, or one each")
        return list(self.amplitude)

    def spherical(self, amplitude: float | list[float], length_km: float) -> Perturbation:
        """Return correlated noise.

        Raises:
            ConfigError: without a grid of the sphere.
        """
        from dtheta.ensemble import SphericalNoise

        if self.grid is None:
            raise ConfigError(
                "spherical noise needs a state on a Gauss or equiangular grid, north to south; take white noise here"
            )
        return SphericalNoise(amplitude, self.grid, length_km=length_km)


@dataclass(frozen=True, kw_only=True)
class _Sized:
    """What has an amplitude."""

    amplitude: tuple[float, ...] | None = None
    share: float = _SHARE
    past: ClassVar[int] = 0
    needs_climate: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Bred(_Sized):
    """Bred vectors; ``noise`` and ``rescaling`` follow from the state where they are not given."""

    name: ClassVar[str] = "bred"
    cycles: int = 3
    noise: Literal["spherical", "white"] | None = None
    length_km: float = 500.0
    rescaling: Literal["hemispheric", "channel", "global"] | None = None

    @property
    def past(self) -> int:  # type: ignore[override]
        """Analyses before the start."""
        return self.cycles

    def made(self, ground: Ground) -> Perturbation:
        """Return the perturbation."""
        from dtheta.ensemble import BredVectors, WhiteNoise

        amplitude = ground.filled()
        kind = self.noise or ("white" if ground.grid is None else "spherical")
        if kind == "white":
            noise: Any = WhiteNoise(amplitude)
        else:  # in the first channel alone; the network carries it to the others
            rest = [0.0] * (ground.channels - 1)
            first = amplitude[0] if isinstance(amplitude, list) else amplitude
            noise = ground.spherical([first, *rest] if rest else first, self.length_km)
        return BredVectors(amplitude, noise, self.cycles, self._rescaling(ground))

    def _rescaling(self, ground: Ground) -> Any:
        from dtheta.ensemble import GlobalRescaling, HemisphericRescaling, VariableRescaling

        kind = self.rescaling or ("channel" if ground.grid is None else "hemispheric")
        if kind == "hemispheric":
            if ground.grid is None:
                raise ConfigError("rescaling=hemispheric needs a state on a Gauss or equiangular grid, north to south")
            return HemisphericRescaling(ground.grid)
        return (VariableRescaling if kind == "channel" else GlobalRescaling)(ground.grid)


@dataclass(frozen=True, kw_only=True)
class Spherical(_Sized):
    """Correlated noise on the sphere, in every channel."""

    name: ClassVar[str] = "spherical"
    length_km: float = 500.0

    def made(self, ground: Ground) -> Perturbation:
        """Return the perturbation."""
        return ground.spherical(ground.filled(), self.length_km)


@dataclass(frozen=True, kw_only=True)
class White(_Sized):
    """Independent noise in every element."""

    name: ClassVar[str] = "white"

    def made(self, ground: Ground) -> Perturbation:
        """Return the perturbation."""
        from dtheta.ensemble import WhiteNoise

        return WhiteNoise(ground.filled())


@dataclass(frozen=True, kw_only=True)
class Random(_Sized):
    """Differences of past states."""

    name: ClassVar[str] = "random"
    needs_climate: ClassVar[bool] = True

    def made(self, ground: Ground) -> Perturbation:
        """Return the perturbation.

        Raises:
            ConfigError: without past states.
        """
        from dtheta.ensemble import RandomFields

        if ground.climate is None:
            raise ConfigError("--perturbation random takes differences of past states: give --climate FILE")
        return RandomFields(ground.climate, ground.filled())


@dataclass(frozen=True, kw_only=True)
class LaggedStarts:
    """Forecasts that started earlier."""

    name: ClassVar[str] = "lagged"
    lags: int = 4
    amplitude: ClassVar[tuple[float, ...]] = (0.0,)
    share: ClassVar[float] = 0.0
    needs_climate: ClassVar[bool] = False

    @property
    def past(self) -> int:
        """Analyses before the start."""
        return self.lags

    def made(self, ground: Ground) -> Perturbation:
        """Return the perturbation."""
        from dtheta.ensemble import Lagged

        return Lagged(self.lags)


Part: TypeAlias = Bred | Spherical | White | Random | LaggedStarts
_KNOWN: dict[str, type[Part]] = {one.name: one for one in (Bred, Spherical, White, Random, LaggedStarts)}


def part_of(text: str) -> Part | None:
    """Return the perturbation that a text describes; None for ``none``.

    Raises:
        ConfigError: for one that there is not, or settings that cannot be meant.
    """
    if text.strip().lower() in ("none", "no"):
        return None
    found = built(text, _KNOWN, "--perturbation", "bred(cycles=3)")
    for name in ("cycles", "lags"):
        if getattr(found, name, 1) < 1:
            raise ConfigError(f"--perturbation: {name} is {getattr(found, name)}; expected 1 or more")
    share, amplitude = found.share, found.amplitude or ()
    if share < 0 or any(one < 0 for one in amplitude):
        raise ConfigError(f"--perturbation {text}: share and amplitude must be 0 or more")
    return found


def members_of(count: int | None, sets: int, part: Part | None, pairs: bool, control: bool) -> list[Member]:
    """Return the members.

    Args:
        count: M; None for what is usual.
        sets: how many parameter sets there are.
        part: the perturbation.
        pairs: whether every perturbation is added and taken off.
        control: whether the first member is not perturbed.

    Raises:
        ConfigError: for a number that the perturbation cannot have.
    """
    from dtheta.ensemble.members import Member, cross, deal

    if isinstance(part, LaggedStarts):
        found = cross(sets, part.lags + 1, (1,))
        if pairs or control or count not in (None, len(found)):
            raise ConfigError(
                f"lagged starts have one member for each lag and network, {len(found)} here, without --pairs or "
                "--control; lagged(lags=...) says how many lags"
            )
        return found
    count = 16 if count is None else count
    if part is None:
        if pairs or control or count > sets:
            what = "--pairs and --control" if pairs or control else f"--members {count}"
            raise ConfigError(
                f"{what} cannot be with --perturbation none: there would be {sets} different "
                f"{'member' if sets == 1 else 'members'}; give --perturbation bred, or --members {sets}"
            )
        return deal(count, sets)
    if pairs and count % 2:
        raise ConfigError(f"--pairs makes members two by two, and --members is {count}; give an even number")
    halves = deal(count // 2 if pairs else count, sets)
    found = [Member(m.parameters, m.draw, sign) for m in halves for sign in ((1, -1) if pairs else (1,))]
    return [Member(0, 0, 0), *found[1:]] if control else found
