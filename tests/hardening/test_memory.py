"""Memory that a merge of whole models and an ensemble on disk take beyond what the process has: under their caps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.unit.compose.checkpoints import write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the largest memory is read from a file of Linux")
_MEASURED = """
import pathlib, sys, torch
status = pathlib.Path("/proc/self/status")
def kilobytes(name):
    return int(next(line for line in status.read_text().splitlines() if line.startswith(name)).split()[1])
def peak(run):
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    run()
    return (kilobytes("VmHWM") - before) * 1024
folder = pathlib.Path(sys.argv[1])
"""
_MERGE = """
from dtheta.compose.merge_plan import merge_plan
from dtheta.compose.streaming import merge_checkpoints
def merge(rows, cap):
    paths = [folder / f"{rows}-{i}" for i in range(3)]
    plan = merge_plan("ties", paths[1:], paths[0], weight=0.5, density=0.5)
    return lambda: merge_checkpoints(plan, folder / f"out{rows}", max_memory=cap)
merge(10, 1 << 30)()  # what is imported or compiled once
cap = 40 << 20
print(peak(merge(4000, cap)), cap)  # 3 models of 48 MB
"""
_ENSEMBLE = """
from dtheta.ensemble.archiving import archive
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.noise import WhiteNoise
def step(x):
    return x * 0.5
def run(size, name):
    made = Ensemble(step, 40, perturbation=WhiteNoise(0.1), rows=2)
    return lambda: archive(made, folder / name, torch.ones(size), leads=1, chunk=2, hold=2)
run(10, "small")()
print(peak(run(500_000, "large")), 56 << 20)  # all 40 members have 80 MB; two at a time take 25, or 43 as threads meet
"""


@pytest.mark.parametrize("script", [_MERGE, _ENSEMBLE], ids=["merge", "ensemble"])
def test_the_cap_holds(script: str, tmp_path: Path) -> None:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the system does not let a process measure its own peak")
    for rows, i in [(rows, i) for rows in (10, 4000) for i in range(3)]:
        weights = {f"layers.{j}.w": torch.full((rows, 1000), float(i + j)) for j in range(3)}
        write(tmp_path / f"{rows}-{i}", weights)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _MEASURED + script, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    peak, cap = map(int, done.stdout.split()[-2:])
    assert 0 < peak < cap
