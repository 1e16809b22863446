"""What a value vector says and does, told without a judge: five scores, each beside what chance gives.

    peak         z-score of the mean logit of its ten best tokens, within the vector                 (scan.py)
    coherence    mean cosine over the pairs of its K best tokens, of their centered rows of E
    npmi         how often the words of these stand together in a corpus                     (cooccurrence.py)
    projection   weight of these in the lexicon of the concept where that is highest           (projection.py)
    contrast     first-order drop of that concept's answers without the vector, less others' (attribution.py)

Chance are shuffled directions of the vector's own layer (null.py) for the first four: p is the share of them, on both
sides, that score as high. A direction is given its best concept too, so the choice among concepts is paid for. For the
contrast it is a permutation: which answers are whose is drawn anew, in groups of the same sizes. No p pays for the
choice of the vectors. In place of the judge model of ConceptVectors (arXiv 2406.11614, section 3).

Shape legend: C concepts, S = 2 sides, N vectors of a layer, K tokens, Q questions, M vectors asked for, V tokens of the
vocabulary, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dtheta.core.arguments import whole
from dtheta.data.concepts import Concept
from dtheta.probe.ablation import check_address
from dtheta.probe.attribution import contrasts, drops
from dtheta.probe.cooccurrence import Cooccurrence
from dtheta.probe.decoder import Decoder, Norm, open_decoder
from dtheta.probe.encoded import answered
from dtheta.probe.lexicon import concept_weights, distinct_words
from dtheta.probe.null import p_values, shuffled
from dtheta.probe.projection import BEST, projections
from dtheta.probe.scan import PEAK, LayerScan, Reader
from dtheta.probe.value_vector import ValueVector, value_vectors
from dtheta.probe.words import token_words


@dataclass(frozen=True)
class Score:
    """A number, and how often chance gives one as high, this one counted."""

    value: float
    p: float


@dataclass(frozen=True)
class VectorScores:
    """What speaks for one side of a value vector.

    Attributes:
        vector: Which.
        words: The words of its best tokens, each once, the best first.
        peak: How far its best tokens stand out.
        coherence: How alike their embeddings are, from -1 to 1.
        npmi: How well their words belong together in the corpus, from 0 to 1; None without a corpus.
        concept: The concept whose texts fit best; None without concepts, or where none of their words is said.
        projection: How well they fit, from 0 to 1.
        contrast: By how much that concept's answers, more than others', lose without the vector, in nats; None without
            concepts that have answers, or where the model is on disk.
    """

    vector: ValueVector
    words: tuple[str, ...]
    peak: Score
    coherence: Score
    npmi: Score | None = None
    concept: str | None = None
    projection: Score | None = None
    contrast: Score | None = None


def vector_scores(
    model: nn.Module | str | Path,
    vectors: Sequence[ValueVector],
    *,
    tokenizer: Any,
    concepts: Sequence[Concept] = (),
    corpus: Sequence[str] | None = None,
    norm: Norm = "folded",
    best: int = BEST,
    null: int = 200,
    permutations: int = 999,
    seed: int = 0,
) -> tuple[VectorScores, ...]:
    """Score value vectors, in their order.

    Args:
        model: A decoder in memory, or the folder of a safetensors checkpoint, of which one layer is read at a time.
        vectors: Which, with the side to read.
        tokenizer: The model's tokenizer.
        concepts: None, or two or more, with documents or questions.
        corpus: Texts for the NPMI.
        norm: What vectors are read through (see ``decoder``).
        best: K, tokens looked at, two or more.
        null: Shuffled directions of each layer; p is at least 1 / (2 null + 1).
        permutations: Draws of whose answers are whose; p is at least 1 / (permutations + 1).
        seed: Of all draws.

    Raises:
        ConfigError: For no vectors or some that the model does not have, a single concept, or another model's
            tokenizer.
        UnsupportedLayer: If the model is no decoder that can be probed.
        NonFinite: If a weight, or an answer's logits, are NaN or infinite.
    """
    listed, decoder = value_vectors(vectors), open_decoder(model)
    for vector in listed:
        check_address(decoder, vector)
    scorer = _Scorer(decoder, tokenizer, concepts, corpus, norm, whole(best, "best", least=2))
    found = {layer: scorer.layer(layer, _of(listed, layer), null, seed) for layer in {v.layer for v in listed}}
    plain = [found[vector.layer][vector] for vector in listed]
    if not isinstance(model, nn.Module) or sum(bool(answered(concept)) for concept in concepts) < 2:
        return tuple(plain)
    return tuple(_contrasted(model, decoder, tokenizer, concepts, plain, permutations, seed))


def coherence_SN(readout_VD: torch.Tensor, mean_D: torch.Tensor, tokens_SNK: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the mean cosine over the pairs of each vector's K tokens, of their rows less the mean row."""
    rows_SNKD = readout_VD[torch.from_numpy(tokens_SNK).long()] - mean_D
    unit_SNKD = torch.nn.functional.normalize(rows_SNKD, dim=-1)
    count = tokens_SNK.shape[2]
    total_SN = unit_SNKD.sum(dim=2).square().sum(dim=2)  # the sum over all pairs, each twice, and K ones
    return ((total_SN - count) / (count * (count - 1))).numpy()


