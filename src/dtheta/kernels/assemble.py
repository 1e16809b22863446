"""Assemble: from the uses of one target to its tangents, each independent of the others.

Uses of the same entries of a parameter add up before any product is taken. Uses of other entries, such as the q, k
and v rows of a fused projection, share nothing and stand side by side. Where two overlap without being the same, all go
into one plain array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
import xxhash
from torch import Tensor

from dtheta.core.selection import Window
from dtheta.core.tangents import Direct, Outer, Rows, Summed, Tangent, summed
from dtheta.errors import UnsupportedLayer
from dtheta.kernels.forms import Lookup, Whole, wide
from dtheta.kernels.passes import Found
from dtheta.kernels.subject import Target


@dataclass(frozen=True, eq=False)
class Placed:
    """Derivatives by some entries of a parameter.

    Attributes:
        elements: Which, in the order of the derivatives; None for all in order.
        tangent: The derivatives.
    """

    elements: Tensor | None
    tangent: Tangent


def tangents_of(target: Target, found: Sequence[Found], examples: int, outputs: int) -> list[Placed]:
    """Return the tangents of a target: of a parameter, those of its parts; of a term, one for each of its factors.

    Raises:
        UnsupportedLayer: If a term is used in a way that it has no rule for.
    """
    pieces = _pieces(target, found, examples)
    if target.term is None or not pieces:
        return _joined(pieces, target, outputs, examples)
    if any(piece.elements is not None for piece in pieces):
        pieces = [Placed(None, _scattered(pieces, prod(_shape(target)), examples, outputs))]
    by_factor = [target.term.tangents(*_seen(target, p.tangent), transposed=_turned(p.tangent)) for p in pieces]
    factors = [summed(uses) for uses in zip(*by_factor, strict=True)]
    return [Placed(None, scaled(tangent, target.weight)) for tangent in factors]


def gradients_of(target: Target, placed: Sequence[Placed], weights_NO: Tensor) -> list[Tensor]:
    """Return the derivative of sum_no w_no f_no by each parameter that moves, flat; of a window, by its entries."""
    if target.term is None and len(placed) == 1 and placed[0].elements is None:
        return [placed[0].tangent.accumulate(weights_NO)]
    if target.term is None or not placed:
        total = weights_NO.new_zeros(target.size)
        for one in placed:
            values = one.tangent.accumulate(weights_NO).to(total)
            total = total + values if one.elements is None else total.index_add(0, one.elements, values)
        return list(total.split([target.size] if target.term is None else [p.numel() for p in target.moving.values()]))
    return [one.tangent.accumulate(weights_NO) for one in placed]


def pattern(placed: Sequence[Placed]) -> tuple[str, ...]:
    """Return what two passes must have in common for their tangents to be multiplied: their forms and entries."""
    return tuple(f"{_form(one.tangent)} of {_digest(one.elements)}" for one in placed)


def spread(target: Target, placed: Sequence[Placed], examples: int, outputs: int) -> list[Tangent]:
    """Return tangents as plain arrays of all entries of what moves, in which any two passes can be compared."""
    if target.term is not None or not placed:
        return [Direct(one.tangent.values()) for one in placed]
    return [_scattered(placed, target.size, examples, outputs)]


def _form(tangent: Tangent) -> str:
    if isinstance(tangent, Summed):
        return " + ".join(map(_form, tangent.uses))
    return f"{type(tangent).__name__}{' transposed' if _turned(tangent) else ''}"


def _digest(elements: Tensor | None) -> str:
    return "all" if elements is None else xxhash.xxh3_128_hexdigest(elements.cpu().numpy().tobytes())


def windowed(target: Target, flat: Tensor) -> Tensor:
    """Return the entries of a parameter, the last axis of (..., P), that are in the target's window."""
    if target.site is None or target.site.window is None:
        return flat
    window, shape = target.site.window, target.tensors[0].shape
    axis = flat.ndim - 1 + window.axis
    return flat.unflatten(-1, (shape[0], -1)).narrow(axis, window.start, window.stop - window.start).flatten(-2)


