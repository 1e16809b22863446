"""fold_offsets: offsets as plain tables, whatever they are made of while they train.

    positions  T[i] = A[i] B              (s, d)    of DePT's two factors
    network    T[token] = f(E[token])     (V, d)    of ADePT's network (token_wise.py)

Shape legend: s positions of a text, d features of an embedding, r rank, V tokens of the vocabulary.
"""

from __future__ import annotations

from torch import nn

from dtheta.adapt.prompts.names import NETWORK, TOKEN_TABLE, offset_rule
from dtheta.adapt.prompts.token_wise import vocabulary_table
from dtheta.core.apply import originals
from dtheta.core.change import Change, New
from dtheta.core.delta import Delta
from dtheta.core.provenance import Provenance
from dtheta.errors import ConfigError


def fold_offsets(delta: Delta, model: nn.Module, *, strict: bool = True) -> Delta:
    """Return a delta whose offsets are tables, for inference or for arithmetic.

    A table by position takes 4 s d bytes in place of 4 r (s + d), and saves r multiplications for each feature of a
    token; one over the vocabulary takes 4 V d bytes (``folded_nbytes``: 47 MB for MiniLM, 113 MB for SmolLM2), where
    the network takes 4 (2 d r + r + d), and saves the 2 d r multiplications a token that the network costs. Both are
    below 1 % of a token's way through either model, so it does not pay for speed. It does for arithmetic: tables over
    the vocabulary add up exactly, where networks do not.

    Args:
        delta: With the factors of a ``DePT`` or the matrices of an ``ADePT``; what else it holds is kept.
        model: The model it was made on.
        strict: Whether it must be that very model.

    Raises:
        ConfigError: If the delta has no such offsets, or is folded already.
        BaseMismatch: If it was made on another base.
        ShapeMismatch: If a network does not fit the model.
    """
    by_network = TOKEN_TABLE not in delta and all(name in delta for name in NETWORK)
    factored = [n for n, change in delta.changes.items() if offset_rule(n) and change.factors() is not None]
    if not by_network and not factored:
        raise ConfigError(
            "expected a delta with offsets, as DePT makes them by factors and ADePT by a network, that are no table "
            f"yet; found {', '.join(delta)}"
        )
    if strict:
        delta.base.check(originals(model))
    gone = NETWORK if by_network else ()
    kept: dict[str, Change] = {name: change for name, change in delta.changes.items() if name not in gone}
    kept |= {name: New(delta[name].dense()) for name in factored}
    if by_network:
        kept[TOKEN_TABLE] = New(vocabulary_table(delta, model))
    made = Provenance("fold", parents=[delta.digest], seed=delta.provenance.seed, task=delta.provenance.task)
    return Delta(kept, delta.base, made)
