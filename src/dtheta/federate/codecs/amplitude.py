"""Amplitude: a delta as copies of a quantum state, read by measurement.

    |g> = g / |g| on ceil(log2 P) qubits and one of the reference branch, S copies;   |g| as a number
    E |ghat - g|^2 = (P - 1) / S |g|^2        without bias; see federate/quantum/amplitude.py

Qubits travel, and the number. A payload holds in their place what a simulator needs: the norm (float64) and the P
amplitudes (float32); these bytes are no traffic. What counts is ``bits`` (header and norm), ``qubits`` and ``copies``;
a channel that loses copies lowers ``copies``, and the receiver has so many shots; ``mixed`` of them show nothing but
chance. A zero delta is the number 0 alone. What arrives is drawn by the receiver, so a sender cannot know what was left
out: no error feedback.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from dtheta.core.arguments import whole
from dtheta.core.delta import Delta
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, FormatError
from dtheta.federate.codecs.codec import Codec, counted
from dtheta.federate.codecs.entries import entries
from dtheta.federate.codecs.reader import Reader, number_bytes
from dtheta.federate.frame import Frame
from dtheta.federate.payload import HEADER, Payload, sealed
from dtheta.federate.quantum import amplitude as quantum

_UNIT = 1e-3  # a state has norm 1 up to this


@dataclass(frozen=True)
class Amplitude(Codec):
    """Copies of the delta's direction as a quantum state, and its norm.

    Attributes:
        shots: S, copies that are sent; each is measured once.
    """

    shots: int = 1000
    name: ClassVar[str] = "amplitude"
    code: ClassVar[int] = 0x70
    drawn: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self.shots, "shots", least=1)

    def encode(self, delta: Delta, frame: Frame, *, seed: int, key: str) -> Payload:
        """Return a delta as a payload; see ``Codec.encode``.

        Raises:
            ConfigError: If there are more than 2^23 entries, the most that a state is read for.
        """
        if frame.numel > quantum.MOST_PARAMETERS:
            raise ConfigError(f"{frame.numel} entries; a state is read up to {quantum.MOST_PARAMETERS}: train fewer")
        frame.require(delta)
        state = quantum.encode(torch.cat([values.double() for _, values in entries(delta, frame)]))
        norm = number_bytes(torch.tensor([state.norm], dtype=torch.float64), "float64", "the norm")
        data = sealed(self.code, frame, norm + number_bytes(state.direction, "float32", "the state"))
        copies = self.shots if state.norm else 0
        qubits = quantum.gradient_cost(frame.numel, copies).qubits if copies else 0
        return Payload(data, 8 * (HEADER + len(norm)), qubits, copies)

    def check_counts(self, payload: Payload, frame: Frame) -> None:
        """Check that the copies of one state travel, or none for a zero delta; see ``Codec.check_counts``."""
        copies = self.shots if payload.copies else 0
        qubits = quantum.gradient_cost(frame.numel, copies).qubits if copies else 0
        if payload != Payload(payload.data, 8 * (HEADER + 8), qubits, copies):
            raise FormatError(f"a state of {frame.numel:,} entries in {self.shots} copies claims {counted(payload)}")

    def decode(self, payload: Payload, frame: Frame, *, cap: int, seed: int, key: str) -> Delta:
        """Return what measuring the copies shows; see ``Codec.decode``."""
        body = self._opened(payload, frame, cap)
        state = _state(body, frame)
        body.end()
        shots = self._shots(payload, state)
        body.claim(96 * frame.numel + 64 * shots)  # probabilities, counts and outcomes of the simulated measurement
        draws = generator(seed, f"{key}/measure")
        values = _measured(state, shots, payload.mixed, draws) if shots else state.direction
        found = values.float()
        if not bool(torch.isfinite(found).all()):
            raise FormatError(f"a state of norm {state.norm:.3g}, whose numbers float32 cannot hold")
        spans = frame.spans.items()
        return self._delta({name: frame.change(name, found[a:b].clone()) for name, (a, b) in spans}, frame)

    def _shots(self, payload: Payload, state: quantum.GradientState) -> int:
        """Return the copies that arrived; a zero delta needs none."""
        if not state.norm:
            return 0
        if not payload.copies or not 0 < payload.copies <= self.shots:
            raise FormatError(f"{payload.copies} copies of a state arrived; expected 1 to {self.shots}")
        if not 0 <= payload.mixed <= payload.copies:
            raise FormatError(f"{payload.mixed} of {payload.copies} copies are said to be mixed")
        return payload.copies


def _state(body: Reader, frame: Frame) -> quantum.GradientState:
    if frame.numel > quantum.MOST_PARAMETERS:
        raise FormatError(f"{frame.numel} entries are more than a state is read for, {quantum.MOST_PARAMETERS}")
    norm = float(body.numbers(1, "float64"))
    direction = body.numbers(frame.numel, "float32").double()
    length = float(direction.norm())
    if norm < 0 or abs(length - (norm > 0)) > _UNIT:
        raise FormatError(f"a state of length {length:.3g} and norm {norm:.3g}; expected length 1, or 0 for norm 0")
    return quantum.GradientState(direction / length if length else direction, norm)


def _measured(state: quantum.GradientState, shots: int, mixed: int, draws: torch.Generator) -> torch.Tensor:
    """Return what copies show, ``mixed`` of which a channel has mixed: there, all outcomes are equally likely."""
    pure, count = shots - mixed, len(state.direction)
    found = quantum.read(state, pure, draws) * (pure / shots) if pure else torch.zeros_like(state.direction)
    indices = 2 ** quantum.index_qubits(count)
    outcomes = torch.randint(2 * indices, (mixed,), generator=draws, device="cpu")
    index, branch = outcomes % indices, outcomes // indices
    inside = index < count  # an index beyond the last entry shows that the copy was damaged
    unit = state.norm * math.sqrt(count) / shots
    return found.index_add(0, index[inside], unit * (1 - 2 * branch[inside]).double())
