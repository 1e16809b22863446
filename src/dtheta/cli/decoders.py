"""Decoders as ``dtheta probe``, ``unlearn`` and ``compare --erasure`` take them: looked at before they are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dtheta.cli.bases import base_path
from dtheta.cli.cost import Cost

if TYPE_CHECKING:
    from torch import nn

TOKENS = 24  # of a question with its answer, about


def require_decoder(name: str) -> None:
    """Raise unless a model that is at hand can be probed, by its configuration; no weight is read.

    Raises:
        ConfigError, FormatError: If there is no such model, or it is damaged.
        UnsupportedLayer: If it is no decoder that can be probed.
    """
    from dtheta.cli.outline import outline
    from dtheta.probe.decoder import open_decoder

    if (place := base_path(name, fetch=False)) is not None:
        open_decoder(outline(place))


def loaded_decoder(name: str) -> tuple[nn.Module, Any]:
    """Return a model and its tokenizer.

    Raises:
        ConfigError, FormatError, UnsupportedLayer: As ``load_model`` and ``load_tokenizer``.
    """
    from dtheta.models.load import load_model, load_tokenizer

    return load_model(name), load_tokenizer(name)


def scanned_tokens(name: str, cost: Cost) -> int:
    """Return on how many tokens a model would run in the time that reading all its value vectors takes."""
    from dtheta.cli.outline import outline
    from dtheta.probe.decoder import open_decoder

    place = base_path(name, fetch=False)
    if place is None or not cost.weights:
        return 0
    decoder = open_decoder(outline(place))
    vectors = sum(matrix.count for matrix in decoder.matrices.values())
    return vectors * decoder.tensors[decoder.unembedding].numel() // cost.weights


def seconds(cost: Cost, asked: int, trained: int = 0, tokens: int = 0) -> float | None:
    """Return about how long it takes to ask so many questions, train on so many, and run on tokens; None if unknown."""
    return cost.seconds(trained * TOKENS, asked * TOKENS + tokens)
