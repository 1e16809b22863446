"""A tokenizer whose tokens are given words; ``##x`` goes on with the word before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.unit.probe.decoders import V

PLAIN = tuple(f"w{i}" for i in range(V))


def word_tokenizer(words: Sequence[str] = PLAIN, end: str | None = None) -> Any:
    """Token i is word i."""
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=words[0], max_input_chars_per_word=100))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end)
