"""What a miniclip folder can do: zero-shot, name retrieval and linear probe, beside raw pixels and ``dual``.

    OMP_NUM_THREADS=1 python -m scripts.evaluate_miniclip FOLDER --json figures.json [--dual]

Zero-shot uses each task's class names and template, nothing else. The probe is logistic regression on standardized
features (C = .1) or on raw gray pixels at 32 px (C = .01). Test images are the first of each task's fixed test set.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.data.emoji import load_emoji
from dtheta.data.image_tasks import load_image_task
from dtheta.data.images import ImageTask, on_white
from dtheta.models.load import load_model, load_tokenizer
from scripts._miniclip_data import clean
from scripts._miniclip_targets import image_features, shrunk, text_features

TASKS = {  # images to probe on, to test on, to test dual on (None: all)
    "fashion": (2000, 2000, 500),
    "mnist": (2000, None, 500),
    "digits": (1000, None, None),
    "textiles": (1000, None, None),
    "emoji-google": (None, None, None),
    "emoji-twitter": (None, None, None),
}


class Student:
    """A miniclip and its tokenizer, as two functions to unit features."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = load_model(folder)
        self.tokenizer = load_tokenizer(folder)

    @torch.inference_mode()
    def images(self, images: Tensor) -> Tensor:
        """Return unit features of byte images, gray ``(N, H, W)`` or RGB ``(N, 32, 32, 3)``."""
        small = shrunk(images) if images.ndim == 3 else images
        pixels = (small.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        parts = [self.model.get_image_features(pixel_values=part).pooler_output for part in pixels.split(64)]
        return F.normalize(torch.cat(parts), dim=1)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit features of texts."""
        batch = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        return F.normalize(self.model.get_text_features(**batch).pooler_output, dim=1)


def zero_shot(images: Tensor, texts: Tensor, labels: Tensor) -> float:
    """Return the share, in percent, of unit image features nearest to their class's unit text feature."""
    return 100 * ((images @ texts.T).argmax(1) == labels).double().mean().item()


def probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, strength: float) -> float:
    """Return the accuracy in percent of logistic regression on standardized features."""
    from sklearn.linear_model import LogisticRegression

    mean, spread = train.mean(0), train.std(0).clamp_min(1e-6)
    fit = LogisticRegression(C=strength, max_iter=300).fit(((train - mean) / spread).numpy(), train_labels.numpy())
    return 100 * float(fit.score(((test - mean) / spread).numpy(), test_labels.numpy()))


def task_row(student: Student, name: str, with_dual: bool) -> dict[str, Any]:
    """Return all figures of one task."""
    n_train, n_test, n_dual = TASKS[name]
    task = load_image_task(name, n_train=n_train, n_test=n_test)
    train, test = student.images(task.train.images), student.images(task.test.images)
    labels = task.test.labels
    texts = student.texts([task.template.replace("{}", found) for found in task.classes])
    raw, raw_test = _raw(task.train.images), _raw(task.test.images)
    row = {
        "task": name,
        "test": len(labels),
        "classes": len(task.classes),
        "majority": 100 * labels.bincount().max().item() / len(labels),
        "zero_shot": zero_shot(test, texts, labels),
        "probe": probe(train, task.train.labels, test, labels, 0.1),
        "raw_probe": probe(raw, task.train.labels, raw_test, labels, 0.01),
        "probe_train": len(raw),
    }
    row["zero_shot_error"] = math.sqrt(row["zero_shot"] * (100 - row["zero_shot"]) / len(labels))
    return row | (dual_figures(task, n_dual) if with_dual else {})


def dual_figures(task: ImageTask, count: int | None) -> dict[str, float]:
    """Return dual's zero-shot as it is, and with the features centered on the test images; clothes are inverted."""
    images, labels = task.test.images[:count], task.test.labels[:count]
    found = image_features(255 - images if task.name == "fashion" else images, mirrored=False)
    texts = F.normalize(text_features(task.classes, task.template), dim=1)
    plain, centered = F.normalize(found, dim=1), F.normalize(found - found.mean(0), dim=1)
    accuracy = {"dual": zero_shot(plain, texts, labels), "dual_centered": zero_shot(centered, texts, labels)}
    return accuracy | {"dual_test": len(labels)}


def retrieval(student: Student, vendor: Any) -> dict[str, Any]:
    """Return how often an icon's own name is the nearest (top-1, top-5, percent), for seen and held-out concepts."""
    emoji = load_emoji(vendor)
    row: dict[str, Any] = {"vendor": vendor}
    for part, keep in (("seen", ~emoji.held), ("held", emoji.held)):
        rows = keep.nonzero().flatten()
        images = student.images(on_white(emoji.images[rows]))
        texts = student.texts([f"an icon of {clean(emoji.names[index])}." for index in rows.tolist()])
        ranks = ((images @ texts.T) > (images * texts).sum(1, keepdim=True) + 1e-6).sum(1)
        row |= {f"{part}_{k}": 100 * (ranks < k).double().mean().item() for k in (1, 5)} | {f"{part}_n": len(rows)}
    return row


def _raw(images: Tensor) -> Tensor:
    small = shrunk(images) if images.ndim == 3 else images
    return small.float().mean(-1).flatten(1) / 255


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dual", action="store_true", help="measure dual's zero-shot too, about a minute")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    student = Student(given.folder)
    rows = []
    for name in TASKS:
        rows.append(task_row(student, name, given.dual))
        print(json.dumps(rows[-1]), flush=True)
    for vendor in ("google", "twitter"):
        rows.append(retrieval(student, vendor))
        print(json.dumps(rows[-1]), flush=True)
    if given.json:
        given.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
