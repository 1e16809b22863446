"""Tiny dual encoders with random weights, a tokenizer of whole words, and the real dual encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dtheta.errors import MissingExtra
from dtheta.models.dual import DualEncoder, unset
from dtheta.models.load import load_model, load_tokenizer

WORDS = ("[PAD]", "[BOS]", "[UNK]", "[EOS]", "a", "photo", "of", "drawing", "cat", "dog", "airplane", "red", "car", ".")


@pytest.fixture
def words() -> Any:
    """A tokenizer of the words above, pads with 0, ends with 3."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 3)]
    )
    names = {"pad_token": "[PAD]", "bos_token": "[BOS]", "unk_token": "[UNK]", "eos_token": "[EOS]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def seeded(build: Callable[[], nn.Module]) -> Any:
    """What ``build`` makes from seed 0, in eval mode; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


@pytest.fixture
def tiny_clip() -> nn.Module:
    """A CLIP of 32 x 32 images, 2 layers of width 16 a tower, 12 positions."""
    from transformers import CLIPConfig, CLIPModel

    width = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": len(WORDS), "max_position_embeddings": 12, "pad_token_id": 0, "bos_token_id": 1}
    config = CLIPConfig(
        text_config={**width, **ids, "eos_token_id": 3},
        vision_config={**width, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    return seeded(lambda: CLIPModel(config))


@pytest.fixture
def tiny_dual() -> DualEncoder:
    """A dual encoder with the whole EfficientNet, and a BERT of 2 layers of width 16; all of it random."""
    from transformers import BertConfig

    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=12, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = unset(config).eval()
        model.image_mean.normal_()
    return model


@pytest.fixture(scope="session")
def dual_factory() -> Callable[[], Any]:
    """Make a fresh real dual encoder at every call; skips where its packages cannot be had."""
    try:
        load_model("dual")
    except MissingExtra as error:
        pytest.skip(str(error))
    return lambda: load_model("dual")


@pytest.fixture(scope="session")
def dual(dual_factory: Callable[[], Any]) -> Any:
    """The real dual encoder, shared: do not write to it."""
    return dual_factory()


@pytest.fixture(scope="session")
def dual_tokenizer(dual: Any) -> Any:
    """The dual encoder's tokenizer."""
    return load_tokenizer("dual")
