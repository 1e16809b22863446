"""Causal language models on one's own texts: losses by text, splits, and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dtheta.adapt.language import TokenTexts, adapt_language, text_losses
from dtheta.adapt.lora import LoRA
from dtheta.adapt.recipe import Recipe
from dtheta.core.fingerprint import fingerprint
from dtheta.data.corpus import load_corpus
from dtheta.errors import ConfigError, FormatError


class Words:
    """A tokenizer of single letters."""

    model_max_length, pad_token_id = 16, 0

    def __call__(self, texts: list[str], max_length: int, **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1 + ord(letter) % 60 for letter in text][:max_length] for text in texts]}


TEXTS = ("abcabcabc", "xyz", "a longer text", "abab")


def test_losses_are_the_model_s_own_whatever_the_padding(tiny_llama: nn.Module) -> None:
    sums, counts = text_losses(tiny_llama, TokenTexts(TEXTS, Words(), 12))
    for text, total, count in zip(TEXTS, sums, counts, strict=True):
        ids = torch.tensor(Words()([text], 12)["input_ids"])
        with torch.no_grad():
            assert float(total / count) == pytest.approx(float(tiny_llama(ids, labels=ids).loss), abs=1e-5)
        assert int(count) == ids.numel() - 1


def test_every_module_has_its_mode_after_an_evaluation(tiny_llama: nn.Module) -> None:
    tiny_llama.train().model.layers[0].eval()
    text_losses(tiny_llama, TokenTexts(TEXTS, Words(), 12))
    assert tiny_llama.training and not tiny_llama.model.layers[0].training


def test_adapting_lowers_the_loss_and_leaves_the_base(tiny_llama: nn.Module, tmp_path: Path) -> None:
    table = tmp_path / "texts.csv"
    table.write_text("text\n" + "".join(f"ab{'ab' * (i % 5)}{i}\n" for i in range(40)))
    corpus = load_corpus(table)
    assert (len(corpus.train), len(corpus.test)) == (32, 8)
    assert not set(corpus.train) & set(corpus.test)
    before = fingerprint(tiny_llama)
    recipe = Recipe(LoRA(rank=2), steps=20, lr=2e-2, max_length=12)
    found = adapt_language(tiny_llama, Words(), corpus, recipe, model_name="tiny", quiet=True)
    assert fingerprint(tiny_llama) == before
    assert found.score.estimate < found.baseline.estimate
    assert found.gain.low > 0
    assert found.gain.estimate == pytest.approx(found.baseline.estimate - found.score.estimate)
    assert found.delta.provenance.task["kind"] == "language-modeling"


def test_an_encoder_has_no_such_head(tiny_bert: nn.Module, tmp_path: Path) -> None:
    table = tmp_path / "texts.csv"
    table.write_text("text\nabc\nabd\nabe\n")
    with pytest.raises(ConfigError, match="no head for one"):
        adapt_language(tiny_bert, Words(), load_corpus(table), Recipe(LoRA(rank=2)), quiet=True)


def test_texts_too_short_to_predict(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="takes two"):
        TokenTexts(("a",), Words(), 12)
    with pytest.raises(ConfigError, match="between 2 and 16"):
        TokenTexts(TEXTS, Words(), 1)
