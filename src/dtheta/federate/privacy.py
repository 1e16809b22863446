"""Differential privacy of clients: clip what each one adds, add Gaussian noise, and account for what was spent.

    clip      D_k <- D_k min(1, C / |D_k|)                      over all parameters together
    mean      (sum_k D_k + N(0, (z C)^2)) / (q K)               K clients, each takes part with probability q
    spent     (epsilon, delta) by Renyi differential privacy    of rounds of the Poisson-sampled Gaussian mechanism

McMahan, Ramage, Talwar and Zhang 2018 (arXiv 1710.06963): the mean is unweighted and its denominator is the expected
number of clients, so that one client more or less moves the sum by at most C. Accounting by `dp_accounting` after
Mironov, Talwar and Zhang 2019 (arXiv 1908.10530). The guarantee is for whoever sees the global deltas and none of the
clients' own; the server, which adds the noise, sees these and is trusted. It assumes that

* every client takes part independently, by `sampled`, and nobody knows who did;
* the noise is not known. Noise keyed by (seed, round) is for reproducible research: whoever has the seed can subtract
  it. ``draws="system"`` takes it from the operating system instead, for real use.

The numbers are floats: attacks on the last bits of floating-point noise (Mironov 2012) are not covered.

Every entry of the frame gets noise, also where deltas are factored: a mean with noise is dense.
"""

from __future__ import annotations

import functools
import math
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dtheta.adapt.fields import settle_fields
from dtheta.core.arguments import number, whole
from dtheta.core.change import matrix_shape
from dtheta.core.delta import Delta
from dtheta.core.provenance import Provenance
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, MissingExtra, NonFinite
from dtheta.federate.frame import Frame
from dtheta.federate.quantum.noise import probability

_PIECE = 1 << 20  # normal numbers that are drawn at once
#: Whole orders have a finite sum; series of others need not converge. Any set of orders gives an upper bound.
_ORDERS = (*range(2, 257), 320, 384, 512, 768, 1024)


@dataclass(frozen=True)
class Privacy:
    """How much one client may add, and the noise that covers it.

    Attributes:
        clip: C, the largest norm of a client's delta.
        noise: z, standard deviation of the noise on the sum over ``clip``; 0 gives no privacy.
        delta: Probability that the guarantee may fail; below 1 / number of clients.
        draws: Where noise and sampling come from: "keyed" by (seed, round), which reproduces, or "system".
    """

    clip: float
    noise: float
    delta: float = 1e-5
    draws: Literal["keyed", "system"] = "keyed"

    def __post_init__(self) -> None:
        settle_fields(self)
        if number(self.clip, "clip") <= 0:
            raise ConfigError(f"clip is {self.clip}; expected a norm above 0")
        if number(self.noise, "noise") < 0:
            raise ConfigError(f"noise is {self.noise}; expected a multiple of clip, 0 or more")
        if not 0 < number(self.delta, "delta") < 1:
            raise ConfigError(f"delta is {self.delta}; expected a probability above 0 and below 1, such as 1e-5")

    @classmethod
    def for_epsilon(
        cls, epsilon: float, clip: float, rounds: int, sample: float, delta: float = 1e-5, **fields: Any
    ) -> Privacy:
        """Return the privacy with the least noise that spends at most ``epsilon`` in so many rounds.

        Raises:
            ConfigError: If an argument cannot be meant.
            MissingExtra: Without dp-accounting.
        """
        if number(epsilon, "epsilon") <= 0:
            raise ConfigError(f"epsilon is {epsilon}; expected a number above 0")
        low, high = 0.0, 1.0
        while cls(clip, high, delta).epsilon(rounds, sample) > epsilon:
            low, high = high, 2 * high
        while high - low > 1e-4 * high:
            middle = (low + high) / 2
            spent = cls(clip, middle, delta).epsilon(rounds, sample)
            low, high = (middle, high) if spent > epsilon else (low, middle)
        return cls(clip, high, delta, **fields)

    def seed(self, seed: int) -> int | None:
        """Return the seed for `sampled` and the noise: None where the operating system draws."""
        return seed if self.draws == "keyed" else None

    def clipped(self, delta: Delta) -> Delta:
        """Return a delta of a norm of at most ``clip``, in the form it has; one that is short enough as it is.

        Raises:
            NonFinite: If its norm is not finite.
        """
        norm, margin = delta.norm(), 2.0**-52
        if not math.isfinite(norm):
            raise NonFinite(f"a client's delta has norm {norm}, which cannot be clipped")
        if norm <= self.clip:
            return delta
        found = delta * (self.clip / norm)
        while found.norm() > self.clip:  # by rounding
            found, margin = delta * (self.clip / norm * (1 - margin)), 2 * margin
        return found

    def std(self, expected: float) -> float:
        """Return the standard deviation of the noise on the mean over ``expected`` clients."""
        if not number(expected, "expected") > 0:
            raise ConfigError(f"expected is {expected}; expected share times number of clients, above 0")
        return self.noise * self.clip / expected

    def mean(self, deltas: Sequence[Delta], expected: float, frame: Frame, *, seed: int, round: int) -> Delta:
        """Return the mean of clipped deltas with noise on every entry of the frame.

        Args:
            deltas: Those of the clients that took part, each counted once; there may be none.
            expected: Share times number of clients: the same in every round, whoever took part.
            frame: What travels.
            seed: The user's seed; unused where the operating system draws.
            round: Number of the round.

        Raises:
            NonFinite: If a delta's norm is not finite.
            UnknownParameter, ShapeMismatch, UnsupportedLayer, BaseMismatch: If a delta is not of the frame.
        """
        for delta in deltas:
            frame.require(delta)
        kept, std, changes = [self.clipped(delta) for delta in deltas], self.std(expected), {}
        for name, shape in frame.shapes.items():
            total = std * normal(math.prod(shape), self.seed(seed), f"federate/{round}/noise/{name}")
            total = total.reshape(matrix_shape(shape))
            for delta in kept:
                if name in delta:
                    delta[name].add_to(total, 1 / expected)
            changes[name] = frame.change(name, total.float())
        settings = {"clip": self.clip, "noise": self.noise, "expected": expected, "clients": len(kept)}
        return Delta(changes, frame.base, Provenance("private-mean", settings=settings))

    def epsilon(self, rounds: int, sample: float) -> float:
        """Return what is spent after so many rounds, for ``delta``; infinite without noise.

        Args:
            rounds: Of training.
            sample: q, probability that a client takes part in a round, independently of the others.

        Raises:
            ConfigError: If an argument cannot be meant.
            MissingExtra: Without dp-accounting.
        """
        rounds = whole(rounds, "rounds", least=0)
        if probability(sample, "sample") == 0 or rounds == 0:
            return 0.0
        if self.noise == 0:
            return math.inf
        return _spent(self.noise, sample, rounds, self.delta)


