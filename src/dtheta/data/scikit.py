"""The small data sets that scikit-learn carries as files, read without importing it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from dtheta.errors import MissingExtra


def data_file(name: str, task: str) -> Path:
    """Return a file of scikit-learn's ``datasets/data``.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.submodule_search_locations is None:
        raise MissingExtra(f"the task {task!r} comes with scikit-learn: pip install scikit-learn")
    return Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data" / name
