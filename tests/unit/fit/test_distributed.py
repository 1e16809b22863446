"""Two gloo processes, under DDP and under FSDP2, give what one process gives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.fit.distributed.worker import train

WORKER = Path(__file__).parent / "distributed" / "worker.py"
ACCELERATE = [
    "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
    "--dynamo_backend", "no", "--main_process_port", "0",
]  # fmt: skip
FSDP = ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]

pytestmark = pytest.mark.slow


def _run(launcher: list[str], modes: str, folder: Path) -> None:
    """Run the worker, and show what it said if it failed.

    On a loaded machine gloo was once seen to die of a segmentation fault inside torch, which no Python code of ours can
    cause and no result can hide: that alone, and once, starts the run anew.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "FSDP_"))}
    environment = kept | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, *launcher, str(WORKER), modes, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    if done.returncode != 0 and "exitcode: -11" in done.stderr:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """History and delta of the run in one process."""
    found = train(tmp_path_factory.mktemp("plain"), "plain")
    return found["record"], found["delta"]


def _read(folder: Path, mode: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    record = json.loads((folder / f"{mode}.json").read_text())
    assert record["processes"] == 2
    return record, load_file(folder / f"{mode}.safetensors")


@pytest.mark.parametrize(
    ("launcher", "modes"),
    [
        ([*ACCELERATE, "--multi_gpu"], "plain,resumed,fsdp,fsdp-resumed"),
        ([*ACCELERATE, *FSDP], "fsdp-accelerate"),
    ],
    ids=["ddp", "fsdp2"],
)
def test_two_processes_give_the_result_of_one(
    launcher: list[str], modes: str, plain: tuple[dict[str, Any], dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    _run(launcher, modes, tmp_path)
    found = {mode: _read(tmp_path, mode) for mode in modes.split(",")}
    for mode, (record, delta) in found.items():
        assert [loss for _, loss in record["losses"]] == pytest.approx(
            [loss for _, loss in plain[0]["losses"]], rel=5e-7
        ), mode
        for one, two in zip(plain[0]["evals"], record["evals"], strict=True):
            assert one["scores"] == pytest.approx(two["scores"], rel=5e-7), mode
        assert delta.keys() == plain[1].keys()
        assert max(float((delta[n] - plain[1][n]).abs().max()) for n in delta) < 1e-6, mode
        assert record["base"] == plain[0]["base"], mode
    for mode in [mode for mode in found if mode.endswith("resumed")]:
        straight = found["fsdp" if "fsdp" in mode else "plain"]
        assert found[mode][0]["losses"] == straight[0]["losses"]
        assert all(torch.equal(found[mode][1][n], straight[1][n]) for n in straight[1]), mode


def test_two_processes_go_by_the_metric_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    alone = train(tmp_path / "one", "own")
    _run([*ACCELERATE, "--multi_gpu"], "own,own-resumed", tmp_path)
    for mode in ("own", "own-resumed"):
        record, delta = _read(tmp_path, mode)
        assert (record["stop"], record["steps"], record["best"]["step"]) == ("steps", 6, 6), mode
        for one, two in zip(alone["record"]["evals"], record["evals"], strict=True):
            assert one["scores"] == pytest.approx(two["scores"], rel=5e-7), mode
        assert max(float((delta[n] - alone["delta"][n]).abs().max()) for n in delta) < 1e-6, mode
