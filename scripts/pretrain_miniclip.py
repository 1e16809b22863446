"""Pretrain ``miniclip``: a small CLIP on emoji, procedural images and ``dual``'s view of unlabeled images.

    OMP_NUM_THREADS=1 python -m scripts.pretrain_miniclip RUN          # resumes in RUN; see the model card for the time
    python -m scripts.pretrain_miniclip RUN --export FOLDER            # float16 weights, tokenizer, pixels, log

    loss = multi-positive InfoNCE (captioned icons and procedural images, both ways)
         + 3 (1 - cos(image, z)) + KL over 256 phrases      unlabeled clothes and textiles
         + 1 (1 - cos(image, z))                            icons
         + 3 (1 - cos(text, u))                             phrases
    with dual's targets z, u of scripts/_miniclip_targets.py. No label of any task is used, and no test image.

Interrupted and resumed it computes what an uninterrupted run computes, bit for bit (one thread): draws are keyed by the
step, and the checkpoint holds all the rest. The rate is constant between warm-up and decay, so ``--steps`` may be
chosen anew as long as the decay has not begun.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.seeds import generator, key
from dtheta.data.emoji import load_emoji
from dtheta.data.image_tasks import EMOJI_CLASSES, FASHION_CLASSES, TEXTILE_CLASSES
from dtheta.data.procedural import Captioned, procedural_images
from dtheta.models.dual_join import imagenet_classes
from dtheta.models.load import load_tokenizer
from scripts import _miniclip_data as data
from scripts._miniclip_data import Icons
from scripts._miniclip_model import build_config, build_model, build_tokenizer, vocabulary, write_pixels
from scripts._miniclip_targets import compute_targets

TEMPLATES = ("a photo of a {}.", "a photo of a {}.", "{}", "a picture of a {}.", "a photo of {}.")


@dataclass(frozen=True)
class Recipe:
    """All that decides the result, besides the data."""

    width: int = 192
    depth: int = 4
    text_depth: int = 2
    patch: int = 8
    steps: int = 4000
    icons: int = 32  # images a step
    procedural: int = 32
    unlabeled: int = 32
    phrases: int = 32
    rate: float = 1e-3
    warm_up: int = 100
    decay: float = 0.35  # the last part of the steps, in which the rate goes to zero
    average: float = 0.01  # share of the newest weights in the moving average
    seed: int = 0


@dataclass(frozen=True)
class Corpus:
    """Everything that is learned from; targets are unit vectors in the student's joint space."""

    icons: Icons
    icon_targets: Tensor
    procedural: Captioned
    unlabeled: Tensor
    unlabeled_targets: Tensor
    phrases: tuple[str, ...]
    phrase_targets: Tensor
    tokenizer: Any
    words: dict[int, Tensor]


@dataclass
class State:
    """What a checkpoint holds; ``average`` is the moving average of the weights, which is what ships."""

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0


def real_corpus(cache: Path, recipe: Recipe) -> Corpus:
    """Return the corpus of the shipped model; slow parts are kept in ``cache``."""
    emoji = load_emoji("google")
    icons = data.seen_icons(emoji, recipe.seed)
    procedural = _pool(cache, recipe.seed)
    minilm = load_tokenizer("minilm")
    words = _frequent_words(minilm)
    classes = [*FASHION_CLASSES, *TEXTILE_CLASSES.values(), *EMOJI_CLASSES.values()]  # their words; no image, no label
    named = [data.clean(name) for name in (*imagenet_classes(), *classes)]
    held = {data.clean(name) for name, is_held in zip(emoji.names, emoji.held.tolist(), strict=True) if is_held}
    phrases = [phrase for phrase in dict.fromkeys([*named, *data.words_of(emoji), *words]) if phrase not in held]
    targets = compute_targets(cache, phrases, recipe.width)
    captions = [caption for found in icons.captions for caption in found]
    tokens = vocabulary([*captions, *dict.fromkeys(procedural.captions), *phrases], minilm)
    place = {token: index for index, token in enumerate(tokens)}
    known = {place[phrase]: targets.text_targets[row] for row, phrase in enumerate(phrases) if phrase in place}
    return Corpus(
        icons, targets.emoji_targets[icons.rows], procedural, targets.images, targets.image_targets,
        targets.phrases, targets.text_targets, build_tokenizer(tokens), known,
    )  # fmt: skip


