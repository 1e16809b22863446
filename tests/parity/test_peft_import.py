"""from_peft against peft itself: what peft trained and saved, we read as the same displacement."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.core.interop import from_peft, to_peft
from dtheta.core.seeds import generator
from dtheta.errors import FormatError, UnsupportedLayer
from tests.parity.adapted import outputs, with_delta

peft = pytest.importorskip("peft")

TOKENS = torch.randint(0, 60, (3, 9), generator=generator(0, "tokens"))


def trained_in_peft(model: nn.Module, **settings):
    """A copy of the model with a LoRA of peft's, every factor of which has moved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator(0, name)), alpha=0.05)
    return result


def saved(model, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(folder))
    return folder


def assert_read_right(base: nn.Module, theirs: nn.Module, inputs, folder):
    """The delta that we read gives peft's outputs, added to the weights and attached."""
    expected = outputs(theirs, inputs)
    delta = from_peft(saved(theirs, folder), base)
    assert (expected - outputs(base, inputs)).abs().max() > 1e-3
    torch.testing.assert_close(with_delta(base, delta, inputs), expected, rtol=0, atol=1e-5)
    adapter = attach(base, delta)
    torch.testing.assert_close(outputs(adapter, inputs), expected, rtol=0, atol=1e-5)
    adapter.detach()
    return delta


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 3, "lora_alpha": 12, "target_modules": ["query", "value"]},
        {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": r".*layer\.\d+.*(query|dense)"},
        {"r": 2, "lora_alpha": 2, "target_modules": "all-linear", "exclude_modules": ["pooler.dense"]},
        {"r": 2, "target_modules": ["query", "key"], "layers_to_transform": [1], "layers_pattern": "layer"},
        {"r": 4, "lora_alpha": 8, "target_modules": ["query", "key", "dense"],
         "rank_pattern": {"query": 2, r"layer\.1.*key": 3},
         "alpha_pattern": {"^encoder.layer.0.attention.self.query": 5}},
        {"r": 3, "target_modules": ["word_embeddings", "query"], "lora_alpha": 7},
        {"r": 3, "target_modules": ["query"], "init_lora_weights": "gaussian", "lora_dropout": 0.1},
        {"r": 4, "target_modules": ["query"], "init_lora_weights": "orthogonal"},
        {"r": 4, "target_modules": ["query"], "init_lora_weights": "mica"},
    ],
    ids=lambda s: "-".join(k for k in s if k not in ("r", "target_modules")) or "plain",
)  # fmt: skip
def test_configurations_on_bert(settings, tiny_bert, tmp_path):
    assert_read_right(tiny_bert, trained_in_peft(tiny_bert, **settings), [TOKENS], tmp_path / "theirs")


