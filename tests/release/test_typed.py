"""The public names are typed for those who use them: a program of theirs passes pyright in strict mode."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.release.conftest import ROOT, plain_environment

PROGRAM = """
from pathlib import Path

import torch

import dtheta as dt

base = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
adapter: dt.Adapter = dt.attach(base, dt.PiSSA(rank=2), select="0.weight")
delta: dt.Delta = adapter.delta()
adapter.detach()
path: Path = Path("a.delta")
delta.save(path)
same = dt.load(path)
half: dt.Delta = 0.5 * same + delta - delta
size: float = half.norm() + half.inner(delta) + half.cosine(delta)
with dt.applied(base, half):
    pass
merged: torch.nn.Module = dt.merge(base, half)
kernel: torch.Tensor = dt.tangent_kernel(base, torch.randn(3, 8))
print(size, merged, kernel.shape, dt.fingerprint(base), dt.compress(delta, density=0.5).norm())
try:
    dt.load("none.delta")
except dt.DthetaError as error:
    print(error.exit_code)
"""
WRONG = """
import dtheta as dt

dt.load(3)
dt.LoRA(rank="eight")
dt.no_such_name
"""


@pytest.mark.slow
def test_a_program_passes_strict_and_a_wrong_one_does_not(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "wrong.py").write_text(WRONG)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "pythonVersion": "3.11", "extraPaths": [str(installed), packages]})
    )
    command = [sys.executable, "-m", "pyright", "--outputjson", "program.py", "wrong.py"]
    environment = plain_environment(PYRIGHT_PYTHON_IGNORE_WARNINGS="1")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = json.loads(done.stdout)["generalDiagnostics"]
    ours = [f"{one['range']['start']['line']}: {one['message']}" for one in found if one["file"].endswith("program.py")]
    assert ours == []
    wrong = {one["range"]["start"]["line"] for one in found if one["file"].endswith("wrong.py")}
    assert wrong == {3, 4, 5}
    assert (installed / "dtheta" / "py.typed").is_file() and ROOT not in installed.parents
