"""``dtheta merge --plan``: whole models merged as a file says, under a cap of memory."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dtheta.cli.console import Console
from dtheta.cli.idle import refuse_idle
from dtheta.cli.places import require_input, require_output
from dtheta.cli.plan import Plan, reading_time
from dtheta.cli.units import byte_size
from dtheta.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from dtheta.cli.merge import Options
    from dtheta.compose.preflight import Preflight

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_DEFAULT = 2 << 30
_SIZE = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)")


def run_plan(options: Options, file: Path, console: Console) -> int:
    """Merge whole models as a file says.

    Raises:
        ConfigError: If options contradict each other, or the merge cannot be done; naming every reason.
    """
    import torch

    from dtheta.compose.merge_folder import require_place
    from dtheta.compose.mergekit import read_plan
    from dtheta.compose.preflight import preflight
    from dtheta.compose.streaming import merge_checkpoints

    _require_meant(options)
    allowed = _DEFAULT if options.max_memory is None else parse_size(options.max_memory)
    plan = read_plan(require_input(file), options.seed)
    if options.dtype is not None:
        plan = replace(plan, dtype=getattr(torch, options.dtype))
    found = preflight(plan)
    left = allowed - _held()
    _require_room(found, allowed, left)
    require_place(found, options.out)
    if options.dry_run:
        return _show(found, options, allowed, left, console)
    for note in [*found.notes, *_heads(found)]:
        console.note(note)
    with console.progress("merge", len(list(found.parts()))) as begin:
        merged = merge_checkpoints(found, options.out, left, lambda name, done, total: begin(name))
    for name in merged.left_out:
        console.note(f"left out: {name} (it would not fit the merged weights)")
    record = {
        "out": str(options.out),
        "format": "full",
        "method": plan.method,
        "inputs": {str(path): digest for path, digest in merged.inputs.items()},
        "tensors": merged.tensors,
        "bytes": merged.nbytes,
        "memory": {"allowed": allowed, "least": found.least + allowed - left, "kept_whole": merged.kept},
        "left_out": list(merged.left_out),
        "notes": [*merged.notes, *_heads(found)],
    }
    told = f"{options.out}: {merged.tensors} tensors merged by {plan.method}, {byte_size(merged.nbytes)} written"
    console.result(record, [told])
    return 0


def _require_meant(options: Options) -> None:
    told = ("base", "deltas", "weight", "select", "format", "check")
    refuse_idle(options, told, "does not go with --plan: the file says what is merged, and how")
    out = options.out
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"cannot write the folder {options.out}: it exists; remove it or choose another name")
    if not out.is_dir():
        require_output(out)


def _require_room(found: Preflight, allowed: int, left: int) -> None:
    """Raise, with everything else that is wrong, before the cap of memory is looked at.

    Raises:
        ConfigError: Naming every problem, or the memory that is needed.
    """
    found.require()
    if left < found.least:
        raise ConfigError(
            f"--max-memory {byte_size(allowed)} is not enough: the process itself takes {byte_size(allowed - left)} "
            f"and this merge {byte_size(found.least)} at least; allow {_rounded(found.least + allowed - left)}"
        )


def _rounded(nbytes: int) -> str:
    return f"{math.ceil(nbytes / 2**20)}MiB"


def _heads(found: Preflight) -> list[str]:
    """Return what there is to say of folders with a classifier's head, which is no part of a model's own weights."""
    from dtheta.cli.head import WEIGHTS

    return [f"{path}: its classifier's head is left out" for path in found.models if (path / WEIGHTS).is_file()]


def _show(found: Preflight, options: Options, allowed: int, left: int, console: Console) -> int:
    from dtheta.core.tensorfile import existing

    reads: dict[str, int | None] = {}
    for path in found.models:
        place = existing(path)
        reads[str(path)] = sum(p.stat().st_size for p in _weights(place))
    settings = {"method": found.plan.method, **options.resolved()}
    least = byte_size(allowed - left + found.least)
    notes = [f"at least {least}, the program itself included; more is used to read less", *found.notes, *_heads(found)]
    memory, seconds = allowed - left + min(left, found.most), reading_time(found.reads + found.writes)
    Plan(reads, {str(options.out): found.writes}, memory, seconds, settings, notes).show(console)
    return 0


def _weights(place: Path) -> list[Path]:
    return sorted(place.glob("*.safetensors")) if place.is_dir() else [place]


def parse_size(text: str) -> int:
    """Return bytes from text such as 800MB, 1.5GiB or 2e9.

    Raises:
        ConfigError: If it is no size.
    """
    found = _SIZE.fullmatch(text.strip().lower())
    try:
        if found is not None and found[2] in _UNITS:
            return int(float(found[1]) * _UNITS[found[2]])
    except (ValueError, OverflowError):
        pass
    raise ConfigError(f"--max-memory must be a size such as 800MB or 4GiB, found {text!r}")


def _held() -> int:
    """Return the bytes that the process holds, with all that a merge loads loaded."""
    import torch

    from dtheta.core.topk import threshold

    threshold([torch.ones(8)], 1)  # compiles, or loads, what the selection runs on
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 400 << 20  # no such place on this system: about what Python, torch and numba take
    return pages * 4096
