"""Ablation and noise: deltas that move single value vectors and nothing else.

    ablate   v <- keep v                                  keep = 0: the neuron writes nothing any more
    noise    v <- v + eps,   eps ~ N(0, (s |v|)^2 / D I)  s: noise relative to the vector, of equal length at s = 1

The paper (ConceptVectors, arXiv 2406.11614, "Needle") adds noise of an absolute 0.1, which on LLaMA-2-7B is several
times the length of a vector and on another model something else; relative noise means the same everywhere. As deltas
both are exact, are undone by leaving the context, and have no side effect: the released code's weight decay shrinks the
whole masked matrix with every step.

``silenced`` takes vectors out for a block without a delta, by what goes into them: nothing is hashed or written.

Shape legend: D features of the stream, K vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.arguments import number, whole
from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.provenance import Provenance
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator, normal
from dtheta.errors import ConfigError
from dtheta.probe.decoder import Decoder, ValueMatrix, open_decoder
from dtheta.probe.value_vector import ValueVector, value_vectors


def ablation(model: nn.Module, vectors: Iterable[ValueVector], *, keep: float = 0.0) -> Delta:
    """Return the delta that scales value vectors down to a part of themselves.

    Args:
        model: The decoder; it is not written to.
        vectors: Which; their sides do not matter.
        keep: What is left of each, 0 by default: nothing. 1 changes nothing, -1 turns them around.

    Raises:
        ConfigError: If no vector is given, or the model has none there.
        UnsupportedLayer: If the model cannot be probed (see ``open_decoder``).
    """
    decoder, chosen, keep = open_decoder(model), distinct(vectors), number(keep, "keep")
    moves = {vector: (keep - 1.0) * vector_of(decoder, vector) for vector in chosen}
    return moved(model, decoder, moves, Provenance("ablate", settings={"vectors": _written(chosen), "keep": keep}))


def noise(
    model: nn.Module, vectors: Iterable[ValueVector], *, strength: float = 1.0, seed: int = 0, draw: int = 0
) -> Delta:
    """Return the delta that adds normal noise to value vectors.

    Args:
        model: The decoder; it is not written to.
        vectors: Which; their sides do not matter.
        strength: s, expected length of the noise over the length of the vector, 0 or more.
        seed: Of the draws; each vector has its own, whichever others there are.
        draw: Number of the draw.

    Raises:
        ConfigError, UnsupportedLayer: As ``ablation``.
    """
    decoder, chosen, strength = open_decoder(model), distinct(vectors), number(strength, "strength")
    if strength < 0:
        raise ConfigError(f"strength is {strength}; expected 0 or more")
    moves = {}
    for vector in chosen:
        v_D = vector_of(decoder, vector)
        key = f"probe/noise/{vector.layer}/{vector.column}"
        eps_D = normal(v_D.shape, 1.0, generator(seed, key, whole(draw, "draw", least=0)))
        moves[vector] = eps_D * (strength * v_D.norm() / len(v_D) ** 0.5)
    settings = {"vectors": _written(chosen), "strength": strength, "draw": draw}
    return moved(model, decoder, moves, Provenance("noise", settings=settings, seed=seed))


@contextmanager
def silenced(model: nn.Module, vectors: Sequence[ValueVector]) -> Iterator[None]:
    """Run a block in which neurons write nothing, whatever is attached to their layer; no weight is touched.

    Raises:
        ConfigError: If the model has no vector at an address.
    """
    decoder = open_decoder(model)
    for vector in vectors:
        check_address(decoder, vector)
    handles = []
    for layer in sorted({vector.layer for vector in vectors}):
        columns = sorted({vector.column for vector in vectors if vector.layer == layer})
        module = model.get_submodule(decoder.matrices[layer].name.removesuffix(".weight"))
        handles.append(module.register_forward_pre_hook(_silencer(columns)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _silencer(columns: list[int]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        mask = inputs[0].new_ones(inputs[0].shape[-1])
        mask[columns] = 0.0
        return (inputs[0] * mask, *inputs[1:])

    return hook


def distinct(vectors: Iterable[ValueVector]) -> list[ValueVector]:
    """Return the vectors once each, whatever their side, in order of layer and column.

    Raises:
        ConfigError: If there is none, or something else is among them.
    """
    return sorted({ValueVector(vector.layer, vector.column) for vector in value_vectors(vectors)})


def vector_of(decoder: Decoder, vector: ValueVector) -> Tensor:
    """Return v, float32 (D,), float64 where it is stored so, with the sign it is stored with.

    Raises:
        ConfigError: If the model has none there.
    """
    check_address(decoder, vector)
    return decoder.value(vector.layer, vector.column)


def moved(model: nn.Module, decoder: Decoder, moves: Mapping[ValueVector, Tensor], provenance: Provenance) -> Delta:
    """Return the delta that adds to each value vector its displacement (D,)."""
    changes: dict[str, Change] = {}
    for layer in sorted({vector.layer for vector in moves}):
        matrix = decoder.matrices[layer]
        columns = sorted(vector.column for vector in moves if vector.layer == layer)
        values_KD = torch.stack([moves[ValueVector(layer, column)] for column in columns])
        changes[matrix.name] = _change(matrix, torch.tensor(columns), values_KD)
    return Delta(changes, fingerprint(model).restrict(changes), provenance)


def _change(matrix: ValueMatrix, columns: Tensor, values_KD: Tensor) -> Change:
    """Return the change of some of a matrix' value vectors: rows of it, or columns, which is a product with ones."""
    if matrix.rows:
        return Rows(columns, values_KD, (matrix.count, values_KD.shape[1]))
    picked_KN = torch.zeros(len(columns), matrix.count, dtype=values_KD.dtype)
    picked_KN[torch.arange(len(columns)), columns] = 1.0
    return LowRank(values_KD.T.contiguous(), picked_KN)


def check_address(decoder: Decoder, vector: ValueVector) -> None:
    """Raise ConfigError unless the model has a value vector there."""
    if vector.layer not in decoder.matrices:
        raise ConfigError(f"{vector}: the model has MLP layers {decoder.layers[0]} to {decoder.layers[-1]}")
    count = decoder.matrices[vector.layer].count
    if not 0 <= vector.column < count:
        raise ConfigError(f"{vector}: layer {vector.layer} has columns 0 to {count - 1}")


def _written(vectors: Sequence[ValueVector]) -> list[Any]:
    return [[vector.layer, vector.column] for vector in vectors]
