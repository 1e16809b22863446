"""Random features: f(w.x + b) as one dot product, phi(x).psi(w, b), of a map of inputs and a map of weights.

    random_features.py   RandomFeatures: the configuration, phi and psi
    sides.py             both maps in real arithmetic
    refusals.py          choices that cannot be meant
    spectra.py           the functions f as mixtures of exponentials exp(a z)
    projections.py       the random rows g: independent, orthogonal, quasi-random
    moments.py           kernels, second moments and variances in closed form
    tuning.py            features_of: balance, tilt and A of the least variance for a batch
    code.py              features as a part of a name in a delta

Universal random features: Sehanobish et al. 2024, "Scalable Neural Network Kernels" (arXiv 2310.13225).
"""

from dtheta.core.features.random_features import Draws, RandomFeatures
from dtheta.core.features.tuning import features_of

__all__ = ["Draws", "RandomFeatures", "features_of"]
