"""The suite for a CUDA device: it says where none is, and every part of it runs in tiny shapes on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from tests.release.conftest import ROOT, plain_environment


def gpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), *arguments]
    return subprocess.run(command, env=plain_environment(OMP_NUM_THREADS="1"), capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so_and_ends_well() -> None:
    done = gpu("--json")
    assert (done.returncode, done.stdout) == (0, "") and "needs a CUDA device and found none" in done.stderr


@pytest.mark.slow
def test_every_part_runs_in_tiny_shapes() -> None:
    done = gpu("--smoke", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"].split(",")[0]: row for row in json.loads(done.stdout)}
    for name in ("fast PiSSA of 7 weights", "ternary delta into bfloat16 weights", "concept scan", "small SFNO"):
        assert rows[name]["ours"] > 0 and rows[name]["limit"] > 0 and rows[name]["holds"] is None
    assert {"training step", "structured tangent kernel"} <= set(rows)
    assert float(rows["structured tangent kernel"]["note"].split()[-1]) < 1e-5
