"""Eavesdroppers: who measures and sends on, and who takes a photon where there are several.

intercept-resend          measures a share of the qubits in a random basis: errors, QBER = share / 4
photon-number splitting   of a weak pulse with several photons keeps one, until the basis is told, and passes the
                          rest on without loss; blocks a share of the pulses with one photon, of which it could
                          learn nothing. No errors, and as many signals arrive as without it. But fewer of weaker
                          pulses do: these are the decoy states (Hwang 2003, arXiv quant-ph/0211153).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dtheta.adapt.fields import settle_fields
from dtheta.federate.quantum.noise import probability


@dataclass(frozen=True)
class Eavesdropper:
    """Someone on the line.

    Attributes:
        share: Share of the qubits that are measured; or of the single-photon pulses that are blocked.
    """

    share: float = 1.0
    name: ClassVar[str]

    def __post_init__(self) -> None:
        settle_fields(self)
        probability(self.share, "share")


@dataclass(frozen=True)
class InterceptResend(Eavesdropper):
    """Measures a share of the qubits in a random basis and sends on what was seen."""

    name: ClassVar[str] = "intercept-resend"


@dataclass(frozen=True)
class PhotonNumberSplitting(Eavesdropper):
    """Keeps a photon of every pulse with several, and blocks a share of the pulses with one."""

    name: ClassVar[str] = "photon-number-splitting"
