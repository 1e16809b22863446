"""Small models in float64, each with uses of parameters that others have not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.seeds import generator

N = 6


def drawn(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def ids(width: int = 7, count: int = 50) -> Tensor:
    return torch.randint(1, count, (N, width), generator=generator(0, "ids"))


def mlp() -> tuple[nn.Module, Any]:
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)), drawn(N, 6)


class CNN(nn.Module):
    """Strides, groups, dilation, asymmetric kernels, normalization over channels, activations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 6, 3, groups=3, dilation=2, padding="same")
        self.group_norm = nn.GroupNorm(2, 6)
        self.last = nn.Conv2d(6, 4, (1, 3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.norm(self.first(x)))
        return self.head(self.last(self.group_norm(self.grouped(x))).mean((2, 3)))


def cnn() -> tuple[nn.Module, Any]:
    model = CNN()
    model.norm.running_mean.copy_(drawn(6))  # type: ignore[operator]
    return model, drawn(N, 3, 8, 8)


def conv1d() -> tuple[nn.Module, Any]:
    return nn.Sequential(nn.Conv1d(4, 5, 3, padding=2), nn.Flatten(), nn.Linear(45, 2)), drawn(N, 4, 7)


class Tokens(nn.Module):
    """An expanded class token, a bare position table, a layer used twice, a table sliced and turned into a head."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8, padding_idx=0)
        self.place = nn.Parameter(torch.randn(1, 8, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
        self.twice = nn.Linear(8, 8)
        self.turn = not batch_first

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(len(x), -1, -1), self.table(x)], 1) + self.place
        h = self.twice(torch.tanh(self.twice(h)))
        h = self.block(h.transpose(0, 1)).transpose(0, 1) if self.turn else self.block(h)
        return h.mean(1) @ self.table.weight[:4].T


def tokens() -> tuple[nn.Module, Any]:
    x = ids()
    x[0, 3:] = 0
    return Tokens(True), x


def tokens_second() -> tuple[nn.Module, Any]:
    """The batch is the second axis inside."""
    return Tokens(False), ids()


class Tied(nn.Module):
    """A table that is also the output head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 5)
        self.inner = nn.Linear(5, 5)
        self.head = nn.Linear(5, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(self.table(x)))).mean(1)[:, :3]


def tied() -> tuple[nn.Module, Any]:
    return Tied(), ids(5, 9)


class Odd(nn.Module):
    """What has no rule: a slope, a parameter that meets itself, weight norm, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.PReLU(3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
        self.up = nn.ConvTranspose1d(3, 2, 2)
        self.square = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(self.slope(x)).mean(1)[:, :6]
        return self.normed(h) * (self.square * self.square)


def odd() -> tuple[nn.Module, Any]:
    return Odd(), drawn(N, 3, 6)


MODELS = {
    "mlp": mlp, "cnn": cnn, "conv1d": conv1d, "tokens": tokens, "tokens, batch second": tokens_second, "tied": tied
}  # fmt: skip


def made(make: Any) -> tuple[nn.Module, Any]:
    """Return a model in float64 and eval mode, the same at every call, and its batch."""
    torch.manual_seed(0)
    model, batch = make()
    return model.double().eval(), batch


def bert(layers: int = 2, **settings: Any) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_attention_heads=2, intermediate_size=32, max_position_embeddings=16)
    config = BertConfig(vocab_size=50, num_hidden_layers=layers, num_labels=3, **sizes, **settings)
    return BertForSequenceClassification(config).double().eval()


def gpt() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = dict(n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, **sizes)).double().eval()


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=2, intermediate_size=32)
    config = LlamaConfig(vocab_size=50, num_hidden_layers=1, max_position_embeddings=16, **sizes)
    return LlamaForCausalLM(config).double().eval()


def texts() -> dict[str, Tensor]:
    """Padded token ids and their mask."""
    mask = torch.ones(N, 7, dtype=torch.long)
    mask[1, 4:], mask[4, 2:] = 0, 0
    return {"input_ids": ids(), "attention_mask": mask}


def next_token(model: Any, batch: Any) -> Tensor:
    """Three logits at the last place."""
    return model(**batch).logits[:, -1, [3, 5, 6]]
