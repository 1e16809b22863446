"""Loading: the real models know what they should, local folders load, and what is not right is refused."""

from __future__ import annotations

import json
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file

from dtheta.errors import ConfigError, DthetaWarning, FormatError, MissingExtra, UnsupportedLayer
from dtheta.models.load import load_model, load_tokenizer
from dtheta.models.zoo import model_folder


@pytest.fixture
def bert_folder(tiny_bert, tmp_path):
    tiny_bert.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def _edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _embed(model, tokenizer, texts):
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    mask = batch["attention_mask"].unsqueeze(-1)
    pooled = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(pooled, dim=1)


def test_minilm_knows_a_paraphrase(minilm, minilm_tokenizer):
    assert sum(parameter.numel() for parameter in minilm.parameters()) == 22_713_216
    assert not minilm.training
    with torch.no_grad():
        one, same, other = _embed(
            minilm, minilm_tokenizer, ["A man is eating food.", "Someone eats a meal.", "The sky is blue."]
        )
    assert one @ same > 0.5
    assert abs(one @ other) < 0.2


def test_smollm2_knows_paris(smollm2_factory, smollm2_tokenizer):
    model = smollm2_factory(None)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    inputs = smollm2_tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        probability = model(**inputs).logits[0, -1].softmax(-1)
    assert smollm2_tokenizer.decode([probability.argmax()]) == " Paris"
    assert probability.max() == pytest.approx(0.773, abs=0.005)


def test_smollm2_tokenizer(smollm2_tokenizer):
    text = "It's 1234 naïve\n\n  words<|im_end|> ünï"
    ids = smollm2_tokenizer(text).input_ids
    assert smollm2_tokenizer.decode(ids) == text
    assert len(smollm2_tokenizer) == 49152
    assert {"1", "2", "3", "4", "<|im_end|>"} <= set(smollm2_tokenizer.convert_ids_to_tokens(ids))
    chat = smollm2_tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_cut_layers_are_the_first_ones(smollm2_factory, smollm2_2layers):
    assert len(smollm2_2layers.model.layers) == 2
    three, two = smollm2_factory(3).state_dict(), smollm2_2layers.state_dict()
    assert all(torch.equal(three[name], weight) for name, weight in two.items())


def test_two_loads_share_nothing(minilm_factory):
    first, second = minilm_factory(), minilm_factory()
    name, parameter = next(iter(first.named_parameters()))
    before = second.get_parameter(name).clone()
    with torch.no_grad():
        parameter.zero_()
    assert torch.equal(second.get_parameter(name), before)
    assert torch.equal(minilm_factory().get_parameter(name), before)


def test_a_local_folder_loads_bit_by_bit_and_offline(bert_folder, tiny_bert, monkeypatch):
    def refuse(*_):
        raise AssertionError("tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model = load_model(bert_folder)
    assert type(model) is type(tiny_bert)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in tiny_bert.state_dict().items())
    assert not model.training


def test_the_architecture_is_the_one_in_the_config(tiny_gpt2, bert_folder, tmp_path):
    tiny_gpt2.save_pretrained(tmp_path / "gpt2")
    assert type(load_model(str(tmp_path / "gpt2"))).__name__ == "GPT2LMHeadModel"
    assert len(load_model(tmp_path / "gpt2", layers=1).transformer.h) == 1
    _edit(bert_folder, architectures=None)
    assert type(load_model(bert_folder)).__name__ == "BertModel"


def test_dtype_rounds_once(bert_folder, tiny_bert):
    model = load_model(bert_folder, dtype=torch.bfloat16)
    name, parameter = next(iter(tiny_bert.named_parameters()))
    assert torch.equal(model.get_parameter(name), parameter.bfloat16())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    with pytest.raises(ConfigError, match="must be floating"):
        load_model(bert_folder, dtype=torch.int8)


@pytest.mark.parametrize("layers", [0, -1, 3])
def test_layers_that_are_not_there(bert_folder, layers):
    with pytest.raises(ConfigError, match=f"layers={layers} must lie between 1 and 2"):
        load_model(bert_folder, layers=layers)


