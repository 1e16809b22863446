"""concept_vectors: where a decoder keeps concepts, by what its value vectors write and by what holds its answers up.

    1. scan        every value vector through the unembedding, both sides                           (scan.py)
    2. projection  weight of its best tokens in the concept's lexicon, against shuffled directions  (projection.py)
    3. contrast    first-order drop of the concept's answers without it, less that of others        (attribution.py)
    4. rank        the two ranks are added; the first ``count`` are the concept's vectors
    5. effect      they are taken out: how far do its answers fall, how far others', and how far without as many
                   random vectors of the same layers?

Step 3 is a screen and step 2 reads tokens; step 5 is the measurement. In place of the judge model and the readers of
ConceptVectors (arXiv 2406.11614) everything is measured, and a concept is a set of vectors, since a small network has
none that alone holds one.

Shape legend: C concepts, S = 2 sides, N neurons, K tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dtheta.core.arguments import whole
from dtheta.core.seeds import generator, permutation
from dtheta.data.concepts import Concept, Question
from dtheta.errors import ConfigError, did_you_mean
from dtheta.probe.ablation import silenced
from dtheta.probe.answers import answer_scores
from dtheta.probe.attribution import Attribution, attribution
from dtheta.probe.cooccurrence import Cooccurrence
from dtheta.probe.decoder import Decoder, Norm, open_decoder
from dtheta.probe.encoded import answered
from dtheta.probe.lexicon import concept_weights, distinct_words
from dtheta.probe.null import null_scan, p_values
from dtheta.probe.projection import BEST, all_projections
from dtheta.probe.scan import Reader, Scan, scan
from dtheta.probe.trace import Candidate, Effect, Trace, Traces
from dtheta.probe.value_vector import ValueVector
from dtheta.probe.words import token_words
from dtheta.score.interval import mean_interval

_OTHERS = 50  # questions about other concepts that a set is measured on
_FEW = 40  # of so many tokens one is among the best, where a vocabulary is small
_LEAST = 2  # questions that an interval takes


def concept_vectors(
    model: nn.Module,
    concepts: Sequence[Concept],
    *,
    tokenizer: Any,
    only: Sequence[str] | None = None,
    count: int = 32,
    layers: Sequence[int] | None = None,
    norm: Norm = "folded",
    best: int = BEST,
    null: int = 2000,
    draws: int = 9,
    corpus: Sequence[str] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Traces:
    """Find the value vectors of concepts and measure what they do.

    Args:
        model: A decoder with its language modeling head; it is as it was when this returns.
        concepts: Two or more, each with questions and answers that the model knows. Their documents make the lexicon;
            where there are none, the questions with their answers do.
        tokenizer: The model's tokenizer.
        only: Names of the concepts to trace; the others are contrast alone. None for all.
        count: Vectors a concept.
        layers: Where to look; everywhere by default.
        norm: What vectors are read through (see ``decoder``).
        best: Tokens of a vector that its projection looks at.
        null: Shuffled directions that projections are held against.
        draws: Random sets that the effect of each concept's set is held against; p is at least 1 / (draws + 1). With 0
            there is no p.
        corpus: Texts from which to tell how well a vector's tokens belong together (NPMI); None leaves it out.
        seed: Of all draws.
        progress: Called with what is being done.

    Raises:
        ConfigError: For fewer than two concepts, one without questions or a traced one with fewer than two, a name in
            ``only`` that none has, another model's tokenizer, or a ``count`` that leaves no random sets to compare.
        UnsupportedLayer: If the model is no decoder that can be probed.
    """
    _check(concepts)
    wanted = _wanted(concepts, only)
    count, best = whole(count, "count", least=1), whole(best, "best", least=1)
    say = progress or (lambda _: None)
    decoder = open_decoder(model)
    words = token_words(tokenizer, len(decoder.tensors[decoder.unembedding]))
    asked = {concept.name: answered(concept) for concept in concepts}
    _check_measurable(asked, wanted)
    say("reading value vectors")
    seen = scan(decoder, top=best, layers=layers, norm=norm)
    found = _Projected(decoder, seen, concepts, words, null, seed)
    say("attributing answers")
    held_up = attribution(model, decoder, tokenizer, asked)
    belong = None if corpus is None else Cooccurrence(corpus, set(words))
    traces = []
    for row, concept in enumerate(concepts):
        if concept.name not in wanted:
            continue
        say(f"taking out {concept.name}")
        candidates = _candidates(row, concept.name, found, held_up, seen, count, belong)
        vectors = [candidate.vector for candidate in candidates]
        others = _some([q for name, questions in asked.items() if name != concept.name for q in questions], seed)
        effect = _effect(model, decoder, tokenizer, vectors, asked[concept.name], others, draws, seed)
        traces.append(Trace(concept.name, tuple(candidates), effect))
    return Traces(tuple(traces))


def ranked_vectors(
    model: nn.Module,
    decoder: Decoder,
    concepts: Sequence[Concept],
    name: str,
    *,
    tokenizer: Any,
    count: int,
    seed: int = 0,
) -> list[ValueVector]:
    """Return the vectors of one concept as ``concept_vectors`` ranks them, the surest first, without measuring them.

    Args:
        model: A decoder.
        decoder: How it is laid out.
        concepts: Two or more, each with questions and answers.
        name: Which of them.
        tokenizer: The model's tokenizer.
        count: Vectors.
        seed: Of the shuffled directions.

    Raises:
        ConfigError: As ``concept_vectors``.
    """
    _check(concepts)
    words = token_words(tokenizer, len(decoder.tensors[decoder.unembedding]))
    seen = scan(decoder, top=min(BEST, max(2, len(words) // _FEW)))
    found = _Projected(decoder, seen, concepts, words, 1, seed)
    held_up = attribution(model, decoder, tokenizer, {concept.name: answered(concept) for concept in concepts})
    [row] = [i for i, concept in enumerate(concepts) if concept.name == name]
    return [candidate.vector for candidate in _candidates(row, name, found, held_up, seen, count, None)]


class _Projected:
    """Projections of all vectors on all concepts, and of the null."""

    def __init__(
        self,
        decoder: Decoder,
        seen: Scan,
        concepts: Sequence[Concept],
        words: Sequence[str],
        null: int,
        seed: int,
    ) -> None:
        self.words: Sequence[str] = words
        words_V, _ = distinct_words(words)
        weights_CV = concept_weights(concepts, words)
        self.by_layer = all_projections(seen.layers, weights_CV, words_V, seen.top)
        reader = Reader(decoder, seen.norm, seen.top)
        shuffled = null_scan(reader, null, layers=tuple(self.by_layer), seed=seed)
        nulls = all_projections(shuffled, weights_CV, words_V, seen.top).values()
        self.null_C = np.concatenate([values_CSN.reshape(len(concepts), -1) for values_CSN in nulls], axis=1)

    def of(self, row: int, layer: int) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Return the better side's projection of each vector of a layer, and which side that is."""
        values_SN = self.by_layer[layer][row]
        side_N = values_SN.argmax(axis=0)
        return np.take_along_axis(values_SN, side_N[None], axis=0)[0], side_N


