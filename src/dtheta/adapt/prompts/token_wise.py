"""Token-wise offsets: what a small network adds to the embedding of every token, or a table of the same by token.

    network   f(x) = relu(x A + a) B + b      A (d, r), a (1, r), B (r, d), b (1, d)      ADePT, arXiv 2501.03291
    table     T[token], T = f(E)              T (V, d)                                      made by folding.py

The offset follows from the token alone, so padding, instructions in front and generation change nothing. In a delta
the network is its four matrices, which is what sums and multiples act on: half of a network is not half of its offsets,
as f is no linear function of A, a, B and b. Offsets add up where the network is folded to its table first.

Shape legend: d features of an embedding, r hidden units, V tokens of the vocabulary, B texts, T columns.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dtheta.adapt.prompts.family import Family, family
from dtheta.adapt.prompts.names import NETWORK, TOKEN_TABLE
from dtheta.adapt.prompts.sources import restored
from dtheta.adapt.term import Term
from dtheta.core.change import slabs
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, ShapeMismatch


def network_offsets(x: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
    """Return f(x) (..., d) for embeddings x (..., d), in the dtype of the network."""
    down, down_bias, up, up_bias = (parts[name] for name in NETWORK)
    return torch.relu(x.to(down.device, down.dtype) @ down + down_bias) @ up + up_bias


def table_offsets(ids: Tensor | None, table: Tensor) -> Tensor:
    """Return the rows of a table for token ids.

    Raises:
        ConfigError: If the text came as embeddings.
    """
    if ids is None:
        raise ConfigError(
            f"{TOKEN_TABLE} goes by token ids, and the text came as inputs_embeds; give input_ids, or attach the "
            "network that was folded into it"
        )
    return nn.functional.embedding(ids.to(table.device), table)


def require_token_wise(found: Family, terms: Mapping[str, Term]) -> None:
    """Raise unless networks and tables of offsets fit a model.

    Raises:
        ShapeMismatch: If a part is missing or has another shape.
    """
    shapes = {name: next(iter(term.parameters(recurse=False))).shape for name, term in terms.items() if name in NETWORK}
    if shapes:
        if len(shapes) < len(NETWORK):
            missing = next(name for name in NETWORK if name not in shapes)
            raise ShapeMismatch(f"{missing} is missing: token-wise offsets are attached with all of {NETWORK}")
        d, r = found.width, shapes[NETWORK[0]][1]
        for name, wanted in zip(NETWORK, ((d, r), (1, r), (r, d), (1, d)), strict=True):
            if tuple(shapes[name]) != wanted:
                raise ShapeMismatch(f"{name}: {tuple(shapes[name])}, and {wanted} fits {type(found.outer).__name__}")
    if TOKEN_TABLE in terms:
        weight: Tensor = found.embedding.weight  # type: ignore[assignment]
        rows = terms[TOKEN_TABLE].matrix().shape
        if rows != weight.shape:
            raise ShapeMismatch(f"{TOKEN_TABLE}: {tuple(rows)} beside embeddings of {tuple(weight.shape)}")


def folded_nbytes(model: nn.Module) -> int:
    """Return the bytes of a folded table beside a model: 4 V d."""
    weight: Tensor = family(model).embedding.weight  # type: ignore[assignment]
    return 4 * weight.numel()


@torch.no_grad()
def vocabulary_table(delta: Delta, model: nn.Module) -> Tensor:
    """Return the offsets of all tokens (V, d), of the network in a delta.

    Raises:
        ShapeMismatch: If the network does not fit the model.
    """
    found = family(model)
    require_token_wise(found, {name: restored(delta[name]) for name in NETWORK})
    parts = {name: delta[name].dense() for name in NETWORK}
    weight: Tensor = found.embedding.weight  # type: ignore[assignment]
    table = parts[NETWORK[0]].new_empty(weight.shape)
    for start, stop in slabs(weight.shape[0], weight.shape[1]):
        x = found.embedding(torch.arange(start, stop, device=weight.device))  # which may scale what it looks up
        table[start:stop] = network_offsets(x.cpu(), parts)
    return table