def _pieces(target: Target, found: Sequence[Found], examples: int) -> list[Placed]:
    pieces = [_piece(target, use, examples) for use in found]
    window = None if target.site is None else target.site.window
    return pieces if window is None else [p for piece in pieces if (p := _cut(target, piece, window)) is not None]


def _piece(target: Target, use: Found, examples: int) -> Placed:
    tangent, elements = use.tangent, use.origin.elements
    if isinstance(use.form, Lookup) and use.form.padding is not None and _acts_beside(target):
        tangent = replace(use.form, padding=None).tangent(use.gradients, use.layout, examples)
    if use.origin.root is not None:
        return _led_back(target, use, tangent, use.origin.root, examples)
    if elements is None:
        return Placed(None, tangent)
    if isinstance(use.form, Whole):
        elements = _copied(target, use, elements, examples)
    if _in_order(elements, target):
        return Placed(None, tangent)
    if elements.ndim == 2 and isinstance(tangent, Outer) and _in_order(elements.mT, target):
        return Placed(None, Outer(tangent.inputs, tangent.gradients, not tangent.transposed))
    return Placed(elements.flatten(), tangent)


def _acts_beside(target: Target) -> bool:
    """Tell whether a term gathers rows of its own beside those of the table: they have no padding, and train."""
    return target.term is not None and target.site is not None and target.site.hookable and not target.term.materialize


def _copied(target: Target, use: Found, elements: Tensor, examples: int) -> Tensor:
    """Return the entries of which every example has a copy."""
    copies = use.layout.by_example(elements, examples).reshape(examples, -1)
    if not bool((copies == copies[:1]).all()):
        raise UnsupportedLayer(f"{target.key}: the examples have entries of their own of this parameter")
    return copies[0]