def _candidates(
    row: int,
    name: str,
    found: _Projected,
    held_up: Attribution,
    seen: Scan,
    count: int,
    belong: Cooccurrence | None,
) -> list[Candidate]:
    """Return the vectors with the best sum of ranks, the best first."""
    contrast = held_up.contrast(name)
    layers = list(found.by_layer)
    parts = [found.of(row, layer) for layer in layers]
    projection = np.concatenate([values_N for values_N, _ in parts])
    side = np.concatenate([side_N for _, side_N in parts])
    drop = np.concatenate([contrast[layer] for layer in layers])
    places = [(layer, j) for layer, part in zip(layers, parts, strict=True) for j in range(len(part[0]))]
    p = p_values(projection, found.null_C[row])
    chosen = np.argsort(_ranks(projection) + _ranks(drop), kind="stable")[:count]

    def candidate(i: int) -> Candidate:
        vector = ValueVector(*places[i], 1 - 2 * int(side[i]))
        words = [found.words[int(token)] for token in seen.tokens(vector)]
        npmi = None if belong is None else belong.npmi(words)
        shown = tuple(dict.fromkeys(word for word in words if word))
        return Candidate(vector, float(projection[i]), float(p[i]), float(drop[i]), npmi, shown)

    return [candidate(int(i)) for i in chosen]


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return ranks from 0, the largest first; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(-values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2.0)[inverse]


