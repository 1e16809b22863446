"""Rules: from a call of torch that a parameter takes part in, to the form of its use.

Calls go by their name, the same for ``torch.add``, ``Tensor.add`` and ``+``. What has no rule here is not guessed at:
the parameter then goes the way of per-example derivatives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.kernels.forms import Convolution, Form, Lookup, Product, Scaled

Args = Sequence[Any]
#: (arguments by position, the result, which argument the parameter is) -> its form, or None.
Rule = Callable[[dict[str, Any], Tensor, str], Form | None]

_ALIASES = {
    "__matmul__": "matmul", "mm": "matmul", "__mul__": "mul", "__rmul__": "mul", "multiply": "mul", "__imul__": "mul",
    "__add__": "add", "__radd__": "add", "__iadd__": "add", "__sub__": "sub", "__isub__": "sub", "subtract": "sub",
    "mul_": "mul", "add_": "add", "sub_": "sub",
}  # fmt: skip


def name_of(func: Any) -> str:
    """Return the name by which a rule knows a function of torch."""
    name = getattr(func, "__name__", "")
    return _ALIASES.get(name, name)


def form_of(func: Any, args: Args, kwargs: Mapping[str, Any], result: Any, watched: Tensor) -> Form | None:
    """Return the form in which one call uses a tensor; None where there is no rule for it."""
    rule = _RULES.get(name_of(func))
    if rule is None or not isinstance(result, Tensor):
        return None
    signature, make = rule
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return None
    roles = [role for role, value in bound.items() if value is watched]
    if len(roles) != 1 or watched is result:  # a tensor that meets itself, or is written over
        return None
    if result._is_view() and any(value is result for value in bound.values()):
        return None  # a write through a view: what follows may read the whole, and not the view
    values = {name: p.default for name, p in signature.parameters.items()} | bound
    return make(values, result, roles[0])


def _linear(v: dict[str, Any], result: Tensor, role: str) -> Form | None:
    if role == "weight":
        return Product(v["input"].detach()) if v["weight"].ndim == 2 else None
    return Scaled(tuple(v["bias"].shape)) if role == "bias" else None


def _addmm(v: dict[str, Any], result: Tensor, role: str) -> Form | None:
    if v["beta"] != 1 or v["alpha"] != 1:
        return None
    if role == "mat2":
        return Product(v["mat1"].detach(), transposed=True)
    return Scaled(tuple(v["input"].shape)) if role == "input" else None


def _matmul(v: dict[str, Any], result: Tensor, role: str) -> Form | None:
    plain = role == "other" and v["other"].ndim == 2 and v["input"].ndim >= 2
    return Product(v["input"].detach(), transposed=True) if plain else None


def _embedding(v: dict[str, Any], result: Tensor, role: str) -> Form | None:
    if role != "weight" or v["max_norm"] is not None or v["scale_grad_by_freq"]:
        return None
    count, padding = v["weight"].shape[0], v["padding_idx"]
    return Lookup(v["input"].detach(), count, None if padding is None else padding % count)


def _layer_norm(v: dict[str, Any], result: Tensor, role: str) -> Form | None:
    shape = tuple(v["normalized_shape"])
    if role == "weight":
        return Scaled(shape, F.layer_norm(v["input"].detach(), shape, eps=v["eps"]))
    return Scaled(shape) if role == "bias" else None


def _rms_norm(v: dict[str, Any], result: Tensor, role: str) -> Form | None:
    shape = tuple(v["normalized_shape"])
    return Scaled(shape, F.rms_norm(v["input"].detach(), shape, eps=v["eps"])) if role == "weight" else None


def _batch_norm(v: dict[str, Any], result: Tensor, role: str) -> Form | None:
    mean, variance = v["running_mean"], v["running_var"]
    if v["training"] or mean is None or variance is None:
        return None
    shape = _by_channel(v["input"])
    if role == "weight":
        return Scaled(shape, F.batch_norm(v["input"].detach(), mean, variance, eps=v["eps"]))
    return Scaled(shape) if role == "bias" else None


def _group_norm(v: dict[str, Any], result: Tensor, role: str) -> Form | None:
    shape = _by_channel(v["input"])
    if role == "weight":
        return Scaled(shape, F.group_norm(v["input"].detach(), v["num_groups"], eps=v["eps"]))
    return Scaled(shape) if role == "bias" else None


def _by_channel(x: Tensor) -> tuple[int, ...]:
    """Return the shape with which a vector over axis 1 is broadcast."""
    return (x.shape[1],) + (1,) * (x.ndim - 2)


def _mul(v: dict[str, Any], result: Tensor, role: str) -> Form | None:
    factor = v["other" if role == "input" else "input"]
    if factor is result:  # in place: what the parameter multiplied is written over
        return None
    factor = factor.detach() if isinstance(factor, Tensor) else torch.tensor(factor, device=result.device)
    return Scaled(tuple(v[role].shape), factor)


def _add(v: dict[str, Any], result: Tensor, role: str) -> Form | None:
    return Scaled(tuple(v[role].shape), sign=1.0 if role == "input" else float(v["alpha"]))


def _sub(v: dict[str, Any], result: Tensor, role: str) -> Form | None:
    return Scaled(tuple(v[role].shape), sign=1.0 if role == "input" else -float(v["alpha"]))


def _conv(v: dict[str, Any], result: Tensor, role: str) -> Form | None:
    weight, x = v["weight"], v["input"]
    dims = weight.ndim - 2
    if x.ndim != weight.ndim:
        return None
    if role == "bias":
        return Scaled(_by_channel(result))
    kernel, dilation = tuple(weight.shape[2:]), _each(v["dilation"], dims)
    padding = _padding(v["padding"], kernel, dilation)
    if role != "weight":
        return None
    return Convolution(x.detach(), kernel, _each(v["stride"], dims), padding, dilation, v["groups"])


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dims if len(values) == 1 else values


def _padding(value: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    if value == "valid":
        return ((0, 0),) * len(kernel)
    if value == "same":
        total = [apart * (size - 1) for size, apart in zip(kernel, dilation, strict=True)]
        return tuple((n // 2, n - n // 2) for n in total)
    return tuple((n, n) for n in _each(value, len(kernel)))


def _signature(**defaults: Any) -> inspect.Signature:
    """Return the signature of a function of torch; ``...`` marks what must be given."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [inspect.Parameter(n, kind, default=inspect.Parameter.empty if d is ... else d) for n, d in defaults.items()]
    )


_CONV = _signature(input=..., weight=..., bias=None, stride=1, padding=0, dilation=1, groups=1)
_PLAIN = _signature(input=..., other=..., alpha=1)
_RULES: dict[str, tuple[inspect.Signature, Rule]] = {
    "linear": (_signature(input=..., weight=..., bias=None), _linear),
    "addmm": (_signature(input=..., mat1=..., mat2=..., beta=1, alpha=1), _addmm),
    "matmul": (_signature(input=..., other=...), _matmul),
    "embedding": (inspect.signature(F.embedding), _embedding),
    "layer_norm": (inspect.signature(F.layer_norm), _layer_norm),
    "rms_norm": (_signature(input=..., normalized_shape=..., weight=None, eps=None), _rms_norm),
    "batch_norm": (inspect.signature(F.batch_norm), _batch_norm),
    "group_norm": (inspect.signature(F.group_norm), _group_norm),
    "mul": (_signature(input=..., other=...), _mul),
    "add": (_PLAIN, _add),
    "sub": (_PLAIN, _sub),
    "conv1d": (_CONV, _conv),
    "conv2d": (_CONV, _conv),
    "conv3d": (_CONV, _conv),
}
