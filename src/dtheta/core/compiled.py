"""Whether the compiled kernels run, or plain NumPy in their place; the one place that asks.

    DTHETA_NUMBA unset, empty or 1    loops compiled by numba, machine code kept on disk beside the source
    DTHETA_NUMBA=0                    NumPy alone; numba is not even imported

Both give the same bits: the variable chooses speed, never a result. Loops of one subject stand twice, as functions of
the same names and arguments: in ``SUBJECT_kernels.py``, compiled, and in ``SUBJECT_numpy.py``. ``loops`` returns the
module in force when it is called, so that ``import dtheta`` does not load numba. Kernels are compiled at first call.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, TypeVar

from dtheta.errors import ConfigError, MissingExtra

VARIABLE = "DTHETA_NUMBA"
F = TypeVar("F", bound=Callable[..., Any])


def numba_enabled() -> bool:
    """Tell whether compiled kernels are to be used; read anew at every call.

    Raises:
        ConfigError: If the variable is set to something other than 0 or 1.
    """
    value = os.environ.get(VARIABLE) or "1"
    if value not in ("0", "1"):
        raise ConfigError(f"{VARIABLE} is {value!r}; set it to 0 (NumPy alone) or 1 (compiled kernels, the default)")
    return value == "1"


def loops(subject: str) -> Any:
    """Return the module of ``dtheta.core`` that holds the loops of a subject (``"plane"``), compiled or plain.

    Raises:
        ConfigError: If the variable is set to something other than 0 or 1.
        MissingExtra: If compiled kernels are wanted and numba cannot be imported.
    """
    return importlib.import_module(f"dtheta.core.{subject}_{'kernels' if numba_enabled() else 'numpy'}")


def kernel(function: F) -> F:
    """Compile a function over NumPy arrays at its first call; it releases the interpreter's lock while it runs.

    Machine code is kept for the next process where its folder, or numba's own cache folder, can be written.

    Raises:
        MissingExtra: If numba cannot be imported.
    """
    numba = _numba()
    try:
        return numba.njit(function, cache=True, nogil=True)
    except RuntimeError:  # no folder to keep machine code in: compiled anew by every process
        return numba.njit(function, nogil=True)


def _numba() -> Any:
    try:
        return importlib.import_module("numba")
    except ImportError as error:
        raise MissingExtra(
            f"numba cannot be imported ({error}); pip install numba, or set {VARIABLE}=0 to use NumPy alone"
        ) from error
