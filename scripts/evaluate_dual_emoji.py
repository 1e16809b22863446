"""What the delta of ``scripts/refine_dual.py`` is worth: zero-shot and name retrieval, at several of its weights.

    OMP_NUM_THREADS=1 python -m scripts.evaluate_dual_emoji DELTA FOLDER --json figures.json

Weight 0 is ``dual``. "centered" is about the mean of training images: 150 clothes, 100 textiles, Google's seen emoji.
Retrieval is of the own name among those of the 287 concepts held out. FOLDER keeps what is computed once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import dtheta as dt
from dtheta.data.emoji import Vendor, load_emoji
from dtheta.data.image_tasks import EMOJI_CLASSES, load_image_task
from dtheta.data.images import on_white
from dtheta.models.load import load_model, load_tokenizer
from dtheta.models.pixels import load_pixels
from scripts._dual_features import image_features, text_embeddings
from scripts._miniclip_data import clean
from scripts.evaluate_miniclip import zero_shot
from scripts.refine_dual import ranks

WEIGHTS = (0.0, 0.25, 0.5, 1.0)
TASKS = {"fashion": (150, 500), "textiles": (100, 300)}  # images to center on, to test on
VENDORS: tuple[Vendor, ...] = ("google", "twitter")


@dataclass(frozen=True)
class Shown:
    """Features of test images ``(N, E)``, the mean to center on ``(E,)``, embeddings of texts ``(C, D)``, labels."""

    name: str
    features: Tensor
    mean: Tensor
    texts: Tensor
    labels: Tensor

    def images(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the features as they are, and centered."""
        yield "plain", self.features
        yield "centered", self.features - self.mean


class Tower:
    """The towers of ``dual``, whose outputs are kept in a folder."""

    def __init__(self, model: Any, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.pixels, self.tokenizer = load_pixels("dual"), load_tokenizer("dual")

    def images(self, images: Tensor) -> Tensor:
        """Return features of byte images ``(N, E)``."""
        return image_features(self.model, self.pixels, images, self.folder)

    def texts(self, template: str, names: Iterable[str]) -> Tensor:
        """Return embeddings of names in a template ``(C, D)``."""
        return text_embeddings(self.model, self.tokenizer, [template.replace("{}", n) for n in names], self.folder)


def task(tower: Tower, name: str) -> Shown:
    """Return a task of images of things; clothes are shown dark on white."""
    found = load_image_task(name, *TASKS[name])
    train, test = (255 - p.images if name == "fashion" else p.images for p in (found.train, found.test))
    texts = tower.texts(found.template, found.classes)
    return Shown(name, tower.images(test), tower.images(train).mean(0), texts, found.test.labels)


def emoji(tower: Tower, vendor: Vendor) -> tuple[Shown, Tensor]:
    """Return the categories of a vendor's held-out concepts, and the embeddings of their names."""
    google, own = load_emoji("google"), load_emoji(vendor)
    mean = tower.images(on_white(google.images[~google.held])).mean(0)
    rows = own.held.nonzero().flatten()
    labels = torch.tensor([list(EMOJI_CLASSES).index(own.categories[row]) for row in rows.tolist()])
    texts = tower.texts("an icon of {}.", EMOJI_CLASSES.values())
    names = tower.texts("an icon of {}.", [clean(own.names[row]) for row in rows.tolist()])
    return Shown(f"emoji-{vendor}", tower.images(on_white(own.images[rows])), mean, texts, labels), names


@torch.no_grad()
def rows(model: Any, tasks: list[Shown], names: dict[str, Tensor]) -> Iterator[dict[str, Any]]:
    """Yield the figures of a model, in percent."""
    for shown in tasks:
        texts = F.normalize(model.text_projection(shown.texts), dim=1)
        row: dict[str, Any] = {"task": shown.name, "n": len(shown.labels)}
        for kind, images in shown.images():
            row[kind] = zero_shot(F.normalize(images, dim=1), texts, shown.labels)
            if shown.name in names:
                found = ranks(model, images, names[shown.name])
                row |= {f"{kind} name top-{k}": 100 * (found < k).double().mean().item() for k in (1, 5)}
        yield row | {"majority": 100 * shown.labels.bincount().max().item() / len(shown.labels)}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("delta", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, delta = load_model("dual"), dt.load(given.delta)
    tower = Tower(model, given.folder)
    shown = [emoji(tower, vendor) for vendor in VENDORS]
    names = {part.name: found for part, found in shown}
    tasks = [*(part for part, _ in shown), *(task(tower, name) for name in TASKS)]
    lines = []
    for weight in WEIGHTS:
        with dt.applied(model, weight * delta):
            lines += [{"weight": weight} | row for row in rows(model, tasks, names)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    print(text, end="")
    if given.json:
        given.json.write_text(text)


if __name__ == "__main__":
    main()
