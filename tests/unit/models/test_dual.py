"""The dual encoder: its joint space, its closed form, its folder, and that methods attach to it and leave it whole."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F

import dtheta as dt
from dtheta.core.selection import select
from dtheta.errors import ConfigError, FormatError, NonFinite, OutputError
from dtheta.models.dual import DualEncoder
from dtheta.models.dual_join import imagenet_classes, join, ridge

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
FINGERPRINT = "a7e866d31958d2aefd94aa9c666e9e945346a99d7bd26f7063ee4fc9cfec6ae7"  # on every machine, see dual_join


def test_text_features_by_hand(tiny_dual):
    ids, mask = torch.tensor([[1, 8, 3], [1, 3, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    hidden = tiny_dual.text(input_ids=ids, attention_mask=mask).last_hidden_state
    means = torch.stack([hidden[0].mean(0), hidden[1, :2].mean(0)])
    unit = means / means.norm(dim=1, keepdim=True)
    expected = unit @ tiny_dual.text_projection.weight.T + tiny_dual.text_projection.bias
    torch.testing.assert_close(tiny_dual.get_text_features(ids, mask), expected)
    embedded = tiny_dual.text.get_input_embeddings()(ids)
    torch.testing.assert_close(tiny_dual.get_text_features(None, mask, inputs_embeds=embedded), expected)


def test_padding_changes_no_text(tiny_dual):
    alone = tiny_dual.get_text_features(torch.tensor([[1, 8, 3]]))
    padded = tiny_dual.get_text_features(torch.tensor([[1, 8, 3, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]]))
    torch.testing.assert_close(padded, alone)


def test_logits_are_scaled_cosines_of_centered_features(tiny_dual):
    ids = torch.tensor([[1, 8, 3], [1, 9, 3], [1, 10, 3]])
    image, text = tiny_dual.image(IMAGES) - tiny_dual.image_mean, tiny_dual.get_text_features(ids)
    cosine = F.cosine_similarity(image[:, None], text[None], dim=2)
    torch.testing.assert_close(tiny_dual(IMAGES, ids), cosine / 0.07)


def test_centered_is_a_copy(tiny_dual):
    before = {name: tensor.clone() for name, tensor in tiny_dual.state_dict().items()}
    centered = tiny_dual.centered(IMAGES)
    torch.testing.assert_close(centered.get_image_features(IMAGES).mean(0), torch.zeros(1280), atol=1e-5, rtol=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_dual.state_dict().items())
    assert dt.fingerprint(centered).diff(dt.fingerprint(tiny_dual)) == ["image_mean"]


def test_a_mean_of_no_images_is_refused(tiny_dual):
    for images in (IMAGES[:0], torch.full_like(IMAGES, float("nan"))):
        with pytest.raises(NonFinite, match="NaN or infinite"):
            tiny_dual.centered(images)


def test_ridge_is_least_squares_on_extended_rows():
    inputs = torch.randn(30, 5, dtype=torch.float64)
    targets = torch.randn(30, 4, dtype=torch.float64)
    extended = torch.cat([inputs, torch.eye(5, dtype=torch.float64)]), torch.cat([targets, targets.new_zeros(5, 4)])
    torch.testing.assert_close(ridge(inputs, targets), torch.linalg.lstsq(*extended).solution)


def test_join_maps_names_to_rows_and_is_repeatable(tiny_dual, words):
    names, rows = ["cat", "dog", "airplane", "red car"], torch.randn(4, 1280)
    join(tiny_dual, words, names, rows)
    first = {name: tensor.clone() for name, tensor in tiny_dual.state_dict().items()}
    batch = words([f"a photo of a {name}." for name in names], padding=True, return_tensors="pt")
    text = tiny_dual.get_text_features(batch["input_ids"], batch["attention_mask"])
    cosine = F.normalize(text, dim=1) @ F.normalize(rows - rows.mean(0), dim=1).T
    assert cosine.argmax(1).tolist() == [0, 1, 2, 3]
    join(tiny_dual, words, names, rows)
    assert all(torch.equal(tensor, first[name]) for name, tensor in tiny_dual.state_dict().items())
    weight = tiny_dual.text_projection.weight
    assert torch.equal(weight, weight.half().float())


def test_a_folder_is_read_back(tiny_dual, tmp_path):
    tiny_dual.save_pretrained(tmp_path / "dual")
    state = torch.random.get_rng_state()
    loaded = dt.load_model(tmp_path / "dual")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert isinstance(loaded, DualEncoder)
    assert not any(module.training for module in loaded.modules())
    assert dt.fingerprint(loaded).digest == dt.fingerprint(tiny_dual).digest
    assert dt.load_model(tmp_path / "dual", dtype=torch.bfloat16).image.conv_stem.weight.dtype == torch.bfloat16
    with pytest.raises(OutputError, match="exists"):
        tiny_dual.save_pretrained(tmp_path / "dual")


def test_folders_that_are_not_right(tiny_dual, tmp_path):
    folder = tmp_path / "dual"
    tiny_dual.save_pretrained(folder)
    with pytest.raises(ConfigError, match="two towers"):
        dt.load_model(folder, layers=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "dtheta-dual"}))
    with pytest.raises(FormatError, match="text_config"):
        dt.load_model(folder)
    config["text_config"]["hidden_size"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="size mismatch"):
        dt.load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FormatError, match="cannot be read"):
        dt.load_model(folder)


@pytest.mark.parametrize("method", [dt.CLIPSVD(), dt.LoRA(rank=2), dt.Full()], ids=["CLIPSVD", "LoRA", "Full"])
def test_methods_attach_and_leave_the_model_whole(tiny_dual, method):
    before = dt.fingerprint(tiny_dual).digest
    expected = tiny_dual.image(IMAGES)
    adapter = dt.attach(tiny_dual, method)
    named = set(adapter.delta().changes)
    tiny_dual.train()
    torch.testing.assert_close(tiny_dual.image(IMAGES), expected)
    tiny_dual(IMAGES, torch.tensor([[1, 8, 3]])).sum().backward()
    adapter.detach()
    if isinstance(method, dt.Full):
        assert named == {name for name, _ in tiny_dual.named_parameters()}
    else:
        assert len(named) == 12  # six matrices of each layer of the text tower
        assert all(name.startswith("text.encoder.layer.") for name in named)
    assert dt.fingerprint(tiny_dual).digest == before


@pytest.mark.parametrize(("pattern", "count"), [("image.blocks.15.*_conv", 3), ("text_projection", 1)])
def test_convolutions_and_projection_are_selected_by_name(tiny_dual, pattern, count):
    before = dt.fingerprint(tiny_dual).digest
    adapter = dt.attach(tiny_dual, dt.CLIPSVD(), select=pattern)
    assert len(adapter.delta().changes) == count
    tiny_dual(IMAGES, torch.tensor([[1, 8, 3]])).sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.trainable().values())
    adapter.detach()
    assert dt.fingerprint(tiny_dual).digest == before


def test_convolutions_have_a_role(tiny_dual):
    assert len(select(tiny_dual, "@conv")) == 1 + 2 + 15 * 3 + 1


def test_the_real_one(dual):
    assert sum(parameter.numel() for parameter in dual.parameters()) == 26_429_185
    assert not dual.training
    assert dt.fingerprint(dual).digest == FINGERPRINT


def test_the_real_one_knows_photos(dual, dual_tokenizer):
    datasets = pytest.importorskip("sklearn.datasets")
    pytest.importorskip("PIL")
    from dtheta.models.image_text import image_text_classifier
    from dtheta.models.pixels import load_pixels

    photos = [torch.tensor(datasets.load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    classes = ("temple in Asia", "mountain", "flower", "plate of food", "dog", "car")
    model = image_text_classifier(dual, dual_tokenizer, classes)
    with torch.no_grad():
        logits = model(torch.cat([load_pixels("dual")(photo[None]) for photo in photos])).logits
    assert logits.argmax(1).tolist() == [0, 2]


def test_imagenet_class_names(dual):
    names = imagenet_classes()
    assert (len(names), names[698], names[985]) == (1000, "palace", "daisy")
