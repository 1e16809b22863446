"""What a folder of peft's stores in full beside LoRA's factors: modules_to_save, and biases.

    modules_to_save        base_model.model.MODULE.weight        a copy of the module that trained
    bias="all"             base_model.model.MODULE.bias          of every module, trained or not; of one that has
    bias="lora_only"       ....MODULE.base_layer.bias            factors, under this name (attention's: two of them)

Each is base plus change, so it is read as the dense change relative to the model and needs the base to be written.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from dtheta.core.change import Change, Dense
from dtheta.core.delta import Delta
from dtheta.core.difference import difference
from dtheta.core.displace import displaced
from dtheta.core.peft_folder import PREFIX, WEIGHTS, PeftFolder
from dtheta.core.tensors import aliases, base_tensors, canonical_names
from dtheta.errors import ConfigError, FormatError, UnsupportedLayer


def read_modules(folder: PeftFolder, model: nn.Module, wanted: bool) -> dict[str, Change]:
    """Return the dense changes of the modules that a folder stores in full.

    Raises:
        UnsupportedLayer: If they are not ``wanted``, or one is a copy of a weight that others share.
        FormatError: If one does not fit the model.
    """
    modules = folder.config.modules_to_save
    if not modules:
        return {}
    tensors, canonical = base_tensors(model), canonical_names(model)
    whole = {PREFIX + name for name in canonical if _in_modules(name, modules)}
    found: dict[str, Change] = {}
    for stored in folder.tensors:
        name = stored.removeprefix(PREFIX)
        if stored in folder.seen or not _in_modules(name, modules):
            continue
        if not wanted:
            raise UnsupportedLayer(
                f"the folder stores modules in full beside LoRA's factors ({', '.join(modules)}); "
                "from_peft(..., modules_to_save=True) reads them as dense changes relative to this model"
            )
        if (change := _change(folder, stored, name, tensors.get(canonical.get(name, "")))) is not None:
            _check_untied(folder, model, stored, whole)
            found[canonical[name]] = change
    return found


def read_biases(folder: PeftFolder, model: nn.Module, adapted: Collection[str]) -> dict[str, Change]:
    """Return the dense changes of biases that trained beside the factors.

    Args:
        folder: What is read.
        model: The base.
        adapted: Paths of the modules that have factors.

    Raises:
        FormatError: If one does not fit the model, or that of an adapted module is missing.
    """
    if folder.config.bias == "none":
        return {}
    tensors, canonical = base_tensors(model), canonical_names(model)
    found: dict[str, Change] = {}
    read = set()
    for stored in [name for name in folder.tensors if name not in folder.seen and is_bias(name)]:
        read.add(name := plain_name(stored))
        if (change := _change(folder, stored, name, tensors.get(canonical.get(name, "")))) is not None:
            found[canonical[name]] = change
    for name in (f"{path}.bias" for path in adapted):
        if name in canonical and name not in read:
            raise FormatError(
                f"{folder.path / WEIGHTS} lacks {name!r}, though bias={folder.config.bias!r} trained it; save the "
                "adapter again with a newer peft"
            )
    return found


def saved_modules(delta: Delta, modules: Sequence[str], model: nn.Module | None) -> dict[str, Tensor]:
    """Return base plus change of every parameter of the modules that are to be stored in full.

    Raises:
        ConfigError: If there is no base, or a name means several modules or none.
        UnsupportedLayer: If a changed weight is shared with a module that is not stored in full.
    """
    if not modules:
        return {}
    if model is None:
        raise ConfigError("modules_to_save stores base plus change and needs the base: to_peft(..., model=model)")
    tensors, canonical = base_tensors(model), canonical_names(model)
    known = [path for path, _ in model.named_modules()]
    for module in modules:
        if (hits := [path for path in known if path.endswith(module)]) != [module]:
            raise ConfigError(
                f"modules_to_save: peft takes {module!r} for every module whose name ends so, here {hits}; expected one"
            )
    names = [name for name in canonical if inside(name, modules)]
    for name, owners in aliases(model).items():
        outside = [owner.name for owner in owners if not inside(owner.name, modules)]
        if name in delta and outside and len(outside) < len(owners):
            within = next(owner.name for owner in owners if owner.name not in outside)
            raise UnsupportedLayer(
                f"{within}: this weight is tied to {outside[0]!r}, which is not among modules_to_save; peft loads a "
                "copy into the saved module alone and so unties them. Save neither or both in full, or untie the model"
            )
    return {f"{PREFIX}{name}": _moved(delta, canonical[name], tensors) for name in names}


def saved_biases(
    delta: Delta, moved: Collection[str], adapted: Collection[str], modules: Sequence[str], model: nn.Module | None
) -> dict[str, Tensor]:
    """Return base plus change of every bias of the model, as bias="all" stores them; nothing where none moves.

    Args:
        delta: What is written.
        moved: Names of the biases that it moves.
        adapted: Paths of the modules that have factors, once for each pair of them.
        modules: Those that are stored in full by themselves.
        model: The base.

    Raises:
        ConfigError: If there is no base.
    """
    if not moved:
        return {}
    if model is None:
        raise ConfigError(
            f"{min(moved)}: peft stores base plus change of a bias, so this needs the base: to_peft(..., model=model)"
        )
    tensors, canonical = base_tensors(model), canonical_names(model)
    names = [name for name in canonical if is_bias(name) and not inside(name, modules)]
    return {_stored_name(name, adapted): _moved(delta, canonical[name], tensors) for name in names}


def is_bias(name: str) -> bool:
    """Tell whether peft takes a parameter of this name for a bias."""
    return name == "bias" or name.endswith(".bias")


def inside(name: str, modules: Sequence[str]) -> bool:
    """Tell whether a parameter belongs to one of some modules, given by their paths."""
    return any(name.startswith(f"{module}.") for module in modules)


def plain_name(stored: str) -> str:
    """Return the model's own name of what peft keeps in the modules that it wraps, some of them several times."""
    return re.sub(r"(\.base_layer)+(?=\.|$)", "", stored.removeprefix(PREFIX))


