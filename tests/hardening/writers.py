"""Every writer of files, each writing one of two versions under one name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dtheta.cli.reproduce import _written
from dtheta.core.checkpoint_merge import merge_checkpoint
from dtheta.core.checkpoints import open_checkpoint
from dtheta.core.delta import Delta
from dtheta.core.factorfile import load_stored, store, store_path
from dtheta.core.files import load, save
from dtheta.core.interop import from_peft, to_peft
from dtheta.core.lowrank import LowRank
from dtheta.core.svd import truncated_svd
from dtheta.fit import checkpoint
from dtheta.probe.trace import Traces, load_traces
from dtheta.report.results import AdaptResults
from dtheta.reproduce.claim import Claim, Row, exact
from dtheta.reproduce.reproduce import Reproduced, Reproduction
from dtheta.reproduce.runs import Runs
from dtheta.reproduce.systems import System
from tests.hardening.readers import drop_trace, low_rank_delta, net, numbers, write_shards
from tests.unit.report.examples import results


@dataclass(frozen=True)
class Writer:
    """How a file or folder is written and read.

    Attributes:
        write: Writes version 0 or 1 into a folder.
        read: Reads it whole; raises where it is damaged.
        name: Of the file or folder that is written.
        replaces: Whether a second version takes the place of the first; folders are refused then.
        before: Makes what the writer needs.
    """

    write: Callable[[Path, int], object]
    read: Callable[[Path], Any]
    name: str
    replaces: bool = True
    before: Callable[[Path], object] = lambda folder: None


@cache  # a delta made again tells another time
def _scaled(version: int) -> Delta:
    return low_rank_delta() * (1.0 + version)


def _reproduction(version: int) -> Reproduction:
    rows = tuple(Row(Claim(f"claim {i}", "It is.", "7B"), "here", exact(i + version)) for i in range(9))
    system = System("PlantedSVD", "Nobody 2020, arXiv 1", "delta.md")
    return Reproduction((Reproduced("planted", system, rows, 61.0),), True, "a processor", "2026-01-01")


def _read_page(path: Path) -> str:
    found = path.read_text(encoding="utf-8")
    assert found.rstrip().endswith("</html>")
    return re.sub(r"\s+", " ", found)


def _runs(folder: Path, version: int) -> None:
    Runs(folder / "x.runs.jsonl", ("seed",)).get((version,), lambda: {"value": "x" * 20_000})


def _torn(folder: Path) -> None:
    _runs(folder, 7)
    with (folder / "x.runs.jsonl").open("a") as file:
        file.write('{"seed": 8, "val')


def _factors(folder: Path, version: int) -> None:
    found = truncated_svd(numbers("weight", 12, 9) * (1 + version), 3)
    store(store_path(folder, "r", ["d"], 3), "r", {"d": found}, 1 << 30)


def _training(folder: Path, version: int) -> None:
    checkpoint.save(folder / "c", checkpoint.Checkpoint({"a": numbers("a", 900)}, {"step": version}))


def _merged(folder: Path, version: int) -> None:
    change = LowRank(numbers("l", 3, 1), numbers("r", 1, 2))
    merge_checkpoint(folder / "base", Delta({"one": change}), folder / "merged", strict=False)


def _base(folder: Path) -> None:
    (folder / "base").mkdir()
    write_shards(folder / "base")


WRITERS: dict[str, Writer] = {
    "delta": Writer(lambda f, v: save(_scaled(v), f / "a.delta"), lambda f: load(f / "a.delta").digest, "a.delta"),
    "traces": Writer(
        lambda f, v: Traces((drop_trace(0.5 + v),)).save(f / "t.json"), lambda f: load_traces(f / "t.json"), "t.json"
    ),
    "results": Writer(
        lambda f, v: results(seeds=1, steps=3 + v).save(f / "r.json"), lambda f: AdaptResults.load(f / "r.json"),
        "r.json"
    ),
    "claims": Writer(
        lambda f, v: _written(_reproduction(v), f), lambda f: json.loads((f / "claims.json").read_text()), "claims.json"
    ),
    "page": Writer(lambda f, v: _written(_reproduction(v), f), lambda f: _read_page(f / "claims.html"), "claims.html"),
    "runs": Writer(_runs, lambda f: Runs(f / "x.runs.jsonl", ("seed",)).done.keys(), "x.runs.jsonl"),
    "torn runs": Writer(
        _runs, lambda f: Runs(f / "x.runs.jsonl", ("seed",)).done[(7,)], "x.runs.jsonl", before=_torn
    ),
    "factors": Writer(
        _factors, lambda f: len(load_stored(f, "r", ["d"], 3)), store_path(Path(), "r", ["d"], 3).name
    ),
    "training": Writer(_training, lambda f: checkpoint.load(f / "c").state["step"], "c"),
    "peft": Writer(
        lambda f, v: to_peft(low_rank_delta(), f / "p", model=net()), lambda f: len(from_peft(f / "p", net())), "p",
        replaces=False,
    ),
    "merged": Writer(_merged, lambda f: len(open_checkpoint(f / "merged")), "merged", replaces=False, before=_base),
}  # fmt: skip


def content(path: Path) -> dict[str, bytes] | None:
    """Return the bytes of a file or of all files in a folder; None where nothing is."""
    if path.is_file():
        return {"": path.read_bytes()}
    if not path.exists():
        return None
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
