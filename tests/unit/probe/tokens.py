"""A tokenizer of letters for the tiny decoders: one token a character, of 50."""

from __future__ import annotations

from collections.abc import Sequence

ALPHABET = "~ abcdefghijklmnopqrstuvwxyz.,?0123456789"


class Letters:
    """What probing asks of a transformers tokenizer."""

    eos_token_id = 0

    def __len__(self) -> int:
        return len(ALPHABET)

    def __call__(self, text: str | Sequence[str], add_special_tokens: bool = True) -> dict[str, list]:
        """Return token ids; characters that have none are left out."""
        if not isinstance(text, str):
            return {"input_ids": [self(one)["input_ids"] for one in text]}
        return {"input_ids": [ALPHABET.index(c) for c in text.lower() if c in ALPHABET]}

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of ids."""
        kept = [int(i) for i in ids if not (skip_special_tokens and int(i) == 0)]
        return "".join(ALPHABET[i] if i < len(ALPHABET) else "#" for i in kept)

    def batch_decode(self, rows: Sequence[Sequence[int]], skip_special_tokens: bool = False) -> list[str]:
        """Return the texts of rows."""
        return [self.decode(row, skip_special_tokens) for row in rows]