def test_layers_are_a_whole_number(bert_folder):
    for layers in (1.5, True):
        with pytest.raises(ConfigError, match=f"layers is {layers}; expected a whole number"):
            load_model(bert_folder, layers=layers)


def test_two_stacks_cannot_be_cut(tmp_path):
    """Only the encoder was: the decoder kept its layers."""
    import transformers

    config = transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    with pytest.raises(ConfigError, match="layers of an encoder and of a decoder"):
        load_model(tmp_path / "t5", layers=1)


def test_an_adapter_beside_the_model_is_not_loaded_with_it(bert_folder, tiny_bert, monkeypatch):
    """Where peft is installed, transformers puts it on the model."""
    (bert_folder / "adapter_config.json").write_text("{}")
    monkeypatch.setattr("dtheta.models.load.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="holds a peft adapter beside the model"):
        load_model(bert_folder)


def test_unknown_names_and_folders(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'minilm'"):
        load_model("minlm")
    with pytest.raises(ConfigError, match=r"no config\.json"):
        load_model(tmp_path)
    with pytest.raises(ConfigError, match="neither"):
        load_tokenizer(tmp_path / "none")


def test_missing_weights_are_no_random_numbers(bert_folder):
    weights = load_file(bert_folder / "model.safetensors")
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, bert_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FormatError, match=r"encoder\.layer\.0\.output\.dense\.weight"):
        load_model(bert_folder)


def test_weights_that_are_not_used_are_mentioned(bert_folder):
    weights = load_file(bert_folder / "model.safetensors")
    weights["cls.bias"] = torch.zeros(3)
    save_file(weights, bert_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(DthetaWarning, match=r"1 weights .* such as cls\.bias"):
        load_model(bert_folder)


def test_weights_of_another_shape(bert_folder):
    _edit(bert_folder, intermediate_size=48)
    with pytest.raises(FormatError):
        load_model(bert_folder)


def test_damaged_weights_and_config(bert_folder):
    path = bert_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError, match="cannot be read"):
        load_model(bert_folder)
    (bert_folder / "config.json").write_text("{")
    with pytest.raises(FormatError, match=r"config\.json"):
        load_model(bert_folder)


def test_pickled_weights_are_not_read(bert_folder, tiny_bert):
    (bert_folder / "model.safetensors").unlink()
    torch.save(tiny_bert.state_dict(), bert_folder / "pytorch_model.bin")
    with pytest.raises(FormatError, match="cannot be read"):
        load_model(bert_folder)


def test_architectures_that_do_not_exist(bert_folder):
    _edit(bert_folder, architectures=["NoSuchModel"])
    with pytest.raises(UnsupportedLayer, match="'NoSuchModel'"):
        load_model(bert_folder)


def test_a_folder_without_tokenizer(bert_folder):
    with pytest.raises(FormatError, match="no tokenizer"):
        load_tokenizer(bert_folder)


def test_a_tokenizer_that_is_not_there_is_asked_for(tmp_path):
    """Before, the message was the first line of transformers' own, up to its colon."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(FormatError, match=r"one of; put the model's own tokenizer\.json there"):
        load_tokenizer(tmp_path)


def test_without_transformers_the_command_is_given(bert_folder, monkeypatch):
    monkeypatch.setattr("dtheta.models.zoo.find_spec", lambda name: None)
    for load in (load_model, load_tokenizer):
        with pytest.raises(MissingExtra, match=r"pip install 'dtheta\[text\]'"):
            load(bert_folder)


def test_model_folder_takes_home(bert_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(bert_folder.parent))
    assert model_folder("~/bert") == bert_folder


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_code_in_a_model_folder_is_neither_run_nor_asked_for(load, bert_folder, monkeypatch):
    ran = bert_folder / "ran"
    (bert_folder / "configuration_strange.py").write_text(
        f"open({str(ran)!r}, 'w').close()\nclass StrangeConfig: ...\n"
    )
    own = "configuration_strange.StrangeConfig"
    _edit(bert_folder, model_type="strange", auto_map={"AutoConfig": own, "AutoTokenizer": [own, None]})
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers asks whether to trust the folder
    with pytest.raises(FormatError, match="read"):
        load(bert_folder)
    assert not ran.exists()
