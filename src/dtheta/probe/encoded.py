"""Questions as tokens: where the prompt ends and the answer begins, and batches of them.

Prompt and answer are tokenized as one text, with a blank between them unless the prompt ends in one, since that is how
the model has met such sentences. The answer's tokens are those from the first that differs from the tokens of the
prompt alone; so a token that the two share counts as the answer's.

Shape legend: B rows of a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.data.concepts import Concept, Question
from dtheta.errors import ConfigError
from dtheta.fit.batch import IGNORED

BATCH = 16
Batch = dict[str, Tensor]


class Encoded(NamedTuple):
    """A prompt and its answer as tokens; those from ``start`` on are the answer's."""

    ids: list[int]
    start: int


def encode(tokenizer: Any, questions: Sequence[Question]) -> list[Encoded]:
    """Return the questions with their answers as tokens.

    Raises:
        ConfigError: If there is none, or one has no answer or nothing before it.
    """
    for question in questions:
        if not question.answer.strip():
            raise ConfigError(f"the question {question.prompt!r} has no answer, so that none can be scored")
    prompts = tokenized(tokenizer, [question.prompt for question in questions])
    texts = tokenized(tokenizer, [with_answer(question) for question in questions])
    starts = map(first_difference, prompts, texts)
    return [
        Encoded(ids, _checked(start, ids, question))
        for ids, start, question in zip(texts, starts, questions, strict=True)
    ]


def answered(concept: Concept) -> list[Question]:
    """Return the questions about a concept whose answers are known, each once."""
    return each_once(concept.questions)


def each_once(questions: Iterable[Question]) -> list[Question]:
    """Return the questions with answers, each once: asked twice it would make intervals too narrow."""
    each: dict[tuple[str, str], Question] = {}
    for question in questions:
        if question.answer.strip():
            each.setdefault((question.prompt, question.answer), question)
    return list(each.values())


def with_answer(question: Question) -> str:
    """Return prompt and answer as one text, with a blank between them unless the prompt ends in one."""
    between = "" if question.prompt[-1:].isspace() else " "
    return question.prompt + between + question.answer


def tokenized(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text, without an end of text that the tokenizer adds: the text is to go on.

    Raises:
        ConfigError: If there is no text, or one has no tokens.
    """
    if not texts:
        raise ConfigError("no questions or prompts were given; expected at least one")
    rows = _left_open(tokenizer, texts, tokenizer(list(texts))["input_ids"])
    for text, row in zip(texts, rows, strict=True):
        if not row:
            raise ConfigError(f"the prompt {text!r} has no tokens; a model needs at least one to go on from")
    return rows


def _left_open(tokenizer: Any, texts: Sequence[str], rows: list[list[int]]) -> list[list[int]]:
    """Return rows without the end of text that the tokenizer added; one that a text itself holds stays."""
    end = getattr(tokenizer, "eos_token_id", None)
    if end is None or not any(row[-1:] == [end] for row in rows):
        return rows
    plain: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [
        row[:-1] if row[-1:] == [end] and row.count(end) > bare.count(end) else row
        for row, bare in zip(rows, plain, strict=True)
    ]


def collate(rows: Sequence[Encoded]) -> Batch:
    """Return ``input_ids``, ``attention_mask`` and ``labels`` (B, T), int64, padded on the right.

    Labels stand at the answers' own places, as transformers wants them; elsewhere they are -100.
    """
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for i, (tokens, start) in enumerate(rows):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        mask[i, : len(tokens)] = 1
        labels[i, start : len(tokens)] = ids[i, start : len(tokens)]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def by_length(lengths: Sequence[int], batch: int) -> list[list[int]]:
    """Return which texts go together, by their places: the shortest first, so that little is padded.

    Raises:
        ConfigError: If ``batch`` is no whole number of 1 or more.
    """
    size = whole(batch, "batch", least=1)
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return [order[start : start + size] for start in range(0, len(order), size)]


def first_difference(before: Sequence[int], ids: Sequence[int]) -> int:
    """Return the first place where two lists of tokens differ, the end of the shorter one if nowhere."""
    shared = zip(before, ids, strict=False)
    return next((i for i, (a, b) in enumerate(shared) if a != b), min(len(before), len(ids)))


def _checked(start: int, ids: Sequence[int], question: Question) -> int:
    if not 0 < start < len(ids):
        raise ConfigError(
            f"the prompt {question.prompt!r} and the answer {question.answer!r} cannot be told apart as tokens; "
            "expected a prompt of several words, and an answer that adds some"
        )
    return start
