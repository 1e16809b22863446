"""What a verification has counted, as a file: one safetensors file, so that another worker or another day goes on.

total/I      (entries, C', R, *components)    of statistic I, in the order of the metrics
weight       (entries, C, R)
metadata     what was verified (`Verification.document`), and start, lead, rows and members of each entry
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dtheta.core.output import require_space, write_file
from dtheta.core.tensorfile import TensorFile, data_of, open_tensors, parse_json, write_tensors
from dtheta.errors import ConfigError, FormatError
from dtheta.score.ensemble.entries import Entries, Entry, Lead, Start
from dtheta.score.ensemble.statistic import EnsembleStatistic

_KEY = "dtheta.verification"
FORMAT = 1


def require_same(here: Mapping[str, Any], there: Mapping[str, Any], whose: str) -> None:
    """Raise ConfigError unless two documents are equal, naming the first thing that differs."""
    for name in dict.fromkeys([*here, *there]):
        if here.get(name) != there.get(name):
            raise ConfigError(f"{whose} has other {name}: {there.get(name)}; expected {here.get(name)}")


def save(path: str | os.PathLike[str], document: Mapping[str, Any], entries: Entries) -> Path:
    """Write entries.

    Raises:
        ConfigError: If there are none.
        OutputError: If they cannot be written.
    """
    if not entries:
        raise ConfigError("nothing was counted yet, so there is nothing to save")
    listed = list(entries.values())
    tensors = {f"total/{i}": torch.stack([e.totals[s] for e in listed]) for i, s in enumerate(listed[0].totals)}
    tensors["weight"] = torch.stack([entry.weight for entry in listed])
    keys = [[*key, entry.members, [list(r) for r in entry.rows]] for key, entry in entries.items()]
    text = json.dumps({"format": FORMAT, "verification": document, "entries": keys}, allow_nan=False)
    specs = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    target = Path(path)
    require_space(target, len(text) + sum(t.nbytes for t in tensors.values()))
    with write_file(target) as handle:
        write_tensors(handle, specs, {_KEY: text}, lambda name: [data_of(tensors[name])])
    return target


def load(
    path: str | os.PathLike[str], document: Mapping[str, Any], statistics: Mapping[EnsembleStatistic, tuple[int, ...]]
) -> dict[tuple[Start, Lead], Entry]:
    """Read entries of a verification with this document, and these statistics of these channels.

    Raises:
        FormatError: If the file is damaged or not such a file.
        ConfigError: If it is of another verification.
    """
    file = open_tensors(path)
    state = parse_json(file.metadata.get(_KEY, "null"), f"{file.path}: what was counted")
    if not isinstance(state, dict) or state.get("format") != FORMAT or not isinstance(state.get("verification"), dict):
        raise FormatError(f"{file.path} holds no counts of a verification of format {FORMAT}")
    require_same(json.loads(json.dumps(document)), state["verification"], str(file.path))
    try:
        shape = (len(document["channels"]), len(document["regions"]))
        return _entries(file, state["entries"], statistics, shape)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise FormatError(f"{file.path}: the counts are damaged ({error!r})") from error


def _entries(
    file: TensorFile, keys: Any, statistics: Mapping[EnsembleStatistic, tuple[int, ...]], shape: tuple[int, int]
) -> dict[tuple[Start, Lead], Entry]:
    weight = _read(file, "weight", (len(keys), *shape))
    totals = {
        s: _read(file, f"total/{i}", (len(keys), len(c), shape[1])) for i, (s, c) in enumerate(statistics.items())
    }
    found: dict[tuple[Start, Lead], Entry] = {}
    for i, (start, lead, members, rows) in enumerate(keys):
        if (start, lead) in found or not isinstance(start, int | str) or not isinstance(lead, int | float):
            raise ValueError(f"entry {i} is of {start!r} and {lead!r}")
        ranges = tuple((int(a), int(b)) for a, b in rows)
        found[start, lead] = Entry(int(members), ranges, weight[i], {s: t[i] for s, t in totals.items()})
    return found


def _read(file: TensorFile, name: str, leading: tuple[int, ...]) -> Tensor:
    found = file.read(name)
    if found.dtype != torch.float64 or tuple(found.shape[: len(leading)]) != leading or not found.isfinite().all():
        raise ValueError(f"{name} is {found.dtype} of shape {tuple(found.shape)}, or not finite")
    return found
