"""Reading peft's LoRA folders: tensors to factors, and every way in which a folder can be something else.

    D = c B A   is kept as   left B, core (c, ..., c), right A   (transposed where the layer stores its weight so)

A folder saved from ``init_lora_weights="pissa"`` without conversion holds A and B alone, relative to the residual
W - c B0 A0 of a start that is not in the file. Exact "pissa" takes B0 A0 from a full SVD of W, so it can be had again:
D = c (B A - B0 A0). The fast variants draw random numbers for it, so no one can, peft included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.change import Change, Dense, Factors, matrix_shape
from dtheta.core.delta import Delta
from dtheta.core.difference import difference
from dtheta.core.fingerprint import Fingerprint, fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.peft_config import PeftConfig, read_config
from dtheta.core.peft_layers import Layout, layouts, uses
from dtheta.core.provenance import Provenance
from dtheta.core.tensorfile import open_tensors, parse_json
from dtheta.core.tensors import aliases, base_tensors, canonical_names
from dtheta.errors import FormatError, UnknownParameter, UnsupportedLayer, did_you_mean

WEIGHTS = "adapter_model.safetensors"
BASE = "dtheta.base"
_PREFIX = "base_model.model."
_FACTOR_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # peft has no LoRA in eight bits
_FACTOR = re.compile(r"(?P<stem>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B)")


@dataclass
class _Folder:
    """A folder's tensors, and which of them have been understood."""

    path: Path
    config: PeftConfig
    tensors: dict[str, Tensor]
    header: Mapping[str, str]
    seen: set[str] = field(default_factory=set)

    def take(self, name: str) -> Tensor | None:
        """Return a tensor and note that it was read."""
        self.seen.add(name)
        return self.tensors.get(name)


def read_delta(path: Path, model: nn.Module, modules_to_save: bool, pissa_start: bool, strict: bool) -> Delta:
    """See ``interop.from_peft``."""
    folder = _open(path)
    _check_start(folder, pissa_start)
    _check_base(folder, model, strict)
    changes = _low_rank(folder, model, pissa_start) | _whole_modules(folder, model, modules_to_save)
    _check_rest(folder, model)
    if not changes:
        raise FormatError(f"{path / WEIGHTS} holds no factors of LoRA")
    order = {name: i for i, name in enumerate(base_tensors(model))}
    changes = dict(sorted(changes.items(), key=lambda item: order[item[0]]))
    base = fingerprint(model).restrict(changes)
    return Delta(changes, base, _provenance(folder, model, list(changes)))


def _open(path: Path) -> _Folder:
    if not path.is_dir():
        raise FormatError(f"{path} is no folder; expected one with adapter_config.json and {WEIGHTS}")
    config = read_config(path)
    weights = path / WEIGHTS
    if not weights.is_file():
        pickled = " (its adapter_model.bin is a pickle, which dtheta never opens: save it again with peft)"
        there = (path / "adapter_model.bin").exists()
        raise FormatError(f"{path} has no {WEIGHTS}{pickled if there else ''}")
    file = open_tensors(weights)
    return _Folder(path, config, {name: file.read(name) for name in file.entries}, file.metadata)


def _check_start(folder: _Folder, pissa_start: bool) -> None:
    """Raise where the factors are relative to a residual and not to the base."""
    init = folder.config.init
    if not str(init).startswith("pissa") or (init == "pissa" and pissa_start):
        return
    how = (
        "exact 'pissa' takes its start from a full SVD of the weights, so from_peft(..., pissa_start=True) can compute "
        "it again"
        if init == "pissa"
        else "the fast variants draw it at random, so it cannot be had again, and peft reloads such a folder wrong"
    )
    raise UnsupportedLayer(
        f"{folder.path} was saved with init_lora_weights={init!r} and not converted: its factors are relative to the "
        f"residual of a start that the folder does not hold. Convert it where it was trained (save_pretrained(folder, "
        f"path_initial_model_for_weight_conversion=...)); {how}"
    )


def _check_base(folder: _Folder, model: nn.Module, strict: bool) -> None:
    if not strict or BASE not in folder.header:
        return
    digests = parse_json(folder.header[BASE], f"{folder.path / WEIGHTS}: the base's digests in the header")
    if not isinstance(digests, dict) or not all(isinstance(d, str) for d in digests.values()):
        raise FormatError(f"{folder.path / WEIGHTS}: the base's digests in the header are no table of strings")
    Fingerprint(digests).check(model)


