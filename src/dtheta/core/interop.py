"""Adapter folders of the peft library: write one that it loads on the untouched base, and read what it wrote.

    ours   W x + L R x        any number of low-rank terms, multiples and sums of them, on one base
    peft   W x + c B A x      one pair of factors a module

A delta is written as its stacked factors, so the rank adds up: 2r for a PiSSA or SORSA delta of rank r, since
B A - B0 A0 = [B, -B0] [A; A0], and r1 + r2 for a sum. Nothing is rounded to a lower rank; ``recompress`` does that on
request. Ranks that differ by module go into rank_pattern, with alpha equal to the rank so that c = 1.

peft itself is not needed here; its version 0.21 is what the tests compare with. The base's digests go into the header
of the safetensors file, where peft does not look and ``from_peft`` does.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.apply import bind
from dtheta.core.arguments import one_delta, require_flag
from dtheta.core.change import Change, Factors
from dtheta.core.delta import Delta
from dtheta.core.output import require_space, write_folder
from dtheta.core.paths import expanded
from dtheta.core.peft_config import CONFIG
from dtheta.core.peft_folder import BASE, WEIGHTS
from dtheta.core.peft_layers import Layout, Uses, layouts, uses, why_not_used
from dtheta.core.peft_reader import read_delta
from dtheta.core.peft_stacks import Wrapped, packed_stacks
from dtheta.core.peft_whole import inside, is_bias, saved_biases, saved_modules
from dtheta.core.stacked import stack_of
from dtheta.core.tensorfile import data_of, write_tensors
from dtheta.errors import ConfigError, UnsupportedLayer


def to_peft(
    delta: Delta,
    folder: str | PathLike[str],
    base_name: str | None = None,
    dtype: torch.dtype | None = None,
    *,
    model: nn.Module | None = None,
    modules_to_save: Sequence[str] = (),
) -> Path:
    """Write a delta as a LoRA folder that ``peft.PeftModel.from_pretrained(base, folder)`` loads.

    Args:
        delta: Low-rank changes of linear layers (also GPT-2's), embeddings, convolutions, attention projections and
            experts; beside them changes of biases, which are stored in full. Experts and biases need ``model``.
        folder: Where to; it must not exist, or be empty, and appears complete or not at all.
        base_name: Name or path of the base, for peft's configuration.
        dtype: Of the stored factors; float32 by default. A narrower one rounds.
        model: The base. Needed where the delta does not record how modules use its parameters: deltas that an adapter
            made record it, others (extracted, loaded from elsewhere) may not.
        modules_to_save: Names of modules, such as a head, to store in full as base plus change, whatever the kind of
            their changes; needs ``model``.

    Returns:
        The folder.

    Raises:
        UnsupportedLayer: For a change that LoRA cannot carry; the message names the parameter and what to do.
        ConfigError: If a spectral change is not bound to its base, or ``model`` is needed.
        BaseMismatch: If ``model`` is not the base of the delta.
        NonFinite: If the dtype of a module to be stored in full cannot hold base plus change.
        OutputError: If the folder cannot be written, or exists.
    """
    delta = one_delta(delta)
    if model is not None:
        delta = bind(delta, model)
    saved = saved_modules(delta, modules_to_save, model)
    rest = {name: change for name, change in delta.changes.items() if not inside(name, modules_to_save)}
    biases = [name for name, change in rest.items() if is_bias(name) and not change.is_new]
    stacks = {name: stack for name, change in rest.items() if (stack := stack_of(change)) is not None}
    recorded = _recorded(delta, model) if rest else {}
    products = {name: change for name, change in rest.items() if name not in biases and name not in stacks}
    pairs = [pair for name, change in products.items() for pair in _pairs(name, change, recorded)]
    experts = packed_stacks(stacks, model)
    _check_beside([place for place, _ in experts], [layout for layout, _ in pairs], modules_to_save)
    if not pairs and not experts:
        full = ", ".join([*biases, *modules_to_save]) or "nothing"
        raise ConfigError(
            f"nothing is left for LoRA's factors beside what is stored in full ({full}), and peft has no adapter "
            "folder without any; merge the delta"
        )
    paths = Counter(layout.path for layout, _ in pairs)
    if twice := next((path for path, count in paths.items() if count > 1), None):
        raise ConfigError(
            f"two changes of this delta are recorded for the module {twice!r}; pass the base, model=model"
        )
    modules = [*pairs, *_companions(pairs)]
    wrapped = [*(layout.path for layout, _ in modules), *(place.path for place, _ in experts)]
    saved |= saved_biases(delta, biases, wrapped, modules_to_save, model)
    stored = [*((layout.names, factors) for layout, factors in modules), *((e.names, pair) for e, pair in experts)]
    tensors = saved | {name: t for names, factors in stored for name, t in _named_factors(names, factors, dtype)}
    ranks = {name: stack.slice_rank for name, stack in stacks.items()}
    config = _config(pairs, ranks, base_name, list(modules_to_save)) | ({"bias": "all"} if biases else {})
    return _write(expanded(folder), config, tensors, {BASE: json.dumps(dict(delta.base.digests), sort_keys=True)})


def from_peft(
    folder: str | PathLike[str],
    model: nn.Module,
    *,
    modules_to_save: bool = False,
    pissa_start: bool = False,
    strict: bool = True,
) -> Delta:
    """Read a LoRA folder that peft wrote, as a delta of ``model``; the factors stay as they are.

    Biases that trained as well (bias="all" or "lora_only") are dense changes relative to ``model``.

    Args:
        folder: With adapter_config.json and adapter_model.safetensors.
        model: The base that the adapter was trained on; its modules say how the factors are to be read.
        modules_to_save: Read modules that the folder stores in full too, as dense changes relative to ``model``.
        pissa_start: For folders saved with init_lora_weights "pissa" and not converted: compute the start from the
            model's weights, by the same full SVD that peft runs whenever it loads such a folder.
        strict: Whether a folder that names its base's digests (ours do) must have been made on this very model.

    Returns:
        The delta; its method is LoRA, so that ``attach(model, delta)`` trains on.

    Raises:
        UnsupportedLayer: If it is not plain LoRA (DoRA, other peft types, ...), by name.
        FormatError: If a file is damaged, or tensors are missing, left over or of another shape than configured.
        UnknownParameter: For a module that the model does not have.
        BaseMismatch: If the folder names another base.
        ConfigError: If one of the three is neither True nor False.
    """
    for name, value in (("modules_to_save", modules_to_save), ("pissa_start", pissa_start), ("strict", strict)):
        require_flag(value, name)
    return read_delta(expanded(folder), model, modules_to_save, pissa_start, strict)


def _recorded(delta: Delta, model: nn.Module | None) -> Uses:
    """Return how modules use the parameters: from the model, else from what the delta records."""
    if model is not None:
        return uses(model, delta)
    record = delta.provenance.settings.get("uses")
    if not isinstance(record, Mapping):
        raise ConfigError(
            "this delta does not record how the modules use its parameters (a linear layer, GPT-2's transposed one, an "
            "embedding), and shapes alone do not say: pass the base, dt.to_peft(delta, folder, model=model)"
        )
    for name, change in delta.changes.items():
        if (entry := record.get(name)) is not None and (wrong := why_not_used(entry, tuple(change.shape))):
            raise ConfigError(
                f"{name}: what this delta records of how modules use the parameter cannot be: {wrong}; pass the base, "
                "dt.to_peft(delta, folder, model=model)"
            )
    return {name: dict(record[name]) for name in delta.changes if name in record}


def _pairs(name: str, change: Change, recorded: Uses) -> list[tuple[Layout, Factors]]:
    """Return the factors of one change for every module that uses its parameter."""
    if change.is_new:
        raise UnsupportedLayer(
            f"{name}: a new vector is no displacement of a weight, and peft's LoRA has no place for it; keep the "
            ".delta file, or leave it out with delta.restrict(...)"
        )
    found = layouts(name, tuple(change.shape), recorded)
    if any(layout.use == "bypassed" for layout in found):
        raise UnsupportedLayer(
            f"{name}: a module around this layer uses its weight past its forward, and there peft adds LoRA twice "
            "(out_proj of nn.MultiheadAttention) or not at all (nn.TransformerEncoderLayer); leave it out with "
            "delta.restrict(...), or merge the delta"
        )
    if any(layout.use == "bare" for layout in found) or len(change.shape) < 2:
        raise UnsupportedLayer(
            f"{name}: peft's LoRA has no layer for a parameter of shape {tuple(change.shape)} used in this way (a "
            "norm, a bare parameter, a dilated or transposed convolution); leave it out with "
            "delta.restrict(...), store its module in full with modules_to_save=[...], or merge the delta"
        )
    try:
        factors = change.factors(torch.float64)
    except ConfigError as error:  # a spectral change without its base
        raise ConfigError(f"{name}: {error}, or pass model=...") from None
    if factors is None:
        raise UnsupportedLayer(
            f"{name}: a {change.kind} change has no low-rank factors for peft; approximate it with "
            "dt.recompress(delta, rank=...), leave it out with delta.restrict(...), or merge the delta"
        )
    return [(layout, layout.pack(*factors)) for layout in found]


def _companions(pairs: Sequence[tuple[Layout, Factors]]) -> list[tuple[Layout, Factors]]:
    """Return the zeros that peft wants beside the factors of an attention's input projection."""
    found = []
    for layout, (a, _) in pairs:
        if (companion := layout.companion) is not None:
            a_shape, b_shape = companion.shapes(len(a))
            found.append((companion, (a.new_zeros(a_shape), a.new_zeros(b_shape))))
    return found


def _check_beside(experts: Sequence[Wrapped], layers: Sequence[Layout], whole: Sequence[str]) -> None:
    """Raise where peft cannot load what stands beside experts, or would look for it under other names.

    Raises:
        UnsupportedLayer: For layers in the module that holds experts, and for GPT-2's.
    """
    for place in experts:
        others = [*(layout.path for layout in layers), *whole, *(p.path for p in experts if p.path != place.path)]
        if inner := next((path for path in others if f"{path}.".startswith(f"{place.path}.")), None):
            raise UnsupportedLayer(
                f"{place.name}: peft wraps the module {place.path!r} that holds this parameter, and cannot adapt or "
                f"save {inner!r} inside of it as well; write them apart, with delta.restrict(...)"
            )
    if experts and (layer := next((layout.path for layout in layers if layout.use == "transposed"), None)):
        raise UnsupportedLayer(
            f"{experts[0].name}: peft has no factors of such a parameter beside those of a layer that is stored as "
            f"(in, out), here {layer!r}; write them apart, with delta.restrict(...)"
        )


def _named_factors(names: Sequence[str], factors: Factors, dtype: torch.dtype | None) -> list[tuple[str, Tensor]]:
    moved = [t.to("cpu", dtype or torch.float32).contiguous() for t in factors]
    return list(zip(names, moved, strict=True))


def _config(
    pairs: Sequence[tuple[Layout, Factors]], experts: Mapping[str, int], base_name: str | None, whole: list[str]
) -> dict[str, Any]:
    """Return peft's configuration: c = 1 everywhere, and modules and parameters named in full and nothing else."""
    paths = {layout.path: len(a) for layout, (a, _) in pairs}
    ranks = {**paths, **experts}
    common = Counter(ranks.values()).most_common(1)[0][0]
    other = {f"^{re.escape(path)}": rank for path, rank in ranks.items() if rank != common}
    transposed = any(layout.use == "transposed" for layout, _ in pairs)
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base_name,
        "r": common,
        "lora_alpha": common,
        "rank_pattern": other,
        "alpha_pattern": other,
        "use_rslora": False,
        # a list would also take every module whose path ends in one of its names
        "target_modules": "|".join(re.escape(path) for path in paths) or [],
        "target_parameters": list(experts) or None,
        "modules_to_save": whole or None,
        "fan_in_fan_out": transposed,
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
        "task_type": None,
    }


def _write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], header: dict[str, str]) -> Path:
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    require_space(folder, sum(t.numel() * t.element_size() for t in tensors.values()))
    with write_folder(folder) as made:
        with (made / WEIGHTS).open("xb") as handle:
            write_tensors(handle, specs, {"format": "pt", **header}, lambda name: [data_of(tensors[name])])
        (made / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return folder
