"""Layered circuits: single-qubit rotations on every qubit, then a ring of CNOTs; the fast path of the simulator.

    layer l:   R_q = R_last(t_lq,last) ... R_first(t_lq,first)  on every q,
               then CNOT(q, q + r_l mod n)  for q = 0 .. n-1

``strongly_entangling`` is PennyLane's ``StronglyEntanglingLayers``: rotations Z, Y, Z and r_l = l mod (n-1) + 1 (Schuld
and others 2018, arXiv 1804.00633). One qubit has no ring.

Shape legend: L layers, n qubits, R rotations a qubit, B batch, D = 2^n.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.federate.quantum.gates import ROTATIONS, fixed
from dtheta.federate.quantum.statevector import State, apply_layer, check_qubits, cnots, halves, permute, require_qubits


@dataclass(frozen=True)
class Layers:
    """A layered circuit.

    Attributes:
        qubits: n.
        count: L.
        rotations: axes of a qubit's rotations in the order they act, letters of XYZ.
        ranges: r_l of every layer; all 1 if empty.
    """

    qubits: int
    count: int
    rotations: str = "ZYZ"
    ranges: Sequence[int] = field(default=())

    def __post_init__(self) -> None:
        check_qubits(self.qubits)
        whole(self.count, "layers", least=1)
        if not self.rotations or set(self.rotations) - set("XYZ"):
            raise ConfigError(f"rotations is {self.rotations!r}; expected letters of XYZ, such as 'ZYZ' or 'Y'")
        ranges = tuple(self.ranges) or (1,) * self.count
        if len(ranges) != self.count or (self.qubits > 1 and not all(1 <= r < self.qubits for r in ranges)):
            raise ConfigError(
                f"ranges is {ranges}; expected {self.count} numbers, one a layer, in 1 .. {self.qubits - 1}"
            )
        object.__setattr__(self, "ranges", ranges)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape (L, n, R) of the angles."""
        return self.count, self.qubits, len(self.rotations)

    @property
    def four_term(self) -> Bool[Tensor, "L n R"]:
        """Tell which angles need the four-term shift rule: none."""
        return torch.zeros(self.shape, dtype=torch.bool)

    def __call__(self, angles: Float[Tensor, "L n R"], state: State) -> State:
        """Run the circuit on a state (B, 2^n).

        Raises:
            ShapeMismatch: The angles are not (L, n, R), or the state is of other qubits.
        """
        require_qubits(state, self.qubits)
        first, second = halves(self._turns(angles))
        rest = (None,) * self.count if second is None else second.unbind()
        for layer, pair in enumerate(zip(first.unbind(), rest, strict=True)):
            state = apply_layer(state, *pair)
            if pairs := self._pairs(layer):
                state = permute(state, cnots(self.qubits, pairs))
        return state

    def operations(self, angles: Float[Tensor, "L n R"]) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        """Yield the gates one by one, each a matrix and its wires."""
        turns = self._turns(angles)
        for layer in range(self.count):
            for qubit in range(self.qubits):
                yield turns[layer, qubit], (qubit,)
            for pair in self._pairs(layer):
                yield fixed("CNOT", turns.dtype).to(turns.device), pair

    def _turns(self, angles: Tensor) -> Tensor:
        """Return the gate (L, n, 2, 2) of every qubit."""
        if angles.shape != self.shape:
            raise ShapeMismatch(f"the angles have shape {tuple(angles.shape)}; expected {self.shape}")
        turns = [ROTATIONS[f"R{axis}"](angles[..., i]) for i, axis in enumerate(self.rotations)]
        return functools.reduce(lambda done, turn: turn @ done, turns)

    def _pairs(self, layer: int) -> tuple[tuple[int, int], ...]:
        n, step = self.qubits, self.ranges[layer]
        return tuple((q, (q + step) % n) for q in range(n)) if n > 1 else ()


def strongly_entangling(qubits: int, layers: int, ranges: Sequence[int] = ()) -> Layers:
    """Return PennyLane's StronglyEntanglingLayers; its angles (L, n, 3) are those of PennyLane.

    Raises:
        ConfigError: Qubits, layers or ranges cannot be meant.
    """
    ours: Any = ranges or [layer % (qubits - 1) + 1 for layer in range(layers) if qubits > 1]
    return Layers(check_qubits(qubits), whole(layers, "layers", least=1), "ZYZ", tuple(ours))