def _frequent_words(tokenizer: Any, count: int = 5000) -> list[str]:
    by_id = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    return [token for token in by_id if token.isascii() and token.isalpha() and len(token) > 2][:count]


def _pool(cache: Path, seed: int, count: int = 16000) -> Captioned:
    path = cache / f"procedural-{seed}-{count}.pt"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        made = procedural_images(count, seed)
        torch.save((made.images, made.captions, made.concepts), path)
    return Captioned(*torch.load(path, weights_only=True))


def start(corpus: Corpus, recipe: Recipe) -> State:
    """Return the state before the first step."""
    config = build_config(len(corpus.tokenizer), recipe.width, recipe.depth, recipe.text_depth, recipe.patch)
    model = build_model(config, key(recipe.seed, "weights"), corpus.words).train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return State(model, copy.deepcopy(model).eval(), torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98)))


def train(state: State, corpus: Corpus, recipe: Recipe, folder: Path, until: int | None = None) -> None:
    """Train to step ``until`` (None: the recipe's last); a checkpoint every minute, a line of log every 50 steps."""
    saved, begun, sums = time.monotonic(), time.process_time() - state.seconds, {}
    last = recipe.steps if until is None else min(until, recipe.steps)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text(log_until(folder, state.step))
    while state.step < last:
        parts = _step(state, corpus, recipe)
        for name, value in parts.items():
            sums.setdefault(name, []).append(value)
        state.seconds = time.process_time() - begun
        if state.step % 50 == 0:
            _log(folder, state, recipe, sums)
            sums = {}
        if state.step == last or time.monotonic() - saved > 60:
            save(state, folder)
            saved = time.monotonic()


def _step(state: State, corpus: Corpus, recipe: Recipe) -> dict[str, float]:
    for group in state.optimizer.param_groups:
        group["lr"] = rate(state.step, recipe)
    losses = losses_of(state.model, corpus, recipe, state.step)
    total = sum(WEIGHTS[name] * loss for name, loss in losses.items())
    state.optimizer.zero_grad()
    total.backward()
    nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    state.optimizer.step()
    with torch.no_grad():
        state.model.logit_scale.clamp_(0, 4.6052)  # up to 100, as CLIP does
        share = max(recipe.average, 1 / (state.step + 1))
        torch._foreach_lerp_(list(state.average.parameters()), list(state.model.parameters()), share)
    state.step += 1
    return {name: loss.item() for name, loss in losses.items()} | {"loss": total.item()}


WEIGHTS = {"contrastive": 1.0, "image": 3.0, "bank": 1.0, "icon": 1.0, "text": 3.0}
_BANK, _SHARPNESS = 256, 30.0


def losses_of(model: Any, corpus: Corpus, recipe: Recipe, step: int) -> dict[str, Tensor]:
    """Return the five parts of the loss at a step."""
    numbers = generator(recipe.seed, "step", step)
    rgba, captions, which = data.icon_batch(corpus.icons, recipe.icons, recipe.seed, step)
    icons = data.recolored(data.laid_on_ground(data.bent(rgba, numbers), numbers), numbers, gray=0.15)
    made = torch.randint(len(corpus.procedural), (recipe.procedural,), generator=numbers)
    drawn = data.recolored(data.bent(_channels(corpus.procedural.images[made]), numbers), numbers, gray=0.1)
    plain = torch.randint(len(corpus.unlabeled), (recipe.unlabeled,), generator=numbers)
    moved = data.bent(_channels(corpus.unlabeled[plain]), numbers, mirror=0.5, turn=0.08)
    unlabeled = data.recolored(moved, numbers, inverted=0.15)
    image = _unit(model.get_image_features(pixel_values=data.scaled(torch.cat((icons, drawn, unlabeled)))))

    rows = torch.randint(len(corpus.phrases), (recipe.phrases,), generator=numbers)
    draw = random.Random(key(recipe.seed, "templates", step))
    phrases = [draw.choice(TEMPLATES).replace("{}", corpus.phrases[row]) for row in rows.tolist()]
    captions += [corpus.procedural.captions[index] for index in made.tolist()]
    text = _unit(model.get_text_features(**_tokens(corpus.tokenizer, [*captions, *phrases])))

    concepts = [f"icon {index}" for index in which.tolist()] + [corpus.procedural.concepts[i] for i in made.tolist()]
    pairs = len(captions)
    scale = model.logit_scale.exp()
    targets = corpus.unlabeled_targets[plain]
    bank = corpus.phrase_targets[torch.randint(len(corpus.phrases), (_BANK,), generator=numbers)]
    return {
        "contrastive": contrastive(image[:pairs], text[:pairs], _same(concepts) | _same(captions), scale),
        "image": _distance(image[pairs:], targets),
        "bank": _divergence(_SHARPNESS * targets @ bank.T, _SHARPNESS * image[pairs:] @ bank.T),
        "icon": _distance(image[: recipe.icons], corpus.icon_targets[which]),
        "text": _distance(text[pairs:], corpus.phrase_targets[rows]),
    }


