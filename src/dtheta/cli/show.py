"""Say what a file or folder is.

A .delta file, a peft adapter folder, a safetensors checkpoint (one file, or shards with an index) or a model folder:
made by what, on which base, how large, and what changed layer by layer. Every byte of a .delta file is verified.

  dtheta show news.delta
  dtheta show news.delta --tree
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from dtheta.cli.console import Console, Part
from dtheta.cli.options import CommonOptions, Flag, Place
from dtheta.cli.places import require_input
from dtheta.cli.plan import PROGRAM, Plan, reading_time, size_of
from dtheta.errors import ConfigError, FormatError


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta show``."""

    file: Annotated[Path, Place("a .delta file, a checkpoint, or a folder with a model or a peft adapter")]
    tree: Annotated[bool, Flag("show its family: the deltas it was made of, as far as they lie in the same folder")] = (
        False
    )
    rows: Annotated[int, Flag("rows of the table at most; 0 for all of them, as --json has")] = 40


def run(options: Options, console: Console) -> int:
    """Describe the file."""
    path = require_input(options.file)
    if options.tree and not _is_delta(path):
        raise ConfigError(f"--tree shows which deltas a delta was made of, and {path} is none; leave it out")
    if options.rows < 0:
        raise ConfigError(f"--rows must be a number of rows, or 0 for all of them, found {options.rows}")
    if options.dry_run:
        Plan(
            {str(path): size_of(path)}, memory=PROGRAM + (size_of(path) or 0), seconds=reading_time(size_of(path))
        ).show(console)
        return 0
    record, parts = _describe(path, options)
    console.result(record, parts)
    return 0


def _describe(path: Path, options: Options) -> tuple[dict[str, Any], list[Part]]:
    from dtheta.cli.show_delta import describe_delta
    from dtheta.cli.show_models import describe_checkpoint, describe_peft

    if path.is_dir() and (path / "adapter_config.json").exists():
        return describe_peft(path, options.rows)
    if _is_delta(path):
        return describe_delta(path, options.rows, options.tree)
    return describe_checkpoint(path, options.rows)


def _is_delta(path: Path) -> bool:
    """Tell whether a file is a delta, by its suffix or, under another name, by its first bytes."""
    from dtheta.core.tensorfile import open_tensors

    if not path.is_file() or path.suffix == ".delta":
        return path.is_file()
    try:
        return "dtheta" in open_tensors(path).metadata
    except FormatError:
        return False
