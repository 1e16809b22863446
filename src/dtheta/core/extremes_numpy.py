"""The largest and smallest entries of each row, in plain NumPy; the same function, compiled, is in extremes_kernels.

Shape legend: R rows of C columns, K entries kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Places = NDArray[np.int32]


def extremes(values_RC: Values, largest_RK: Places, smallest_RK: Places) -> None:
    """Write the columns of each row's K largest and K smallest entries, the most extreme first, ties by lowest column.

    Where ``smallest_RK`` has no columns, only the largest are looked for.
    """
    for signed, places in ((-values_RC, largest_RK), (values_RC, smallest_RK)):
        if count := places.shape[1]:
            places[:] = np.argsort(signed, axis=1, kind="stable")[:, :count]