class _Scorer:
    """Scores of directions of a layer, from what their best tokens are."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Any,
        concepts: Sequence[Concept],
        corpus: Sequence[str] | None,
        norm: Norm,
        best: int,
    ) -> None:
        self.decoder, self.best, self.names = decoder, best, [concept.name for concept in concepts]
        self.reader = Reader(decoder, norm, best)
        self.words = token_words(tokenizer, len(self.reader.readout_VD))
        self.words_V, _ = distinct_words(self.words)
        self.belong = None if corpus is None else Cooccurrence(corpus, set(self.words))
        self.weights_CV = concept_weights(concepts, self.words) if concepts else None

    def layer(
        self, layer: int, vectors: Sequence[ValueVector], null: int, seed: int
    ) -> dict[ValueVector, VectorScores]:
        """Score vectors of one layer against shuffled directions of it."""
        values_ND = self.decoder.values(layer)
        read = self.reader.layer(layer, values_ND[[vector.column for vector in vectors]])
        chance = self.reader.layer(layer, shuffled(values_ND, whole(null, "null", least=1), seed, layer))
        fit_CSN = self._fit(read)
        found, by_chance = self._scores(read, fit_CSN), self._scores(chance, self._fit(chance))
        p = {name: p_values(values_SN, by_chance[name]) for name, values_SN in found.items()}

        def scores(n: int, vector: ValueVector) -> VectorScores:
            side = 0 if vector.sign > 0 else 1
            of = {name: Score(float(values[side, n]), float(p[name][side, n])) for name, values in found.items()}
            words = tuple(dict.fromkeys(filter(None, self._words(read.tokens_SNK[side, n]))))
            return VectorScores(vector, words, concept=self._nearest(fit_CSN, side, n), **of)

        return {vector: scores(n, vector) for n, vector in enumerate(vectors)}

    def _scores(self, read: LayerScan, fit_CSN: NDArray[np.float32] | None) -> dict[str, NDArray[np.floating]]:
        """Return the scores of all directions that were read, (S, N) each."""
        found: dict[str, NDArray[np.floating]] = {
            "peak": read.peak_SN(min(PEAK, self.best)),
            "coherence": coherence_SN(self.reader.readout_VD, self.reader.mean_D, read.tokens_SNK),
        }
        if self.belong is not None:
            npmi = [[self.belong.npmi(self._words(tokens_K)) for tokens_K in side] for side in read.tokens_SNK]
            found["npmi"] = np.array(npmi)
        if fit_CSN is not None:
            found["projection"] = fit_CSN.max(axis=0)
        return found

    def _fit(self, read: LayerScan) -> NDArray[np.float32] | None:
        """Return the projection of all directions on all concepts, (C, S, N); None without concepts."""
        return None if self.weights_CV is None else projections(read, self.weights_CV, self.words_V, self.best)

    def _nearest(self, fit_CSN: NDArray[np.float32] | None, side: int, n: int) -> str | None:
        """Return the concept that fits a direction best; None where no word of any concept is among its tokens."""
        if fit_CSN is None or not fit_CSN[:, side, n].any():
            return None
        return self.names[int(fit_CSN[:, side, n].argmax())]

    def _words(self, tokens_K: NDArray[np.int32]) -> list[str]:
        return [self.words[int(token)] for token in tokens_K]


def _of(vectors: Sequence[ValueVector], layer: int) -> list[ValueVector]:
    return list(dict.fromkeys(vector for vector in vectors if vector.layer == layer))


def _contrasted(
    model: nn.Module,
    decoder: Decoder,
    tokenizer: Any,
    concepts: Sequence[Concept],
    plain: Sequence[VectorScores],
    permutations: int,
    seed: int,
) -> Iterator[VectorScores]:
    """Yield the scores with the contrast of each vector's concept; None where that has no answers."""
    asked = {concept.name: answered(concept) for concept in concepts if answered(concept)}
    found = drops(model, decoder, tokenizer, [question for questions in asked.values() for question in questions])
    drops_QM = np.stack([found[one.vector.layer][:, one.vector.column] for one in plain], axis=1)
    concept_Q = np.repeat(np.arange(len(asked)), [len(questions) for questions in asked.values()])
    values_CM, p_CM = contrasts(drops_QM, concept_Q, permutations, seed)
    row = {name: c for c, name in enumerate(asked)}
    for m, one in enumerate(plain):
        c = row.get(one.concept or "")
        yield one if c is None else replace(one, contrast=Score(float(values_CM[c, m]), float(p_CM[c, m])))
