"""miniclip: its pretraining resumes bit for bit and uses no held-out concept; the packaged model is whole."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
import safetensors
import torch
from torch.nn import functional as F

from dtheta.data.emoji import Emoji, held_out
from dtheta.data.image_tasks import load_image_task
from dtheta.data.procedural import procedural_images
from dtheta.models.image_text import image_text_classifier
from dtheta.models.pixels import load_pixels
from dtheta.models.zoo import model_folder

transformers = pytest.importorskip("transformers")
pytest.importorskip("PIL")

from scripts import _miniclip_data as data  # noqa: E402
from scripts import pretrain_miniclip as pretrain  # noqa: E402
from scripts._miniclip_model import BOS, EOS, PAD, UNK, build_tokenizer, vocabulary  # noqa: E402
from scripts._miniclip_targets import principal_directions  # noqa: E402

RECIPE = pretrain.Recipe(
    width=32,
    depth=1,
    text_depth=1,
    patch=16,
    steps=6,
    icons=6,
    procedural=6,
    unlabeled=4,
    phrases=4,
    warm_up=2,
)


def _emoji(count=20):
    numbers = torch.Generator().manual_seed(0)
    categories = ["Food & Drink" if index % 2 else "Flags" for index in range(count)]
    return Emoji(
        images=torch.randint(256, (count, 32, 32, 4), dtype=torch.uint8, generator=numbers),
        names=tuple(f"thing {chr(97 + index)}" for index in range(count)),
        keywords=tuple((f"word {chr(97 + index)}", "common") for index in range(count)),
        short_names=tuple((f"alias_{chr(97 + index)}",) for index in range(count)),
        categories=tuple(categories),
        subcategories=tuple(categories),
        held=held_out(categories, [torch.ones(count, dtype=torch.bool)]),
        variants=torch.randint(256, (3, 32, 32, 4), dtype=torch.uint8, generator=numbers),
        variant_of=torch.tensor([0, 0, 5]),
    )


@pytest.fixture(scope="module")
def corpus():
    emoji = _emoji()
    icons = data.seen_icons(emoji, 0)
    procedural = procedural_images(12)
    phrases = ("cat", "dog", "red car", "boat")
    texts = " ".join([*procedural.captions, *phrases, *(c for found in icons.captions for c in found)]).lower()
    letters = sorted(set(texts) - {" "})
    tokenizer = build_tokenizer([PAD, BOS, UNK, EOS, *letters, *(f"##{c}" for c in letters), "cat"])
    numbers = torch.Generator().manual_seed(1)

    def unit(count):
        return F.normalize(torch.randn(count, RECIPE.width, generator=numbers), dim=1)

    images = torch.randint(256, (8, 32, 32, 3), dtype=torch.uint8, generator=numbers)
    words = {len(tokenizer) - 1: unit(1)[0]}
    return pretrain.Corpus(icons, unit(len(icons)), procedural, images, unit(8), phrases, unit(4), tokenizer, words)


def _run(corpus, folder, *stops):
    for stop in stops:
        state = pretrain.start(corpus, RECIPE)  # a new process would start so too
        pretrain.resume(state, folder)
        pretrain.train(state, corpus, RECIPE, folder, until=stop)
    return state


def test_interrupted_and_resumed_equals_uninterrupted(corpus, tmp_path):
    whole = _run(corpus, tmp_path / "whole", None)
    parts = _run(corpus, tmp_path / "parts", 2, 5, None)
    assert whole.step == parts.step == 6
    for part in ("model", "average"):
        found = getattr(parts, part).state_dict()
        for name, tensor in getattr(whole, part).state_dict().items():
            assert torch.equal(tensor, found[name]), name
    first = whole.optimizer.state_dict()["state"]
    assert all(
        torch.equal(first[i]["exp_avg_sq"], s["exp_avg_sq"]) for i, s in parts.optimizer.state_dict()["state"].items()
    )


def test_another_seed_or_step_draws_something_else(corpus):
    model = pretrain.start(corpus, RECIPE).model
    losses = [
        sum(pretrain.losses_of(model, corpus, recipe, step).values()).item()
        for recipe, step in ((RECIPE, 0), (RECIPE, 0), (RECIPE, 1), (dataclasses.replace(RECIPE, seed=1), 0))
    ]
    assert losses[0] == losses[1] and len(set(losses)) == 3


def test_every_weight_of_both_towers_learns(corpus, tmp_path):
    state = pretrain.start(corpus, RECIPE)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    pretrain.train(state, corpus, RECIPE, tmp_path, until=2)
    still = {n for n, t in state.model.state_dict().items() if torch.equal(t, before[n])}
    assert still <= {n for n in before if n.endswith(("position_ids", "k_proj.bias"))}


def test_the_log_of_steps_after_the_checkpoint_is_dropped(corpus, tmp_path):
    _run(corpus, tmp_path, 2)
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 5}\n')
    _run(corpus, tmp_path, 3)
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n'


def test_contrastive_loss_is_the_mean_over_positives():
    numbers = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(4, 8, generator=numbers), dim=1) for _ in range(2))
    same = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).bool()
    expected = 0.0
    for a, b in ((image, text), (text, image)):
        for i in range(4):
            log = (7 * b @ a[i]).log_softmax(0)
            positives = [j for j in range(4) if same[i, j]]
            expected -= sum(log[j] for j in positives) / len(positives) / 8
    found = pretrain.contrastive(image, text, same, torch.tensor(7.0))
    torch.testing.assert_close(found, torch.as_tensor(expected))


def test_rate_rises_stays_and_falls_to_zero():
    recipe = pretrain.Recipe(steps=100, warm_up=10, decay=0.3, rate=1.0)
    rates = [pretrain.rate(step, recipe) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9:71] == [1.0] * 62 and rates[100] == 0.0
    assert all(a > b for a, b in itertools.pairwise(rates[70:]))


def test_held_out_concepts_are_never_seen():
    emoji = _emoji()
    icons = data.seen_icons(emoji, 0)
    held = [row for row in range(len(emoji)) if emoji.held[row]]
    assert held and len(icons) == len(emoji) - len(held)
    assert not set(icons.rows.tolist()) & set(held)
    texts = {caption for found in icons.captions for caption in found} | set(data.words_of(emoji))
    for row in held:
        assert not any(emoji.names[row] in text for text in texts)
    for place, row in enumerate(icons.rows.tolist()):
        assert torch.equal(icons.images[place], emoji.images[row])


def test_bending_by_nothing_is_the_identity_and_mirrors_mirror(monkeypatch):
    images = torch.rand(3, 3, 32, 32)
    monkeypatch.setattr(torch, "rand", lambda *size, generator: torch.full(size, 0.5))  # the middle: nothing moves
    torch.testing.assert_close(data.bent(images, torch.Generator()), images)
    torch.testing.assert_close(data.bent(images, torch.Generator(), mirror=0.6), images.flip(-1))


def test_icons_lie_on_their_ground():
    rgba = torch.rand(64, 4, 8, 8)
    rgba[:, 3] = 1.0
    assert torch.equal(data.laid_on_ground(rgba, torch.Generator().manual_seed(0)), rgba[:, :3])
    rgba[:, 3] = 0.0
    flat = data.laid_on_ground(rgba, torch.Generator().manual_seed(0))
    assert torch.equal(flat, flat[:, :, :1, :1].expand_as(flat))
    assert {0.0, 1.0} <= set(flat[:, 0, 0, 0].tolist())


def test_exported_model_is_read_again(corpus, tmp_path):
    from dtheta.models.load import load_model, load_tokenizer

    state = _run(corpus, tmp_path / "run", 2)
    expected = {name: tensor.half().float() for name, tensor in state.average.state_dict().items()}
    pretrain.export(state, corpus, tmp_path / "model", "")
    model, tokenizer = load_model(tmp_path / "model"), load_tokenizer(tmp_path / "model")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    batch = tokenizer(["a red cat", "boat"], padding=True, return_tensors="pt")
    ends = (batch["input_ids"] == model.config.text_config.eos_token_id).sum(1)
    assert ends.tolist() == [1, 1] and (batch["input_ids"][:, 0] == 1).all()


def test_directions_are_those_in_which_features_are_longest():
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9, 7, 5, 0.3, 0.2, 0.1])
    found = principal_directions(features, 3)
    expected = torch.linalg.svd(features, full_matrices=False)[2][:3].T
    torch.testing.assert_close(found.abs(), expected.abs(), atol=1e-4, rtol=0)  # a direction's sign is free


def test_vocabulary_writes_every_text_without_unknown_tokens():
    class Letters:
        all_special_tokens = ("[CLS]",)

        def get_vocab(self):
            return {"[CLS]": 0, "[unused1]": 1, "the": 2, "a": 3, "##b": 4, "!": 5, "zebra": 6, "rare": 7}

        def __call__(self, texts, add_special_tokens):
            return {"input_ids": [[7] if text == "rare" else [3, 4] for text in texts]}

        def convert_ids_to_tokens(self, ids):
            return [{3: "a", 4: "##b", 7: "rare"}[i] for i in ids]

    tokens = vocabulary(["ab", "rare ab"], Letters(), words=1)
    assert tokens == [PAD, BOS, UNK, EOS, "the", "a", "##b", "!", "rare"]


# the model that ships


@pytest.fixture(scope="module")
def shipped():
    from dtheta.models.load import load_model, load_tokenizer

    return load_model("miniclip"), load_tokenizer("miniclip")


def test_shipped_files_are_small_and_complete():
    folder = model_folder("miniclip")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12_000_000
    with safetensors.safe_open(folder / "model.safetensors", "pt") as weights:
        floating = {weights.get_slice(name).get_dtype() for name in weights.keys()}
    assert floating == {"F16"}
    rows = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    assert rows and all(row["step"] < after["step"] for row, after in itertools.pairwise(rows))
    for word in ("raw pixels", "Apache-2.0", "held out", "does not"):
        assert word in (folder / "MODEL_CARD.md").read_text()


def test_shipped_tokenizer_ends_every_text_once(shipped):
    model, tokenizer = shipped
    config = model.config.text_config
    assert len(tokenizer) == config.vocab_size and config.eos_token_id not in (0, 2)
    long = " ".join(["kangaroo"] * 200)
    batch = tokenizer(["a photo of a dog.", "x", long], padding=True, truncation=True, return_tensors="pt")
    assert batch["input_ids"].shape[1] <= config.max_position_embeddings
    assert (batch["input_ids"] == config.eos_token_id).sum(1).tolist() == [1, 1, 1]
    assert tokenizer.unk_token_id not in batch["input_ids"]


def test_shipped_model_reads_handwriting_that_it_never_saw(shipped):
    """44 % of scikit-learn's digits by their names alone, where chance is 10 %; 2.6 points are one standard error."""
    test = load_image_task("digits").test
    net = image_text_classifier(*shipped, [str(digit) for digit in range(10)], "a photo of the number: {}.")
    with torch.inference_mode():
        found = net(pixel_values=load_pixels("miniclip")(test.images)).logits.argmax(1)
    assert (found == test.labels).double().mean() > 0.35
