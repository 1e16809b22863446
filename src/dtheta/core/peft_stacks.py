"""How peft lays out LoRA of bare parameters (``target_parameters``), such as experts that stand in one tensor.

    parameter W                     slice e of D = c ...     lora_A            lora_B
    (E, out, in)                    B_e A_e                  (E r, in)         (out, r E)
    (E, in, out), is_transposed     A_e^T B_e^T              (E r, in)         (out, r E)
    (out, in)                       B A                      (r, in)           (out, r)

    A_e = lora_A.reshape(E, r, in)[e]         B_e = lora_B.reshape(out, r, E)[:, :, e]

The slices follow one another in lora_A and alternate in lora_B. Which of the two orders a tensor of experts has is
said by its module's attribute ``is_transposed``, as transformers sets it.

Parameters of one module are wrapped one in another, in the module's own order, so that which one a pair of factors
belongs to shows in the depth of its name alone: the last is outermost, and every one before it has one ``.base_layer``
more.

Shape legend: E slices, m rows and n columns of each; r rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.change import Change, Factors, Shape
from dtheta.core.lowrank import LowRank
from dtheta.core.peft_config import is_called
from dtheta.core.peft_folder import PREFIX, PeftFolder, read_factors
from dtheta.core.peft_whole import plain_name
from dtheta.core.stacked import Stacked
from dtheta.core.tensors import Owner, aliases, is_term, owners
from dtheta.errors import ConfigError, UnknownParameter, UnsupportedLayer, did_you_mean


@dataclass(frozen=True)
class Wrapped:
    """One parameter as peft addresses it.

    Attributes:
        name: Of the parameter.
        stem: Start of the names of its tensors in peft's file.
        shape: Of the parameter.
        input_first: Whether its slices are stored as (in, out).
    """

    name: str
    stem: str
    shape: Shape
    input_first: bool

    @property
    def names(self) -> tuple[str, str]:
        """Names of the two factors in peft's file."""
        return f"{self.stem}.lora_A.weight", f"{self.stem}.lora_B.weight"

    @property
    def path(self) -> str:
        """Of the module that holds the parameter."""
        return plain_name(self.stem)

    @property
    def slices(self) -> int:
        """E, 1 for a matrix."""
        return self.shape[0] if len(self.shape) == 3 else 1

    def shapes(self, rank: int) -> tuple[Shape, Shape]:
        """Return the shapes of lora_A and lora_B of this rank."""
        m, n = self.shape[-2:]
        inner, outer = (m, n) if self.input_first else (n, m)
        return (self.slices * rank, inner), (outer, rank * self.slices)

    def unpack(self, a: Tensor, b: Tensor, scale: float) -> Change:
        """Return the change."""
        left, right = b, a
        if len(self.shape) == 3:
            left = b.reshape(len(b), -1, self.slices).permute(2, 0, 1)
            right = a.reshape(self.slices, -1, a.shape[1])
            left, right = (right.mT, left.mT) if self.input_first else (left, right)
        ranks = (*left.shape[:-2], left.shape[-1])
        core = None if scale == 1.0 else torch.full(ranks, scale, dtype=torch.float32)
        return (Stacked if left.ndim == 3 else LowRank)(left.contiguous(), right.contiguous(), core)

    def pack(self, stack: Stacked) -> Factors:
        """Return lora_A and lora_B of a stack without a core."""
        left, right = (stack.right.mT, stack.left.mT) if self.input_first else (stack.left, stack.right)
        return right.flatten(0, 1), left.permute(1, 2, 0).flatten(1)


