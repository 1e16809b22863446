"""Pictures: test images with what was predicted before and after an adaptation, as a file of results holds them.

Which ones are shown is not chosen by looks: the four kinds (became right, became wrong, wrong both times, right both
times) take turns, each in the order of the test images.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dtheta.errors import ConfigError, MissingExtra
from dtheta.report.blocks import Outcome, Picture, PictureGroup, Pictures
from dtheta.report.page import Section
from dtheta.report.quantity import count, percent

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = 24  # pictures of a sample
SIDE = 64  # pixels a side at most: 24 of them, even of noise, stay below 400 kB in a page
_PNG = b"\x89PNG\r\n\x1a\n"
_KINDS: dict[tuple[bool, bool], tuple[str, Outcome]] = {
    (False, True): ("Became right", "holds"),
    (True, False): ("Became wrong", "fails"),
    (False, False): ("Wrong before and after", "unclear"),
    (True, True): ("Right before and after", "unclear"),
}


@dataclass(frozen=True)
class PictureExample:
    """One test image.

    Attributes:
        png: The picture, a PNG file in base64.
        label: Its class.
        before: The class that the model predicted before the adaptation.
        after: The class that it predicts after it.
        probability: Of ``after``.
    """

    png: str
    label: str
    before: str
    after: str
    probability: float

    def __post_init__(self) -> None:
        try:
            start = base64.b64decode(self.png, validate=True)[: len(_PNG)]
        except (binascii.Error, ValueError):
            start = b""
        if start != _PNG:
            raise ConfigError("report: a picture must be a PNG file in base64")

    @property
    def kind(self) -> tuple[bool, bool]:
        """Whether it was right before, and is after."""
        return self.before == self.label, self.after == self.label


@dataclass(frozen=True)
class PictureSample:
    """Some test images of one task, and how many of all test images are of each kind.

    Attributes:
        task: Its name.
        method: What adapted the model.
        became_right: How many of all test images became right,
        became_wrong: became wrong,
        stayed_wrong: were and are wrong,
        stayed_right: were and are right.
        examples: The images shown.
    """

    task: str
    method: str
    became_right: int
    became_wrong: int
    stayed_wrong: int
    stayed_right: int
    examples: tuple[PictureExample, ...]

    def number(self, kind: tuple[bool, bool]) -> int:
        """Return how many of all test images are of a kind (right before, right after)."""
        counts = (self.became_right, self.became_wrong, self.stayed_wrong, self.stayed_right)
        return dict(zip(_KINDS, counts, strict=True))[kind]

    @property
    def total(self) -> int:
        """Of the test images."""
        return sum(map(self.number, _KINDS))


def picture_sample(
    task: str,
    method: str,
    images: Tensor,
    labels: Tensor,
    before: Tensor,
    after: Tensor,
    classes: Sequence[str],
    shown: int = SHOWN,
) -> PictureSample:
    """Return a sample of test images with what was predicted.

    Args:
        task: Name of the task.
        method: Name of the method.
        images: Bytes, (N, H, W) or (N, H, W, 3).
        labels: Class ids (N,).
        before: Logits of the model before the adaptation (N, C).
        after: Its logits after it (N, C).
        classes: Their names.
        shown: How many pictures at most.

    Raises:
        MissingExtra: If Pillow is not installed.
    """
    first, last = before.argmax(1), after.argmax(1)
    places: dict[tuple[bool, bool], list[int]] = {kind: [] for kind in _KINDS}
    for i, kind in enumerate(zip((first == labels).tolist(), (last == labels).tolist(), strict=True)):
        places[kind].append(i)
    probabilities = after.softmax(1)
    examples = tuple(
        PictureExample(
            png(images[i]), classes[int(labels[i])], classes[int(first[i])], classes[int(last[i])],
            float(probabilities[i, last[i]]),
        )
        for i in _in_turns(list(places.values()), shown)
    )  # fmt: skip
    became_right, became_wrong, stayed_wrong, stayed_right = map(len, places.values())
    return PictureSample(task, method, became_right, became_wrong, stayed_wrong, stayed_right, examples)


def _in_turns(groups: Sequence[Sequence[int]], shown: int) -> list[int]:
    """Return up to ``shown`` items, as equally many of every group as there are, group by group."""
    taken = [0] * len(groups)
    for _ in range(min(shown, sum(map(len, groups)))):
        least = min((i for i, group in enumerate(groups) if taken[i] < len(group)), key=lambda i: taken[i])
        taken[least] += 1
    return [item for group, many in zip(groups, taken, strict=True) for item in group[:many]]


def png(image: Tensor, side: int = SIDE) -> str:
    """Return one image (H, W) or (H, W, 3) of bytes, made smaller where it is larger, as a PNG file in base64.

    Raises:
        MissingExtra: If Pillow is not installed.
    """
    pillow = _pillow()
    picture = pillow.fromarray(image.cpu().numpy())
    if max(picture.size) > side:
        factor = side / max(picture.size)
        size = [max(1, round(factor * length)) for length in picture.size]
        picture = picture.resize(size, pillow.Resampling.BICUBIC)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pictures in a report need Pillow: pip install 'dtheta[image]'") from error
    return Image


def picture_section(samples: Sequence[PictureSample]) -> list[Section]:
    """A grid for every task and method; nothing where there are no pictures."""
    if not samples:
        return []
    lead = (
        "Test images with their class and what was predicted before and after the adaptation, a check mark where that "
        "is right and a cross where it is wrong. Of each kind the first are shown, in the order of the test images."
    )
    return [Section("Pictures", [_block(sample) for sample in samples], lead)]


def _block(sample: PictureSample) -> Pictures:
    groups = []
    for kind, (name, outcome) in _KINDS.items():
        pictures = [_picture(example) for example in sample.examples if example.kind == kind]
        if pictures:
            many = sample.number(kind)
            title = f"{name}: {count(many)} of {count(sample.total)}, {percent(many / sample.total)}"
            groups.append(PictureGroup(title, outcome, pictures))
    return Pictures(f"{sample.task}, {sample.method}", groups)


def _picture(example: PictureExample) -> Picture:
    right = example.kind
    said = [
        f"{text} {'right' if good else 'wrong'}"
        for text, good in zip((example.before, example.after), right, strict=True)
    ]
    return Picture(
        source=f"data:image/png;base64,{example.png}",
        alt=f"Test image of the class {example.label}; before: {said[0]}; after: {said[1]}",
        label=example.label,
        before=example.before,
        after=f"{example.after}, {percent(example.probability, 0)}",
        right=right,
    )
