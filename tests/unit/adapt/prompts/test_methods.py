"""The methods themselves: fields, starts, budgets, groups, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.method import Method, method_from_dict
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.p_tuning import PTuning
from dtheta.adapt.prompts.prefix_tuning import PrefixTuning
from dtheta.adapt.prompts.sources import Reparametrized
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.adapt.registry import method_class, method_names
from dtheta.errors import ConfigError, ShapeMismatch, UnsupportedLayer
from tests.unit.adapt.prompts.conftest import TEXT, make, padded, shake, states


def vectors(model: nn.Module, method: Method, seed: int = 0) -> torch.Tensor:
    adapter = attach(model, method, seed=seed)
    found = adapter.term("prompt.input").matrix().detach().clone()
    adapter.detach()
    return found


def test_they_are_registered_and_survive_a_file() -> None:
    for method in (PromptTuning(3, "text", (1, 2)), DePT(3, 2, 5), PTuning(3), PrefixTuning(3)):
        assert method.name in method_names() and method_class(method.name.lower()) is type(method)
        assert method_from_dict(method.to_dict()) == method
        assert method.summary and method.paper


def test_starts() -> None:
    model: Any = make("gpt2")
    table = model.get_input_embeddings().weight.detach()
    drawn = vectors(model, PromptTuning(10))
    rows = [(table == v).all(1).nonzero().flatten().tolist() for v in drawn]
    assert all(len(row) == 1 for row in rows) and len({row[0] for row in rows}) == 10
    assert torch.equal(vectors(model, PromptTuning(5, init="text", ids=(4, 9))), table[[4, 9, 4, 9, 4]])
    normal = vectors(model, PromptTuning(40, init="normal"))
    assert float(normal.square().mean().sqrt()) == pytest.approx(float(table.square().mean().sqrt()), rel=0.15)
    assert torch.equal(vectors(model, PromptTuning(10)), drawn)
    assert not torch.equal(vectors(model, PromptTuning(10), seed=1), drawn)


def test_the_network_of_p_tuning_starts_as_large_as_its_vectors() -> None:
    model: Any = make("bert")
    adapter = attach(model, PTuning(6, hidden=8))
    term = adapter.term("prompt.input")
    assert isinstance(term, Reparametrized)
    assert float(term.matrix().detach().norm()) == pytest.approx(float(term.values.detach().norm()), rel=1e-5)
    assert torch.equal(adapter.delta()["prompt.input"].dense(), term.matrix().detach())


def test_dept_starts_as_published() -> None:
    adapter = attach(make("bert"), DePT(3, rank=4, positions=30, alpha=8.0))
    term: Any = adapter.term("prompt.input.offset")
    assert (
        not term.right.any() and float(term.left.detach().abs().max()) <= 0.5 and float(term.left.detach().std()) > 0.2
    )
    assert term.scale == 8.0 / math.sqrt(4)


@pytest.mark.parametrize(
    ("width", "positions", "ranks"),
    [(768, 256, (75, 60, 45, 30, 15)), (768, 512, (60, 48, 36, 24, 12)), (768, 348, (68, 55, 41, 27, 13)),
     (1024, 256, (80, 64, 48, 32, 16)), (4096, 256, (94, 75, 56, 37, 18))],
)  # fmt: skip
def test_the_budget_is_kept(width: int, positions: int, ranks: tuple[int, ...]) -> None:
    for length, rank in zip((0, 20, 40, 60, 80), ranks, strict=True):
        found = DePT.of_budget(tokens=100, length=length, positions=positions, width=width)
        assert (
            found.rank == rank and found.parameters(width) <= 100 * width < found.parameters(width) + positions + width
        )


@pytest.mark.parametrize(("positions", "lengths"), [(256, (0, 20, 40, 60, 80)), (512, (0, 20, 40, 60, 80))])
def test_the_published_budgets_are_spent_to_the_last_parameter(positions: int, lengths: tuple[int, ...]) -> None:
    for length in lengths:
        assert DePT.of_budget(tokens=100, length=length, positions=positions, width=768).parameters(768) == 76_800
    assert [DePT.of_budget(100, m, 256, 1024).parameters(1024) for m in lengths] == [102_400] * 5
    assert {DePT.of_budget(100, m, 348, 768).parameters(768) for m in lengths} <= set(range(75_888, 76_741))


def test_a_budget_with_nothing_left_is_refused() -> None:
    with pytest.raises(ConfigError, match="rank 1 over 256 positions takes 272"):
        DePT.of_budget(tokens=20, length=10, positions=256, width=16)
    with pytest.raises(ConfigError):
        DePT.of_budget(tokens=10, length=10, positions=256, width=768)


def test_two_rates() -> None:
    method = DePT(3, rank=2, positions=5, offset_lr=1e-4)
    adapter = attach(make("llama"), method, also="lm_head.weight")
    groups = {g["name"]: g for g in method.parameter_groups(adapter, 0.3)}
    assert groups["prompt"]["lr"] == 0.3 and groups["offset"]["lr"] == 1e-4
    assert [p.shape for p in groups["offset"]["params"]] == [(5, 2), (2, 16)]
    assert len(groups["prompt"]["params"]) == 2
    assert [g["lr"] for g in DePT(0, rank=2, offset_lr=None).parameter_groups(adapter, 0.3)] == [0.3, 0.3]


@pytest.mark.parametrize(
    "make_bad",
    [
        lambda: PromptTuning(0), lambda: PTuning(3, hidden=0), lambda: PrefixTuning(0), lambda: DePT(-1),
        lambda: DePT(rank=0), lambda: DePT(positions=0), lambda: DePT(alpha=0.0), lambda: DePT(offset_lr=-1.0),
        lambda: DePT(index="row"), lambda: PromptTuning("4"),
    ],
)  # fmt: skip
def test_fields_that_cannot_be_meant(make_bad: Any) -> None:
    with pytest.raises(ConfigError):
        make_bad()


@pytest.mark.parametrize(
    "method", [PromptTuning(2, ids=(1,)), PromptTuning(2, "text"), PromptTuning(2, "text", ()),
               PromptTuning(2, "text", (64,)), PromptTuning(2, "text", (-1,))],
)  # fmt: skip
def test_ids_that_cannot_be_meant(method: Method) -> None:
    with pytest.raises(ConfigError, match="ids"):
        attach(make("bert"), method)


def test_what_no_prompt_can_enter(tiny_mlp: nn.Module) -> None:
    with pytest.raises(UnsupportedLayer, match="no text model of transformers"):
        attach(tiny_mlp, PromptTuning(2))
    from transformers import ViTConfig, ViTModel

    small: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    with pytest.raises(UnsupportedLayer):
        attach(ViTModel(ViTConfig(**small, image_size=8, patch_size=4)), PromptTuning(2))


def test_a_model_that_goes_past_its_own_base_is_refused() -> None:
    """A head that calls what is inside its base model would never see the prompt; that must not pass in silence."""
    from transformers import BertModel, BertPreTrainedModel

    class Past(BertPreTrainedModel):
        base_model_prefix = "inside"

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.inside = BertModel(config)

        def forward(self, input_ids: Any = None, **given: Any) -> Any:
            return self.inside.encoder(self.inside.embeddings(input_ids))

    outer = Past(make("bert").config)
    with pytest.raises(UnsupportedLayer, match="would do nothing"):
        attach(outer, PromptTuning(2))
    assert "forward" not in vars(outer.inside) and all(p.requires_grad for p in outer.parameters())


@pytest.mark.parametrize("name", ["T5ForSequenceClassification", "BartForSequenceClassification"])
def test_a_head_that_wants_the_end_of_a_text(name: str) -> None:
    """The look whether a prompt would be seen is on one token, at which such a head raises."""
    import transformers as t

    small = {"vocab_size": 64, "d_model": 16, "pad_token_id": 0, "eos_token_id": 1}
    layers = {f"{side}_{part}": 2 for side in ("encoder", "decoder") for part in ("layers", "attention_heads")}
    config = (
        t.T5Config(**small, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0)
        if name.startswith("T5")
        else t.BartConfig(**small, **layers, encoder_ffn_dim=32, decoder_ffn_dim=32, bos_token_id=2)
    )
    model: Any = getattr(t, name)(config).eval()
    ending = torch.cat([TEXT, torch.tensor([[1]])], 1)
    base = model(ending).logits
    shake(attach(model, PromptTuning(2)))
    logits = model(ending).logits
    assert not torch.allclose(logits, base) and torch.allclose(model(**padded(0, 3, ending)).logits, logits, atol=1e-5)


def test_two_models_in_one_are_no_place() -> None:
    with pytest.raises(UnsupportedLayer, match="holds 2 models of transformers"):
        attach(nn.ModuleList([make("bert"), make("gpt2")]), PromptTuning(2))


def test_a_selection_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to select"):
        attach(make("bert"), PromptTuning(2), "*.weight")


def test_a_prompt_without_room_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match="choose a smaller length"):
        attach(make("gpt2"), PromptTuning(48))
    attach(make("llama"), PromptTuning(60))  # positions are computed


def test_texts_beyond_the_table_are_refused_if_so_asked() -> None:
    model: Any = make("gpt2")
    attach(model, DePT(2, rank=2, positions=5, beyond="error"))
    with pytest.raises(ConfigError, match="a text has 6 tokens and the table of offsets has 5"):
        model(TEXT)
    model(**padded(0, 3, TEXT[:, :5]))
    model(**padded(3, 0, TEXT[:, :5]))


def test_inputs_that_virtual_tokens_have_no_place_in() -> None:
    model: Any = make("gpt2")
    attach(model, PromptTuning(2))
    with pytest.raises(ConfigError, match=r"\(batch, tokens\)"):
        model(TEXT, attention_mask=torch.ones(1, 1, 6, 6))
    with pytest.raises(ConfigError, match="token_type_ids"):
        model(TEXT, token_type_ids=torch.zeros_like(TEXT))
    with pytest.raises(ConfigError, match="exactly one"):
        model()
    with pytest.raises(ConfigError, match="needs a text"):
        model.generate()


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
@pytest.mark.parametrize("mask", [[[0, 0, 1, 1, 1, 1]], [[0, 0, 1, 1, 1, 1, 1, 1]] * 2, [[0, 1, 1, 1]] * 2])
def test_a_mask_of_other_texts(name: str, mask: list[list[int]]) -> None:
    """Columns are picked by the mask, so one row for two texts would have left a single one, without a word."""
    model: Any = make(name)
    attach(model, PromptTuning(2))
    given = {"input_ids": TEXT.expand(2, -1), "attention_mask": torch.tensor(mask)}
    with pytest.raises(ConfigError, match=r"a column for each token, \(2, 6\)"):
        states(model, given)


@pytest.mark.parametrize("masked", [True, False])
def test_a_prefix_takes_positions_too(masked: bool) -> None:
    model: Any = make("gpt2")
    attach(model, PrefixTuning(10))
    ids = torch.ones(1, 39, dtype=torch.long)
    mask = torch.ones_like(ids) if masked else None
    model(ids[:, :38], attention_mask=mask[:, :38] if mask is not None else None)
    with pytest.raises(ConfigError, match="49 tokens, 10 of them virtual, do not fit into the 48 positions"):
        model(ids, attention_mask=mask)
    cache = model(ids[:, :38], use_cache=True)[1]
    with pytest.raises(ConfigError, match="49 tokens, 10 of them virtual"):
        model(ids[:, :1], attention_mask=mask, past_key_values=cache)


def test_positions_and_types_of_ones_own() -> None:
    for name in ("llama", "bert"):
        model: Any = make(name)
        attach(model, PromptTuning(3))
        expected = model(TEXT)[0]
        assert torch.allclose(model(TEXT, position_ids=torch.arange(6)[None])[0], expected, atol=1e-6)
    types = torch.tensor([[0, 0, 0, 1, 1, 1]])
    assert not torch.equal(model(TEXT, token_type_ids=types)[0], expected)
    assert torch.allclose(model(TEXT, token_type_ids=types * 0)[0], expected, atol=1e-6)


def test_meta_embeddings_are_refused() -> None:
    with pytest.raises(UnsupportedLayer, match="meta"):
        attach(make("bert").to("meta"), PromptTuning(2))
