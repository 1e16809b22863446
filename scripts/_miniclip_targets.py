"""What ``dual`` thinks of unlabeled images and of phrases: the targets that miniclip is distilled to, computed once.

    image target   z = unit(P^T (f - mean of f over its domain)),    text target   u = unit(P^T t)
    P_EJ: the first J right singular vectors of the text features of all phrases

Text features lie in 384 of the 1280 dimensions, so P keeps nearly all of what decides between texts. The mean is that
of the unlabeled training images of a domain (clothes, textiles, emoji): dual tells the images of one domain apart far
better about their own mean than about that of photos. Clothes are shown to ``dual`` inverted (dark on white, as photos
of products are) together with their mirror image; the student sees them as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.data.emoji import load_emoji
from dtheta.data.image_tasks import load_image_task
from dtheta.data.images import on_white
from dtheta.models.load import load_model, load_tokenizer

PIXELS = 128
BATCH = 32
FASHION, TEXTILES = 4000, 400  # images distilled


@dataclass(frozen=True)
class Targets:
    """Unlabeled images ``(N, 32, 32, 3)`` in bytes and their targets ``(N, J)``; phrases and theirs."""

    images: Tensor
    image_targets: Tensor
    emoji_targets: Tensor
    phrases: tuple[str, ...]
    text_targets: Tensor


def compute_targets(folder: Path, phrases: Sequence[str], size: int) -> Targets:
    """Return the targets of ``size`` dimensions, from the files in ``folder`` where they are there already."""
    fashion, textiles = unlabeled()
    emoji = load_emoji("google")
    features = {
        "emoji": _cached(folder, "emoji", on_white(emoji.images), mirrored=False),
        "textiles": _cached(folder, "textiles", textiles, mirrored=False),
        "fashion": _cached(folder, "fashion", 255 - fashion, mirrored=True),
    }
    text = _cached_texts(folder, phrases)
    basis = principal_directions(text, size)
    seen = ~emoji.held
    centered = {name: found - found.mean(0) for name, found in features.items() if name != "emoji"}
    return Targets(
        images=torch.cat([shrunk(fashion), shrunk(textiles)]),
        image_targets=F.normalize(torch.cat([centered["fashion"], centered["textiles"]]) @ basis, dim=1),
        emoji_targets=F.normalize((features["emoji"] - features["emoji"][seen].mean(0)) @ basis, dim=1),
        phrases=tuple(phrases),
        text_targets=F.normalize(text @ basis, dim=1),
    )


def principal_directions(features: Tensor, size: int) -> Tensor:
    """Return the ``size`` directions ``(E, size)`` in which features ``(N, E)`` are longest; orthonormal columns."""
    gram = features.double().T @ features.double()
    return torch.linalg.eigh(gram)[1].flip(1)[:, :size].float()


def unlabeled() -> tuple[Tensor, Tensor]:
    """Return training images of clothes and of textiles, bytes ``(N, H, W)``; their labels are not looked at."""
    fashion = load_image_task("fashion", n_train=FASHION).train.images
    return fashion, load_image_task("textiles", n_train=TEXTILES).train.images


def shrunk(images: Tensor, size: int = 32) -> Tensor:
    """Return grey images ``(N, H, W)`` as RGB of ``size`` pixels ``(N, size, size, 3)``."""
    small = F.interpolate(images[:, None].float(), size=(size, size), mode="bicubic", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous()


def text_features(phrases: Sequence[str], template: str = "a photo of a {}.") -> Tensor:
    """Return dual's features of phrases in a template ``(N, 1280)``."""
    model, tokenizer = load_model("dual"), load_tokenizer("dual")
    order = sorted(range(len(phrases)), key=lambda index: len(phrases[index]))
    out = torch.empty(len(phrases), model.text_projection.out_features)
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = tokenizer([template.replace("{}", phrases[row]) for row in rows], padding=True, return_tensors="pt")
            out[rows] = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    return out


def image_features(images: Tensor, mirrored: bool) -> Tensor:
    """Return dual's features of byte images, grey or RGB ``(N, 1280)``; with the mirror image's averaged in or not."""
    model = load_model("dual")
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            pixels = _pixels(images[start : start + BATCH])
            found = model.get_image_features(pixels)
            parts.append((found + model.get_image_features(pixels.flip(-1))) / 2 if mirrored else found)
    return torch.cat(parts)


def _pixels(images: Tensor) -> Tensor:
    color = images[:, None].expand(-1, 3, -1, -1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    large = F.interpolate(color.float(), size=(PIXELS, PIXELS), mode="bicubic", antialias=True).clamp(0, 255)
    return (large - 127) / 128


def _cached(folder: Path, name: str, images: Tensor, mirrored: bool) -> Tensor:
    digest = hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()[:16]
    return _kept(folder / f"{name}-{digest}.pt", lambda: image_features(images, mirrored))


def _cached_texts(folder: Path, phrases: Sequence[str]) -> Tensor:
    digest = hashlib.sha256("\n".join(phrases).encode()).hexdigest()[:16]
    return _kept(folder / f"text-{digest}.pt", lambda: text_features(phrases))


def _kept(path: Path, compute) -> Tensor:  # noqa: ANN001
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        torch.save(compute(), aside)
        aside.rename(path)
    return torch.load(path, weights_only=True)
