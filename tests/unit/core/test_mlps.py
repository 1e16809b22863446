"""MLPs of a model: found by what they compute, in every family, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from dtheta.core.mlps import find_mlps
from dtheta.errors import ConfigError, UnknownParameter, UnsupportedLayer

D, H = 16, 24
_TEXT: dict[str, Any] = {
    "hidden_size": D, "intermediate_size": H, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 9,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
_ROBERTA: dict[str, Any] = {**_TEXT, "pad_token_id": 1}
_PICTURE: dict[str, Any] = {
    "hidden_size": D, "intermediate_size": H, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
_T5: dict[str, Any] = {"d_model": D, "d_ff": H, "num_layers": 1, "num_heads": 2, "d_kv": 8, "vocab_size": 9}


def _clip() -> nn.Module:
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=_TEXT, vision_config=_PICTURE))


FAMILIES: dict[str, tuple[Callable[[], nn.Module], str, int, bool]] = {
    "BERT": (
        lambda: transformers.BertModel(transformers.BertConfig(**_TEXT)),
        "encoder.layer.0.intermediate", 2, False,
    ),
    "RoBERTa": (
        lambda: transformers.RobertaModel(transformers.RobertaConfig(**_ROBERTA)),
        "encoder.layer.0.intermediate", 2, False,
    ),
    "Llama": (lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**_TEXT)), "model.layers.0.mlp", 2, True),
    "GPT-2": (
        lambda: transformers.GPT2Model(
            transformers.GPT2Config(
                n_embd=D, n_inner=H, n_layer=2, n_head=2, vocab_size=9, bos_token_id=None, eos_token_id=None
            )
        ),
        "h.0.mlp", 2, False,
    ),
    "CLIP": (_clip, "text_model.encoder.layers.0.mlp", 4, False),
    "ViT": (lambda: transformers.ViTModel(transformers.ViTConfig(**_PICTURE)), "layers.0.mlp", 2, False),
    "T5": (
        lambda: transformers.T5Model(transformers.T5Config(**_T5, feed_forward_proj="gated-gelu")),
        "encoder.block.0.layer.1.DenseReluDense", 2, True,
    ),
    "DistilBERT": (
        lambda: transformers.DistilBertModel(
            transformers.DistilBertConfig(dim=D, hidden_dim=H, n_layers=2, n_heads=2, vocab_size=9)
        ),
        "transformer.layer.0.ffn", 2, False,
    ),
    "Sequential": (
        lambda: nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Dropout(0.5), nn.Linear(H, D), nn.ReLU(), nn.Linear(D, 3)),
        "0", 1, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_mlp_of_a_family_is_found_with_its_function(family: str) -> None:
    make, first, count, gated = FAMILIES[family]
    torch.manual_seed(0)
    model = make().train()
    found = find_mlps(model)
    assert len(found) == count and found[0].name == first
    assert all(mlp.inputs == D and mlp.hidden == H and mlp.outputs == D for mlp in found)
    assert all((mlp.gate is not None) == gated for mlp in found)
    mlp, x = found[0], torch.randn(2, 5, D)
    assert all(module.training for module in model.modules())  # what it was before
    model.eval()
    y = mlp.entry(x)
    for module in mlp.passed:
        y = module(y)
    torch.testing.assert_close(mlp(x), y)
    held = dict(model.named_parameters())
    wanted = {id(p) for layer in mlp.layers for p in layer.parameters()}
    assert {id(held[name]) for name in mlp.parameters} == wanted


class Reversed(nn.Module):
    """Looks like an MLP and does something else with the same layers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(x))


class Attending(nn.Module):
    """Two linear layers that take more than one input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second = nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.second(self.act(self.first(x))) * y


@pytest.mark.parametrize(
    "model",
    [
        Reversed(),
        Attending(),
        nn.Sequential(nn.Linear(4, 8), nn.Softmax(-1), nn.Linear(8, 3)),
        nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)),
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.ReLU(), nn.Linear(8, 3)),
        nn.Sequential(nn.Linear(4, 8), nn.ReLU()),
        nn.Linear(4, 4),
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_computes_something_else_is_no_mlp(model: nn.Module) -> None:
    with pytest.raises(UnsupportedLayer, match="has no MLP"):
        find_mlps(model)


def test_an_activation_that_two_runs_share_stands_for_neither() -> None:
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 3))
    with pytest.raises(UnsupportedLayer, match="has no MLP"):
        find_mlps(model)


def test_an_mlp_that_runs_twice_is_not_found() -> None:
    shared = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(UnsupportedLayer, match="has no MLP"):
        find_mlps(nn.ModuleList([shared, shared]))


def _bert() -> nn.Module:
    torch.manual_seed(0)
    return FAMILIES["BERT"][0]()


@pytest.mark.parametrize(
    ("select", "taken"),
    [
        ("@mlp#1", [1]),
        ("encoder.layer.0.*", [0]),
        ("encoder.layer.1.intermediate", [1]),
        ("encoder.layer.1.intermediate.dense.weight", [1]),
        ("encoder.layer.0.intermediate|encoder.layer.1.intermediate", [0, 1]),
        ("@mlp|!encoder.layer.0.*", [1]),
    ],
)
def test_a_selection_takes_mlps_by_their_first_layer_or_their_name(select: str, taken: list[int]) -> None:
    assert [mlp.name for mlp in find_mlps(_bert(), select)] == [f"encoder.layer.{i}.intermediate" for i in taken]


def test_selections_that_take_no_mlp_are_refused_and_say_what_there_is() -> None:
    model = _bert()
    with pytest.raises(UnsupportedLayer, match=r"takes no MLP.*encoder\.layer\.0\.intermediate"):
        find_mlps(model, "@attention")
    with pytest.raises(UnknownParameter, match="no matrix parameter or module"):
        find_mlps(model, "encoder.layer.0.intermediat")
    with pytest.raises(ConfigError, match="takes no parameter"):
        find_mlps(model, "decoder.*")
