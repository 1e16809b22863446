"""How much of a concept a value vector writes: the weight of its best tokens in the concept's lexicon.

    projection(v, c) = (1 / k) sum over the k best tokens t of  weight_c(word of t),   each word once

Shape legend: C concepts, S = 2 sides, N neurons, K tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dtheta.probe.scan import LayerScan

BEST = 20  # tokens of a vector that are looked at


def projections(
    layer: LayerScan, weights_CV: NDArray[np.float32], words_V: NDArray[np.int32], best: int = BEST
) -> NDArray[np.float32]:
    """Return the projection of every signed vector of a layer on every concept, (C, S, N).

    Args:
        layer: What its vectors promote.
        weights_CV: Weight of each token, by concept (see ``lexicon.token_weights``).
        words_V: Number of each token's word, -1 where it stands for none.
        best: k, tokens looked at.
    """
    tokens_SNK = layer.tokens_SNK[:, :, :best]
    words_SNK = words_V[tokens_SNK]
    first_SNK = (words_SNK >= 0) & ~_seen(words_SNK)
    # wide, so that the same words in another order weigh the same, and ranks of equals are equal
    found = [(weights_V[tokens_SNK] * first_SNK).sum(axis=2, dtype=np.float64) for weights_V in weights_CV]
    return (np.stack(found) / tokens_SNK.shape[2]).astype(np.float32)


def _seen(words_SNK: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Tell where a word stands further ahead in the same list already."""
    same = words_SNK[..., :, None] == words_SNK[..., None, :]
    return np.tril(same, -1).any(axis=-1)


def all_projections(
    layers: Iterable[LayerScan], weights_CV: NDArray[np.float32], words_V: NDArray[np.int32], best: int = BEST
) -> dict[int, NDArray[np.float32]]:
    """Return ``projections`` of layers, by layer."""
    return {layer.layer: projections(layer, weights_CV, words_V, best) for layer in layers}
