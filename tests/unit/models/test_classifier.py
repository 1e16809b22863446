"""The classifier: zero head, pooling that padding cannot touch, on encoders and decoders."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dtheta.errors import ConfigError
from dtheta.models.classifier import Classifier, classifier

IDS = torch.tensor([[5, 6, 7, 0, 0], [8, 9, 10, 11, 12]])
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def _shake(model):
    with torch.no_grad():
        model.head.weight.copy_(torch.linspace(-1, 1, model.head.weight.numel()).reshape(model.head.weight.shape))
    return model


def test_starts_at_zero_without_a_draw(tiny_bert):
    state = torch.random.get_rng_state()
    model = classifier(tiny_bert, 3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(model.head.weight, torch.zeros(3, 16))
    out = model(IDS, MASK, labels=torch.tensor([0, 2]))
    assert torch.equal(out.logits, torch.zeros(2, 3))
    assert out.loss.item() == pytest.approx(math.log(3))
    assert model(IDS, MASK).loss is None
    names = [name for name, _ in model.named_parameters()]
    assert all(name.startswith(("encoder.", "head.")) for name in names)


def test_mean_pooling_is_the_mean_over_real_tokens(tiny_bert):
    model = _shake(classifier(tiny_bert, ["a", "b"]))
    hidden = tiny_bert(input_ids=IDS, attention_mask=MASK).last_hidden_state
    expected = torch.stack([hidden[0, :3].mean(0), hidden[1].mean(0)]) @ model.head.weight.T
    torch.testing.assert_close(model(IDS, MASK).logits, expected)
    assert model.pooling == "mean"
    assert model.classes == ("a", "b")


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_gpt2"])
def test_decoders_take_the_last_real_token(request, fixture):
    decoder = request.getfixturevalue(fixture)
    model = _shake(classifier(decoder, 2))
    assert model.pooling == "last"
    assert model.encoder is decoder.base_model
    hidden = decoder.base_model(input_ids=IDS, attention_mask=MASK).last_hidden_state
    expected = torch.stack([hidden[0, 2], hidden[1, 4]]) @ model.head.weight.T
    torch.testing.assert_close(model(IDS, MASK).logits, expected)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_padding_changes_nothing(tiny_llama, pooling):
    model = _shake(classifier(tiny_llama, 2, pooling=pooling))
    alone = model(IDS[:1, :3], MASK[:1, :3]).logits
    torch.testing.assert_close(model(IDS, MASK).logits[:1], alone)
    torch.testing.assert_close(model(IDS[:1, :3]).logits, alone)


def test_padding_on_the_left(tiny_llama):
    model = _shake(classifier(tiny_llama, 2))
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.int64), IDS[:1, :3]], 1)
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    hidden = tiny_llama.model(input_ids=padded, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(model(padded, mask).logits, hidden[:, -1] @ model.head.weight.T)


def test_embeddings_in_place_of_ids(tiny_bert):
    model = _shake(classifier(tiny_bert, 2))
    embedded = tiny_bert.get_input_embeddings()(IDS)
    torch.testing.assert_close(model(attention_mask=MASK, inputs_embeds=embedded).logits, model(IDS, MASK).logits)


def test_gradients_reach_the_encoder_once_the_head_moved(tiny_bert):
    model = _shake(classifier(tiny_bert, 2))
    model(IDS, MASK, labels=torch.tensor([0, 1])).loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {"encoder.pooler.dense.weight", "encoder.pooler.dense.bias"}


def test_bfloat16_keeps_its_dtype_and_a_float32_loss(tiny_bert):
    model = classifier(tiny_bert.bfloat16(), 2)
    out = model(IDS, MASK, labels=torch.tensor([0, 1]))
    assert out.logits.dtype == torch.bfloat16
    assert out.loss.dtype == torch.float32


def test_on_the_real_encoder(minilm_factory, minilm_tokenizer):
    model = classifier(minilm_factory(), 5)
    assert isinstance(model, Classifier)
    assert not model.training
    batch = minilm_tokenizer(["a text", "another, longer text"], padding=True, return_tensors="pt")
    assert model(batch["input_ids"], batch["attention_mask"]).logits.shape == (2, 5)
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_713_216 + 5 * 385


@pytest.mark.parametrize(
    ("classes", "pooling", "message"),
    [
        (1, None, "at least two"),
        (["a"], None, "at least two"),
        (["a", "a"], None, "at least two"),
        (2, "max", "mean, last"),
    ],
)
def test_arguments_that_cannot_be_meant(tiny_bert, classes, pooling, message):
    with pytest.raises(ConfigError, match=message):
        classifier(tiny_bert, classes, pooling=pooling)


@pytest.mark.parametrize("pooling", [None, "mean"])
def test_a_module_without_hidden_size(pooling):
    with pytest.raises(ConfigError, match="hidden_size"):
        classifier(nn.Linear(2, 2), 2, pooling=pooling)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), "labels go from 0 to 3, and there are 3 classes, 0 to 2"),
        (torch.tensor([-1, 2]), "from -1 to 2"),
        (torch.tensor([True, False]), "class ids, whole numbers from 0 on, found torch.bool"),
        ([0, 1], "found list"),
    ],
)
def test_labels_that_are_none_of_the_classes(tiny_bert, labels, message):
    with pytest.raises(ConfigError, match=message):
        classifier(tiny_bert, 3)(IDS, MASK, labels=labels)


def test_a_row_may_be_left_out(tiny_bert):
    net = _shake(classifier(tiny_bert, 3))
    left_out = net(IDS, MASK, labels=torch.tensor([-100, 1])).loss
    torch.testing.assert_close(left_out, net(IDS[1:], MASK[1:], labels=torch.tensor([1])).loss)
