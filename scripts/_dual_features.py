"""What refining ``dual`` never moves, computed once: features of images, and embeddings of texts before the projection.

Both are kept in a folder by the hash of what they were computed from, so that an interrupted run goes on with the very
numbers it began with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dtheta.data.pixels import Pixels

_BATCH = 32


def image_features(model: Any, pixels: Pixels, images: Tensor, folder: Path) -> Tensor:
    """Return the image tower's features ``(N, E)`` of byte images; gray ``(N, H, W)`` or RGB ``(N, H, W, 3)``."""

    def compute() -> Tensor:
        return torch.cat([model.get_image_features(pixels(part)) for part in images.split(_BATCH)])

    return _kept(folder, "images", images.contiguous().numpy().tobytes(), compute)


def text_embeddings(model: Any, tokenizer: Any, texts: Sequence[str], folder: Path) -> Tensor:
    """Return the text tower's unit embeddings ``(N, D)``; texts of about one length share a batch."""

    def compute() -> Tensor:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found = torch.empty(len(texts), model.text_projection.in_features)
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            batch = tokenizer([texts[row] for row in rows], padding=True, return_tensors="pt")
            found[rows] = model.embed_text(batch["attention_mask"], input_ids=batch["input_ids"])
        return found

    return _kept(folder, "texts", "\n".join(texts).encode(), compute)


@torch.no_grad()
def _kept(folder: Path, kind: str, content: bytes, compute: Callable[[], Tensor]) -> Tensor:
    path = folder / f"{kind}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        torch.save(compute(), aside)
        aside.rename(path)  # a kill leaves no half of a file
    return torch.load(path, weights_only=True)
