"""The two passes of ternary aTLAS over float32 numbers, a byte of each plane at a time.

    out_e = x_e + sum_i c_i t_i,e          for whole ranges of elements e
    s_i   = s_i + sum_e g_e t_i,e          for all vectors i

A table of 256 rows holds the eight bits of a byte as float32, so eight signs are two loads and one difference, which
the processor does in one register each. Compilers do not find this by themselves, so the eight-wide operations are
written out, and planes are read where they lie. Every sum has the order of the general loops in core/plane_kernels,
hence the same bits; where coefficients are one a vector, this is faster.

Shape legend: M vectors; N elements, a multiple of ``RANGE``; each plane has N/8 bytes at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

from dtheta.core.compiled import kernel
from dtheta.core.plane_numpy import LANES, RANGE
from dtheta.core.planes import Planes

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.float32).ravel()
_BYTES = RANGE // 8
_STRIDE = LANES // 8  # bytes between two elements of one lane
_INDEX, _BYTE = ir.IntType(64), ir.IntType(8)
_FLOATS, _DOUBLES = ir.VectorType(ir.FloatType(), 8), ir.VectorType(ir.DoubleType(), 8)


def add(x: NDArray[np.float32], planes: Sequence[Planes], coef_M: NDArray[np.float32], out: NDArray[Any]) -> None:
    """Write a dense vector (N,) plus multiples of the beginnings of M ternary ones, in order, to ``out``, or itself."""
    _add_all(x, _addresses(planes), coef_M, _BITS, out)


def inner(g: NDArray[np.float32], planes: Sequence[Planes], sums_M: NDArray[np.float64]) -> None:
    """Add to ``sums_M`` the inner products of a dense vector (N,) with the beginnings of M ternary ones."""
    _inner_all(g, _addresses(planes), _BITS, sums_M)


def _addresses(planes: Sequence[Planes]) -> NDArray[np.int64]:
    """Return where the planes lie, (2, M); they are contiguous, and whoever calls holds them."""
    return np.array([[p.positive.ctypes.data for p in planes], [p.negative.ctypes.data for p in planes]], np.int64)


def _array(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return make_array(kind)(context, builder, array).data


def _offset(builder: Any, index: Any, by: int) -> Any:
    return builder.add(index, ir.Constant(_INDEX, by))


def _eight(builder: Any, pointer: Any, index: Any) -> Any:
    """Load eight float32 from any address."""
    found = builder.load(builder.bitcast(builder.gep(pointer, [index]), _FLOATS.as_pointer()))
    found.align = 4
    return found


def _spread(builder: Any, number: Any) -> Any:
    """Return eight times the same float32."""
    none, index = ir.Constant(_FLOATS, ir.Undefined), ir.IntType(32)
    first = builder.insert_element(none, number, ir.Constant(index, 0))
    return builder.shuffle_vector(first, none, ir.Constant(ir.VectorType(index, 8), [0] * 8))


def _signs(builder: Any, bits: Any, addresses: Sequence[Any], b: Any) -> Any:
    """Return the eight signs of byte b of a vector as float32; ``addresses`` are those of its planes."""
    planes = [builder.inttoptr(address, _BYTE.as_pointer()) for address in addresses]
    byte = [builder.zext(builder.load(builder.gep(plane, [b])), _INDEX) for plane in planes]
    plus, minus = (_eight(builder, bits, builder.shl(x, ir.Constant(_INDEX, 3))) for x in byte)
    return builder.fsub(plus, minus)


@intrinsic
def _add(typing: Any, x: Any, p: Any, q: Any, b: Any, c: Any, bits: Any, out: Any) -> Any:
    """Write the eight elements of x that belong to byte b, plus c times the signs in it, to ``out``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x_, bits_, out_ = (_array(context, builder, signature.args[k], args[k]) for k in (0, 5, 6))
        moved = builder.fmul(_spread(builder, args[4]), _signs(builder, bits_, args[1:3], args[3]))
        e = builder.shl(args[3], ir.Constant(_INDEX, 3))
        place = builder.bitcast(builder.gep(out_, [e]), _FLOATS.as_pointer())
        builder.store(builder.fadd(_eight(builder, x_, e), moved), place).align = 4
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, types.int64, types.float32, bits, out), generate


@intrinsic
def _inner(typing: Any, g: Any, p: Any, q: Any, b: Any, bits: Any, lanes: Any, lane: Any) -> Any:
    """Write to ``lanes[lane : lane + 8]`` the sums of one range, in the order of its rows of ``LANES`` elements."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        g_, bits_, lanes_ = (_array(context, builder, signature.args[k], args[k]) for k in (0, 4, 5))
        sums = ir.Constant(_DOUBLES, [0.0] * 8)
        for row in range(RANGE // LANES):
            byte = _offset(builder, args[3], _STRIDE * row)
            signs = _signs(builder, bits_, args[1:3], byte)
            product = builder.fmul(_eight(builder, g_, builder.shl(byte, ir.Constant(_INDEX, 3))), signs)
            sums = builder.fadd(sums, builder.fpext(product, _DOUBLES))
        place = builder.bitcast(builder.gep(lanes_, [args[6]]), _DOUBLES.as_pointer())
        builder.store(sums, place).align = 8
        return context.get_dummy_value()

    return types.void(g, types.int64, types.int64, types.int64, bits, lanes, types.int64), generate


@kernel
def _add_all(
    x: NDArray[np.float32], addresses_2M: NDArray[np.int64], coef_M: NDArray[np.float32], bits: NDArray[Any],
    out: NDArray[np.float32],
) -> None:  # fmt: skip
    for start in range(0, x.size // 8, _BYTES):
        for i in range(coef_M.size):
            p, q, c = addresses_2M[0, i], addresses_2M[1, i], coef_M[i]
            before = x if i == 0 else out
            for b in range(start, start + _BYTES):
                _add(before, p, q, b, c, bits, out)  # type: ignore[call-arg]


@kernel
def _inner_all(
    g: NDArray[np.float32], addresses_2M: NDArray[np.int64], bits: NDArray[Any], sums_M: NDArray[np.float64]
) -> None:
    lanes = np.empty(LANES)
    for start in range(0, g.size // 8, _BYTES):
        for i in range(sums_M.size):
            p, q = addresses_2M[0, i], addresses_2M[1, i]
            for b in range(start, start + _STRIDE):
                _inner(g, p, q, b, bits, lanes, 8 * (b - start))  # type: ignore[call-arg]
            width = LANES
            while width > 1:
                width //= 2
                for lane in range(width):
                    lanes[lane] += lanes[lane + width]
            sums_M[i] += lanes[0]
