"""Refine ``dual`` on pairs of Google emoji and their words: a low-rank delta on its text projection.

    OMP_NUM_THREADS=1 python -m scripts.refine_dual RUN              # resumes in RUN
    python -m scripts.refine_dual RUN --validate                     # on 85 % of the concepts, scored on the others
    python -m scripts.refine_dual RUN --export dual_emoji.delta      # the delta of the finished run

    loss = (multi-positive InfoNCE of f + InfoNCE of f - mean f) / 2 + a (1 - cos(u, u0))
    f image features, mean over the training pictures; u, u0 the text features of the 1000 ImageNet class names, now and
    in the closed form, which the last term keeps

Both towers stay as they are, so their outputs are computed once. What moves is ``text_projection`` (LoRA, and its bias)
and ``logit_scale``. Seen are Google's pictures of the concepts that are not held out, with their names and keywords; no
other vendor's, no variants, no held-out names. A caption is a positive of every concept that it describes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

import dtheta as dt
from dtheta.data.emoji import Emoji, held_out, load_emoji
from dtheta.data.images import on_white
from dtheta.fit.run import Callback
from dtheta.models.dual_join import TEMPLATE, imagenet_classes
from dtheta.models.image_text import label_loss
from dtheta.models.load import load_model, load_tokenizer
from dtheta.models.pixels import load_pixels
from scripts._dual_features import image_features, text_embeddings
from scripts._miniclip_data import clean, words_of

TEMPLATES = (TEMPLATE, "an icon of {}.")
KEYWORDS = 6  # of a concept at most, the first ones


@dataclass(frozen=True)
class Recipe:
    """All that decides the result, besides the data; chosen on held-out training concepts (``--validate``)."""

    rank: int = 32
    steps: int = 200
    batch: int = 256
    rate: float = 5e-3
    anchor: float = 5.0
    seed: int = 0


class Pairs(Dataset[dict[str, Tensor]]):
    """Concepts, each with its image features and one of its captions, drawn anew at every look: half of them names.

    Args:
        features: of the pictures (N, E).
        names: captions of each concept made of its name, as places in ``texts``.
        keywords: those made of its keywords; may be none.
        texts: embeddings of all captions (M, D).
    """

    def __init__(
        self, features: Tensor, names: Sequence[Sequence[int]], keywords: Sequence[Sequence[int]], texts: Tensor
    ) -> None:
        self.features, self.names, self.keywords, self.texts = features, names, keywords, texts
        self.describes = torch.zeros(len(features), len(texts), dtype=torch.bool)
        for index, found in enumerate(zip(names, keywords, strict=True)):
            self.describes[index, [place for places in found for place in places]] = True

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        named = not self.keywords[index] or bool(torch.rand(()) < 0.5)
        places = self.names[index] if named else self.keywords[index]
        place = places[int(torch.randint(len(places), ()))]
        return {
            "image": self.features[index],
            "text": self.texts[place],
            "concept": torch.tensor(index),
            "caption": torch.tensor(place),
        }

    def take(self, keep: Tensor) -> Pairs:
        """Return the concepts of a mask ``(N,)``."""
        rows = keep.nonzero().flatten().tolist()
        return Pairs(self.features[keep], [self.names[r] for r in rows], [self.keywords[r] for r in rows], self.texts)


class Loss:
    """The loss above, of a model and a batch of ``Pairs``."""

    def __init__(self, model: Any, pairs: Pairs, anchors: Tensor, weight: float) -> None:
        """Keep where ``model`` places the anchors, embeddings ``(A, D)``, before it moves."""
        self.describes, self.mean, self.anchors, self.weight = pairs.describes, pairs.features.mean(0), anchors, weight
        with torch.no_grad():
            self.places = F.normalize(model.text_projection(anchors), dim=1)

    def __call__(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean loss of the batch."""
        text = F.normalize(model.text_projection(batch["text"]), dim=1)
        same = self.describes[batch["concept"]][:, batch["caption"]]
        images = torch.stack([batch["image"], batch["image"] - self.mean])
        both = [contrastive(F.normalize(found, dim=1), text, same, model.logit_scale.exp()) for found in images]
        moved = F.normalize(model.text_projection(self.anchors), dim=1)
        return torch.stack(both).mean() + self.weight * (1 - (moved * self.places).sum(1).mean())


def contrastive(images: Tensor, texts: Tensor, same: Tensor, scale: Tensor) -> Tensor:
    """Return InfoNCE over unit features ``(B, E)``, both ways, where ``same`` says which texts describe which images.

    Args:
        images: rows of ``same``.
        texts: its columns.
        same: booleans ``(B, B)``, not symmetric; the positives of a row, and of a column, count alike.
        scale: on the cosines.
    """
    logits = scale * images @ texts.T
    return (label_loss(logits, same.float()) + label_loss(logits.T, same.T.float())) / 2