def _spent(noise: float, sample: float, rounds: int, delta: float) -> float:
    try:
        from dp_accounting.rdp import compute_epsilon
    except ImportError as error:
        raise MissingExtra("accounting for privacy needs dp-accounting: pip install 'dtheta[privacy]'") from error
    return max(0.0, float(compute_epsilon(_ORDERS, [rounds * each for each in _once(noise, sample)], delta)[0]))


@functools.lru_cache(64)
def _once(noise: float, sample: float) -> list[float]:
    """Return the Renyi divergences of one round, by order; those of several rounds add up."""
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    once = dp_event.PoissonSampledDpEvent(sample, dp_event.GaussianDpEvent(noise))
    return [float(value) for value in RdpAccountant(_ORDERS).compose(once).rdp]


def sampled(names: Iterable[str], share: float, seed: int | None, round: int) -> list[str]:
    """Return the clients of a round: each takes part with probability ``share``, whoever else does; maybe none.

    Args:
        names: Of all clients, in the order of the result.
        share: q.
        seed: The user's seed; None to draw from the operating system.
        round: Number of the round.

    Raises:
        ConfigError: If the share is no probability.
    """
    probability(share, "sample")
    return [name for name in names if _uniform(seed, f"federate/{round}/{name}/sampled") < share]


def _uniform(seed: int | None, name: str) -> float:
    if seed is None:
        return secrets.randbits(53) * 2.0**-53
    return float(torch.rand((), dtype=torch.float64, generator=generator(seed, name)))


def normal(count: int, seed: int | None, name: str) -> Tensor:
    """Return standard normal numbers (count,), float64: keyed, or from the operating system without a seed."""
    if seed is not None:
        return torch.randn(count, dtype=torch.float64, generator=generator(seed, name))
    pieces = [_system_normal(min(_PIECE, count - start)) for start in range(0, count, _PIECE)]
    return torch.cat([torch.zeros(0, dtype=torch.float64), *pieces])


def _system_normal(count: int) -> Tensor:
    """Box and Muller's transform of uniform numbers of the operating system."""
    pairs = (count + 1) // 2
    words = np.frombuffer(os.urandom(16 * pairs), dtype=np.uint64).reshape(2, pairs) >> np.uint64(11)
    uniform = torch.from_numpy((words.astype(np.float64) + 0.5) * 2.0**-53)
    radius, turn = (-2 * uniform[0].log()).sqrt(), 2 * math.pi * uniform[1]
    return torch.cat([radius * turn.cos(), radius * turn.sin()])[:count]
