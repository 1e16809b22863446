"""`infinite_kernel`: the kernel of an infinitely wide network, tile by tile.

A tile of pairs runs through all layers before the next begins, so that memory is one tile's and the tile stays in the
cache of the processor. Where both sets are one, tiles below the diagonal are the transposes of those above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args, overload

import numpy as np
import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.core.tensors import all_finite
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.kernels.infinite.cosine import Cosines, cosines
from dtheta.kernels.infinite.kernel import input_kernel
from dtheta.kernels.infinite.layer import Layer

Which = Literal["ntk", "nngp", "both"]
#: Entries of one covariance of a tile, a thread: of plain vectors what a core's cache holds; with places, 8 MB.
_PLAIN, _PLACES = 2**16, 2**20


class Kernels(NamedTuple):
    """Both kernels of the same pairs, each (N, N2)."""

    nngp: Tensor
    ntk: Tensor


class Tile(NamedTuple):
    """Kernels of some of the pairs: rows and columns of the whole, and None for what was not asked for."""

    rows: slice
    columns: slice
    nngp: Tensor | None
    ntk: Tensor | None


@overload
def infinite_kernel(
    spec: Layer,
    x: Tensor,
    x2: Tensor | None = None,
    *,
    get: Literal["both"],
    dtype: torch.dtype = torch.float64,
    tile: int | None = None,
) -> Kernels: ...


@overload
def infinite_kernel(
    spec: Layer,
    x: Tensor,
    x2: Tensor | None = None,
    *,
    get: Literal["ntk", "nngp"] = "ntk",
    dtype: torch.dtype = torch.float64,
    tile: int | None = None,
    out: Tensor | np.ndarray | None = None,
) -> Tensor: ...


def infinite_kernel(
    spec: Layer,
    x: Tensor,
    x2: Tensor | None = None,
    *,
    get: Which = "ntk",
    dtype: torch.dtype = torch.float64,
    tile: int | None = None,
    out: Tensor | np.ndarray | None = None,
) -> Tensor | Kernels:
    """Return the kernel of an infinitely wide network: of its gradients (NTK) or its outputs (NNGP).

    Args:
        spec: The network, such as ``serial(Dense(), Relu(), Dense())``.
        x: Inputs, (N, d) or (N, channels, *places) as torch's convolutions take them.
        x2: Other inputs, (N2, ...); None for ``x`` itself.
        get: "ntk", "nngp", or "both".
        dtype: torch.float64, or torch.float32, whose results are good to about 1e-4 where inputs are nearly parallel
            and 1e-6 elsewhere.
        tile: Rows and columns computed at a time; the default fits the cache, or 8 MB with places.
        out: Where the kernel goes, (N, N2) of that dtype: a tensor, or an array such as ``numpy.memmap``, for kernels
            larger than memory.

    Returns:
        The kernel (N, N2), on the device of ``x``; ``out`` where it was given; with "both" ``Kernels(nngp, ntk)``.

    Raises:
        ConfigError: If an argument or the network cannot be meant, such as an activation on another.
        ShapeMismatch: If the inputs do not fit the network or each other, or ``out`` does not fit them.
        NonFinite: If the inputs, or the kernel, hold NaN or infinity. The largest example is tried first; if only pairs
            of others overflow, ``out`` is left partly written.
        NotConverged: If the series of an ``Elementwise`` activation does not reach its tolerance.
    """
    x, second = _inputs(spec, x, x2, dtype, get)
    size = _tile(tile, x, spec)
    # Raises what can be foreseen, before memory is taken and written to.
    next(_tiles(spec, _longest(x), None if second is None else _longest(second), 1, get))
    shape = (len(x), len(x if second is None else second))
    found = {name: _target(out, shape, x, get) for name in ("nngp", "ntk") if get in (name, "both")}
    for part in _tiles(spec, x, second, size, get):
        for name, values in found.items():
            values[part.rows, part.columns] = getattr(part, name)
            if second is None and part.rows != part.columns:
                values[part.columns, part.rows] = getattr(part, name).mT
    return Kernels(**found) if get == "both" else found[get]


def kernel_tiles(
    spec: Layer,
    x: Tensor,
    x2: Tensor | None = None,
    *,
    get: Which = "ntk",
    dtype: torch.dtype = torch.float64,
    tile: int | None = None,
) -> Iterator[Tile]:
    """Yield the tiles of `infinite_kernel`, for what needs no whole kernel; arguments and errors are the same.

    Where ``x2`` is None only tiles on and above the diagonal come: the kernel is symmetric.
    """
    x, second = _inputs(spec, x, x2, dtype, get)
    yield from _tiles(spec, x, second, _tile(tile, x, spec), get)


def _tiles(spec: Layer, x: Tensor, x2: Tensor | None, size: int, get: Which) -> Iterator[Tile]:
    fast = cosines(spec, x.shape[1]) if x.ndim == 2 else None
    compute = _by_layers(spec, x, x2, get) if fast is None else _by_cosines(fast, x, x2, get)
    columns = _slices(len(x if x2 is None else x2), size)
    for rows in _slices(len(x), size):
        for cols in columns:
            if x2 is not None or cols.start >= rows.start:
                found = [values for values in compute(rows, cols) if values is not None]
                if not all(all_finite(values) for values in found):
                    raise NonFinite("the kernel is too large for its dtype, or NaN; make W_std or the inputs smaller")
                if x2 is None and rows == cols:
                    found = [_symmetric(values) for values in found]
                yield Tile(rows, cols, None if get == "ntk" else found[0], None if get == "nngp" else found[-1])


#: From rows and columns to NNGP and NTK of a tile; None for what was not asked for.
Compute = Callable[[slice, slice], tuple[Tensor | None, Tensor | None]]


def _by_layers(spec: Layer, x: Tensor, x2: Tensor | None, get: Which) -> Compute:
    full = spec.full_before(False)

    def compute(rows: slice, columns: slice) -> tuple[Tensor | None, Tensor | None]:
        first = x[rows]
        second = first if x2 is None and rows == columns else (x if x2 is None else x2)[columns]
        kernel = spec.kernel(input_kernel(first, second, full=full, ntk=get != "nngp"))
        if kernel.places:
            raise ShapeMismatch(
                f"the network's outputs still have places {kernel.places}; end it with Flatten() or GlobalAvgPool()"
            )
        return None if get == "ntk" else kernel.nngp, kernel.ntk

    return compute


def _by_cosines(fast: Cosines, x: Tensor, x2: Tensor | None, get: Which) -> Compute:
    other = x if x2 is None else x2
    length, inverse = _lengths(x)
    length2, inverse2 = (length, inverse) if x2 is None else _lengths(x2)

    def compute(rows: slice, columns: slice) -> tuple[Tensor | None, Tensor | None]:
        rho = (x[rows] @ other[columns].mT).mul_(inverse[rows, None]).mul_(inverse2[columns])
        if x2 is None and rows == columns:
            rho.diagonal().fill_(1)
        rho, theta = fast.recursion(rho, get != "nngp")
        for values in (rho, theta):
            if values is not None and not (values is rho and get == "ntk"):
                values.mul_(length[rows, None] * fast.factor).mul_(length2[columns])
        return None if get == "ntk" else rho, theta

    return compute


def _lengths(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return lengths and their inverses, 0 for vectors of 0."""
    length = torch.linalg.vector_norm(x, dim=1)
    return length, torch.where(length > 0, 1 / length, 0.0)


