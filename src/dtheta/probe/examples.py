"""Texts as token sequences to train on.

A sequence is an ``Encoded`` of answers.py: of an answer, the answer's tokens count; of a text, all but the first, which
nothing predicts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError
from dtheta.probe.encoded import Encoded

_LEAST = 8  # tokens of the rest of a text that is worth a sequence


def reach(model: Any) -> int:
    """Return how many tokens a model reads at most; more than any text has where it does not say."""
    found = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return sys.maxsize if found is None else int(found)


def text_examples(tokenizer: Any, texts: Iterable[str], length: int = 128) -> list[Encoded]:
    """Return texts cut into sequences of at most ``length`` tokens; rests of fewer than eight are left out.

    Raises:
        ConfigError: If no text has two tokens, or ``length`` is below eight.
    """
    size, found = whole(length, "length", least=_LEAST), []
    for text in texts:
        ids: list[int] = tokenizer(text)["input_ids"]
        parts = (ids[start : start + size] for start in range(0, len(ids), size))
        found += [Encoded(part, 1) for part in parts if len(part) >= min(_LEAST, max(2, len(ids)))]
    if not found:
        raise ConfigError("the texts hold no two tokens to learn from")
    return found
