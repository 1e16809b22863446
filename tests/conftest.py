"""Fixtures for every test: real pretrained models (fetched once, cached), tiny random ones, and the tools' settings.

Shared models are session-wide and must be left as they were found; a test that writes takes a factory.
"""

from __future__ import annotations

import os
import zlib

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # two workers on two cores: more threads only fight
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Callable  # noqa: E402
from typing import Any, TypeVar  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402
from torch import nn  # noqa: E402

from dtheta.core.seeds import generator  # noqa: E402
from dtheta.data.image_tasks import load_image_task  # noqa: E402
from dtheta.data.images import ImageTask  # noqa: E402
from dtheta.data.tasks import load_task  # noqa: E402
from dtheta.data.text import TextTask  # noqa: E402
from dtheta.errors import MissingExtra  # noqa: E402
from dtheta.models.load import load_model, load_tokenizer  # noqa: E402

torch.set_num_threads(1)
settings.register_profile(
    "dtheta",
    deadline=None,  # a busy machine is not a failure
    derandomize="CI" in os.environ,
    max_examples=50,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("dtheta")


T = TypeVar("T")


@pytest.fixture(autouse=True)
def _drawn_alike(request: pytest.FixtureRequest) -> None:
    """Every test starts from random state of its own, the same in every run, order and worker."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


def _or_skip(load: Callable[[], T]) -> T:
    """What ``load`` returns; where a package cannot be had, the test is skipped and says why."""
    try:
        return load()
    except MissingExtra as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def minilm_factory() -> Callable[[], nn.Module]:
    """Make a fresh real MiniLM at every call (a few hundredths of a second)."""
    _or_skip(lambda: load_model("minilm"))
    return lambda: load_model("minilm")


@pytest.fixture(scope="session")
def minilm(minilm_factory: Callable[[], nn.Module]) -> nn.Module:
    """The real MiniLM, shared: do not write to it."""
    return minilm_factory()


@pytest.fixture(scope="session")
def minilm_tokenizer() -> Any:
    """MiniLM's tokenizer."""
    return _or_skip(lambda: load_tokenizer("minilm"))


@pytest.fixture(scope="session")
def smollm2_factory() -> Callable[[int | None], nn.Module]:
    """Make a fresh real SmolLM2 with so many layers (None: all 30) at every call."""
    _or_skip(lambda: load_model("smollm2", layers=1))
    return lambda layers: load_model("smollm2", layers=layers)


@pytest.fixture(scope="session")
def smollm2_2layers(smollm2_factory: Callable[[int | None], nn.Module]) -> nn.Module:
    """The first 2 layers of the real SmolLM2, shared: do not write to it."""
    return smollm2_factory(2)


@pytest.fixture(scope="session")
def smollm2_tokenizer() -> Any:
    """SmolLM2's tokenizer."""
    return _or_skip(lambda: load_tokenizer("smollm2"))


@pytest.fixture(scope="session")
def bbc_small() -> TextTask:
    """64 training and 64 test articles of BBC News in five classes."""
    return _or_skip(lambda: load_task("bbc", n_train=64, n_test=64))


@pytest.fixture(scope="session")
def fashion_mnist_small() -> ImageTask:
    """256 training and 256 test images of Fashion-MNIST; skips where the Debian package cannot be had."""
    return _or_skip(lambda: load_image_task("fashion", n_train=256, n_test=256))


def _random(model: nn.Module, name: str) -> nn.Module:
    """Shake every parameter by a keyed normal draw, so that no bias is zero and no norm is the identity."""
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=generator(0, name, index))
            parameter.add_(noise, alpha=0.1)
    return model.eval()


def _made(build: Callable[[], nn.Module], name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _random(build(), name)


@pytest.fixture
def tiny_mlp() -> nn.Module:
    """Linear 12-16-8 with GELU between; parameters ``0.*`` and ``2.*``."""
    return _made(lambda: nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 8)), "tiny_mlp")


@pytest.fixture
def tiny_conv() -> nn.Module:
    """Two convolutions and a linear layer on images (B, 3, 8, 8); the second convolution is grouped."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2),
            nn.Flatten(),
            nn.Linear(8 * 4 * 4, 5),
        )

    return _made(build, "tiny_conv")


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` on itself, with its fused ``in_proj_weight``, on (B, T, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x_BTE: torch.Tensor) -> torch.Tensor:
        return self.attention(x_BTE, x_BTE, x_BTE, need_weights=False)[0]


@pytest.fixture
def tiny_mha() -> nn.Module:
    """Self-attention of 4 heads of 4; parameters ``attention.in_proj_weight`` (48, 16) and so on."""
    return _made(SelfAttention, "tiny_mha")


@pytest.fixture
def tiny_gpt2() -> nn.Module:
    """GPT-2 with 2 layers of width 16, ``Conv1D`` weights and tied embeddings; vocabulary 64."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return _made(lambda: GPT2LMHeadModel(config), "tiny_gpt2")


@pytest.fixture
def tiny_llama() -> nn.Module:
    """Llama with 2 layers of width 16, 4 query and 2 key heads, no biases, untied head; vocabulary 64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=False,
    )  # fmt: skip
    return _made(lambda: LlamaForCausalLM(config), "tiny_llama")


@pytest.fixture
def tiny_bert() -> nn.Module:
    """BERT encoder with 2 layers of width 16 and 2 heads; vocabulary 64."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return _made(lambda: BertModel(config), "tiny_bert")
