"""CLIP-SVD: train the singular values and nothing else.

    output = W x + U diag(s) V^T x,   W = U S V^T,   s (k,) from 0

Koleilat et al. 2025, arXiv 2509.03740. The paper replaces W by U diag(S + s) V^T and stores three matrices; with the
base left alone only s is stored, and a file is a few hundred numbers a layer. Weight decay pulls s to zero, that is
to the base, where in the released code it pulls the singular values themselves to zero. Any matrix at any site takes
it: q, k, v slices of a fused projection and convolutions (seen as out x (in kh kw)) included. Experts that stand in one
tensor have singular values each, and are refused.

k = the whole short side at ratio 1; else floor(floor(ratio * short) / 4) * 4, at least 1, as in the released code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from dtheta.adapt.method import Method, check_weight
from dtheta.adapt.term import SpectralTerm
from dtheta.core.basis import spectral_basis
from dtheta.core.selection import Site
from dtheta.errors import ConfigError, UnsupportedLayer


@dataclass(frozen=True)
class CLIPSVD(Method):
    """Singular value fine-tuning.

    Attributes:
        ratio: Share of the singular values that train, the leading ones; in (0, 1].
    """

    ratio: float = 1.0

    summary: ClassVar[str] = "trains the singular values only"
    paper: ClassVar[str] = "2509.03740"

    def term(self, site: Site, seed: int) -> SpectralTerm:
        """Return the shifts of the leading singular values, all zero."""
        check_weight(site)
        if site.stacked and len(site.tensor) > 1:
            raise UnsupportedLayer(
                f"{site.key}: the {len(site.tensor)} matrices of this parameter have singular values of their own, "
                f"which CLIPSVD does not move; use PiSSA or LoRA, or leave it out with select='...|!{site.name}'"
            )
        k = self.count(min(site.shape))
        left, right = spectral_basis(site.matrix(), k)
        return SpectralTerm(left, right, torch.zeros(k, dtype=left.dtype, device=left.device))

    def count(self, short: int) -> int:
        """Return k for a matrix whose short side is ``short``.

        Raises:
            ConfigError: If the ratio is outside (0, 1].
        """
        if not 0.0 < self.ratio <= 1.0:
            raise ConfigError(f"ratio must be in (0, 1], found {self.ratio}")
        return short if self.ratio == 1.0 else max(1, math.floor(self.ratio * short) // 4 * 4)