def _effect(
    model: nn.Module,
    decoder: Decoder,
    tokenizer: Any,
    vectors: Sequence[ValueVector],
    target: Sequence[Question],
    others: Sequence[Question],
    draws: int,
    seed: int,
) -> Effect:
    """Take the vectors out, and as many random ones, and compare."""

    def logprobs(asked: Sequence[Question]) -> torch.Tensor:
        return answer_scores(model, tokenizer, asked).logprob

    before = [logprobs(asked) for asked in (target, others)]
    with silenced(model, vectors):
        drops = [old - logprobs(asked) for old, asked in zip(before, (target, others), strict=True)]
    null = []
    for draw in range(whole(draws, "draws", least=0)):
        with silenced(model, _random(decoder, vectors, seed, draw)):
            null.append(float((before[0] - logprobs(target)).mean()))
    mine = float(drops[0].mean())
    p = (1 + sum(drop >= mine for drop in null)) / (len(null) + 1) if null else None
    return Effect(mean_interval(drops[0]), mean_interval(drops[1]), tuple(null), p)


def _random(decoder: Decoder, vectors: Sequence[ValueVector], seed: int, draw: int) -> list[ValueVector]:
    """Return as many other vectors of the same layers."""
    taken = {(vector.layer, vector.column) for vector in vectors}
    found = []
    for layer in sorted({vector.layer for vector in vectors}):
        free = [j for j in range(decoder.matrices[layer].count) if (layer, j) not in taken]
        wanted = sum(vector.layer == layer for vector in vectors)
        if wanted > len(free):
            raise ConfigError(
                f"layer {layer}: {wanted} of its {decoder.matrices[layer].count} vectors are in one trace, so there "
                "are not as many others to hold its effect against; lower count, or leave that out with draws=0"
            )
        order = permutation(len(free), generator(seed, f"probe/random/{layer}", draw))
        found += [ValueVector(layer, free[i]) for i in order[:wanted].tolist()]
    return found


def _some(questions: Sequence[Question], seed: int) -> list[Question]:
    order = permutation(len(questions), generator(seed, "probe/others"))
    return [questions[i] for i in sorted(order[:_OTHERS].tolist())]


def _wanted(concepts: Sequence[Concept], only: Sequence[str] | None) -> set[str]:
    names = {concept.name for concept in concepts}
    for name in only or ():
        if name not in names:
            raise ConfigError(f"only: no concept {name!r} was given{did_you_mean(name, names)}")
    return names if only is None else set(only)


def _check_measurable(asked: Mapping[str, Sequence[Question]], wanted: Iterable[str]) -> None:
    every = sum(map(len, asked.values()))
    for name in wanted:
        mine = len(asked[name])
        if min(mine, every - mine) < _LEAST:
            raise ConfigError(
                f"{name!r}: {mine} questions about it and {every - mine} about the others have answers; an interval "
                f"takes {_LEAST} of each, a useful one ten or more"
            )


def _check(concepts: Sequence[Concept]) -> None:
    if len(concepts) < 2:
        raise ConfigError("a concept is found by what sets it apart: give two or more")
    names: Mapping[str, Concept] = {concept.name: concept for concept in concepts}
    if len(names) < len(concepts):
        raise ConfigError("two concepts have one name; give each its own")
    for concept in concepts:
        if not answered(concept):
            raise ConfigError(f"the concept {concept.name!r} has no questions with answers, by which it could be found")