def _longest(x: Tensor) -> Tensor:
    """Return the longest of the examples, (1, ...): where a kernel is largest, and series converge last."""
    return x[torch.linalg.vector_norm(x.flatten(1), dim=1).argmax()][None]


def _symmetric(values: Tensor) -> Tensor:
    """Return the upper triangle and its mirror image: layers round (x, x') and (x', x) each in its own way."""
    return values.triu().add_(values.triu(1).mT)


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _inputs(spec: Layer, x: Tensor, x2: Tensor | None, dtype: torch.dtype, get: Which) -> tuple[Tensor, Tensor | None]:
    """Return checked inputs of the dtype."""
    if not isinstance(spec, Layer):
        raise ConfigError(f"the network is {spec!r}; expected layers, such as serial(Dense(), Relu(), Dense())")
    if dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"dtype={dtype}; expected torch.float64 or torch.float32")
    if get not in get_args(Which):
        raise ConfigError(f"get={get!r}; expected one of {', '.join(get_args(Which))}")
    first = _one_input(x, dtype, "x")
    if x2 is None:
        return first, None
    second = _one_input(x2, dtype, "x2")
    if first.shape[1:] != second.shape[1:]:
        shapes = tuple(first.shape[1:]), tuple(second.shape[1:])
        raise ShapeMismatch(f"examples of x are {shapes[0]} and of x2 {shapes[1]}; expected the same")
    return first, second


def _one_input(x: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.numel() or x.is_complex():
        shape = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ShapeMismatch(f"{name} is {shape}; expected a real tensor (N, d) or (N, channels, *places), not empty")
    x = x.detach().to(dtype)
    if not all_finite(x):
        raise NonFinite(f"{name} holds NaN or infinity, or numbers too large for {dtype}; expected finite inputs")
    return x


def _tile(tile: int | None, x: Tensor, spec: Layer) -> int:
    if tile is not None:
        return whole(tile, "tile", 1)
    places = math.prod(x.shape[2:])
    if x.ndim == 2:
        return math.isqrt(_PLAIN * torch.get_num_threads())
    return max(1, math.isqrt(_PLACES // (places * (places if spec.full_before(False) else 1))))


def _target(out: Any, shape: tuple[int, int], x: Tensor, get: Which) -> Tensor:
    if out is None:
        return x.new_empty(shape)
    if get == "both":
        raise ConfigError("out holds one kernel; ask for get='ntk' or get='nngp' with it")
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise ConfigError("out is read-only; open a memmap with mode='r+' or 'w+'")
    target = torch.from_numpy(out) if isinstance(out, np.ndarray) else out
    if not isinstance(target, Tensor) or target.shape != shape or target.dtype != x.dtype:
        held = f"{tuple(target.shape)} of {target.dtype}" if isinstance(target, Tensor) else f"a {type(out).__name__}"
        raise ShapeMismatch(f"out is {held}; expected {shape} of {x.dtype}")
    return target
