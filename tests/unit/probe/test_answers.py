"""Answers against plain references: one row at a time, no padding, no cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutput

from dtheta.data.concepts import Question
from dtheta.errors import ConfigError, NonFinite
from dtheta.probe.answers import answer_scores, continuations
from tests.unit.probe.decoders import DECODERS, V, gpt2, llama
from tests.unit.probe.word_tokens import word_tokenizer

PROMPTS = ["w5 w9 w3 w7 w2 w8", "w4", "w11 w12 w13", "w20 w21", "w6 w7 w8 w9", "w30 w31 w32 w33 w34 w35 w36 w37"]
ANSWERS = ["w8", "w9 w10 w11", "w3 w4", "w5", "w6 w6", "w7 w8 w9 w10"]
QUESTIONS = [Question(prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]


def plain_logprob(model: nn.Module, prompt: list[int], answer: list[int]) -> float:
    ids = torch.tensor([prompt + answer])
    with torch.no_grad():
        logp = model(input_ids=ids).logits[0].double().log_softmax(-1)
    return sum(float(logp[len(prompt) + i - 1, token]) for i, token in enumerate(answer))


def plain_greedy(model: nn.Module, prompt: list[int], count: int, ends: tuple[int, ...] = ()) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return ids[len(prompt) :]


def ids_of(text: str) -> list[int]:
    return [int(word[1:]) for word in text.split()]


def text_of(ids: list[int]) -> str:
    return " ".join(f"w{i}" for i in ids)


@pytest.fixture(params=DECODERS)
def endless(request: pytest.FixtureRequest) -> nn.Module:
    """A tiny decoder of each layout, without an end token."""
    model = DECODERS[request.param]()
    model.config.eos_token_id = model.generation_config.eos_token_id = None  # type: ignore[union-attr]
    return model


def test_probabilities_are_those_of_one_row_at_a_time(endless: nn.Module) -> None:
    expected = [plain_logprob(endless, ids_of(q.prompt), ids_of(q.answer)) for q in QUESTIONS]
    for batch in (1, 4, 6):
        found = answer_scores(endless, word_tokenizer(), QUESTIONS, batch=batch)
        torch.testing.assert_close(found.logprob, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5)
        assert found.tokens.tolist() == [1, 3, 2, 1, 2, 4]
    torch.testing.assert_close(found.per_token, torch.tensor(expected) / found.tokens, check_dtype=False)


def test_continuations_are_those_of_one_row_at_a_time(endless: nn.Module) -> None:
    expected = [text_of(plain_greedy(endless, ids_of(prompt), 7)) for prompt in PROMPTS]
    for batch in (1, 4, 6):
        assert continuations(endless, word_tokenizer(), PROMPTS, new_tokens=7, batch=batch) == expected


def test_exact_is_what_greedy_decoding_writes(endless: nn.Module) -> None:
    written = [plain_greedy(endless, ids_of(prompt), 3) for prompt in PROMPTS]
    right = [Question(p, text_of(ids[:n])) for p, ids in zip(PROMPTS, written, strict=True) for n in (1, 2, 3)]
    wrong = [Question(p, text_of([*ids[:2], (ids[2] + 1) % V])) for p, ids in zip(PROMPTS, written, strict=True)]
    assert answer_scores(endless, word_tokenizer(), right).exact.all()
    assert not answer_scores(endless, word_tokenizer(), wrong).exact.any()


class Says(nn.Module):
    """A model to which the token after i is always ``after[i]``."""

    def __init__(self, after: dict[int, int], tokens: int) -> None:
        super().__init__()
        self.table = nn.Embedding(tokens, tokens)
        with torch.no_grad():
            self.table.weight.zero_()
            for before, token in after.items():
                self.table.weight[before, token] = 5.0

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return CausalLMOutput(logits=self.table(input_ids))


@pytest.mark.parametrize(("next_word", "exact"), [("##flower", False), ("is", True)])
def test_an_answer_that_goes_on_within_its_word_is_another_answer(next_word: str, exact: bool) -> None:
    words = ("?", "the", "sun", "##flower", "is")
    model = Says({1: 2, 2: words.index(next_word)}, len(words))
    found = answer_scores(model, word_tokenizer(words), [Question("the", "sun")])
    assert found.exact.tolist() == [exact]


def test_wide_logits_are_compared_as_they_are() -> None:
    model: Any = llama(eos_token_id=None).double()
    (best,) = plain_greedy(model, ids_of(PROMPTS[0]), 1)
    assert best < V - 1
    with torch.no_grad():
        model.lm_head.weight[V - 1] = model.lm_head.weight[best] * (1 + 1e-10)  # the same in float32
    assert plain_greedy(model, ids_of(PROMPTS[0]), 1) == [V - 1]
    assert continuations(model, word_tokenizer(), PROMPTS[:1], new_tokens=1) == [f"w{V - 1}"]
    assert answer_scores(model, word_tokenizer(), [Question(PROMPTS[0], f"w{V - 1}")]).exact.all()


def test_a_text_ends_before_the_end_token() -> None:
    model: Any = llama()
    written = plain_greedy(model, ids_of(PROMPTS[0]), 5)
    first = written.index(written[2])
    model.generation_config.eos_token_id = [written[2]]
    found = continuations(model, word_tokenizer(), PROMPTS[:3], new_tokens=5)
    assert found[0] == text_of(written[:first])
    ends = (written[2], model.config.eos_token_id)
    assert found[1] == text_of(plain_greedy(model, ids_of(PROMPTS[1]), 5, ends))


def test_the_tokenizers_end_token_ends_a_text_too() -> None:
    model = llama(eos_token_id=None)
    written = plain_greedy(model, ids_of(PROMPTS[0]), 4)
    assert continuations(model, word_tokenizer(end=f"w{written[0]}"), PROMPTS[:1], new_tokens=4) == [""]


def test_the_models_own_settings_of_generate_do_not_count() -> None:
    model = gpt2()
    before = continuations(model, word_tokenizer(), PROMPTS, new_tokens=8)
    model.generation_config.update(repetition_penalty=9.0, do_sample=True, temperature=3.0)  # type: ignore[union-attr]
    assert continuations(model, word_tokenizer(), PROMPTS, new_tokens=8) == before


def test_scoring_leaves_modes_and_gradients_alone() -> None:
    model = gpt2()  # which has dropout
    model.train()
    model.transformer.ln_f.eval()  # type: ignore[union-attr]
    modes = [module.training for module in model.modules()]
    first = answer_scores(model, word_tokenizer(), QUESTIONS)
    assert torch.equal(first.logprob, answer_scores(model, word_tokenizer(), QUESTIONS).logprob)
    assert not first.logprob.requires_grad
    assert continuations(model, word_tokenizer(), PROMPTS) == continuations(model, word_tokenizer(), PROMPTS)
    assert [module.training for module in model.modules()] == modes


def test_another_models_tokenizer_is_refused() -> None:
    tokenizer = word_tokenizer([f"w{i}" for i in range(V + 3)])
    questions = [Question("w1", f"w{V + 1}")]
    with pytest.raises(ConfigError, match=f"token {V + 1}, the model has {V}: they do not belong together"):
        answer_scores(llama(), tokenizer, questions)
    with pytest.raises(ConfigError, match="do not belong together"):
        continuations(llama(), tokenizer, [f"w1 w{V + 2}"])


def test_a_text_longer_than_the_model_reads_is_refused() -> None:
    model = llama(max_position_embeddings=8)
    with pytest.raises(ConfigError, match="has 9 tokens, the model reads 8"):
        answer_scores(model, word_tokenizer(), [Question("w1 " * 8, "w2")])
    assert len(continuations(model, word_tokenizer(), ["w1 w2 w3"], new_tokens=5)) == 1
    with pytest.raises(ConfigError, match="has 9 tokens, the model reads 8"):
        continuations(model, word_tokenizer(), ["w1 w2 w3"], new_tokens=6)


def test_a_damaged_model_is_told() -> None:
    model = llama()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")  # type: ignore[union-attr, index]
    with pytest.raises(NonFinite):
        answer_scores(model, word_tokenizer(), QUESTIONS)
    with pytest.raises(NonFinite):
        continuations(model, word_tokenizer(), PROMPTS)
