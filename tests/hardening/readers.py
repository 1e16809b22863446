"""Every reader of files, each with a small valid folder to damage."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dtheta.cli.adapt import Options
from dtheta.cli.options import parse
from dtheta.compose.mergekit import read_plan
from dtheta.core.checkpoints import open_checkpoint
from dtheta.core.delta import Delta
from dtheta.core.files import load, save
from dtheta.core.fingerprint import fingerprint
from dtheta.core.interop import from_peft, to_peft
from dtheta.core.lowrank import LowRank
from dtheta.core.seeds import generator
from dtheta.data.concept_vectors import read_concept_vectors
from dtheta.data.flows.lorenz96 import Lorenz96
from dtheta.data.table import load_table
from dtheta.ensemble.archiving import archive
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.hindcast import Beginnings, Hindcast, create_hindcast
from dtheta.ensemble.layout import Field, layout
from dtheta.ensemble.noise import WhiteNoise
from dtheta.ensemble.store import Archive
from dtheta.federate.federate import federate
from dtheta.federate.message import Reply, message
from dtheta.federate.payload import Payload
from dtheta.fit import checkpoint
from dtheta.fit.progress import Log
from dtheta.probe.trace import Candidate, Effect, Trace, Traces, load_traces
from dtheta.probe.value_vector import ValueVector
from dtheta.report.few_shot_results import is_few_shot
from dtheta.report.results import AdaptResults
from dtheta.reproduce.runs import Runs
from dtheta.score.interval import Interval
from tests.golden.write import every_kind
from tests.hardening import forged
from tests.unit.federate.parties import clients, model, server
from tests.unit.report.examples import results


@dataclass(frozen=True)
class Reader:
    """How a folder of files is made and read.

    Attributes:
        make: Writes a valid folder.
        read: Reads it, whole.
        json: Files in it that hold JSON, or lines of JSON.
        other: Other files in it that are damaged.
        sealed: Whether what is read is always what was written, or an error.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], Any]
    json: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    sealed: bool = False


def net() -> nn.Module:
    """Two linear layers, the same at every call."""
    made = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(numbers(name, *parameter.shape))
    return made


def numbers(name: str, *shape: int) -> Tensor:
    """Normal numbers drawn by name."""
    return torch.randn(shape, generator=generator(0, name))


def low_rank_delta() -> Delta:
    """Move both weights of `net` along rank 2."""
    found = {
        name: LowRank(numbers(f"left {name}", rows, 2), numbers(f"right {name}", 2, columns))
        for name, rows, columns in (("0.weight", 5, 6), ("2.weight", 4, 5))
    }
    return Delta(found, fingerprint(net()).restrict(found))


def _table(header: str, row: str) -> str:
    return header + "".join(row.format(f"text number {i}, said", "yes" if i % 2 else "no") for i in range(9))


