"""Compiled kernels or plain NumPy: one variable decides, at every call, and numba is loaded only when it is wanted."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from dtheta.core import compiled
from dtheta.core.compiled import kernel, loops, numba_enabled
from dtheta.errors import ConfigError, MissingExtra


@pytest.mark.parametrize(("value", "expected"), [(None, True), ("", True), ("1", True), ("0", False)])
def test_variable_decides(monkeypatch: pytest.MonkeyPatch, value: str | None, expected: bool):
    monkeypatch.delenv("DTHETA_NUMBA", raising=False)
    if value is not None:
        monkeypatch.setenv("DTHETA_NUMBA", value)
    assert numba_enabled() is expected
    assert loops("plane").__name__.endswith("kernels" if expected else "numpy")


def test_other_values_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DTHETA_NUMBA", "off")
    with pytest.raises(ConfigError, match="DTHETA_NUMBA is 'off'; set it to 0"):
        numba_enabled()


@pytest.mark.parametrize("subject", ["plane", "topk"])
def test_both_modules_have_the_same_functions_and_arguments(subject: str):
    from importlib import import_module

    fast, plain = (import_module(f"dtheta.core.{subject}_{kind}") for kind in ("kernels", "numpy"))
    public = {n for n in vars(fast) if hasattr(vars(fast)[n], "py_func") and not n.startswith("_")}
    assert len(public) >= 3
    for name in public:
        code, other = getattr(fast, name).py_func.__code__, getattr(plain, name)
        other = getattr(other, "__wrapped__", other).__code__
        assert code.co_varnames[: code.co_argcount] == other.co_varnames[: other.co_argcount]


def test_a_missing_numba_is_said(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(compiled.importlib, "import_module", absent)
    with pytest.raises(MissingExtra, match="pip install numba, or set DTHETA_NUMBA=0"):
        kernel(lambda x: x)


def test_a_kernel_without_a_folder_for_machine_code_still_runs(monkeypatch: pytest.MonkeyPatch):
    import numba

    real = numba.njit

    def no_folder(function, cache=False, nogil=False):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(function, nogil=nogil)

    monkeypatch.setattr(numba, "njit", no_folder)
    assert kernel(lambda x: x.sum())(np.arange(4)) == 6


def test_numba_is_not_imported_before_it_is_wanted():
    script = (
        "import os, sys, numpy as np\n"
        "from dtheta.core import plane_products, plane_sums, plane_ties, plane_votes, topk\n"
        "from dtheta.core.planes import Planes\n"
        "assert 'numba' not in sys.modules\n"
        "os.environ['DTHETA_NUMBA'] = '0'\n"
        "assert Planes.from_signs(np.array([1, -1, 0], np.int8)).count == 2\n"
        "assert 'numba' not in sys.modules\n"
        "os.environ['DTHETA_NUMBA'] = '1'\n"
        "assert Planes.from_signs(np.array([1, -1, 0], np.int8)).count == 2\n"
        "assert 'numba' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
