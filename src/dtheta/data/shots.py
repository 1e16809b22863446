"""Few shots: k images of each class, drawn by key; and some of them held out, to choose by.

Image i of class c stands at the place of ``key(seed, "few-shot/c", i)`` among its class, and the first k are taken: so
fewer shots of the same seed are a part of more shots, and what is drawn of a class does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.data.images import Images
from dtheta.data.text import keyed_order
from dtheta.errors import ConfigError


def few_shot(images: Images, shots: int, seed: int, classes: Sequence[str] = ()) -> Images:
    """Return ``shots`` images of each class 0 to C-1, class by class.

    C is the number of ``classes``, or one more than the largest label where there are no names.

    Args:
        images: what to draw from.
        shots: how many of each class.
        seed: of the draw.
        classes: their names; empty where they have none.

    Raises:
        ConfigError: fewer than one shot is wanted, or a class has fewer images than that.
    """
    whole(shots, "shots", 1)
    counts = images.labels.bincount(minlength=len(classes)).tolist()
    if not counts or min(counts) < shots:
        which = _fewest(counts, classes) if counts else "there are none at all"
        raise ConfigError(f"shots={shots}: each class needs as many images, but {which}; take fewer shots")
    return images.take(torch.cat([_drawn(images, label, shots, seed) for label in range(len(counts))]))


def _fewest(counts: list[int], classes: Sequence[str]) -> str:
    label = counts.index(min(counts))
    return f"class {repr(classes[label]) if classes else label} has {counts[label]}"


def hold_out(images: Images, count: int, seed: int) -> tuple[Int64[Tensor, " M"], Int64[Tensor, " count"]]:
    """Return the places of the images to train on and of ``count`` others, in order.

    The classes take turns to give one, keyed by (seed, class), and each keeps its last.

    Raises:
        ConfigError: more are wanted than that leaves.
    """
    given = []
    for label in images.labels.unique().tolist():
        members = _of_class(images, label)
        order = keyed_order(len(members), seed, f"validate/{label}")
        given += [(turn, label, int(members[place])) for turn, place in enumerate(order[:-1])]
    if not 0 <= count <= len(given):
        raise ConfigError(
            f"validate={count} must lie between 0 and {len(given)}: there are {len(images)} training images, and each "
            "class must keep one"
        )
    held = torch.zeros(len(images), dtype=torch.bool)
    held[[place for *_, place in sorted(given)[:count]]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def _of_class(images: Images, label: int) -> Int64[Tensor, " K"]:
    return (images.labels == label).nonzero().flatten()


def _drawn(images: Images, label: int, shots: int, seed: int) -> Int64[Tensor, " shots"]:
    members = _of_class(images, label)
    return members[keyed_order(len(members), seed, f"few-shot/{label}")[:shots]]
