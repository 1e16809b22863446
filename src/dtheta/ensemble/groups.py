"""Groups of zarr: what archives and hindcasts share. zarr itself is imported when it is needed.

Data is stored as it is, uncompressed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dtheta.errors import DthetaError, FormatError, MissingExtra


def put(
    group: Any, name: str, values: np.ndarray, dims: list[str], attributes: dict[str, str], apart: str = ""
) -> None:
    """Write an array into a group, in one chunk, or one for each element of the dimension ``apart``."""
    chunks = tuple(1 if dim == apart else size for dim, size in zip(dims, values.shape, strict=True))
    array = group.create_array(
        name, shape=values.shape, dtype=values.dtype, chunks=chunks or "auto", compressors=None, dimension_names=dims,
        attributes=attributes,
    )  # fmt: skip
    array[...] = values


@contextmanager
def reading(failed: str) -> Iterator[None]:
    """Turn whatever zarr and NumPy raise on damaged metadata or chunks into an error of ours.

    They raise almost every class there is, so all are caught; only calls that read belong into the block.

    Raises:
        FormatError: saying ``failed``, and why.
    """
    try:
        yield
    except DthetaError:
        raise
    except Exception as error:
        raise FormatError(f"{failed}: {type(error).__name__}: {str(error)[:300]}") from error


def zarr_module() -> Any:
    """Return zarr.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise MissingExtra("archives need zarr: pip install 'dtheta[weather]'") from error
    return zarr