def wrapped(model: nn.Module, targets: Sequence[str]) -> list[Wrapped]:
    """Return the parameters that peft wraps for these targets: those called so, or ending so after a dot.

    Raises:
        UnknownParameter: If a target is the name of none.
        UnsupportedLayer: If peft cannot wrap one, or it is neither a matrix nor a stack of matrices.
    """
    shared = {owner.name: (name, held) for name, held in aliases(model).items() for owner in held}
    found, named = list[Wrapped](), set[str]()
    for own in _own(model):
        taken = [(o, tensor) for o, tensor in own if any(is_called(o.name, target) for target in targets)]
        named |= {target for target in targets if any(is_called(owner.name, target) for owner, _ in taken)}
        for depth, (owner, tensor) in enumerate(reversed(taken)):
            name, held = shared[owner.name]
            shape = tuple(tensor.shape)
            first = len(shape) == 3 and bool(getattr(owner.module, "is_transposed", False))
            if why := _why_not_wrapped(owner, held, shape, first):
                raise UnsupportedLayer(f"{owner.name}: {why}; leave it out, or merge it")
            found.append(Wrapped(name, f"{PREFIX}{owner.path}{'.base_layer' * depth}", shape, first))
    for target in targets:
        if target not in named:
            near = did_you_mean(target, shared)
            raise UnknownParameter(f"the folder adapts a parameter {target!r}, which this model does not have{near}")
    return found


def _own(model: nn.Module) -> Iterable[list[tuple[Owner, Tensor]]]:
    """Return the parameters that each module holds itself, under its first path and in its own order."""
    found: dict[int, list[tuple[Owner, Tensor]]] = {}
    for owner, tensor in owners(model, buffers=False):
        held = found.setdefault(id(owner.module), [])
        if isinstance(tensor, nn.Parameter) and (not held or held[0][0].path == owner.path):
            held.append((owner, tensor))
    for held in found.values():
        place = {name: i for i, name in enumerate(_order(held[0][0].module))} if held else {}
        held.sort(key=lambda item, place=place: place.get(item[0].attribute, len(place)))
    return found.values()


def _order(module: nn.Module) -> list[str]:
    """Return the names of a module's parameters as it had them before an adapter of ours was put on some."""
    entries: Any = module._modules.get("parametrizations") or {}
    before = next((p.order for entry in entries.values() for p in entry if is_term(p)), [])
    return list(dict.fromkeys([*before, *module._parameters, *entries]))


def _why_not_wrapped(owner: Owner, held: Sequence[Owner], shape: Shape, input_first: bool) -> str:
    """Return why peft has no factors of a parameter, or not those that its shape says; else an empty string."""
    if len(shape) not in (2, 3):
        return f"peft has no LoRA of a parameter of shape {shape}; expected 2 or 3 sides"
    if not owner.path:
        return "peft wraps the module that holds a parameter, and here that is the model itself"
    if len({id(other.module) for other in held}) > 1:
        return "several modules share this parameter, and peft would move it in one of them alone"
    if input_first and shape[0] == 1:
        return "peft takes a single expert as stored (out, in), whatever its module's is_transposed says"
    return ""


def read_stacks(folder: PeftFolder, model: nn.Module) -> dict[str, tuple[str, Change]]:
    """Return the changes of all target parameters by the start of their names in the file, each with its own name.

    Raises:
        UnsupportedLayer: If their start was taken from the weights.
    """
    config = folder.config
    if not config.parameters:
        return {}
    if str(config.init).startswith("pissa"):
        raise UnsupportedLayer(
            f"{folder.path} was saved with init_lora_weights={config.init!r} and target_parameters, of "
            "which peft takes no such start"
        )
    found = {}
    for place in wrapped(model, config.parameters):
        rank = config.rank_of(place.name)
        a, b = read_factors(folder, place.names, place.shapes(rank), rank)
        found[place.stem] = (place.name, place.unpack(a, b, config.scale_of(place.name)))
    return found


def packed_stacks(stacks: Mapping[str, Stacked], model: nn.Module | None) -> list[tuple[Wrapped, Factors]]:
    """Return the factors of stacks as peft has them.

    Raises:
        ConfigError: If the model is needed, or a name of one would name another parameter too.
    """
    if not stacks:
        return []
    if model is None:
        raise ConfigError(
            f"{next(iter(stacks))}: how peft calls the factors of experts follows from the order of their module's "
            "parameters: pass the base, dt.to_peft(delta, folder, model=model)"
        )
    places = {place.name: place for place in wrapped(model, list(stacks))}
    if others := sorted(places.keys() - stacks.keys()):
        raise ConfigError(
            f"{others[0]}: peft would take this parameter for one that the delta changes, whose name ends likewise"
        )
    return [(places[name], places[name].pack(stack)) for name, stack in stacks.items()]
