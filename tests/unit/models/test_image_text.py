"""The zero-shot classifier: the model's own logits, templates, labels, frozen text, and what cannot be meant."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dtheta as dt
from dtheta.errors import ConfigError, UnsupportedLayer
from dtheta.models.image_text import cosine_logits, image_text_classifier, label_loss, towers
from tests.unit.models.conftest import seeded

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
CLASSES = ("cat", "red car", "airplane")


@pytest.fixture
def net(tiny_clip, words):
    return image_text_classifier(tiny_clip, words, CLASSES)


def test_logits_are_those_of_clip_itself(net, tiny_clip):
    said = tiny_clip(input_ids=net.input_ids, attention_mask=net.attention_mask, pixel_values=IMAGES)
    torch.testing.assert_close(net(IMAGES).logits, said.logits_per_image)
    torch.testing.assert_close(net.text_features(), said.text_embeds)


def test_logits_are_those_of_the_dual_encoder(tiny_dual, words):
    net = image_text_classifier(tiny_dual, words, CLASSES)
    torch.testing.assert_close(net(IMAGES).logits, tiny_dual(IMAGES, net.input_ids, net.attention_mask))


def test_logits_are_those_of_siglip_without_its_bias(words):
    from transformers import SiglipConfig, SiglipModel

    width = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**width, "vocab_size": 14, "max_position_embeddings": 12, "pad_token_id": 0},
        vision_config={**width, "image_size": 32, "patch_size": 8},
    )
    model = seeded(lambda: SiglipModel(config))
    net = image_text_classifier(model, words, CLASSES)
    assert net.input_ids.shape == (3, 12)  # padded to all positions: SigLIP pools at the last
    said = model(input_ids=net.input_ids, pixel_values=IMAGES).logits_per_image
    torch.testing.assert_close(net(IMAGES).logits, said - model.logit_bias)


class OpenClip(nn.Module):
    """The interface of open_clip's models: no mask, ids of a fixed length."""

    context_length = 6

    def __init__(self):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(1.0))
        self.embedding = nn.Embedding(10, 4)

    def encode_image(self, image):
        return image.mean((2, 3)) @ torch.ones(3, 4).cumsum(1)

    def encode_text(self, text):
        return self.embedding(text)[:, 0]


def test_models_and_tokenizers_in_the_form_of_open_clip():
    model = seeded(OpenClip)
    asked = []

    def tokenizer(texts):
        asked.extend(texts)
        return torch.tensor([[i + 1, 5, 0, 0, 0, 0] for i in range(len(texts))])

    net = image_text_classifier(model, tokenizer, CLASSES)
    assert asked == ["a photo of a cat.", "a photo of a red car.", "a photo of a airplane."]
    assert net.attention_mask.sum(1).tolist() == [2, 2, 2]
    image, text = model.encode_image(IMAGES), model.embedding.weight[1:4]
    torch.testing.assert_close(net(IMAGES).logits, 2.7182817 * F.cosine_similarity(image[:, None], text[None], dim=2))


def test_templates_are_averaged_as_unit_vectors(tiny_clip, words):
    templates = ("a photo of a {}.", "{}")
    both = image_text_classifier(tiny_clip, words, CLASSES, templates)
    assert both.input_ids.shape[0] == 6
    each = [image_text_classifier(tiny_clip, words, CLASSES, template).text_features() for template in templates]
    expected = each[0] / each[0].norm(dim=1, keepdim=True) + each[1] / each[1].norm(dim=1, keepdim=True)
    torch.testing.assert_close(both.text_features(), F.normalize(expected, dim=1))


def test_class_vectors_of_each_image(net):
    image, text = torch.randn(3, 8), torch.randn(3, 4, 8)
    found = cosine_logits(image, text, torch.tensor(2.0))
    torch.testing.assert_close(found, 2 * F.cosine_similarity(image[:, None], text, dim=2))


def test_image_features_in_place_of_images(net):
    torch.testing.assert_close(net(image_features=net.image_features(IMAGES)).logits, net(IMAGES).logits)
    with pytest.raises(ConfigError, match="not both"):
        net(IMAGES, image_features=net.image_features(IMAGES))
    with pytest.raises(ConfigError, match="either"):
        net()


