"""The base tensors of a model by their own names, whatever is attached to it.

While an adapter sits on a model, a parametrized parameter is called ``layer.parametrizations.weight.original``; a
compiled module adds ``_orig_mod.`` and a distributed wrapper ``module.``. A delta speaks of ``layer.weight``. This
file is the one place that translates, and the one that knows which modules own a (possibly shared) tensor.

A model's own parametrizations (weight norm and the like) stay as they are: there the base tensors are the originals,
under the names that the model's state dict gives them.

A module may store a tensor in another form, such as four bits an element. It then has a method ``virtual_tensors()``
that returns stand-ins by attribute: tensors to be read like any other and not written. A stand-in counts as the base
tensor, and the module's own buffers, being that other form, do not.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dtheta.errors import ConfigError

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


@dataclass(frozen=True)
class Owner:
    """A module that holds a tensor under an attribute; ``path`` is the module's name inside the model."""

    path: str
    module: nn.Module
    attribute: str

    @property
    def name(self) -> str:
        """The tensor's name in the model."""
        return f"{self.path}.{self.attribute}" if self.path else self.attribute


def virtual_tensors(module: nn.Module) -> Mapping[str, Tensor]:
    """Return stand-ins for the tensors that a module stores in another form, by attribute; empty for most modules."""
    stand_ins: Any = getattr(type(module), "virtual_tensors", None)  # of the class: a module's own lookup is slow
    return {} if stand_ins is None else stand_ins(module)


def why_unwritable(tensor: Tensor) -> str:
    """Return why a tensor that can be read cannot be changed, or an empty string if it can."""
    return getattr(tensor, "why_unwritable", "")


def owners(model: nn.Module, buffers: bool = True) -> Iterator[tuple[Owner, Tensor]]:
    """Yield every (owner, tensor) of the base: parameters, then persistent buffers; tied tensors once per owner."""
    for path, module in modules(model):
        virtual = virtual_tensors(module)
        held = {**virtual, **module._parameters}  # the weight before the bias, as in the dense layer
        if buffers and module._buffers and not virtual:
            transient = module._non_persistent_buffers_set
            held |= {n: b for n, b in module._buffers.items() if n not in transient}
        for attribute, tensor in held.items():
            if tensor is not None:
                yield Owner(path, module, attribute), tensor
        if "parametrizations" in module._modules:  # as is_parametrized asks, and many times faster where there are none
            yield from _originals(path, module)


def _originals(path: str, module: nn.Module) -> Iterator[tuple[Owner, Tensor]]:
    """Yield the tensors under a module's parametrizations: by their own name under ours, else by torch's."""
    parametrizations: Any = module.parametrizations
    for attribute, entry in parametrizations.items():
        if all(is_term(p) for p in entry):
            yield Owner(path, module, attribute), entry.original
            continue
        inside = f"{path}.parametrizations.{attribute}".removeprefix(".")
        for name, tensor in [*entry._parameters.items(), *entry._buffers.items()]:
            yield Owner(inside, entry, name), tensor
        if "parametrizations" in entry._modules:  # ours, on a tensor of theirs
            yield from _originals(inside, entry)


def modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules by clean names, leaving out those that parametrization adds."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"a {type(model).__name__} was given in place of a model; expected an nn.Module")
    wrapped = set()
    for raw, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            wrapped.add(f"{raw}.module".removeprefix("."))
        parts = raw.split(".")
        if "parametrizations" in parts:
            continue
        if not wrapped and _WRAPPERS.isdisjoint(parts):  # nearly always, and the names of large models are many
            yield raw, module
            continue
        skip = {i for i in range(len(parts)) if parts[i] in _WRAPPERS or ".".join(parts[: i + 1]) in wrapped}
        yield ".".join(part for i, part in enumerate(parts) if i not in skip), module


def is_term(thing: Any) -> bool:
    """Tell whether a hook or parametrization is one that an adapter of ours put there."""
    return getattr(thing, "is_dtheta_term", False) or getattr(getattr(thing, "__self__", None), "is_dtheta_term", False)


def attached_to(model: nn.Module) -> list[str]:
    """Return the names of the modules on which an adapter of ours sits."""
    found = []
    for path, module in modules(model):
        parametrizations: Any = module.parametrizations if parametrize.is_parametrized(module) else {}
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values(), module.__dict__.get("forward")]
        if any(is_term(hook) for hook in hooks) or any(
            is_term(p) for entry in parametrizations.values() for p in entry
        ):
            found.append(path)
    return found


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Return what two tensors share exactly when they are one: the object, or the very same memory."""
    if why_unreadable(tensor) or why_unwritable(tensor) or tensor.numel() == 0:  # no memory of its own to compare
        return (id(tensor),)
    storage = tensor.untyped_storage().data_ptr()
    return (storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype, str(tensor.device))


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name, in order; a shared tensor once, under its first name."""
    found: dict[str, Tensor] = {}
    seen: set[tuple[Any, ...]] = set()
    for owner, tensor in owners(model):
        place = _place(tensor)
        if place not in seen:
            seen.add(place)
            found[owner.name] = tensor
    return found