def real_pairs(model: Any, emoji: Emoji, folder: Path) -> Pairs:
    """Return the concepts that are not held out; what is slow to compute is kept in ``folder``."""
    rows = (~emoji.held).nonzero().flatten()
    known = set(words_of(emoji))
    place: dict[str, int] = {}
    names, keywords = [], []
    for row in rows.tolist():
        named = [template.replace("{}", clean(emoji.names[row])) for template in TEMPLATES]
        words = [word for word in map(clean, emoji.keywords[row]) if word in known][:KEYWORDS]
        described = [TEMPLATE.replace("{}", word) for word in words]
        names.append([place.setdefault(text, len(place)) for text in named])
        keywords.append([place.setdefault(text, len(place)) for text in described])
    features = image_features(model, load_pixels("dual"), on_white(emoji.images[rows]), folder)
    return Pairs(features, names, keywords, text_embeddings(model, load_tokenizer("dual"), tuple(place), folder))


def refine(
    model: Any, pairs: Pairs, anchors: Tensor, recipe: Recipe, folder: Path, callbacks: Sequence[Callback] = ()
) -> dt.Delta:
    """Train in ``folder``, or go on there, and return the delta, its numbers rounded to those of float16.

    All are then multiples of 2^-24, as the base's are, so products and sums of them are exact in float64: base plus
    delta is the same on every machine, whatever the order of the sum.
    """
    loss = Loss(model, pairs, anchors, recipe.anchor)
    method = dt.LoRA(rank=recipe.rank)
    adapter = dt.attach(
        model, method, "text_projection.weight", also="text_projection.bias|logit_scale", seed=recipe.seed
    )
    try:
        dt.fit(
            adapter, pairs, steps=recipe.steps, loss=loss, lr=recipe.rate, batch_size=recipe.batch, seed=recipe.seed,
            checkpoint=folder, resume=True, log=folder / "log.jsonl", quiet=True, callbacks=callbacks,
        )  # fmt: skip
        return adapter.delta().map(lambda _, change: change.map(lambda numbers: numbers.half().float()))
    finally:
        adapter.detach()


def validation(emoji: Emoji) -> Tensor:
    """Return which of the concepts that may be seen are kept apart to choose the recipe: 15 % of each category."""
    seen = (~emoji.held).nonzero().flatten().tolist()
    return held_out([emoji.categories[row] for row in seen], [torch.ones(len(seen), dtype=torch.bool)])


def ranks(model: Any, features: Tensor, texts: Tensor) -> Tensor:
    """Return how many names lie nearer to each picture ``(N, E)`` than its own, of embeddings ``(N, D)``."""
    with torch.no_grad():
        cosines = F.normalize(features, dim=1) @ F.normalize(model.text_projection(texts), dim=1).T
    return (cosines > cosines.diagonal()[:, None]).sum(1)


def validated(model: Any, pairs: Pairs, apart: Pairs, anchors: Tensor, delta: dt.Delta) -> dict[str, float]:
    """Return what chooses the recipe: top-1 and mean reciprocal rank of names kept apart, and how far anchors moved."""
    texts = torch.stack([apart.texts[places[-1]] for places in apart.names])
    figures = {}
    for weight in (0.0, 0.25, 0.5, 1.0):
        with dt.applied(model, weight * delta):
            for name, mean in (("plain", 0.0), ("centered", pairs.features.mean(0))):
                found = ranks(model, apart.features - mean, texts)
                figures[f"{weight} {name} top1"] = 100 * (found < 1).double().mean().item()
                figures[f"{weight} {name} mrr"] = 100 * (1 / (found + 1.0)).mean().item()
            with torch.no_grad():
                moved = model.text_projection(anchors)
        figures[f"{weight} anchors"] = F.cosine_similarity(moved, model.text_projection(anchors)).mean().item()
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the checkpoint, the log and what is computed once")
    parser.add_argument("--validate", action="store_true", help="keep 15 %% of the concepts apart and score them")
    parser.add_argument("--export", type=Path, help="write the delta to this file")
    for name, default in vars(Recipe()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(**{name: getattr(given, name) for name in vars(Recipe())})
    model, emoji = load_model("dual"), load_emoji("google")
    pairs = real_pairs(model, emoji, given.run / "features")
    names = [TEMPLATE.replace("{}", name) for name in imagenet_classes()]
    anchors = text_embeddings(model, load_tokenizer("dual"), names, given.run / "features")
    if given.validate:
        apart = validation(emoji)
        folder = given.run / f"validate-{'-'.join(str(value) for value in vars(recipe).values())}"
        delta = refine(model, pairs.take(~apart), anchors, recipe, folder)
        print(json.dumps(validated(model, pairs.take(~apart), pairs.take(apart), anchors, delta)))
        return
    delta = refine(model, pairs, anchors, recipe, given.run / "train")
    if given.export:
        delta.save(given.export)


if __name__ == "__main__":
    main()