def write_shards(folder: Path) -> None:
    """Write a checkpoint of two shards with an index."""
    for shard, name in (("a.safetensors", "one"), ("b.safetensors", "two")):
        save_file({name: numbers(name, 3, 2)}, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 48}, "weight_map": {"one": "a.safetensors", "two": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _read_checkpoint(folder: Path) -> Any:
    found = open_checkpoint(folder)
    return {name: found[name] for name in found}


def _write_runs(folder: Path) -> None:
    runs = Runs(folder / "x.runs.jsonl", ("task", "seed"))
    for seed in range(3):
        runs.get(("bbc", seed), lambda: {"value": [1, 0.5], "best": {"lr": 1e-3}})


def _write_hindcast(folder: Path) -> None:
    begin = Beginnings(["0", "1"], numbers("analyses", 2, 2, 3, 5), numbers("truth", 2, 2, 3, 5))
    create_hindcast(
        folder / "run.zarr", layout((3, 5), [Field(name) for name in "abc"]), begin, [0, 2], 6.0, {"seed": 1}
    )


def _read_hindcast(folder: Path) -> Any:
    found = Hindcast(folder / "run.zarr")
    return [(found.analyses(i), found.truth(i)) for i in range(len(found))], found.grid, found.units, found.climate()


def _write_archive(folder: Path) -> None:
    ensemble = Ensemble(Lorenz96().step, 3, perturbation=WhiteNoise(0.1))
    archive(ensemble, folder / "a.zarr", numbers("start", 40), leads=1, chunk=2)


def _read_archive(folder: Path) -> Any:
    found = Archive(folder / "a.zarr")
    return str(found), found.missing() or [(lead, x.numel()) for lead, x in found.states()]


def _write_traces(folder: Path) -> None:
    Traces((drop_trace(0.5),)).save(folder / "traces.json")


def drop_trace(size: float) -> Trace:
    """Return a trace of one vector, without which the concept falls by ``size``."""
    drop = Interval(size, 0.25, 2.0)
    candidate = Candidate(ValueVector(1, 2), 3.0, -1.0, 0.5, 0.25, ("a", "b"))
    return Trace("dogs", (candidate,), Effect(drop, drop, (0.0, 0.5), 0.25))


def _write_plan(folder: Path) -> None:
    write_shards(folder)
    models = [{"model": str(folder), "parameters": {"density": 0.3}}]
    plan = {"merge_method": "ties", "base_model": str(folder), "models": models, "parameters": {"weight": [0.2, 0.8]}}
    (folder / "plan.yaml").write_text(json.dumps(plan))  # JSON is YAML


def _federation(folder: Path, resume: bool) -> Any:
    net = model()
    return federate(server(net), clients(net, 2, steps=1), rounds=1, codec="ternary", folder=folder, resume=resume)


def _read_federation(folder: Path) -> Any:
    """Go on with a run; a state that is still JSON gets the checksum that a hostile hand would give it."""
    path = folder / "state.json"
    try:
        record = json.loads(path.read_bytes())
        record.pop("sum", None)
        text = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
        path.write_bytes(json.dumps({"sum": zlib.crc32(text), **record}, separators=(",", ":")).encode())
    except (ValueError, AttributeError):
        pass
    return _federation(folder, resume=True).delta


def _write_concepts(folder: Path) -> None:
    said = {"First_half": "Dogs bark", "Second_half": "at night"}
    published = {
        "Concept": "dogs", "Layer": 3, "Dim": 7, "QA": ["Do dogs bark?"], "unrelated_QA": ["Is it late?"],
        "text_completion": [said], "wikipedia_content": "Dogs are animals.",
    }  # fmt: skip
    (folder / "concepts.json").write_text(json.dumps([published, {**published, "Dim": 8}]))


def _write_log(folder: Path) -> None:
    log = Log(folder / "log.jsonl", None)
    for step in range(4):
        log.write("step", step, loss=0.5)
    log.close()


def _read_log(folder: Path) -> str:
    Log(folder / "log.jsonl", 3).close()
    return (folder / "log.jsonl").read_text()


READERS: dict[str, Reader] = {
    "delta": Reader(
        lambda f: save(every_kind(), f / "a.delta"), lambda f: load(f / "a.delta"), other=("a.delta",), sealed=True
    ),
    "forged": Reader(
        forged.write_pieces,
        forged.load_pieces,
        (forged.DOCUMENT, forged.TENSORS),
        (forged.DOCUMENT, forged.TENSORS, forged.DATA),
    ),
    "peft": Reader(
        lambda f: to_peft(low_rank_delta(), f / "p", model=net()),
        lambda f: from_peft(f / "p", net()),
        ("p/adapter_config.json",),
        ("p/adapter_config.json", "p/adapter_model.safetensors"),
    ),
    "checkpoint": Reader(
        write_shards,
        _read_checkpoint,
        ("model.safetensors.index.json",),
        ("model.safetensors.index.json", "a.safetensors"),
    ),
    "options": Reader(
        lambda f: (f / "o.yaml").write_text("rank: 4\nlr: 0.1\nmodel: minilm\ndata: 'x.csv'\nseed: 3 # so\n"),
        lambda f: parse(Options, ["--config", str(f / "o.yaml")], "adapt", ""),
        other=("o.yaml",),
    ),
    "plan": Reader(
        _write_plan,
        lambda f: read_plan(f / "plan.yaml"),
        ("plan.yaml",),
        ("plan.yaml",),
    ),
    "csv": Reader(
        lambda f: (f / "t.csv").write_text(_table("text,label\n", '"{}",{}\n')),
        lambda f: load_table(f / "t.csv"),
        other=("t.csv",),
    ),
    "tsv": Reader(
        lambda f: (f / "t.tsv").write_text(_table("text\tlabel\n", "{}\t{}\n")),
        lambda f: load_table(f / "t.tsv"),
        other=("t.tsv",),
    ),
    "jsonl": Reader(
        lambda f: (f / "t.jsonl").write_text(_table("", '{{"text": "{}", "label": "{}"}}\n')),
        lambda f: load_table(f / "t.jsonl"),
        ("t.jsonl",),
        ("t.jsonl",),
    ),
    "hindcast": Reader(
        _write_hindcast,
        _read_hindcast,
        ("run.zarr/zarr.json", "run.zarr/analyses/a/zarr.json", "run.zarr/truth/zarr.json"),
        ("run.zarr/zarr.json", "run.zarr/analyses/b/zarr.json"),
    ),
    "archive": Reader(
        _write_archive,
        _read_archive,
        ("a.zarr/zarr.json", "a.zarr/state/zarr.json"),
        ("a.zarr/zarr.json",),
    ),
    "runs": Reader(
        _write_runs,
        lambda f: Runs(f / "x.runs.jsonl", ("task", "seed")).done,
        ("x.runs.jsonl",),
        ("x.runs.jsonl",),
    ),
    "traces": Reader(_write_traces, lambda f: load_traces(f / "traces.json"), ("traces.json",), ("traces.json",)),
    "results": Reader(
        lambda f: results(seeds=1, steps=3).save(f / "r.json"),
        lambda f: is_few_shot(f / "r.json") or AdaptResults.load(f / "r.json"),
        ("r.json",),
        ("r.json",),
    ),
    "federation": Reader(
        lambda f: _federation(f, resume=False), _read_federation, ("state.json", "history.jsonl"), ("state.json",)
    ),
    "message": Reader(
        lambda f: (f / "m").write_bytes(Reply("a", 3, "f", "s", 20, {"loss": 0.25}, (Payload(b"abc", 24),)).to_bytes()),
        lambda f: message((f / "m").read_bytes()),
        other=("m",),
    ),
    "concepts": Reader(
        _write_concepts, lambda f: read_concept_vectors(f / "concepts.json"), ("concepts.json",), ("concepts.json",)
    ),
    "log": Reader(_write_log, _read_log, ("log.jsonl",), ("log.jsonl",)),
    "training": Reader(
        lambda f: checkpoint.save(
            f / "c", checkpoint.Checkpoint({"terms/a": numbers("a", 3)}, {"step": 3, "at": [1, 2]})
        ),
        lambda f: checkpoint.load(f / "c"),
        other=("c",),
    ),
}
