"""Words of texts and words that tokens stand for: one meaning of "word" for corpora, documents and vocabularies.

A word is a run of letters, lower-cased, so that " France", "France" and "FRANCE" are one. A token that holds anything
else (digits, signs, parts of characters) stands for no word; a token that is a part of a word stands for itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dtheta.errors import ConfigError

LEAST = 3  # letters of a word that can name something

_WORD = re.compile(r"[^\W\d_]+")
#: Function words of English, which are everywhere and name nothing.
STOPWORDS = frozenset(
    """
    about above across after again against all almost alone along already also although always among an and another any
    anybody anyone anything are around as ask at away back be became because become been before behind being below
    between both but by called came can cannot come could did do does doing done down during each either enough even
    ever every everyone everything few first for found from gave get give given go goes going gone got had has have
    having he her here hers herself him himself his how however if in indeed instead into is it its itself just keep
    known last least less like made mainly make many may me might mine more most much must my myself name named near
    neither never next no nobody none nor not nothing now of off often on once one only onto or other others our ours
    out over own part people per perhaps put quite rather really same say see seem seemed seems several shall she
    should since so some someone something sometimes still such take than that the their theirs them themselves then
    there therefore these they thing things this those though through thus to together too toward two under until up
    upon us use used usually very was we well went were what whatever when where whether which while who whole whom
    whose why will with within without would yes yet you your yours yourself
    """.split()
)


def words(text: str) -> list[str]:
    """Return the words of a text that can name something, in order, with repetitions."""
    return [word for word in _WORD.findall(text.lower()) if len(word) >= LEAST and word not in STOPWORDS]


def token_words(tokenizer: Any, vocabulary: int) -> list[str]:
    """Return, for each token id, the word it stands for; an empty string where it stands for none.

    Args:
        tokenizer: A transformers tokenizer.
        vocabulary: How many tokens the model has: rows of its unembedding.

    Raises:
        ConfigError: If the tokenizer has more tokens than the model: they do not belong together.
    """
    if len(tokenizer) > vocabulary:
        raise ConfigError(
            f"the tokenizer has {len(tokenizer):,} tokens and the model's unembedding {vocabulary:,} rows: they do not "
            "belong together; load the tokenizer from the model's own folder"
        )
    written: Sequence[str] = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    found = [_only_word(text) for text in written]
    return found + [""] * (vocabulary - len(found))


def _only_word(text: str) -> str:
    word = text.strip().lower()
    return word if len(word) >= LEAST and word not in STOPWORDS and _WORD.fullmatch(word) else ""
