"""Labeled texts, a task made of them, and splits that depend on the seed and on nothing else.

A split orders the distinct texts by ``key(seed, "split/" + name, index)`` and cuts: the first are the test set. So
a larger training set never changes the test set, and one text never lies on both sides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dtheta.core.seeds import key
from dtheta.errors import ConfigError

TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Texts:
    """Texts and their class ids, in step."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class TextTask:
    """A text classification task.

    Attributes:
        name: the task's name.
        classes: class names; a label is an index into them.
        train: what to learn from.
        test: what to measure on; shares no text with ``train``.
        license: what is known of the rights in the texts.
        source: where they come from.
    """

    name: str
    classes: tuple[str, ...]
    train: Texts
    test: Texts
    license: str
    source: str

    @property
    def majority(self) -> float:
        """Share of the most frequent class in the test set: the accuracy that needs no model."""
        return max(Counter(self.test.labels).values()) / len(self.test)


@dataclass(frozen=True)
class Row:
    """One labeled text as it was read: its text and its class's name."""

    text: str
    label: str


def keyed_order(count: int, seed: int, name: str) -> list[int]:
    """Return ``range(count)`` in an order that is a pure function of ``(count, seed, name)``."""
    return sorted(range(count), key=lambda index: key(seed, name, index))


def distinct(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with distinct texts, in order of first appearance; texts with two different labels go."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row.text, set()).add(row.label)
    return [Row(text, *found) for text, found in labels.items() if len(found) == 1]


def split(rows: Sequence[Row], n_test: int | None, seed: int, name: str) -> tuple[list[Row], list[Row]]:
    """Return ``(train, test)``: the rows of ``n_test`` distinct texts (None: a fifth) are the test set.

    Raises:
        ConfigError: nothing would be left to train on, or to test on.
    """
    texts = list(dict.fromkeys(row.text for row in rows))
    count = round(TEST_FRACTION * len(texts)) if n_test is None else n_test
    if not 1 <= count < len(texts):
        raise ConfigError(f"{name}: n_test={count} must lie between 1 and {len(texts) - 1}: it has {len(texts)} texts")
    order = keyed_order(len(texts), seed, f"split/{name}")
    held_out = {texts[index] for index in order[:count]}
    shuffled = _by_text_order(rows, {texts[index]: place for place, index in enumerate(order)})
    return [row for row in shuffled if row.text not in held_out], [row for row in shuffled if row.text in held_out]


def _by_text_order(rows: Sequence[Row], place: dict[str, int]) -> list[Row]:
    return sorted(rows, key=lambda row: place[row.text])


def take(rows: Sequence[Row], count: int | None, what: str) -> list[Row]:
    """Return the first ``count`` rows (None: all); ConfigError where there are fewer. ``what`` names the argument."""
    if count is not None and not 1 <= count <= len(rows):
        raise ConfigError(f"{what}={count} must lie between 1 and {len(rows)}, the number there is")
    return list(rows[:count])


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct labels in order: as integers where all are integers, else by name."""
    found = set(labels)
    whole = all(label.removeprefix("-").isdecimal() for label in found)
    return tuple(sorted(found, key=lambda label: (int(label), label)) if whole else sorted(found))


def to_texts(rows: Sequence[Row], classes: Sequence[str]) -> Texts:
    """Return the rows as texts and class ids."""
    ids = {name: index for index, name in enumerate(classes)}
    return Texts(tuple(row.text for row in rows), tuple(ids[row.label] for row in rows))
