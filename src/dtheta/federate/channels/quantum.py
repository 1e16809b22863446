"""Quantum channel: an optical fiber that loses photons, with a test that shows whether someone measured on the way.

    eta = 10^(-attenuation km / 10)         probability that a photon arrives
    a state of n qubits                     a copy arrives whole with eta^n; the number that do is binomial
    a payload of bits                       encrypted with a one-time pad, whose key single photons or pulses bring

States travel among decoys, qubits with a random bit in a random basis. Who listens cannot tell them apart, and leaves
errors on both. A key needs no decoys of its own kind: some of its sifted bits are compared, and these are counted as
decoys here. Only then is the key made, as long as the payload, and the payload sent.

Classical messages (sifting, comparison, ciphertext) are taken to be authentic, to arrive, and to take no time. Noise
and an eavesdropper also touch the copies of a state: each qubit meets a Pauli error with probability 3 e / 2, which is
the depolarizing strength of the error rate e, and with 1/2 where it is intercepted. A copy with an error counts as
fully mixed: it tells nothing any more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from dtheta.core.arguments import number, whole
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError
from dtheta.federate.channels.bb84 import exchange, key_fraction, qubits_for_key
from dtheta.federate.channels.channel import Channel, Delivery, Verdict
from dtheta.federate.channels.decoy_states import bounds, pulse_key_rate
from dtheta.federate.channels.eavesdropper import InterceptResend, PhotonNumberSplitting
from dtheta.federate.channels.judge import judge
from dtheta.federate.channels.pulses import Counts, Pulses, error_rate, simulate, tapped_line
from dtheta.federate.payload import Payload
from dtheta.federate.quantum.noise import probability

_SPEED = 2e5  # of light in fiber, km/s


@dataclass(frozen=True)
class Quantum(Channel):
    """A fiber for states, or for the keys of payloads of bits.

    Attributes:
        kilometers: Length.
        attenuation: Loss in dB/km.
        decoys: Qubits sent with each payload to be compared; 0 for no test, and no protection. Unused with ``pulses``.
        error: Error rate that the channel is known to have, without an eavesdropper; at most 1/2.
        threshold: Error rate beyond which there is no secret key (BB84: 0.11).
        significance: Probability of giving up a transmission on which nobody listens.
        rate: Qubits or pulses a second.
        eavesdropper: Who is on the line, as the simulation has it; the parties do not know.
        pulses: Source of weak pulses for keys; None for a source of single photons.
    """

    kilometers: float
    attenuation: float = 0.2
    decoys: int = 1000
    error: float = 0.0
    threshold: float = 0.11
    significance: float = 1e-3
    rate: float = 1e8
    eavesdropper: InterceptResend | PhotonNumberSplitting | None = None
    pulses: Pulses | None = None
    name: ClassVar[str] = "quantum"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self.decoys, "decoys", least=0)
        for name in ("kilometers", "attenuation"):
            if number(getattr(self, name), name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if number(self.rate, "rate") <= 0:
            raise ConfigError(f"rate is {self.rate}; expected qubits a second above 0")
        if not 0 < number(self.threshold, "threshold") <= 0.5 or not 0 < number(self.significance, "significance") < 1:
            raise ConfigError(
                f"threshold {self.threshold} and significance {self.significance}; expected an error rate up to 0.5 "
                "and a probability, both above 0"
            )
        if probability(self.error, "error") > self.threshold:
            raise ConfigError(
                f"the channel's own error rate {self.error} is above the threshold {self.threshold}: nothing would pass"
            )
        if isinstance(self.eavesdropper, PhotonNumberSplitting) and self.pulses is None:
            raise ConfigError("single photons cannot be split; photon-number splitting takes pulses=Pulses()")

    @property
    def transmittance(self) -> float:
        """Probability that a photon arrives."""
        return 10 ** (-self.attenuation * self.kilometers / 10)

    @property
    def tapped(self) -> float:
        """Share of the qubits that are intercepted."""
        return self.eavesdropper.share if isinstance(self.eavesdropper, InterceptResend) else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return name and fields as plain values, those of eavesdropper and source too."""
        found = super().to_dict()
        if self.eavesdropper:
            found["eavesdropper"] = {"name": self.eavesdropper.name, **found["eavesdropper"]}
        return found

    def send(self, payload: Payload, *, seed: int, key: str) -> Delivery:
        """Send a state among decoys, or bits under a key that the channel brings.

        Raises:
            ConfigError: If a state shall travel in weak pulses, or a key be made without a test.
        """
        if payload.copies is not None and self.pulses:
            raise ConfigError("a state of several qubits takes single photons; leave pulses out, or send bits")
        if payload.copies is None and not self.pulses and not self.decoys:
            raise ConfigError("a key that nothing tests is worth nothing; set decoys to 1 or more, such as 1000")
        draws = generator(seed, f"channel/{key}/quantum")
        if payload.copies is not None:
            return self._state(payload, payload.copies, draws)
        return self._pulse_key(payload, draws) if self.pulses else self._photon_key(payload, draws)

    def _state(self, payload: Payload, copies: int, draws: torch.Generator) -> Delivery:
        verdict, qubits = self._test(draws) if self.decoys else None, payload.qubits + self.decoys
        if verdict and verdict.aborted:
            return self._given_up(verdict, qubits)
        each = payload.qubits // copies if copies else 0
        arrived = _binomial(copies, self.transmittance**each, draws)
        if copies and not arrived:
            reason = f"lost: none of {copies} copies of {each} qubits arrived over {self.kilometers} km"
            return Delivery(None, self._seconds(qubits), verdict, reason, qubits)
        clean = ((1 - 1.5 * self.error) * (1 - self.tapped / 2)) ** each
        mixed = _binomial(arrived, 1 - clean, draws)
        found = replace(payload, qubits=each * arrived, copies=arrived, mixed=mixed)
        return Delivery(found, self._seconds(qubits), verdict, None, qubits)

    def _test(self, draws: torch.Generator) -> Verdict:
        seen = exchange(self.decoys, self.transmittance, self.error, self.tapped, draws)
        return judge(seen.errors, seen.checked, self.error, self.threshold, self.significance)

    def _photon_key(self, payload: Payload, draws: torch.Generator) -> Delivery:
        verdict = self._test(draws)
        # a test with few bits may show fewer errors than the channel makes
        qber = max(verdict.qber.estimate if verdict.qber else 0.5, self.error)
        verdict = replace(verdict, key_rate=key_fraction(qber))
        if not verdict.key_rate:
            verdict = verdict.refused(f"no key is left at QBER {qber:.2%}")
        if verdict.aborted:
            return self._given_up(verdict, self.decoys)
        qubits = self.decoys + qubits_for_key(payload.bits, key_fraction(qber), self.transmittance)
        return Delivery(payload, self._seconds(qubits), verdict, None, qubits)

    def _pulse_key(self, payload: Payload, draws: torch.Generator) -> Delivery:
        source = self.pulses
        assert source is not None
        line = tapped_line(self.eavesdropper, source.signal, self.transmittance, source.dark, self.error)
        counts, _ = simulate(source, line, source.count, draws)
        verdict = self._judge_pulses(source, counts)
        if verdict.aborted:
            return self._given_up(verdict, source.count)
        assert verdict.key_rate, "as a verdict that is not aborted has it"
        pulses = max(source.count, math.ceil(payload.bits / (verdict.key_rate * source.shares[0])))
        return Delivery(payload, self._seconds(pulses), verdict, None, pulses)

    def _judge_pulses(self, source: Pulses, counts: list[Counts]) -> Verdict:
        """Test the signal pulses' errors, and bound what single photons brought."""
        signal, weak, vacuum = counts
        expected = error_rate(source.signal, self.transmittance, source.dark, self.error)
        verdict = judge(signal.errors, signal.sifted, expected, self.threshold, self.significance)
        if verdict.qber is None:
            return replace(verdict, reason="no signal pulse arrived")
        if source.decoys:
            known = bounds(signal, weak, vacuum, 1 - self.significance)
            single = (known.single_yield, known.single_error)
        else:
            quiet = tapped_line(None, source.signal, self.transmittance, source.dark, self.error)
            single = (float(quiet.yields[1]), float(quiet.errors[1]))
        rate = pulse_key_rate(source.signal, signal.clicks / signal.pulses, verdict.qber.estimate, *single)
        verdict = replace(verdict, key_rate=max(0.0, rate))
        if source.decoys:
            verdict = replace(verdict, single_yield=single[0], single_error=single[1])
        return verdict if rate > 0 else verdict.refused(_no_key(verdict))

    def _given_up(self, verdict: Verdict, qubits: int) -> Delivery:
        return Delivery(None, self._seconds(qubits), verdict, f"aborted: {verdict.reason}", qubits)

    def _seconds(self, qubits: int) -> float:
        return self.kilometers / _SPEED + qubits / self.rate


def _no_key(verdict: Verdict) -> str:
    if verdict.single_yield is None:
        return "no key is left on this channel"
    return (
        f"no key is left: decoy states bound the yield of single photons at {verdict.single_yield:.2g} and their "
        f"error rate at {verdict.single_error:.2g}"
    )


def _binomial(count: int, share: float, draws: torch.Generator) -> int:
    wide = torch.tensor(count, dtype=torch.float64)
    return int(torch.binomial(wide, wide.new_tensor(min(1.0, max(0.0, share))), generator=draws))
