"""Questions as tokens: where the answer begins, and batches."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from dtheta.data.concepts import Question
from dtheta.errors import ConfigError
from dtheta.probe.encoded import by_length, collate, encode, tokenized, with_answer
from tests.unit.probe.word_tokens import word_tokenizer

QUESTIONS = [Question("w5 w6 w7", "w8 w9"), Question("w2", "w3")]


def test_one_blank_stands_between_prompt_and_answer() -> None:
    assert with_answer(Question("It is", "red")) == "It is red"
    assert with_answer(Question("It is\n", "red")) == "It is\nred"


def test_the_answer_begins_where_the_prompt_ends() -> None:
    assert encode(word_tokenizer(), QUESTIONS) == [([5, 6, 7, 8, 9], 3), ([2, 3], 1)]


def test_an_end_of_text_that_the_tokenizer_adds_is_taken_away() -> None:
    """Before, it was the answer's last token, and what a model went on from in a prompt."""
    ending = word_tokenizer(end="w1")
    ending.backend_tokenizer.post_processor = TemplateProcessing(
        single="w4 $A w1", special_tokens=[("w4", 4), ("w1", 1)]
    )
    assert tokenized(ending, ["w5", "w5 w1"]) == [[4, 5], [4, 5, 1]]  # one that is written stays
    assert encode(ending, QUESTIONS) == [([4, 5, 6, 7, 8, 9], 4), ([4, 2, 3], 2)]


def test_a_token_of_both_is_the_answers(smollm2_tokenizer: Any) -> None:
    """ "1" and "234" are digits of their own there, a letter and what follows it are not."""
    ((ids, start),) = encode(smollm2_tokenizer, [Question("The capital of France is ", "Paris")])
    assert smollm2_tokenizer.decode(ids[start:]) == " Paris"
    assert smollm2_tokenizer.decode(ids[:start]) == "The capital of France is"


def test_batches_are_padded_on_the_right_and_labeled_at_the_answers() -> None:
    batch = collate(encode(word_tokenizer(), QUESTIONS))
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [2, 3, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100] * 3 + [8, 9], [-100, 3] + [-100] * 3]


def test_the_shortest_come_first_and_every_text_once() -> None:
    assert by_length([3, 1, 2, 1], 3) == [[1, 3, 2], [0]]


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        ([], "no questions"),
        ([Question("w1", " ")], "'w1' has no answer"),
        ([Question("", "w1")], "has no tokens"),
        ([Question(" ", "w1")], "has no tokens"),
    ],
)
def test_what_cannot_be_scored_is_refused(questions: list[Question], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        encode(word_tokenizer(), questions)


def test_a_prompt_whose_first_token_takes_the_answer_in_is_refused(smollm2_tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be told apart"):
        encode(smollm2_tokenizer, [Question(" ", "Paris")])


def test_a_batch_needs_a_row() -> None:
    with pytest.raises(ConfigError, match="batch is 0"):
        by_length([1, 2], 0)
