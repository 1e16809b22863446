"""The corpus of damaged files: each is refused with its class of error, which names the file and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dtheta.cli.adapt import Options
from dtheta.cli.options import parse
from dtheta.core.checkpoints import open_checkpoint
from dtheta.core.files import check, load
from dtheta.core.interop import from_peft
from dtheta.data.table import load_table
from dtheta.ensemble.hindcast import Hindcast
from dtheta.ensemble.store import open_archive
from dtheta.errors import ConfigError, DthetaError, FormatError
from dtheta.probe.trace import load_traces
from dtheta.report.results import AdaptResults
from dtheta.reproduce.runs import Runs
from tests.hardening.damage import FOLDER
from tests.hardening.limits import address_space, processor_time
from tests.hardening.readers import net

READ: dict[str, tuple[Callable[[Path], Any], ...]] = {
    ".delta": (load, check),
    ".peft": (lambda path: from_peft(path, net()),),
    ".checkpoint": (open_checkpoint,),
    ".yaml": (lambda path: parse(Options, ["--config", str(path)], "adapt", ""),),
    ".csv": (load_table,),
    ".tsv": (load_table,),
    ".runs.jsonl": (lambda path: Runs(path, ("task", "seed")),),
    ".jsonl": (load_table,),
    ".traces.json": (load_traces,),
    ".results.json": (AdaptResults.load,),
    ".zarr": (Hindcast, open_archive),
}
SAYS = {  # of each file, what the message teaches beside its name
    "empty.delta": "damaged or empty",
    "cut-in-the-header.delta": "cut short",
    "cut-in-the-data.delta": "cut short",
    "bytes-behind-the-end.delta": "belong to no tensor",
    "one-bit-of-the-data.delta": "damaged",
    "one-bit-of-the-header.delta": "damaged",
    "header-length-of-exabytes.delta": "no safetensors file",
    "pickle.delta": "save it again with safetensors",
    "newer-format.delta": "newer dtheta",
    "config-cut.peft": "not valid JSON",
    "weights-cut.peft": "cut short",
    "shard-outside.checkpoint": "no safetensors file of its folder",
    "shard-missing.checkpoint": "the download may be incomplete",
    "aliases-without-end.yaml": "write it plainly",
    "key-twice.yaml": "line 2: the key 'rank' occurs twice",
    "empty-number.yaml": "not YAML",
    "number-to-the-base-60.yaml": "not YAML",
    "row-too-short.csv": "double quotes",
    "not-utf-8.csv": "save the file as UTF-8",
    "quote-left-open.tsv": "line",
    "bottomless.jsonl": "line 1: not JSON",
    "list-for-a-row.jsonl": "expected a JSON object",
    "key-is-a-list.runs.jsonl": "line 1: .*move the file away",
    "not-utf-8.runs.jsonl": "line 1: .*move the file away",
    "bottomless.runs.jsonl": "line 1: .*move the file away",
    "field-missing.traces.json": "lacking or unknown: effect, efect|lacking or unknown: efect, effect",
    "cut.traces.json": "not valid JSON",
    "bottomless.results.json": "not a readable JSON file of results",
    "field-unknown.results.json": "unknown field 'modell'; did you mean 'model'",
    "array-without-kind.zarr": "no run of 'dtheta ensemble run'|no ensemble that dtheta wrote",
    "no-record.zarr": "no run of 'dtheta ensemble run'|no ensemble that dtheta wrote",
}


def test_every_file_of_the_corpus_is_known() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(SAYS)
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 200_000


@pytest.mark.parametrize("name", SAYS)
def test_a_damaged_file_is_refused_and_the_message_teaches(name: str) -> None:
    path = FOLDER / name
    readers = next(found for suffix, found in READ.items() if name.endswith(suffix))
    before = {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()}
    for read in readers:
        with processor_time(20), address_space(1 << 30), pytest.raises(DthetaError, match=SAYS[name]) as error:
            read(path)
        assert isinstance(error.value, ConfigError if path.suffix == ".yaml" else FormatError)
        assert name in str(error.value)
    assert all(file.read_bytes() == content for file, content in before.items())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("wide.csv", "," * 300_000 + "\n"),  # as many columns of one name
        ("long.yaml", "lr: 1" + ":1" * 400_000 + "\n"),  # one number to the base 60
    ],
)
def test_a_file_that_is_only_long_does_not_hang(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with processor_time(20), pytest.raises(DthetaError, match="line 1"):
        READ[Path(name).suffix][0](tmp_path / name)
