"""Rows with prompts of their own: as if every row ran alone with its prompt attached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dtheta.adapt.attach import attach
from dtheta.adapt.method import Method
from dtheta.adapt.prompts.adept import ADePT
from dtheta.adapt.prompts.bank import PromptBank
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.folding import fold_offsets
from dtheta.adapt.prompts.prefix_tuning import PrefixTuning
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.core.change import New
from dtheta.core.delta import Delta
from dtheta.errors import BaseMismatch, ConfigError, NonFinite, ShapeMismatch, UnknownParameter, UnsupportedLayer
from tests.unit.adapt.prompts.conftest import TEXT, make, of_text, padded, shake, states

METHODS: dict[str, Method] = {
    "plain": PromptTuning(4),
    "long": PromptTuning(7),
    "by position": DePT(3, rank=2, positions=8),
    "by column": DePT(1, rank=2, positions=12, index="column"),
    "by token": ADePT(2, rank=3),
    "offsets": DePT(0, rank=2, positions=5, beyond="last"),
}
NAMES = ["by token", None, "plain", "long", "by position", "plain", "offsets", "by column"]
GREEDY: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": 99}


def deltas(model: Any) -> dict[str, Delta]:
    """One shaken prompt of every method; one of them folded."""
    found = {}
    for seed, (name, method) in enumerate(METHODS.items()):
        adapter = shake(attach(model, method, seed=seed))
        found[name] = adapter.delta()
        adapter.detach()
    return {**found, "folded": fold_offsets(found["by token"], model)}


def batch(rows: int, side: str) -> dict[str, Tensor]:
    """Texts of mixed lengths, padded on one side."""
    texts = torch.randint(2, 64, (rows, 7), generator=torch.Generator().manual_seed(0))
    lengths = 2 + torch.arange(rows)[:, None] % 6
    column = torch.arange(7)[None]
    mask = (column < lengths if side == "right" else column >= 7 - lengths).long()
    return {"input_ids": texts * mask, "attention_mask": mask}


def alone(model: Any, prompts: dict[str, Delta], name: str | None, given: dict[str, Tensor]) -> Tensor:
    """Return what a row gives alone, its prompt attached."""
    adapter = None if name is None else attach(model, prompts[name])
    found = states(model, given)
    if adapter is not None:
        adapter.detach()
    return found


@pytest.mark.parametrize("side", ["left", "right", "none"])
def test_every_row_is_what_it_is_alone(model: Any, side: str) -> None:
    prompts = deltas(model)
    names = [*NAMES, "folded"]
    given = batch(len(names), "left" if side == "none" else side)
    if side == "none":
        given = {"input_ids": given["input_ids"]}
    with PromptBank(model, prompts).batched(names):
        found = states(model, given)
    for i, name in enumerate(names):
        row = {k: v[i : i + 1] for k, v in given.items()}
        kept = row.get("attention_mask", torch.ones(1, 7))[0] != 0
        if name is None:  # the plain model with learned positions is not right behind padding
            row = {k: v[:, kept] for k, v in row.items()}
        expected = alone(model, prompts, name, row)[0]
        shown = slice(None) if model.config.is_encoder_decoder else kept
        assert torch.allclose(found[i][shown], expected if name is None else expected[shown], atol=1e-5), name


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}, {"use_cache": False}])
def test_generation(decoder: Any, options: dict[str, Any]) -> None:
    prompts, given = deltas(decoder), batch(len(NAMES), "left")
    with PromptBank(decoder, prompts).batched(NAMES):
        found = decoder.generate(**given, **GREEDY, **options)
    for i, name in enumerate(NAMES):
        adapter = None if name is None else attach(decoder, prompts[name])
        row = {k: v[i : i + 1] for k, v in given.items()}
        assert torch.equal(found[i], decoder.generate(**row, **GREEDY, **options)[0]), name
        if adapter is not None:
            adapter.detach()
    assert "generate" not in vars(decoder)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
@pytest.mark.parametrize("side", ["left", "right"])
def test_generation_of_encoder_decoders(side: str, options: dict[str, Any]) -> None:
    model = make("t5")
    prompts, given = deltas(model), batch(len(NAMES), side)
    greedy = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, **options}
    with PromptBank(model, prompts).batched(NAMES):
        found = model.generate(**given, **greedy)
    for i, name in enumerate(NAMES):
        adapter = None if name is None else attach(model, prompts[name])
        row = {k: v[i : i + 1] for k, v in given.items()}
        assert torch.equal(found[i], model.generate(**row, **greedy)[0]), name
        if adapter is not None:
            adapter.detach()


def test_a_loop_of_ones_own_over_a_cache(decoder: Any) -> None:
    given = batch(len(NAMES), "left")
    with PromptBank(decoder, deltas(decoder)).batched(NAMES):
        whole = decoder(**given).logits
        head = {k: v[:, :6] for k, v in given.items()}
        output = decoder(**head, use_cache=True)
        cache = output.get("cache") if "cache" in output else output.past_key_values
        tail = decoder(given["input_ids"][:, 6:], attention_mask=given["attention_mask"], past_key_values=cache)
    real = given["attention_mask"][:, 6:] != 0
    assert torch.allclose(tail.logits[real], whole[:, 6:][real], atol=1e-5)


def test_positions_and_types_of_ones_own() -> None:
    for name in ("llama", "bert"):
        model = make(name)
        two = {"input_ids": TEXT.expand(2, -1)}
        with PromptBank(model, deltas(model)).batched(["plain", "by token"]):
            expected = states(model, two)
            assert torch.allclose(states(model, two | {"position_ids": torch.arange(6)[None]}), expected, atol=1e-5)
    types = torch.tensor([[0, 0, 0, 1, 1, 1], [0] * 6])
    with PromptBank(model, deltas(model)).batched(["plain", "by token"]):
        found = states(model, two | {"token_type_ids": types})
    assert not torch.equal(found[0], expected[0]) and torch.allclose(found[1], expected[1], atol=1e-5)


def test_the_pooler_of_bert_still_sees_cls() -> None:
    model = make("bert")
    with PromptBank(model, deltas(model)).batched(["long", None, "by token"]):
        output = model(**padded(0, 2, TEXT.expand(3, -1)))
    assert torch.allclose(output.pooler_output, model.pooler(output.last_hidden_state), atol=1e-6)


def test_one_name_stands_for_all_rows(model: Any) -> None:
    prompts, given = deltas(model), batch(4, "right")
    bank = PromptBank(model, prompts)
    with bank.batched("by position"):
        found = states(model, given)
        assert states(model, {k: v[:3] for k, v in given.items()}).shape[0] == 3
    attach(model, prompts["by position"])
    assert torch.allclose(found, states(model, given), atol=1e-5)


def test_no_prompt_in_any_row_is_the_base(model: Any) -> None:
    before = of_text(model, 0, 0)
    with PromptBank(model, deltas(model)).batched([None]):
        assert torch.allclose(of_text(model, 0, 2), before, atol=1e-5)
        assert torch.allclose(of_text(model, 2, 0), before, atol=1e-5)


def test_the_model_is_as_it_was_outside_of_blocks(model: Any) -> None:
    before = states(model, batch(2, "left"))
    bank = PromptBank(model, deltas(model))
    attributes = {name: set(module.__dict__) for name, module in model.named_modules()}
    with pytest.raises(KeyError), bank.batched(["plain", None]):
        raise KeyError
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == attributes
    assert torch.equal(states(model, batch(2, "left")), before) and all(p.requires_grad for p in model.parameters())


def test_the_shelf(tmp_path: Path) -> None:
    model = make("bert")
    prompts = deltas(model)
    bank = PromptBank(model, {"plain": prompts["plain"]})
    bank.add("file", prompts["long"].save(tmp_path / "long.delta"))
    assert list(bank) == ["plain", "file"] and len(bank) == 2 and "file" in bank and "2 prompts" in repr(bank)
    assert bank["file"].digest == prompts["long"].digest
    bank.remove("plain")
    assert "plain" not in bank
    with pytest.raises(UnknownParameter, match="did you mean 'file'"):
        bank.remove("files")
    with pytest.raises(UnknownParameter, match="no prompt 'plain'"), bank.batched(["file", "plain"]):
        pass


def test_what_no_bank_can_hold() -> None:
    model = make("llama")
    bank = PromptBank(model, deltas(model))
    with pytest.raises(ConfigError, match="a name of its own"):
        bank.add("plain", bank["long"])
    for method, also in ((PrefixTuning(2), None), (PromptTuning(2), "lm_head.weight")):
        adapter = attach(model, method, also=also)
        with pytest.raises(UnsupportedLayer, match="only"):
            bank.add("other", adapter.delta())
        adapter.detach()
    with pytest.raises(BaseMismatch):
        bank.add("other", attach(make("gpt2"), PromptTuning(2)).delta())
    with pytest.raises(ShapeMismatch):
        bank.add("other", Delta({"prompt.input": New(torch.zeros(2, 8))}))
    with pytest.raises(NonFinite):
        bank.add("other", Delta({"prompt.input": New(torch.full((2, 16), torch.nan))}))
    assert "other" not in bank


def test_what_cannot_be_meant() -> None:
    model = make("bert")
    bank = PromptBank(model, deltas(model))
    with pytest.raises(ConfigError, match="no row is named"), bank.batched([]):
        pass
    with bank.batched(["plain", "long"]):
        with pytest.raises(ConfigError, match="the batch has 4 texts, and prompts were named for 2"):
            model(**batch(4, "right"))
        with pytest.raises(ConfigError, match="leave that block first"):
            attach(model, PromptTuning(2))
        with pytest.raises(ConfigError, match="a prompt is on this model already"), bank.batched("plain"):
            pass
    adapter = attach(model, PromptTuning(2))
    with pytest.raises(ConfigError, match="a prompt is on this model already"), bank.batched("plain"):
        pass
    adapter.detach()
