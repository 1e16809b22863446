"""Watch: every call of torch in which a parameter takes part, during one forward pass.

A parameter's uses are found where they happen, by a torch function mode, and not by the type of its module: tied and
shared layers, attention projections, slices of fused weights and bare parameters are all seen. Three kinds of
calls count:

    a use      the parameter meets the batch: y = x W^T. What the gradient of y makes of it is a ``Form``
    a making   parameters and constants alone: W[:k], W + D, table[positions], token.expand(N, ...)
    a write    over something made, or of a parameter into something, in place: no rule follows where that goes

Of what is made, ``Origin`` keeps which entries of the parameter it holds; its own uses are then the parameter's. What
is no selection of entries is a root of its own, from which autograd leads back to the parameter. Custom autograd
functions are not seen by a mode; ``study`` compares with autograd to know.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dtheta.kernels.forms import Form, Lookup, Scaled, Whole
from dtheta.kernels.rules import form_of, name_of

# Calls that pick or rearrange entries, and do the same to a tensor of their numbers.
_SELECTING = frozenset(
    "t transpose permute view reshape flatten unflatten chunk split tensor_split narrow select unbind __getitem__ "
    "squeeze unsqueeze expand contiguous clone movedim swapaxes repeat unfold adjoint".split()
)
_SAME = frozenset("to float double half bfloat16 type_as requires_grad_ alias".split())  # of each entry its value
_GETTERS = {Tensor.T.__get__: "T", Tensor.mT.__get__: "mT"}  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class Origin:
    """Where the entries of a tensor come from.

    Attributes:
        names: The parameter; several, if the root is made of more.
        root: What the entries are those of: None for the parameter, or something made of it in another way than by
            selection, such as the product of two factors.
        elements: The number of the root's entry at each place; None for all of them in order.
        rows: The rows of a table (count, d) that were gathered, in place of ``elements``.
        count: Of that table.
        chain: The makings that led to it.
    """

    names: tuple[str, ...]
    root: Tensor | None = None
    elements: Tensor | None = None
    rows: Tensor | None = None
    count: int = 0
    chain: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Part:
    """What one watched tensor is in a call: where it comes from, and the form of its use (None: no rule)."""

    origin: Origin
    form: Form | None


@dataclass(frozen=True, eq=False)
class Call:
    """One call in which watched tensors take part.

    Attributes:
        name: The function's.
        parts: One for each watched tensor.
        edge: Where the gradient of the result arrives.
        shape: Of the result.
        making: Whether the batch has no part in it.
    """

    name: str
    parts: tuple[Part, ...]
    edge: GradientEdge
    shape: tuple[int, ...]
    making: bool
    versions: tuple[tuple[Tensor, int], ...] = field(default=(), repr=False)

    def is_intact(self) -> bool:
        """Tell whether nothing wrote to what the forms keep since."""
        return all(tensor._version == version for tensor, version in self.versions)


class Watch(TorchFunctionMode):
    """Records the calls of one forward pass in which watched tensors take part.

    Args:
        model: Its parameters and buffers are constants, unless watched.
        watched: Tensors by the name of the parameter that they are.
    """

    def __init__(self, model: nn.Module, watched: Mapping[str, Sequence[Tensor]]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._constant = {id(t): t for t in (*model.parameters(), *model.buffers())}
        self._origins = {id(t): Origin((name,)) for name, held in watched.items() for t in held}
        self._constant |= {id(t): t for held in watched.values() for t in held}

    def __torch_function__(self, func: Any, types_: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a call, and record it if a watched tensor takes part."""
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return _opened(func)(*args, **kwargs)
        given = list(_tensors((args, kwargs)))
        before = [_version(t) for t in given]
        result = func(*args, **kwargs)
        written = [t for t, version in zip(given, before, strict=True) if _version(t) != version]
        constant = all(id(t) in self._constant for t in given)
        results = list(_tensors(result))
        watched = {id(t): t for t in given if id(t) in self._origins}
        lost = self._sharing(written) if written else []
        if lost or (watched and written and (constant or not results)):
            parts = (watched | {id(t): t for t in lost}).values()
            self._record_written(func, parts, [*results, *written, *lost])
        elif watched and any(t.requires_grad for t in results):
            self._record(func, args, kwargs, result, list(watched.values()), constant)
        if constant:
            self._constant |= {id(t): t for t in results}
        elif written:
            self._forget(written)
        return result

    def _sharing(self, written: Sequence[Tensor]) -> list[Tensor]:
        """Return the tensors of known origin on memory that was written to: they are no longer what they were."""
        places = {_memory(t) for t in written}
        return [self._constant[i] for i in self._origins if _memory(self._constant[i]) in places]

    def _record_written(self, func: Any, watched: Iterable[Tensor], outs: Sequence[Tensor]) -> None:
        """Record a write over something made of a parameter, or of it into something else: no rule follows either."""
        parts = tuple(Part(self._origins[id(t)], None) for t in watched)
        out = next((t for t in outs if t.requires_grad), None)
        if out is not None:
            self._append(name_of(func), parts, out, making=False)
        for tensor in outs:
            self._origins.pop(id(tensor), None)

    def _forget(self, written: Sequence[Tensor]) -> None:
        """A constant that something of the batch is written into is none any more."""
        places = {_memory(t) for t in written}
        for i in [i for i, t in self._constant.items() if _memory(t) in places]:
            del self._constant[i]

    def _record(self, func: Any, args: Any, kwargs: Any, result: Any, watched: list[Tensor], making: bool) -> None:
        name = _GETTERS.get(func, name_of(func))
        if making:
            self._record_making(name, func, args, kwargs, result, watched)
            return
        parts = []
        for tensor in watched:
            origin, form = self._origins[id(tensor)], form_of(func, args, kwargs, result, tensor)
            if origin.rows is not None:
                form = _gathered(origin, form, result)
            parts.append(Part(origin, form))
        for out in _tensors(result):
            if out.requires_grad:
                self._append(name, tuple(parts), out, making=False)

    def _record_making(self, name: str, func: Any, args: Any, kwargs: Any, result: Any, watched: list[Tensor]) -> None:
        results = list(_tensors(result))
        made = self._made(name, func, args, kwargs, results, watched)
        for out, origin in zip(results, made, strict=True):
            if out.requires_grad and id(out) not in self._origins:
                form = Whole() if origin.rows is None else Lookup(origin.rows, origin.count)
                self._origins[id(out)] = replace(origin, chain=(*origin.chain, len(self.calls)))
                self._append(name, (Part(origin, form),), out, making=True)

    def _append(self, name: str, parts: tuple[Part, ...], out: Tensor, making: bool) -> None:
        versions = tuple((t, t._version) for part in parts if part.form for t in part.form.kept())
        self.calls.append(Call(name, parts, get_gradient_edge(out), tuple(out.shape), making, versions))

    def _made(
        self, name: str, func: Any, args: Any, kwargs: Any, results: list[Tensor], watched: list[Tensor]
    ) -> list[Origin]:
        """Return the origins of what a making returns."""
        origins = [self._origins[id(t)] for t in watched]
        names = tuple(dict.fromkeys(n for o in origins for n in o.names))
        chain = tuple(c for o in origins for c in o.chain)
        new = [Origin(names, root=result, chain=chain) for result in results]
        tensor, origin = watched[0], origins[0]
        if len(watched) > 1:
            return new
        if name in _SAME or self._moves(func, args, kwargs, results[0], tensor):
            return [origin] * len(results)
        if origin.rows is not None:
            return new
        if name == "embedding" and origin.elements is None and args and isinstance(args[0], Tensor):
            form = form_of(func, args, kwargs, results[0], tensor)
            if isinstance(form, Lookup) and form.padding is None:
                return [replace(origin, rows=form.index, count=form.count)]
        if name in _SELECTING or name in _GETTERS.values():
            numbers = origin.elements
            if numbers is None:
                numbers = torch.arange(tensor.numel(), device=tensor.device).view(tensor.shape)
            picked = func(*_swapped(args, tensor, numbers), **_swapped(kwargs, tensor, numbers))
            elements = list(_tensors(picked))
            if all(e.dtype == torch.int64 and e.shape == r.shape for e, r in zip(elements, results, strict=True)):
                return [replace(origin, elements=e) for e in elements]
        return new

    @staticmethod
    def _moves(func: Any, args: Any, kwargs: Any, result: Tensor, tensor: Tensor) -> bool:
        """Tell whether a sum has the tensor's own entries, moved by constants."""
        if name_of(func) == "baddbmm":  # of experts, by which the displacement is no tensor of its own
            return bool(args) and args[0] is tensor and tensor.shape == result.shape and kwargs.get("beta", 1) == 1
        form = form_of(func, args, kwargs, result, tensor) if name_of(func) in ("add", "sub") else None
        return isinstance(form, Scaled) and (form.shape, form.sign) == (tuple(result.shape), 1.0)