def _low_rank(folder: _Folder, model: nn.Module, pissa_start: bool) -> dict[str, Change]:
    """Return the change of every parameter whose modules have factors in the folder."""
    stems = dict.fromkeys(m["stem"] for name in folder.tensors if (m := _FACTOR.fullmatch(name)))
    tensors, table = base_tensors(model), _stems(model)
    companions = {c.stem: (c, layout) for _, layout in table.values() if (c := layout.companion) is not None}
    found: dict[str, Change] = {}
    for stem in stems:
        if stem in companions:
            _check_companion(folder, *companions[stem])
            continue
        if stem not in table:
            inner = stem.removeprefix(_PREFIX)
            raise UnknownParameter(
                f"the folder adapts a module {inner!r}, which this model does not have, or which has no layer of "
                f"LoRA{did_you_mean(inner, (s.removeprefix(_PREFIX) for s in table))}"
            )
        name, layout = table[stem]
        change = _change(folder, name, layout, tensors[name], pissa_start)
        if name in found and not torch.equal(found[name].dense(), change.dense()):
            raise UnsupportedLayer(f"{name}: this weight is shared by modules to which the folder adds different terms")
        found.setdefault(name, change)
    _check_complete(folder, table, stems, found)
    return found


def _check_companion(folder: _Folder, companion: Layout, attention: Layout) -> None:
    """Raise unless the factors of an attention's output projection are zero; see ``peft_layers``."""
    a, b = _factors(folder, companion, folder.config.rank_of(attention.path))
    if bool((a != 0).any()) and bool((b != 0).any()):
        raise UnsupportedLayer(
            f"{attention.path}.out_proj: peft adds the term of this projection twice, in training and when it merges "
            "(its pull request 3774), so what the folder means depends on its version; merge it with the peft that "
            "trained it and use dt.extract(base, merged, rank=...)"
        )


def _stems(model: nn.Module) -> dict[str, tuple[str, Layout]]:
    """Return every place where peft may have factors, by the start of their names: the parameter and its layout."""
    tensors, recorded = base_tensors(model), uses(model)
    table = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, nn.Parameter) and tensor.ndim >= 2:
            for layout in layouts(name, tuple(tensor.shape), recorded):
                if layout.use not in ("bare", "bypassed"):
                    table[layout.stem] = (name, layout)
    return table


def _change(folder: _Folder, name: str, layout: Layout, weight: Tensor, pissa_start: bool) -> LowRank:
    a, b = _factors(folder, layout, folder.config.rank_of(layout.path))
    factors = layout.unpack(a, b)
    if factors is None:
        raise UnsupportedLayer(
            f"{name}: peft's factors of this grouped convolution reach across its groups, which no change of its "
            "weight does"
        )
    scale = folder.config.scale_of(layout.path)
    left, right = (t.contiguous() for t in factors)
    core = None if scale == 1.0 else _core(left, scale)
    if not pissa_start:
        return LowRank(left, right, core, tuple(weight.shape))
    left0, right0 = _pissa_start(layout, weight, folder.config.rank_of(layout.path))
    core = torch.cat([_core(left, scale), _core(left0, -1.0)])
    return LowRank(torch.cat([left, left0], 1), torch.cat([right, right0]), core, tuple(weight.shape))


def _core(left: Tensor, scale: float) -> Tensor:
    """Return one factor for every column of ``left`` (m, r), (r,) float32."""
    return torch.full((left.shape[1],), scale, dtype=torch.float32)


def _pissa_start(layout: Layout, weight: Tensor, rank: int) -> Factors:
    """Return factors of c B0 A0: the best approximation of this rank, by the SVD that peft runs."""
    if layout.use not in ("linear", "transposed"):
        empty = weight.new_zeros(0, dtype=torch.float32)
        rows, columns = matrix_shape(weight.shape)
        return empty.reshape(rows, 0), empty.reshape(0, columns)  # peft starts other layers as plain LoRA
    matrix = weight.detach().float().cpu()
    U, S, Vh = torch.linalg.svd(matrix if layout.use == "linear" else matrix.T, full_matrices=False)
    left, right = U[:, :rank] * S[:rank], Vh[:rank]
    return (left, right) if layout.use == "linear" else (right.T.contiguous(), left.T.contiguous())


def _factors(folder: _Folder, layout: Layout, rank: int) -> tuple[Tensor, Tensor]:
    """Return lora_A and lora_B of a module, checked against its shape and the configured rank."""
    found = []
    for name, shape in zip(layout.names, layout.shapes(rank), strict=True):
        tensor = folder.take(name)
        if tensor is None:
            raise FormatError(f"{folder.path / WEIGHTS} lacks the tensor {name!r}")
        if tuple(tensor.shape) != shape or tensor.dtype not in _FACTOR_DTYPES:
            raise FormatError(
                f"{folder.path / WEIGHTS}: {name} is {tuple(tensor.shape)} of {tensor.dtype}; expected {shape} at the "
                f"configured rank {rank}, in float32, float64, bfloat16 or float16"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise FormatError(f"{folder.path / WEIGHTS}: {name} holds NaN or infinity")
        found.append(tensor)
    return found[0], found[1]


def _check_complete(
    folder: _Folder, table: Mapping[str, tuple[str, Layout]], stems: Mapping[str, Any], found: Mapping[str, Change]
) -> None:
    """Raise where the configuration names a module that has no factors, or leaves out one of a shared weight."""
    for stem, (name, layout) in table.items():
        if stem in stems:
            continue
        if name in found and not folder.config.raw.get("ensure_weight_tying"):
            raise UnsupportedLayer(
                f"{name}: the folder adapts one of the modules that share this weight and not {layout.path!r}, which "
                "no change of the weight does; untie the model first (tie_word_embeddings=False)"
            )
        if name not in found and not folder.config.narrows() and folder.config.names(layout.path):
            raise FormatError(
                f"{folder.path / WEIGHTS} lacks the factors of {layout.path!r}, which target_modules names"
            )


def _whole_modules(folder: _Folder, model: nn.Module, wanted: bool) -> dict[str, Change]:
    """Return the dense changes of the modules that the folder stores in full."""
    modules = folder.config.modules_to_save
    if not modules:
        return {}
    tensors, canonical = base_tensors(model), canonical_names(model)
    whole = {_PREFIX + name for name in canonical if _in_modules(name, modules)}
    found: dict[str, Change] = {}
    for stored, tensor in folder.tensors.items():
        name = stored.removeprefix(_PREFIX)
        if stored in folder.seen or not _in_modules(name, modules):
            continue
        if not wanted:
            raise UnsupportedLayer(
                f"the folder stores modules in full beside LoRA's factors ({', '.join(modules)}); "
                "from_peft(..., modules_to_save=True) reads them as dense changes relative to this model"
            )
        base = tensors.get(canonical.get(name, ""))
        if base is None or base.shape != tensor.shape:
            shape = None if base is None else tuple(base.shape)
            raise FormatError(f"the folder stores {name!r} in full as {tuple(tensor.shape)}; this model has {shape}")
        if tensor.is_complex() or tensor.is_floating_point() != base.is_floating_point():
            raise FormatError(f"the folder stores {name!r} in full as {tensor.dtype}; this model has {base.dtype}")
        folder.take(stored)
        # the difference of two float32 numbers is exact in float64, so that base plus change gives back what was stored
        step = difference(f"{folder.path / WEIGHTS}: {stored}", base, tensor, torch.float64)
        if bool((step != 0).any()):
            _check_untied(folder, model, stored, whole)
            found[canonical[name]] = Dense(step)
    return found


def _in_modules(name: str, modules: Sequence[str]) -> bool:
    return any(re.match(rf"(.*\.)?{re.escape(module)}\.", name) for module in modules)


def _check_untied(folder: _Folder, model: nn.Module, stored: str, whole: set[str]) -> None:
    """Raise where a trained copy of a module holds a weight that others share, unless all have copies of one content.

    peft trains a copy of the module, which unties it, so that the others keep the base's weight.
    """
    name = stored.removeprefix(_PREFIX)
    held = next(owners for owners in aliases(model).values() if any(owner.name == name for owner in owners))
    for owner in held:
        copy = _PREFIX + owner.name
        if copy not in whole or not torch.equal(folder.tensors.get(copy, torch.empty(0)), folder.tensors[stored]):
            raise UnsupportedLayer(
                f"the folder stores {name!r} in full, which this model ties to {owner.name!r}: peft trained a copy of "
                f"its own there and left {owner.name!r} as it was, which no change of the shared weight does; untie "
                "the model first (tie_word_embeddings=False, or a clone of the weight)"
            )


def _check_rest(folder: _Folder, model: nn.Module) -> None:
    """Raise for a tensor that was not understood; copies of base tensors, as peft stores of embeddings, may stay."""
    tensors, canonical = base_tensors(model), canonical_names(model)
    for stored, tensor in folder.tensors.items():
        if stored in folder.seen:
            continue
        name = stored.removeprefix(_PREFIX).replace(".base_layer.", ".")
        base = tensors.get(canonical.get(name, ""))
        if base is None:
            raise FormatError(f"{folder.path / WEIGHTS} holds a tensor {stored!r} that plain LoRA does not have")
        if base.shape != tensor.shape or not torch.equal(base.detach().cpu(), tensor.to(base.dtype)):
            raise UnsupportedLayer(
                f"the folder brings its own {name!r} of shape {tuple(tensor.shape)}, which differs from the model's "
                f"{tuple(base.shape)}: a resized or retrained embedding is not part of LoRA"
            )


def _provenance(folder: _Folder, model: nn.Module, names: list[str]) -> Provenance:
    config = folder.config
    alpha = None if not config.rslora and config.alpha == config.rank else config.alpha
    method = {
        "name": "LoRA",
        "rank": config.rank,
        "alpha": alpha,
        "rslora": config.rslora,
        "dropout": config.dropout,
    }
    source = {key: config.raw[key] for key in ("base_model_name_or_path", "peft_version") if config.raw.get(key)}
    settings = {"source": "peft", **source, "uses": uses(model, names)}
    return Provenance("from_peft", method, settings=settings)