def _led_back(target: Target, use: Found, tangent: Tangent, root: Tensor, examples: int) -> Placed:
    """Return the derivatives by a parameter from those by something that was made of it.

    Raises:
        UnsupportedLayer: If it displaces a parameter of the base by a term, or autograd cannot lead back in a batch.
    """
    if target.term is not None:
        raise UnsupportedLayer(f"{target.key}: the model makes something else of this parameter before it uses it")
    values, elements = tangent.values(), use.origin.elements
    if elements is not None:
        if isinstance(use.form, Whole):
            elements = _copied(target, use, elements, examples)
        zeros = values.new_zeros(*values.shape[:2], root.numel())
        values = zeros.index_add_(2, elements.flatten(), values)
    upstream = values.flatten(0, 1).view(-1, *root.shape).to(root.dtype)
    (parameter,) = target.moving.values()
    try:
        (found,) = torch.autograd.grad(
            root, parameter, upstream, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    except RuntimeError as error:
        raise UnsupportedLayer(f"{target.key}: no way back in a batch ({str(error).splitlines()[0]})") from error
    if found is None:
        found = values.new_zeros(len(upstream), *parameter.shape)
    flat = wide(found).reshape(*values.shape[:2], -1)
    window = None if target.site is None else target.site.window
    return Placed(None if window is None else _numbers(parameter.numel(), parameter), Direct(flat))


def _in_order(elements: Tensor, target: Target) -> bool:
    """Tell whether numbers of entries are all of the parameter's, one after the other."""
    count = elements.numel()
    return count == target.tensors[0].numel() and bool((elements.flatten() == _numbers(count, elements)).all())


def _numbers(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, device=like.device)


def _cut(target: Target, piece: Placed, window: Window) -> Placed | None:
    """Return the part of a piece inside of a window, in the window's entries; None if nothing is.

    Raises:
        UnsupportedLayer: If the piece is partly inside.
    """
    tangent, tensor = piece.tangent, target.tensors[0]
    numbers = _numbers(tensor.numel(), tensor).view(tensor.shape[0], -1)
    wanted = windowed(target, numbers.flatten())
    if piece.elements is None and isinstance(tangent, Outer):
        cut = slice(window.start, window.stop)
        if window.axis == int(tangent.transposed):
            return Placed(None, Outer(tangent.inputs, tangent.gradients[..., cut], tangent.transposed))
        return Placed(None, Outer(tangent.inputs[..., cut], tangent.gradients, tangent.transposed))
    elements = numbers.flatten() if piece.elements is None else piece.elements
    inside = torch.isin(elements, wanted)
    if not bool(inside.any()):
        return None
    if torch.equal(elements, wanted):
        return Placed(None, tangent)
    if not bool(inside.all()):
        raise UnsupportedLayer(f"{target.key}: the model uses other slices of this parameter than the one that moves")
    return Placed(torch.searchsorted(wanted, elements), tangent)


def _joined(pieces: Sequence[Placed], target: Target, outputs: int, examples: int) -> list[Placed]:
    """Return the tangents of one parameter."""
    groups: list[tuple[Tensor | None, list[Tangent]]] = []
    for piece in pieces:
        same = next((held for known, held in groups if _equal(known, piece.elements)), None)
        if same is None:
            groups.append((piece.elements, [piece.tangent]))
        else:
            same.append(piece.tangent)
    if _apart([elements for elements, _ in groups]):
        return [Placed(elements, summed(held)) for elements, held in groups]
    return [Placed(None, _scattered(pieces, target.size, examples, outputs))]


def _apart(groups: Sequence[Tensor | None]) -> bool:
    """Tell whether no entry of the parameter is in two groups, or twice in one."""
    taken = [elements for elements in groups if elements is not None]
    if len(taken) < len(groups):
        return len(groups) == 1
    return not taken or len(torch.cat(taken).unique()) == sum(map(len, taken))


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def _scattered(pieces: Sequence[Placed], size: int, examples: int, outputs: int) -> Direct:
    """Return all uses in one array of the whole parameter."""
    total = pieces[0].tangent.entries(0, 0).new_zeros(examples, outputs, size)
    for piece in pieces:
        values = piece.tangent.values()
        total = total + values if piece.elements is None else total.index_add_(2, piece.elements, values)
    return Direct(total)


def _shape(target: Target) -> tuple[int, ...]:
    """Return rows and columns of a matrix, the length of a vector."""
    site = target.site
    assert site is not None
    return site.shape if site.is_matrix else tuple(site.tensor.shape)


def _seen(target: Target, tangent: Tangent) -> tuple[Tensor, Tensor]:
    """Return what a term is told of a use: inputs (N, T, d1) or index (N, T), and gradients (N, O, T, d2).

    A matrix of derivatives G (m, n) without structure is sum_j G e_j e_j^T, a layer with n unit vectors as its inputs.
    """
    if target.term.by_entries:
        values = tangent.values()
        return values.new_empty(len(values), 1, 0), values.unsqueeze(2)
    if isinstance(tangent, Outer):
        return tangent.inputs, tangent.gradients
    if isinstance(tangent, Rows):
        return tangent.index, tangent.gradients
    values, shape = tangent.values(), _shape(target)
    if target.term.materialize or len(shape) < 2:
        return values.new_empty(len(values), 1, 0), values.unsqueeze(2)
    units = torch.eye(shape[1], dtype=values.dtype, device=values.device)
    return units.expand(len(values), -1, -1), values.unflatten(2, shape).mT


def _turned(tangent: Tangent) -> bool:
    return isinstance(tangent, Outer) and tangent.transposed


def scaled(tangent: Tangent, weight: float) -> Tangent:
    """Return the derivatives times a factor."""
    if weight == 1.0:
        return tangent
    if isinstance(tangent, Outer):
        return Outer(tangent.inputs, tangent.gradients * weight, tangent.transposed)
    if isinstance(tangent, Rows):
        return Rows(tangent.index, tangent.gradients * weight, tangent.count)
    if isinstance(tangent, Summed):
        return summed([scaled(use, weight) for use in tangent.uses])
    return Direct(tangent.values() * weight)
