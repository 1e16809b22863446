"""Linear layers whose weight is stored in four bits and unpacked at every use: the frozen base of QLoRA and its kin.

    y = x W^T + b,   W = dequantize(codes, scale)      made for the product, and made again for the gradient of x

The layer shows its weight to the rest of the library as a stand-in (``virtual_tensors``), so selection, fingerprint and
adapters treat ``layer.weight`` as the parameter that it was, and nothing is unpacked before somebody reads it. The
stand-in cannot be written to. Dettmers et al. 2023, arXiv 2305.14314; the packing is in core/nf4.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from dtheta.core.nf4 import PackedNF4
from dtheta.core.selection import has_plain_forward
from dtheta.errors import UnsupportedLayer

_WHY = (
    "its layer stores it in four bits, which take no change; attach the delta instead (dt.attach), or change a dense "
    "copy of the model (dt.dequantized)"
)


class VirtualWeight(Tensor):
    """A weight that holds no numbers of its own: whatever reads it gets them unpacked, as a plain tensor."""

    packed: PackedNF4
    why_unwritable = _WHY
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls: type[VirtualWeight], packed: PackedNF4, dtype: torch.dtype) -> VirtualWeight:
        """Return the stand-in for ``packed`` unpacked to ``dtype``."""
        weight = Tensor._make_wrapper_subclass(cls, packed.shape, dtype=dtype, device=packed.device)  # type: ignore[attr-defined]
        weight.packed = packed
        return weight

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].packed, args[0].dtype)
        if func._schema.is_mutable:
            raise UnsupportedLayer(f"cannot write to a weight of shape {tuple(args[0].shape)}: {_WHY}")
        return func(*tree_map(_plain, args), **tree_map(_plain, kwargs or {}))

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        """Return the plain tensor."""
        return _plain(self).contiguous(memory_format=memory_format)

    def numpy(self, *, force: bool = False) -> Any:
        """Return the plain tensor as an array."""
        return _plain(self).numpy(force=force)

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        return f"VirtualWeight({tuple(self.shape)}, {self.dtype}, NF4)"


def _plain(thing: Any) -> Any:
    return thing.packed.dequantize(thing.dtype) if isinstance(thing, VirtualWeight) else thing


class NF4Layer(nn.Module):
    """What the two linear layers share: the packed weight, and how it is read.

    The scales are kept as integers of the same bits, so that ``model.half()`` and the like move them and never round
    them; such a call changes the dtype to which the weight is unpacked.
    """

    codes: Tensor
    scale: Tensor
    coarse: Tensor | None
    bias: Tensor | None
    block: int
    weight_shape: tuple[int, ...]
    weight_dtype: torch.dtype
    dense_class: type[nn.Module]

    def pack(self, packed: PackedNF4, dtype: torch.dtype) -> None:
        """Take the packed weight; ``dtype`` is the one to which it is unpacked."""
        self.block, self.weight_shape, self.weight_dtype = packed.block, packed.shape, dtype
        self.register_buffer("codes", packed.codes)
        self.register_buffer("scale", _bits(packed.scale))
        self.register_buffer("coarse", None if packed.coarse is None else _bits(packed.coarse))

    @property
    def packed(self) -> PackedNF4:
        """The packed weight."""
        coarse = None if self.coarse is None else self.coarse.view(torch.float32)
        scale = self.scale.view(torch.float32) if coarse is None else self.scale
        return PackedNF4(self.codes, scale, coarse, self.weight_shape, self.block)

    @property
    def weight(self) -> Tensor:
        """The weight, unpacked now; a plain tensor, and no parameter."""
        return self.packed.dequantize(self.weight_dtype)

    def virtual_tensors(self) -> Mapping[str, Tensor]:
        """Return a stand-in for the weight; the same object as long as the codes and the dtype are the same."""
        known: nn.Parameter | None = self.__dict__.get("_stand_in")
        if known is None or known.packed.codes is not self.codes or known.dtype != self.weight_dtype:  # type: ignore[attr-defined]
            known = nn.Parameter(VirtualWeight(self.packed, self.weight_dtype), requires_grad=False)
            self.__dict__["_stand_in"] = known
        return {"weight": known}

    def forward(self, x: Tensor) -> Tensor:
        """Return the product with the weight, plus the bias; differentiable in both."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        if torch.is_grad_enabled() and (x.requires_grad or (self.bias is not None and self.bias.requires_grad)):
            return _Product.apply(x, self.bias, self)
        return self.product(x, self.weight, self.bias)

    @staticmethod
    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the layer's output; the very operations of the dense layer, so that no bit differs."""
        raise NotImplementedError

    @staticmethod
    def transposed(y: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of the input from that of the output."""
        raise NotImplementedError

    def unpack(self) -> None:
        """Turn the layer into the dense one that it was, in place; its weight is the unpacked one."""
        weight = nn.Parameter(self.weight, requires_grad=False)
        for name in ("block", "weight_shape", "weight_dtype", "_stand_in"):
            self.__dict__.pop(name, None)
        del self.codes, self.scale, self.coarse
        self.__class__ = self.__dict__.pop("dense_class")
        self.__dict__["_parameters"] = {"weight": weight, **self._parameters}  # in the order of the dense layer

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NF4Layer:
        super()._apply(fn, recurse)
        self.weight_dtype = fn(torch.empty(0, dtype=self.weight_dtype)).dtype
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_stand_in"}


class NF4Linear(NF4Layer, nn.Linear):
    """``nn.Linear`` on a weight (out, in) in four bits."""

    @staticmethod
    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x W^T + b."""
        return F.linear(x, weight, bias)

    @staticmethod
    def transposed(y: Tensor, weight: Tensor) -> Tensor:
        """Return y W."""
        return y @ weight

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{super().extra_repr()}, nf4 in blocks of {self.block}"


class NF4Conv1D(NF4Layer):
    """transformers' ``Conv1D``, a linear layer on a weight (in, out), in four bits."""

    @staticmethod
    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x W + b."""
        flat = x.reshape(-1, x.shape[-1])
        y = flat @ weight if bias is None else torch.addmm(bias, flat, weight)
        return y.view(*x.shape[:-1], weight.shape[1])

    @staticmethod
    def transposed(y: Tensor, weight: Tensor) -> Tensor:
        """Return y W^T."""
        return y @ weight.mT


class _Product(torch.autograd.Function):
    """The layer's product, which keeps the packed weight for the gradient and not the unpacked one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bias: Tensor | None, layer: NF4Layer) -> Tensor:
        return layer.product(x, layer.weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.layer = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_grad = ctx.layer.transposed(grad, ctx.layer.weight.to(grad.dtype)) if ctx.needs_input_grad[0] else None
        bias_grad = grad.reshape(-1, grad.shape[-1]).sum(0) if ctx.needs_input_grad[1] else None
        return x_grad, bias_grad, None

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, bias_tangent: Tensor | None, _: None) -> Tensor | None:
        return bias_tangent if x_tangent is None else ctx.layer.product(x_tangent, ctx.layer.weight, bias_tangent)


def _bits(tensor: Tensor) -> Tensor:
    """Return float32 numbers as the int32 of the same bits; bytes as they are."""
    return tensor.view(torch.int32) if tensor.is_floating_point() else tensor


def packable(module: nn.Module) -> type[NF4Layer] | None:
    """Return the four-bit class of a linear layer, or None for what is not exactly such a layer."""
    if type(module) is nn.Linear:
        return NF4Linear
    return NF4Conv1D if type(module).__name__ == "Conv1D" and has_plain_forward(module) else None


def pack_layer(module: nn.Module, packed: PackedNF4, dtype: torch.dtype) -> None:
    """Turn a dense linear layer into a four-bit one, in place: hooks, flags and every reference to it stay.

    Args:
        module: An ``nn.Linear`` or a transformers ``Conv1D``.
        packed: Its weight.
        dtype: The dtype to which the weight is unpacked.
    """
    layer = packable(module)
    assert layer is not None, "checked by quantize"
    dense_class = type(module)
    del module.weight
    module.__class__ = layer
    module.dense_class = dense_class  # type: ignore[assignment]
    module.pack(packed, dtype)  # type: ignore[operator]