def test_loss_of_class_ids_and_of_several_labels(net):
    out = net(IMAGES, labels=torch.tensor([0, 2, 1]))
    log = out.logits.log_softmax(1)
    torch.testing.assert_close(out.loss, -(log[0, 0] + log[1, 2] + log[2, 1]) / 3)
    several = net(IMAGES, labels=torch.tensor([[1.0, 1, 0], [0, 0, 2], [0, 1, 0]]))
    torch.testing.assert_close(several.loss, -((log[0, 0] + log[0, 1]) / 2 + log[1, 2] + log[2, 1]) / 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0.0, 1.0]), "one weight a class"),
        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "above 0"),
        (torch.tensor([[1.0, 0.0], [2.0, -1.0]]), "none below 0"),
        (torch.tensor([0, 2]), "labels go from 0 to 2, and there are 2 classes"),
        (["cat", "dog"], "a tensor of class ids"),
    ],
)
def test_labels_that_cannot_be_meant(labels, message):
    with pytest.raises(ConfigError, match=message):
        label_loss(torch.zeros(2, 2), labels)


def test_frozen_text_is_computed_once(net, tiny_clip):
    calls = []
    tiny_clip.text_model.register_forward_hook(lambda *_: calls.append(1))
    expected = net(IMAGES).logits
    net.train()
    calls.clear()
    with net.frozen_text():
        assert all(module.training for module in net.modules())
        first, second = net(IMAGES).logits, net(IMAGES[:1]).logits
        assert not net.text_features().requires_grad
    assert len(calls) == 1
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, expected[:1])
    net(IMAGES)
    assert len(calls) == 2


def test_the_classifier_adds_nothing_to_the_model(net, tiny_clip):
    assert {f"model.{name}" for name in tiny_clip.state_dict()} == set(net.state_dict())
    assert not net.training
    assert net.train().model.training


def test_gradients_reach_both_towers(net):
    net(IMAGES, labels=torch.tensor([0, 1, 2])).loss.backward()
    reached = {name.split(".")[1] for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert reached == {"text_model", "vision_model", "text_projection", "visual_projection", "logit_scale"}


def test_a_local_clip_folder(tiny_clip, words, net, tmp_path):
    tiny_clip.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    loaded = image_text_classifier(dt.load_model(tmp_path), dt.load_tokenizer(tmp_path), CLASSES)
    torch.testing.assert_close(loaded(IMAGES).logits, net(IMAGES).logits)


@pytest.mark.parametrize(
    ("classes", "template", "message"),
    [
        (("cat",), "a {}", "at least two"),
        ("cat", "a {}", "at least two"),
        (("cat", "cat"), "a {}", "at least two"),
        (("cat", " "), "a {}", "class 1 is empty"),
        (("cat", "dog"), "a photo", "once"),
        (("cat", "dog"), "{} {}", "once"),
        (("cat", "dog"), (), "at least one template"),
        (("cat", "dog"), "a a a a a a a a a a {}", "more than the 12"),
    ],
)
def test_prompts_that_cannot_be_meant(tiny_clip, words, classes, template, message):
    with pytest.raises(ConfigError, match=message):
        image_text_classifier(tiny_clip, words, classes, template)


def test_a_tokenizer_of_another_model(tiny_clip, words):
    tiny_clip.config.text_config.eos_token_id = 13
    with pytest.raises(ConfigError, match="end token 13"):
        image_text_classifier(tiny_clip, words, ("cat", "dog"), "{}")
    words.pad_token = None
    with pytest.raises(ConfigError, match="no padding token"):
        image_text_classifier(tiny_clip, words, ("cat", "dog"))


def test_a_model_without_two_towers(tiny_mlp):
    with pytest.raises(UnsupportedLayer, match="no image and text tower"):
        towers(tiny_mlp)


@pytest.mark.parametrize(("classes", "templates"), [(2, 1), (4, 1), (3, 2)])
def test_prompts_without_a_name(tiny_clip, net, classes, templates):
    """Their logits would have columns that no name stands for."""
    names, texts = [f"class {i}" for i in range(classes)], [f"{i} {{}}" for i in range(templates)]
    with pytest.raises(ConfigError, match=f"need {classes * templates} prompts"):
        dt.ImageTextClassifier(tiny_clip, names, texts, net.input_ids, net.attention_mask)
    with pytest.raises(ConfigError, match="and a mask"):
        dt.ImageTextClassifier(tiny_clip, CLASSES, ["{}"], net.input_ids, net.attention_mask[:, 1:])