def contrastive(image: Tensor, text: Tensor, same: Tensor, scale: Tensor) -> Tensor:
    """Return InfoNCE over unit features ``(B, J)``, both ways, where ``same (B, B)`` says which pairs are positives."""
    wanted = same / same.sum(1, keepdim=True)
    logits = scale * image @ text.T
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2


def rate(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step: up, constant, linearly down to zero."""
    left = (recipe.steps - step) / max(1.0, recipe.decay * recipe.steps)
    return recipe.rate * min(1.0, (step + 1) / recipe.warm_up, left)


def _same(labels: list[str]) -> Tensor:
    ids = torch.tensor([labels.index(label) for label in labels])
    return ids[:, None] == ids[None]


def _unit(output: Any) -> Tensor:
    return F.normalize(output.pooler_output, dim=1)


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    return 1 - (found * wanted).sum(1).mean()


def _divergence(wanted: Tensor, found: Tensor) -> Tensor:
    return F.kl_div(found.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="batchmean")


def _channels(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2) / 255


def _tokens(tokenizer: Any, texts: list[str]) -> dict[str, Tensor]:
    return dict(tokenizer(texts, padding=True, truncation=True, max_length=24, return_tensors="pt"))


def save(state: State, folder: Path) -> None:
    """Write the checkpoint; a kill in the middle leaves the old one."""
    parts = {name: getattr(state, name).state_dict() for name in ("model", "average", "optimizer")}
    torch.save({**parts, "step": state.step, "seconds": state.seconds}, folder / "checkpoint.tmp")
    (folder / "checkpoint.tmp").rename(folder / "checkpoint.pt")


def resume(state: State, folder: Path) -> None:
    """Bring ``state`` to the checkpoint in ``folder``, if there is one."""
    path = folder / "checkpoint.pt"
    if not path.is_file():
        return
    found = torch.load(path, weights_only=True)
    for name in ("model", "average", "optimizer"):
        getattr(state, name).load_state_dict(found[name])
    state.step, state.seconds = found["step"], found["seconds"]


def log_until(folder: Path, step: int) -> str:
    """Return the lines of the log up to a step: those after a checkpoint are written again."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return "".join(line for line in lines if json.loads(line)["step"] <= step)


def _log(folder: Path, state: State, recipe: Recipe, sums: dict[str, list[float]]) -> None:
    row = {"step": state.step, "cpu_seconds": round(state.seconds, 1), "rate": round(rate(state.step, recipe), 7)}
    row |= {name: round(sum(values) / len(values), 4) for name, values in sums.items()}
    row["scale"] = round(state.model.logit_scale.exp().item(), 2)
    with (folder / "log.jsonl").open("a") as handle:
        handle.write(json.dumps(row) + "\n")


def export(state: State, corpus: Corpus, folder: Path, log: str) -> None:
    """Write the folder that ships: ``load_model(folder)`` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    state.average.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # safetensors makes private files
    corpus.tokenizer.save_pretrained(folder)
    write_pixels(folder)
    (folder / "training.jsonl").write_text(log)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the checkpoint, the log and the cached targets")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--export", type=Path, help="write the model of the checkpoint to this folder and stop")
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(steps=given.steps)
    corpus = real_corpus(given.run / "targets", recipe)
    state = start(corpus, recipe)
    resume(state, given.run)
    if given.export:
        export(state, corpus, given.export, log_until(given.run, state.step))
    else:
        train(state, corpus, recipe, given.run)


if __name__ == "__main__":
    main()