def test_transposed_weights(tiny_gpt2, tmp_path):
    theirs = trained_in_peft(tiny_gpt2, r=3, lora_alpha=9, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    assert_read_right(tiny_gpt2, theirs, [TOKENS], tmp_path / "theirs")


def test_convolutions(tiny_conv, tmp_path):
    theirs = trained_in_peft(tiny_conv, r=4, lora_alpha=2, target_modules=["0", "4"])
    images = torch.randn(2, 3, 8, 8, generator=generator(0, "images"))
    assert_read_right(tiny_conv, theirs, [images], tmp_path / "theirs")


def test_grouped_convolution_of_peft_reaches_across_groups_and_is_refused(tiny_conv, tmp_path):
    folder = saved(trained_in_peft(tiny_conv, r=4, target_modules=["2"]), tmp_path / "theirs")
    with pytest.raises(UnsupportedLayer, match=r"2\.weight.*across its groups"):
        from_peft(folder, tiny_conv)


def test_attention_whose_output_projection_peft_adds_twice_is_refused(tiny_mha, tmp_path):
    theirs = trained_in_peft(tiny_mha, r=2, target_modules=["attention"])
    with pytest.raises(UnsupportedLayer, match=r"attention\.out_proj.*twice"):
        from_peft(saved(theirs, tmp_path / "theirs"), tiny_mha)
    with torch.no_grad():
        theirs.base_model.model.attention.base_layer.out_proj.lora_B["default"].weight.zero_()
    x = torch.randn(2, 5, 16, generator=generator(0, "x"))
    assert_read_right(tiny_mha, theirs, [x], tmp_path / "zero")


def test_factors_are_kept_as_they_are(tiny_bert, tmp_path):
    theirs = trained_in_peft(tiny_bert, r=3, lora_alpha=9, target_modules=["query"])
    delta = from_peft(saved(theirs, tmp_path / "theirs"), tiny_bert)
    layer = theirs.base_model.model.encoder.layer[0].attention.self.query
    change = delta["encoder.layer.0.attention.self.query.weight"]
    assert torch.equal(change.left, layer.lora_B["default"].weight)
    assert torch.equal(change.right, layer.lora_A["default"].weight)
    assert torch.equal(change.core, torch.full((3,), 3.0))
    assert delta.provenance.method == {"name": "LoRA", "rank": 3, "alpha": 9, "rslora": False, "dropout": 0.0}
    assert delta.base.root is not None


def test_training_goes_on_from_a_folder_with_its_scaling(tiny_bert, tmp_path):
    theirs = trained_in_peft(tiny_bert, r=3, lora_alpha=9, target_modules=["query"])
    adapter = attach(tiny_bert, from_peft(saved(theirs, tmp_path / "theirs"), tiny_bert))
    term = adapter.term("encoder.layer.0.attention.self.query.weight")
    assert (term.scale, term.core, len(adapter.trainable())) == (3.0, None, 4)
    loss = lambda out: out[0].square().mean()  # noqa: E731
    loss(adapter(TOKENS)).backward()
    loss(theirs.eval()(TOKENS)).backward()
    expected = theirs.base_model.model.encoder.layer[0].attention.self.query.lora_A["default"].weight.grad
    torch.testing.assert_close(term.right.grad, expected, rtol=1e-4, atol=1e-8)
    adapter.detach()


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_trained_as_well(bias, tiny_bert, tmp_path):
    theirs = trained_in_peft(tiny_bert, r=3, target_modules=["query", "dense"], bias=bias)
    moved = [n for n, p in theirs.named_parameters() if p.requires_grad and n.endswith(".bias")]
    with torch.no_grad():
        for name in moved[1:]:  # the first stays, though it might have trained
            theirs.get_parameter(name).add_(torch.randn(1, generator=generator(0, name)), alpha=0.3)
    delta = assert_read_right(tiny_bert, theirs, [TOKENS], tmp_path / "theirs")
    names = {n.removeprefix("base_model.model.").replace(".base_layer.", ".") for n in moved[1:]}
    assert {name for name in delta if name.endswith(".bias")} == names
    for name in names:  # base plus change is what was stored, bit for bit
        trained = theirs.get_parameter(next(n for n in moved if name == n[17:].replace(".base_layer.", ".")))
        assert torch.equal((tiny_bert.get_parameter(name).double() + delta[name].dense()).float(), trained)


def test_biases_that_the_folder_lacks_are_named(tiny_bert, tmp_path):
    folder = saved(trained_in_peft(tiny_bert, r=3, target_modules=["query"], bias="lora_only"), tmp_path / "theirs")
    path, name = folder / "adapter_model.safetensors", "encoder.layer.1.attention.self.query.bias"
    tensors = {
        n: t for n, t in load_file(path).items() if not n.endswith("layer.1.attention.self.query.base_layer.bias")
    }
    save_file(tensors, path)
    with pytest.raises(FormatError, match=f"lacks '{name}', though bias='lora_only' trained it"):
        from_peft(folder, tiny_bert)


def test_where_no_module_has_a_bias_there_is_none_to_read(tiny_llama, tmp_path):
    theirs = trained_in_peft(tiny_llama, r=3, target_modules=["q_proj"], bias="all")
    assert_read_right(tiny_llama, theirs, [TOKENS], tmp_path / "theirs")


def test_exact_pissa_that_was_not_converted(tiny_bert, tmp_path):
    theirs = trained_in_peft(tiny_bert, r=3, lora_alpha=6, target_modules=["query", "value"], init_lora_weights="pissa")
    folder = saved(theirs, tmp_path / "theirs")
    with pytest.raises(UnsupportedLayer, match=r"init_lora_weights='pissa'.*pissa_start=True"):
        from_peft(folder, tiny_bert)
    delta = from_peft(folder, tiny_bert, pissa_start=True)
    torch.testing.assert_close(with_delta(tiny_bert, delta, [TOKENS]), outputs(theirs, [TOKENS]), rtol=0, atol=1e-5)


def test_converted_pissa_reads_as_lora_of_twice_the_rank(tiny_bert, tmp_path):
    settings = {"r": 3, "lora_alpha": 3, "target_modules": ["query"], "init_lora_weights": "pissa"}
    theirs = peft.get_peft_model(copy.deepcopy(tiny_bert), peft.LoraConfig(**settings))
    theirs.peft_config["default"].init_lora_weights = True
    saved(theirs, tmp_path / "start")
    theirs.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.mul_(1.1)
    expected = outputs(theirs, [TOKENS])
    theirs.save_pretrained(str(tmp_path / "end"), path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    delta = from_peft(tmp_path / "end", tiny_bert)
    assert {change.rank for change in delta.changes.values()} == {6}
    torch.testing.assert_close(with_delta(tiny_bert, delta, [TOKENS]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa_niter_2"}, "pissa_niter_2"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"modules_to_save": ["pooler"]}, "pooler"),
        ({"trainable_token_indices": {"word_embeddings": [3]}}, "trainable_token_indices"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_what_is_not_plain_lora_is_refused_by_name(settings, named, tiny_bert, tmp_path):
    folder = saved(trained_in_peft(tiny_bert, r=2, target_modules=["query"], **settings), tmp_path / "theirs")
    with pytest.raises(UnsupportedLayer, match=named):
        from_peft(folder, tiny_bert)


@pytest.mark.parametrize(
    "config",
    [
        lambda: peft.IA3Config(target_modules=["query"], feedforward_modules=[]),
        lambda: peft.AdaLoraConfig(target_modules=["query"], total_step=10),
        lambda: peft.LoHaConfig(target_modules=["query"]),
    ],
    ids=["IA3", "AdaLoRA", "LoHa"],
)
def test_other_types_are_refused_by_name(config, tiny_bert, tmp_path):
    theirs = peft.get_peft_model(copy.deepcopy(tiny_bert), config())
    folder = saved(theirs, tmp_path / "theirs")
    kind = json.loads((folder / "adapter_config.json").read_text())["peft_type"]
    with pytest.raises(UnsupportedLayer, match=f"type '{kind}'"):
        from_peft(folder, tiny_bert)


def test_adapter_of_one_of_two_tied_modules_is_refused(tiny_gpt2, tmp_path):
    assert tiny_gpt2.lm_head.weight is tiny_gpt2.transformer.wte.weight
    theirs = trained_in_peft(tiny_gpt2, r=2, target_modules=["wte"])
    with pytest.raises(UnsupportedLayer, match=r"transformer\.wte\.weight.*lm_head"):
        from_peft(saved(theirs, tmp_path / "theirs"), tiny_gpt2)


def test_folder_of_another_model_is_refused(tiny_bert, tiny_llama, tmp_path):
    folder = saved(trained_in_peft(tiny_bert, r=2, target_modules=["query"]), tmp_path / "theirs")
    with pytest.raises(Exception, match=r"encoder\.layer\.0\.attention\.self\.query"):
        from_peft(folder, tiny_llama)


def test_missing_factor_of_a_target_is_refused(tiny_bert, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = saved(trained_in_peft(tiny_bert, r=2, target_modules=["query", "value"]), tmp_path / "theirs")
    weights = folder / "adapter_model.safetensors"
    kept = {name: t for name, t in load_file(weights).items() if "layer.1.attention.self.value" not in name}
    save_file(kept, weights)
    with pytest.raises(FormatError, match=r"layer\.1\.attention\.self\.value"):
        from_peft(folder, tiny_bert)


def test_our_folder_for_another_base_is_refused(tiny_bert, tmp_path):
    from dtheta.adapt.lora import LoRA
    from dtheta.errors import BaseMismatch
    from tests.parity.adapted import moved

    folder = to_peft(moved(tiny_bert, LoRA(rank=2), "*.query"), tmp_path / "ours")
    other = copy.deepcopy(tiny_bert)
    with torch.no_grad():
        other.encoder.layer[1].attention.self.query.weight[0, 0] += 1
    with pytest.raises(BaseMismatch, match=r"layer\.1\.attention\.self\.query"):
        from_peft(folder, other)
    assert len(from_peft(folder, other, strict=False)) == 2