def _stored_name(name: str, adapted: Collection[str]) -> str:
    """Return what peft calls a parameter, given the paths of the modules that it wraps, each as often as it does."""
    for path in sorted((plain_name(path) for path in adapted), key=len, reverse=True):
        if name.startswith(f"{path}."):
            name = f"{path}.base_layer{name.removeprefix(path)}"
    return f"{PREFIX}{name}"


def _moved(delta: Delta, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    base = tensors[name].detach().cpu()
    return displaced(base, [delta[name]], name) if name in delta else base.clone()


def _change(folder: PeftFolder, stored: str, name: str, base: Tensor | None) -> Change | None:
    """Return the change from a base to what is stored in full; None where it is the same.

    The difference of two float32 numbers is exact in float64, so that base plus change gives back what was stored.
    """
    tensor = folder.tensors[stored]
    if base is None or base.shape != tensor.shape:
        shape = None if base is None else tuple(base.shape)
        raise FormatError(f"the folder stores {name!r} in full as {tuple(tensor.shape)}; this model has {shape}")
    if tensor.is_complex() or tensor.is_floating_point() != base.is_floating_point():
        raise FormatError(f"the folder stores {name!r} in full as {tensor.dtype}; this model has {base.dtype}")
    folder.take(stored)
    step = difference(f"{folder.path / WEIGHTS}: {stored}", base, tensor, torch.float64)
    return Dense(step) if bool((step != 0).any()) else None


def _in_modules(name: str, modules: Sequence[str]) -> bool:
    return any(re.match(rf"(.*\.)?{re.escape(module)}\.", name) for module in modules)


def _check_untied(folder: PeftFolder, model: nn.Module, stored: str, whole: set[str]) -> None:
    """Raise where a trained copy of a module holds a weight that others share, unless all have copies of one content.

    peft trains a copy of the module, which unties it, so that the others keep the base's weight.
    """
    name = stored.removeprefix(PREFIX)
    held = next(owners for owners in aliases(model).values() if any(owner.name == name for owner in owners))
    for owner in held:
        copy = PREFIX + owner.name
        if copy not in whole or not torch.equal(folder.tensors.get(copy, torch.empty(0)), folder.tensors[stored]):
            raise UnsupportedLayer(
                f"the folder stores {name!r} in full, which this model ties to {owner.name!r}: peft trained a copy of "
                f"its own there and left {owner.name!r} as it was, which no change of the shared weight does; untie "
                "the model first (tie_word_embeddings=False, or a clone of the weight)"
            )
