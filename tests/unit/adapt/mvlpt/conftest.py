"""A tiny CLIP with random weights, and tasks on it whose images are easy to tell apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dtheta.core.seeds import generator
from dtheta.data.mixture import TensorItems
from dtheta.models.image_text import ImageTextClassifier

transformers = pytest.importorskip("transformers")
END, VOCABULARY, SIDE = 39, 40, 16


@pytest.fixture(scope="module")
def clip() -> nn.Module:
    """A CLIPModel of two layers a tower, images of 16 x 16 in patches of 8."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": VOCABULARY, "max_position_embeddings": 24, "eos_token_id": END, "bos_token_id": 1}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**tower, "image_size": SIDE, "patch_size": 8}, projection_dim=8
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.CLIPModel(config).eval()


@pytest.fixture
def classifier(clip: nn.Module) -> Callable[..., ImageTextClassifier]:
    """Classifiers on the tiny CLIP, each class one word."""

    def make(*words: int) -> ImageTextClassifier:
        ids = torch.tensor([[1, word, END] for word in words])
        return ImageTextClassifier(clip, [str(word) for word in words], ["{}"], ids, torch.ones_like(ids))

    return make


@pytest.fixture
def images() -> Callable[[str, int], TensorItems]:
    """Twelve noisy images of a pattern a class."""

    def make(name: str, classes: int) -> TensorItems:
        draws = generator(0, f"pattern/{name}")
        labels = torch.arange(12) % classes
        patterns: Tensor = torch.randn(classes, 3, SIDE, SIDE, generator=draws)
        noise = torch.randn(12, 3, SIDE, SIDE, generator=draws)
        return TensorItems(pixel_values=patterns[labels] + 0.1 * noise, labels=labels)

    return make
