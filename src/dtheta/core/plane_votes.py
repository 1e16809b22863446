"""Votes of ternary vectors of equal weight, by counters whose binary digits are bit planes; the result is ternary.

    p_e = #{i: t_i,e = +1},   n_e = #{i: t_i,e = -1}
    TIES   +1 where p >= n and p > 0,   -1 where n > p,   0 elsewhere

TIES (Yadav et al. 2023, arXiv 2306.01708) elects a sign by the sum of the trimmed vectors, then averages the entries
that have it. If all vectors are s t_i with one scale s > 0 and one weight, the sum's sign is that of p - n, and the
mean over agreeing entries, each of which is s or -s, is s or -s itself: s times the vector above, exactly. A sum of
zero elects the positive sign, as in the released code, mergekit and peft. Vectors of different scales or weights
give a dense result: plane_ties.

Adding a plane to the counters is a carry rippling through their digits, so a whole word of elements is counted by a
few logical operations: about log2(M) for each of M vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dtheta.core.compiled import loops
from dtheta.core.plane_blocks import blocks
from dtheta.core.planes import Planes, same_length, trusted


def ties(planes: Sequence[Planes]) -> Planes:
    """Return the TIES merge of ternary vectors of equal positive scale and weight, to be read with that scale.

    Raises:
        ConfigError: If there are no vectors.
        ShapeMismatch: If their lengths differ.
    """
    length = same_length(planes)
    size = (length + 7) // 8
    positive, negative = np.empty(size, np.uint8), np.empty(size, np.uint8)
    plane = loops("plane")
    for start, stop, P_MW, N_MW in blocks(planes, length):
        P_Mw, N_Mw = P_MW.view(np.uint64), N_MW.view(np.uint64)
        p, q = np.empty((2, P_Mw.shape[1]), np.uint64)
        plane.vote(P_Mw, N_Mw, p, q)
        inside = slice(start // 8, (stop + 7) // 8)
        positive[inside], negative[inside] = (x.view(np.uint8)[: inside.stop - inside.start] for x in (p, q))
    return trusted(positive, negative, length)