def aliases(model: nn.Module) -> dict[str, list[Owner]]:
    """Return, by the name that ``base_tensors`` uses, all the modules that own that tensor."""
    return {name: [owner for owner, _ in held] for name, held in shared(model).items()}


def shared(model: nn.Module) -> dict[str, list[tuple[Owner, Tensor]]]:
    """Return, by the name that ``base_tensors`` uses, all owners of a tensor and what each of them holds.

    Tied modules mostly hold one object; two objects on the same memory are tied as well.
    """
    first: dict[tuple[Any, ...], str] = {}
    table: dict[str, list[tuple[Owner, Tensor]]] = {}
    for owner, tensor in owners(model):
        name = first.setdefault(_place(tensor), owner.name)
        table.setdefault(name, []).append((owner, tensor))
    return table


def same_content(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors are known to be equal bit for bit, also where they have no plain numbers to read."""
    if a is b:
        return True
    if not (why_unreadable(a) or why_unreadable(b)):
        return same_bits(a, b)
    sparse = a.layout == b.layout != torch.strided and a.layout != torch._mkldnn and a.shape == b.shape  # type: ignore[attr-defined]
    return sparse and all(same_bits(x, y) for x, y in zip(_stored(a), _stored(b), strict=True))


def _stored(sparse: Tensor) -> tuple[Tensor, ...]:
    """Return the plain tensors that hold a sparse one."""
    if sparse.layout == torch.sparse_coo:
        sparse = sparse.detach().coalesce()
        return sparse.indices(), sparse.values()
    if sparse.layout in (torch.sparse_csr, torch.sparse_bsr):
        return sparse.crow_indices(), sparse.col_indices(), sparse.values()
    return sparse.ccol_indices(), sparse.row_indices(), sparse.values()


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Return every name a tensor goes by, mapped to the one that ``base_tensors`` uses."""
    return {owner.name: name for name, held in aliases(model).items() for owner in held}


def why_unreadable(tensor: Tensor) -> str:
    """Return why a tensor has no plain numbers to read here, or an empty string if it has."""
    if nn.parameter.is_lazy(tensor):
        return "it is lazy and has no shape yet; run the model once first"
    if tensor.is_meta:
        return "it is on the meta device and has no data; load the weights first"
    if hasattr(tensor, "placements"):
        return "it is sharded over processes (DTensor); gather the full model first, or work on its checkpoint"
    if tensor.layout != torch.strided or tensor.is_quantized:
        return f"it is stored as {tensor.dtype}, {tensor.layout}; convert it to a plain dense tensor first"
    return ""


def all_finite(tensor: Tensor) -> bool:
    """Tell whether a real tensor holds no NaN or infinity."""
    if not tensor.is_floating_point():
        return True
    if tensor.dtype.itemsize == 1:  # few operations exist for eight-bit floats
        tensor = tensor.float()
    # one NaN or infinity makes the sum NaN or infinite; a finite sum that overflows is settled by the full check
    return bool(torch.isfinite(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())


def unsaturated(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return floating values for their rounding to a dtype, with NaN where torch would saturate them, without a word.

    It makes the largest number of what is beyond it, and of infinity, in float8_e4m3fn; of all other dtypes NaN or
    infinity. Beyond is what would round up from the largest number, as in the dtypes that overflow to infinity.
    """
    if not _saturates(dtype):
        return values
    held = torch.finfo(dtype)
    limit = held.max + held.eps * 2.0 ** (math.frexp(held.max)[1] - 1) / 2  # half a step beyond the largest
    values = values.float() if values.dtype.itemsize == 1 else values
    return values.masked_fill(values.abs() > limit, math.nan)


@cache
def _saturates(dtype: torch.dtype) -> bool:
    """Tell whether torch makes a number of infinity."""
    eight = dtype.is_floating_point and dtype.itemsize == 1
    return eight and math.isfinite(float(torch.tensor(math.inf).to(dtype)))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors agree in dtype, shape and every bit; also where they hold NaN, on any device."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    x, y = (t.detach().to(a.device).contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(x, y)


def matches(name: str, pattern: str) -> bool:
    """Tell whether a name matches one of the globs in ``pattern``, joined by ``|``; one with ``!`` takes away."""
    taken = False
    for glob in (part.strip() for part in pattern.split("|")):
        if fnmatch.fnmatchcase(name, glob.removeprefix("!")):
            taken = not glob.startswith("!")
    return taken
