"""What stands beside the weights of a merged checkpoint, and whether there is a place for all of it.

weights            in the base's files and order, or in new ones where layers are stacked
index              the base's where its layout is kept
config.json        the base's, with the dtype and the number of layers that the result has
tokenizer, ...     the base's, as they are
dtheta.json        the resolved plan, the digests of all inputs, seed and versions
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dtheta.compose.preflight import Preflight
from dtheta.core.checkpoint_folder import (
    companions,
    configuration,
    copy_companions,
    refuse_source,
    require_room,
    with_dtype,
    write_config,
    write_index,
)
from dtheta.core.checkpoints import INDEX, Checkpoint
from dtheta.core.jsonfile import write_json
from dtheta.core.provenance import Provenance
from dtheta.errors import ConfigError

RECORD = "dtheta.json"
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def require_place(found: Preflight, out: Path) -> None:
    """Check, before a tensor is read, that the result can be written.

    Raises:
        OutputError: If ``out`` is one of the inputs or inside one, or does not fit on the disk.
    """
    for path in found.models:
        refuse_source(path, out)
    reference = layout_of(found)
    require_room(reference, out, found.writes, companions(reference)[0])


def layout_of(found: Preflight) -> Checkpoint:
    """Return the checkpoint that gives layout, configuration and tokenizer.

    Raises:
        ConfigError: If no input is one.
    """
    if found.reference is None:
        raise ConfigError("the merge has no checkpoint among its inputs, which could give it layout and configuration")
    return found.reference


def complete(found: Preflight, inputs: Mapping[Path, str], folder: Path) -> Sequence[str]:
    """Write everything but the weights; return the names of files of the base that would be stale and are left out.

    Args:
        found: The merge.
        inputs: Digest of every input by its path.
        folder: Where the weights lie already.
    """
    reference = layout_of(found)
    files, left_out = companions(reference)
    copy_companions(reference, [file for file in files if file.name != RECORD], folder)
    _write_index(found, reference, folder)
    config = configuration(reference)
    changed = _configured(found, config)
    if config and changed != config:
        write_config(changed, folder)
    _write_record(found, inputs, folder)
    return left_out


def _write_index(found: Preflight, reference: Checkpoint, folder: Path) -> None:
    """Write the table from tensors to files: the base's own where its layout is kept."""
    if found.plan.stacked and len(found.shards) > 1:
        weights = {part.name: shard for shard, parts in found.shards.items() for part in parts}
        index = {"metadata": {"total_size": found.writes}, "weight_map": weights}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    elif not found.plan.stacked:
        write_index(reference, folder, found.writes)


def _configured(found: Preflight, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with the dtype and the number of layers that the result has."""
    changed = with_dtype(config, found.plan.dtype)
    if found.layers:
        changed |= {key: len(found.layers) for key in _LAYER_COUNTS if key in config}
        kinds = config.get("layer_types")
        if isinstance(kinds, list) and len(kinds) > max(found.layers):
            changed["layer_types"] = [kinds[layer] for layer in found.layers]
    return changed


def _write_record(found: Preflight, inputs: Mapping[Path, str], folder: Path) -> None:
    plan = found.plan
    settings = {
        "plan": plan.to_settings(),
        "base": inputs[plan.base] if plan.base is not None else None,
        "inputs": [{"name": path.name, "digest": digest} for path, digest in inputs.items()],
    }
    parents = [digest for path, digest in inputs.items() if path != plan.base]
    record = Provenance("merge", {}, parents, settings, plan.seed).to_dict()
    write_json(record, folder / RECORD, indent=2)
