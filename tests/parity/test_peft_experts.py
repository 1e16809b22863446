"""LoRA of experts (``target_parameters``) against peft itself, both ways, in the layouts that transformers has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.core.apply import applied
from dtheta.core.interop import from_peft, to_peft
from dtheta.core.seeds import generator
from dtheta.core.stacked import Stacked
from dtheta.errors import ConfigError, FormatError, UnknownParameter, UnsupportedLayer
from tests.parity.adapted import outputs, with_delta
from tests.parity.test_peft_import import assert_read_right, saved, trained_in_peft

peft = pytest.importorskip("peft")

TOKENS = (torch.randint(0, 50, (2, 8), generator=generator(0, "tokens")),)
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 8,
}
SIZES |= {"num_key_value_heads": 2, "num_experts_per_tok": 2}
BOTH = ["mlp.experts.gate_up_proj", "experts.down_proj"]


def made(kind: str) -> nn.Module:
    """A mixture whose experts are stored as (out, in), or as (in, out) (GPT-OSS)."""
    import transformers

    torch.manual_seed(0)
    if kind == "gpt-oss":
        config: Any = transformers.GptOssConfig(**SIZES, intermediate_size=12, num_local_experts=4)
    else:
        config = transformers.Qwen3MoeConfig(**SIZES, intermediate_size=24, moe_intermediate_size=12, num_experts=4)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # so that outputs of a drawn network are not all alike
    return model


@pytest.mark.parametrize("kind", ["qwen", "gpt-oss"])
@pytest.mark.parametrize(
    "settings",
    [
        {"r": 3, "lora_alpha": 12, "target_modules": ["v_proj"], "target_parameters": BOTH},
        {"r": 2, "lora_alpha": 5, "target_modules": [], "target_parameters": ["experts.down_proj"]},
        {"r": 4, "use_rslora": True, "target_modules": [], "target_parameters": BOTH},
        {"r": 3, "target_modules": [], "target_parameters": BOTH, "rank_pattern": {"experts.down_proj": 2}}
        | {"alpha_pattern": {r"layers\.1.*up_proj": 20}},
        {"r": 3, "target_modules": [], "target_parameters": ["q_proj.weight", "experts.gate_up_proj"]},
    ],
)
def test_what_peft_trained_is_read_as_the_same_displacement(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    model = made(kind)
    delta = assert_read_right(model, trained_in_peft(model, **settings), TOKENS, tmp_path)
    assert any(isinstance(change, Stacked) for change in delta.changes.values())
    assert list(delta) == [name for name, _ in model.named_parameters() if name in delta]


@pytest.mark.parametrize("kind", ["qwen", "gpt-oss"])
@pytest.mark.parametrize("select", ["*.experts.*_proj", "*.experts.down_proj|*.v_proj", "*.0.*.gate_up_proj"])
def test_peft_loads_what_is_written(tmp_path: Path, kind: str, select: str) -> None:
    model = made(kind)
    adapter = attach(model, LoRA(rank=2, alpha=3.0), select=select)
    with torch.no_grad():
        for i, p in enumerate(adapter.trainable().values()):
            p.add_(torch.randn(p.shape, generator=generator(0, "moved", i)), alpha=0.1)
    delta = adapter.delta()
    adapter.detach()
    folder = to_peft(0.5 * delta + 0.25 * delta, tmp_path / "a", model=model)
    expected = with_delta(model, 0.75 * delta, TOKENS)
    theirs = peft.PeftModel.from_pretrained(made(kind), str(folder)).eval()
    torch.testing.assert_close(outputs(theirs, TOKENS), expected, rtol=0, atol=1e-5)
    with applied(model, from_peft(folder, model)):
        torch.testing.assert_close(outputs(model, TOKENS), expected, rtol=0, atol=1e-5)


def test_experts_need_the_model_to_be_written(tmp_path: Path) -> None:
    model = made("qwen")
    delta = attach(model, LoRA(rank=2), select="*.experts.*").delta()
    with pytest.raises(ConfigError, match="pass the base"):
        to_peft(delta, tmp_path / "a")


class Mixture(nn.Module):
    """A linear layer and a bias in the module that holds the experts."""

    is_transposed = False

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(count, 5, 6, generator=generator(0, "up")))
        self.down = nn.Parameter(torch.randn(count, 6, 5, generator=generator(0, "down")))
        self.bias = nn.Parameter(torch.zeros(6))
        self.gate = nn.Linear(6, 6)
        with torch.no_grad():
            for i, p in enumerate(self.gate.parameters()):
                p.copy_(torch.randn(p.shape, generator=generator(0, "gate", i)))

    def forward(self, x_BI: torch.Tensor) -> torch.Tensor:
        every = torch.einsum("eoi,bi->ebo", self.up, self.gate(x_BI)).tanh()
        return torch.einsum("eio,ebo->bi", self.down, every) + self.bias


class Net(nn.Module):
    def __init__(self, *mixtures: Mixture) -> None:
        super().__init__()
        self.mixtures = nn.ModuleList(mixtures)

    def forward(self, x_BI: torch.Tensor) -> torch.Tensor:
        for mixture in self.mixtures:
            x_BI = mixture(x_BI)
        return x_BI


INPUT = (torch.randn(4, 6, generator=generator(0, "input")),)


def test_a_bias_beside_experts_and_a_model_that_is_still_attached(tmp_path: Path) -> None:
    model = Net(Mixture())
    adapter = attach(model, LoRA(rank=2), select="*.down|*.up", also="*.0.bias")
    with torch.no_grad():
        for i, p in enumerate(adapter.trainable().values()):
            p.add_(torch.randn(p.shape, generator=generator(0, "moved", i)), alpha=0.1)
    delta, expected = adapter.delta(), outputs(model, INPUT)
    folder = to_peft(delta, tmp_path / "a", model=model)
    read = from_peft(folder, model)
    adapter.detach()
    assert read.changes.keys() == delta.changes.keys() and (read - delta).norm() < 1e-6
    theirs = peft.PeftModel.from_pretrained(Net(Mixture()), str(folder)).eval()
    torch.testing.assert_close(outputs(theirs, INPUT), expected, rtol=0, atol=1e-5)


def test_what_peft_cannot_wrap_is_refused(tmp_path: Path) -> None:
    def refused(model: nn.Module, select: str, match: str) -> None:
        adapter = attach(model, LoRA(rank=2), select=select)
        delta = adapter.delta()
        adapter.detach()
        with pytest.raises(UnsupportedLayer, match=match):
            to_peft(delta, tmp_path / "a", model=model)

    refused(Mixture(), "up", "up: peft wraps the module that holds a parameter, and here that is the model itself")
    refused(Net(Mixture()), "*.up|*.gate", r"0\.up: peft wraps the module 'mixtures\.0' .* 'mixtures\.0\.gate'")
    tied = Net(Mixture(), Mixture())
    tied.mixtures[1].up = tied.mixtures[0].up
    refused(tied, "*.0.up", "several modules share this parameter")
    single = Mixture(1)
    single.is_transposed = True
    refused(Net(single), "*.up", r"peft takes a single expert as stored \(out, in\)")


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = made("qwen")
    folder = saved(trained_in_peft(model, r=2, target_modules=[], target_parameters=BOTH), tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())

    def changed(**fields: Any) -> None:
        (folder / "adapter_config.json").write_text(json.dumps(config | fields))

    changed(target_parameters=["experts.gate_proj"])
    with pytest.raises(
        UnknownParameter, match=r"adapts a parameter 'experts\.gate_proj', which this model does not have"
    ):
        from_peft(folder, model)
    changed(target_parameters=["experts.down_proj"])  # the depth of a name says which parameter it belongs to
    with pytest.raises(UnknownParameter, match=r"experts\.base_layer'"):
        from_peft(folder, model)
    changed(r=3)
    with pytest.raises(FormatError, match=r"expected \(12, 12\) at the configured rank 3"):
        from_peft(folder, model)
    changed(init_lora_weights="pissa")
    with pytest.raises(UnsupportedLayer):
        from_peft(folder, model, pissa_start=True)
    changed(target_parameters=["model.norm.weight", *BOTH])
    with pytest.raises(UnsupportedLayer, match=r"model\.norm\.weight: peft has no LoRA of a parameter of shape"):
        from_peft(folder, model)
