"""The singular vectors of a base weight, as spectral changes use them: reproducible elsewhere, and from the disk cache.

    W = U diag(S) Vh, decomposed in float64, U and Vh then rounded to the precision of W (float32 at least)

Always the whole decomposition by LAPACK, of which k leading vectors are taken: where singular values are equal, another
route or another k would turn the vectors in their space, and a change made on them would refuse its own base.

Two numerical libraries agree on singular vectors up to rounding / gap between neighboring singular values. In the
weights of a network gaps go down to 1e-5 of the largest value, which in float32 leaves a relative difference of about
1e-4 in U diag(s) Vh (measured on MiniLM, LAPACK on W against LAPACK on its transpose), and in float64 of 1e-9.

Shape legend: W (m, n), U (m, k), Vh (k, n).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dtheta.core.factors import cached_svd


def spectral_basis(weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return U (m, k) and Vh (k, n), the leading ``k`` singular vectors of ``weight`` (m, n).

    They are float64 for a float64 weight, else float32.

    Raises:
        ConfigError: If ``k`` is not in 1 .. min(m, n).
        NonFinite: If the weight holds NaN or infinity.
    """
    whole = min(weight.shape, default=1)
    found = cached_svd(weight.detach().double(), max(1, whole), accuracy=1e-12, route="full").truncate(k)
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    return _own(found.U, dtype, k < whole), _own(found.Vh, dtype, k < whole)


def _own(tensor: Tensor, dtype: torch.dtype, cut: bool) -> Tensor:
    """Return the tensor in a dtype; a cut one without the memory of the whole from which it was cut."""
    return tensor.to(dtype, copy=cut, memory_format=torch.contiguous_format)