def _gathered(origin: Origin, form: Form | None, result: Tensor) -> Form | None:
    """Return the form of gathered rows that are added to the batch."""
    rows = origin.rows
    if not isinstance(form, Scaled) or form.factor is not None or rows is None:
        return None
    if form.shape[-1] != result.shape[-1] or rows.ndim >= result.ndim:
        return None
    return Lookup(rows.expand(result.shape[:-1]), origin.count, sign=form.sign)


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written to."""
    return 0 if tensor.is_inference() else tensor._version


def _memory(tensor: Tensor) -> int:
    """Return what is the same for a tensor and its views."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else id(tensor)


def _tensors(thing: Any) -> Iterator[Tensor]:
    """Yield the tensors in arguments, whatever they are nested in."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, (tuple, list)):
        for item in thing:
            yield from _tensors(item)
    elif isinstance(thing, dict):
        for item in thing.values():
            yield from _tensors(item)


def _swapped(thing: Any, old: Tensor, new: Tensor) -> Any:
    """Return arguments with one tensor in place of another."""
    if thing is old:
        return new
    if isinstance(thing, (tuple, list)):
        return type(thing)([_swapped(item, old, new) for item in thing])
    if isinstance(thing, dict):
        return {name: _swapped(item, old, new) for name, item in thing.items()}
    return thing


def _opened(func: Any) -> Any:
    """Return a function of torch that does not hand itself over to the mode, so that the calls inside are seen."""
    inside = {**func.__globals__, "has_torch_function": lambda *_: False}
    copy = types.FunctionType(func.__code__, inside, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy
