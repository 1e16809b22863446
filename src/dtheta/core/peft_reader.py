"""Reading peft's LoRA folders: tensors to factors, and every way in which a folder can be something else.

    D = c B A   is kept as   left B, core (c, ..., c), right A   (transposed where the layer stores its weight so)

A folder saved from ``init_lora_weights="pissa"`` without conversion holds A and B alone, relative to the residual
W - c B0 A0 of a start that is not in the file. Exact "pissa" takes B0 A0 from a full SVD of W, so it can be had again:
D = c (B A - B0 A0). The fast variants draw random numbers for it, so no one can, peft included.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dtheta.core.change import Change, Factors, matrix_shape
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import Fingerprint, fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.peft_folder import BASE, PREFIX, WEIGHTS, PeftFolder, open_folder, read_factors
from dtheta.core.peft_layers import Layout, layouts, uses
from dtheta.core.peft_stacks import read_stacks
from dtheta.core.peft_whole import plain_name, read_biases, read_modules
from dtheta.core.provenance import Provenance
from dtheta.core.tensorfile import parse_json
from dtheta.core.tensors import base_tensors, canonical_names
from dtheta.errors import FormatError, UnknownParameter, UnsupportedLayer, did_you_mean

_FACTOR = re.compile(r"(?P<stem>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B)")


def read_delta(path: Path, model: nn.Module, modules_to_save: bool, pissa_start: bool, strict: bool) -> Delta:
    """See ``interop.from_peft``."""
    folder = open_folder(path)
    _check_start(folder, pissa_start)
    _check_base(folder, model, strict)
    stems = list(dict.fromkeys(m["stem"] for name in folder.tensors if (m := _FACTOR.fullmatch(name))))
    stacks = read_stacks(folder, model)
    stems = [stem for stem in stems if stem not in stacks]
    changes = _low_rank(folder, model, stems, pissa_start) | read_modules(folder, model, modules_to_save)
    _add_stacks(changes, stacks)
    changes |= read_biases(folder, model, [plain_name(stem) for stem in stems])
    _check_rest(folder, model)
    if not changes:
        raise FormatError(f"{path / WEIGHTS} holds no factors of LoRA")
    order = {name: i for i, name in enumerate(base_tensors(model))}
    changes = dict(sorted(changes.items(), key=lambda item: order[item[0]]))
    base = fingerprint(model).restrict(changes)
    return Delta(changes, base, _provenance(folder, model, list(changes)))


def _check_start(folder: PeftFolder, pissa_start: bool) -> None:
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


def _check_base(folder: PeftFolder, model: nn.Module, strict: bool) -> None:
    if not strict or BASE not in folder.header:
        return
    digests = parse_json(folder.header[BASE], f"{folder.path / WEIGHTS}: the base's digests in the header")
    if not isinstance(digests, dict) or not all(isinstance(d, str) for d in digests.values()):
        raise FormatError(f"{folder.path / WEIGHTS}: the base's digests in the header are no table of strings")
    Fingerprint(digests).check(model)


def _low_rank(folder: PeftFolder, model: nn.Module, stems: Sequence[str], pissa_start: bool) -> dict[str, Change]:
    """Return the change of every parameter whose modules have factors in the folder, under names that start so."""
    tensors, table = base_tensors(model), _stems(model)
    companions = {c.stem: (c, layout) for _, layout in table.values() if (c := layout.companion) is not None}
    found: dict[str, Change] = {}
    for stem in stems:
        if stem in companions:
            _check_companion(folder, *companions[stem])
            continue
        if stem not in table:
            inner = stem.removeprefix(PREFIX)
            raise UnknownParameter(
                f"the folder adapts a module {inner!r}, which this model does not have, or which has no layer of "
                f"LoRA{did_you_mean(inner, (s.removeprefix(PREFIX) for s in table))}"
            )
        name, layout = table[stem]
        change = _change(folder, name, layout, tensors[name], pissa_start)
        if name in found and not torch.equal(found[name].dense(), change.dense()):
            raise UnsupportedLayer(f"{name}: this weight is shared by modules to which the folder adds different terms")
        found.setdefault(name, change)
    _check_complete(folder, table, stems, found)
    return found


def _check_companion(folder: PeftFolder, companion: Layout, attention: Layout) -> None:
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


def _change(folder: PeftFolder, name: str, layout: Layout, weight: Tensor, pissa_start: bool) -> LowRank:
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


def _add_stacks(changes: dict[str, Change], stacks: Mapping[str, tuple[str, Change]]) -> None:
    """Add the changes of target parameters to those of modules.

    Raises:
        UnsupportedLayer: If a parameter has factors in both ways, or in two places.
    """
    for name, change in stacks.values():
        if name in changes:
            raise UnsupportedLayer(f"{name}: the folder adapts this parameter in two places; merge it in peft")
        changes[name] = change


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


def _factors(folder: PeftFolder, layout: Layout, rank: int) -> Factors:
    """Return lora_A and lora_B of a module, checked against its shape and the configured rank."""
    return read_factors(folder, layout.names, layout.shapes(rank), rank)


def _check_complete(
    folder: PeftFolder, table: Mapping[str, tuple[str, Layout]], stems: Collection[str], found: Mapping[str, Change]
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


def _check_rest(folder: PeftFolder, model: nn.Module) -> None:
    """Raise for a tensor that was not understood; copies of base tensors, as peft stores of embeddings, may stay."""
    tensors, canonical = base_tensors(model), canonical_names(model)
    for stored, tensor in folder.tensors.items():
        if stored in folder.seen:
            continue
        name = plain_name(stored)
        base = tensors.get(canonical.get(name, ""))
        if base is None:
            raise FormatError(f"{folder.path / WEIGHTS} holds a tensor {stored!r} that plain LoRA does not have")
        if base.shape != tensor.shape or not torch.equal(base.detach().cpu(), tensor.to(base.dtype)):
            raise UnsupportedLayer(
                f"the folder brings its own {name!r} of shape {tuple(tensor.shape)}, which differs from the model's "
                f"{tuple(base.shape)}: a resized or retrained embedding is not part of LoRA"
            )


def _provenance(folder: PeftFolder, model: nn.Module, names: list[str]) -> Provenance:
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
