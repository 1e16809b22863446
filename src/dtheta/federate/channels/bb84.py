"""Single photons with random bits in random bases: sifting, the error rate that a listener leaves, and the key.

    sifting       half of what arrives has the basis in which it was sent; only these bits are compared or used
    intercept     who measures a share f in a random basis and sends on what was seen makes QBER = f/4
    with noise    e + f/4 (1 - 2e)      e: the channel's own error rate; two flips undo each other
    detection     1 - (1 - f/4)^m       m compared bits, e = 0
    key           1 - h(Q) - 1.16 h(Q)  secret bits a sifted one: privacy amplification, error correction

Bennett and Brassard 1984 (the protocol); Shor and Preskill 2000, arXiv quant-ph/0003004 (1 - 2 h(Q), zero at 11 %). The
rate is that of long keys: what a short key loses on top is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_PIECE = 1 << 20  # qubits that are drawn at once
EFFICIENCY = 1.16  # bits that error correction discloses, over the least that can be


@dataclass(frozen=True)
class Sifted:
    """Counts of an exchange: qubits sent, arrived, measured in the basis in which they were sent, and wrong then."""

    sent: int
    arrived: int
    checked: int
    errors: int


def exchange(count: int, transmittance: float, error: float, share: float, generator: torch.Generator) -> Sifted:
    """Send random bits in random bases, qubit by qubit, through a channel in which someone may listen.

    Args:
        count: Qubits.
        transmittance: Probability that a qubit arrives.
        error: Probability that the channel flips what is read.
        share: Share of the qubits that an eavesdropper next to the sender measures and sends on.
        generator: Of the draws.
    """
    totals = torch.zeros(3, dtype=torch.int64)
    for start in range(0, count, _PIECE):
        totals += _piece(min(_PIECE, count - start), transmittance, error, share, generator)
    return Sifted(count, *map(int, totals))


def _piece(count: int, transmittance: float, error: float, share: float, generator: torch.Generator) -> torch.Tensor:
    def happens(probability: float) -> torch.Tensor:
        return torch.rand(count, generator=generator, dtype=torch.float64) < probability

    bit, basis = happens(0.5), happens(0.5)
    tapped, tapping_basis, other_bit = happens(share), happens(0.5), happens(0.5)
    # in another basis than the qubit's a measurement shows, and leaves, a random bit
    seen = torch.where(tapping_basis == basis, bit, other_bit)
    bit_sent, basis_sent = torch.where(tapped, seen, bit), torch.where(tapped, tapping_basis, basis)
    arrived, receiving_basis, flipped, random_bit = happens(transmittance), happens(0.5), happens(error), happens(0.5)
    read = torch.where(receiving_basis == basis_sent, bit_sent, random_bit) ^ flipped
    sifted = arrived & (receiving_basis == basis)
    return torch.stack([arrived.sum(), sifted.sum(), (sifted & (read != bit)).sum()])


def tapped_error(share: float, error: float = 0.0) -> float:
    """Return the error rate of sifted bits when a share of the qubits is intercepted: e + f/4 (1 - 2e)."""
    return error + share / 4 * (1 - 2 * error)


def detection_probability(share: float, checked: int) -> float:
    """Return the probability that an intercepted share leaves an error among the compared bits: 1 - (1 - f/4)^m."""
    return -math.expm1(checked * math.log1p(-share / 4))


def binary_entropy(probability: float) -> float:
    """Return h(p) in bits; 0 at p = 0 and 1."""
    return sum(-p * math.log2(p) for p in (probability, 1 - probability) if p > 0)


def key_fraction(qber: float, efficiency: float = EFFICIENCY) -> float:
    """Return the secret bits a sifted one, 1 - h(Q) - efficiency h(Q); 0 where none are left."""
    return max(0.0, 1 - (1 + efficiency) * binary_entropy(qber)) if qber < 0.5 else 0.0


def qubits_for_key(bits: int, fraction: float, transmittance: float) -> int:
    """Return the qubits for a key, as expected: bits / fraction sifted ones, of which half of the arrived are left."""
    return math.ceil(2 * math.ceil(bits / fraction) / transmittance) if bits else 0
