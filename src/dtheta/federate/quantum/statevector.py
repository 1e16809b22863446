"""Statevectors of n qubits, a batch at once, with autograd.

    s_BD,   D = 2^n,   sum_d |s_bd|^2 = 1,   d = sum_q bit_q 2^(n-1-q)

Wire 0 is the most significant bit, as in PennyLane. In memory the amplitudes come first and the batch last (``s.mT``
is contiguous): a gate is then a matrix product with long rows and a permutation of amplitudes moves whole rows.

    a layer of n single-qubit gates = (kron of the first half) (x) (kron of the second): two products with 2^(n/2)
    a ring of CNOTs                 = one permutation of the amplitudes, made once and kept

Shape legend: B batch, D = 2^n amplitudes, n qubits, k wires of a gate.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.federate.quantum.gates import kron

State = Complex[Tensor, "B D"]
MOST_QUBITS = 26  # 2^26 complex64 amplitudes are half a gigabyte


def check_qubits(qubits: Any) -> int:
    """Return a number of qubits that can be simulated.

    Raises:
        ConfigError: It is no whole number in 1 .. 26.
    """
    found = whole(qubits, "qubits", least=1)
    if found > MOST_QUBITS:
        raise ConfigError(f"qubits is {found}; the simulator holds all 2^n amplitudes, up to {MOST_QUBITS} qubits")
    return found


def qubits_of(state: State) -> int:
    """Return n of a state (B, 2^n)."""
    return state.shape[-1].bit_length() - 1


def require_qubits(state: State, qubits: int) -> None:
    """Raise unless a state is (B, 2^n): what fits by chance would be read as another one.

    Raises:
        ShapeMismatch: It is not.
    """
    if state.ndim != 2 or state.shape[1] != 2**qubits:
        raise ShapeMismatch(f"the state has shape {tuple(state.shape)}; expected (rows, {2**qubits}), {qubits} qubits")


def zero_state(
    qubits: int, batch: int = 1, dtype: torch.dtype = torch.complex64, device: torch.device | None = None
) -> State:
    """Return |0...0> for every row."""
    state = torch.zeros(2**qubits, batch, dtype=dtype, device=device)
    state[0] = 1
    return state.mT


def apply(state: State, gate: Complex[Tensor, "*B d d"], wires: Sequence[int]) -> State:
    """Apply a gate to some wires.

    Args:
        state: (B, 2^n); a single row is repeated where the gate has a batch.
        gate: (2^k, 2^k), or one for every row.
        wires: k different wires, the first one most significant in the gate.

    Returns:
        The new state, in the wider dtype of both.
    """
    state, gate = alike(state, gate)
    n, k, batch = qubits_of(state), len(wires), max(len(state), len(gate) if gate.ndim == 3 else 1)
    axes = [*wires, *(q for q in range(n) if q not in wires)]
    amplitudes = state.mT.reshape(*(2,) * n, len(state)).permute(*axes, n).reshape(2**k, -1, len(state))
    if gate.ndim == 2:
        moved = (gate @ amplitudes.flatten(1)).view_as(amplitudes)
    else:
        moved = torch.einsum("bij,jrb->irb", gate, amplitudes.expand(-1, -1, batch))
    back = sorted(range(n), key=axes.__getitem__)
    return moved.reshape(*(2,) * n, batch).permute(*back, n).reshape(2**n, batch).mT


def alike(state: State, gate: Tensor) -> tuple[State, Tensor]:
    """Return both in the wider dtype of the two."""
    dtype = torch.promote_types(state.dtype, gate.dtype)
    return state.to(dtype), gate.to(dtype)


def apply_layer(state: State, first: Complex[Tensor, "a a"], second: Complex[Tensor, "b b"] | None) -> State:
    """Apply ``first`` to the leading qubits and ``second`` to the others, which are a layer's two halves.

    Args:
        state: (B, a b).
        first: (a, a).
        second: (b, b), or None where the first acts on all qubits.
    """
    state, first = alike(state, first)
    left = first @ state.mT.reshape(len(first), -1)
    if second is None:
        return left.mT
    # bmm reads the same matrix again; matmul would copy the state instead
    spread = second.to(left.dtype).expand(len(first), -1, -1)
    return torch.bmm(spread, left.view(len(first), len(second), -1)).flatten(0, 1).mT


def halves(gates: Complex[Tensor, "... n 2 2"]) -> tuple[Tensor, Tensor | None]:
    """Return the two matrices of ``apply_layer`` for n single-qubit gates; the second is None for one qubit."""
    if gates.shape[-3] % 2 == 0:
        first, second = kron(gates.unflatten(-3, (2, -1))).unbind(-3)
        return first, second
    half = (gates.shape[-3] + 1) // 2
    rest = gates[..., half:, :, :]
    return kron(gates[..., :half, :, :]), kron(rest) if rest.shape[-3] else None


@functools.lru_cache(maxsize=256)
def cnots(qubits: int, pairs: tuple[tuple[int, int], ...]) -> tuple[Int[Tensor, " D"], Int[Tensor, " D"]]:
    """Return the permutation of several CNOTs (control, target) in order, and its inverse, for ``permute``."""
    index = torch.arange(2**qubits)
    source = index
    for control, target in pairs:
        bit = (index >> (qubits - 1 - control)) & 1
        source = source[index ^ (bit << (qubits - 1 - target))]
    return source, torch.argsort(source)


@functools.lru_cache(maxsize=64)
def signs(qubits: int) -> Float[Tensor, "n D"]:
    """Return the eigenvalue of Z_q at every basis state, +1 or -1, in float32."""
    index = torch.arange(2**qubits)
    return torch.stack([1.0 - 2.0 * ((index >> (qubits - 1 - q)) & 1) for q in range(qubits)])


class _Permute(torch.autograd.Function):
    """Rows in another order. The gradient is a gather too; that of torch's own indexing adds into zeros."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, source: Tensor, inverse: Tensor) -> Tensor:
        return rows.index_select(0, source)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        source, inverse = ctx.saved_tensors
        return _Permute.apply(gradients[0], inverse, source), None, None  # pyright: ignore[reportReturnType]

    @staticmethod
    def jvp(ctx: Any, rows: Tensor, *_: None) -> Tensor:
        return _Permute.apply(rows, *ctx.saved_tensors)  # pyright: ignore[reportReturnType]


def permute(state: State, order: tuple[Int[Tensor, " D"], Int[Tensor, " D"]]) -> State:
    """Return new_d = old_source(d), for ``order`` = (source, its inverse)."""
    source, inverse = (part.to(state.device) for part in order)
    return _Permute.apply(state.mT, source, inverse).mT  # pyright: ignore[reportOptionalMemberAccess]
