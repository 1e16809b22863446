"""Labeled texts, a task made of them, and splits that depend on the seed and on nothing else.

A split orders the distinct texts by ``key(seed, "split/" + name, index)`` and cuts: the first are the test set. So
a larger training set never changes the test set, and one text never lies on both sides. Where the test set is a file of
its own, a text that stands in both files is refused: which of the two it belongs to is the user's to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dtheta.core.arguments import whole
from dtheta.core.seeds import key
from dtheta.errors import ConfigError, FormatError

TEST_FRACTION = 0.2
_SHOWN = 60  # characters of a text in a message
_DIGITS = 4000  # of a class that is ordered as an integer; Python reads no more than 4300


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


def shuffled(rows: Sequence[Row], seed: int, name: str) -> list[Row]:
    """Return the rows in the order of ``keyed_order``."""
    return [rows[index] for index in keyed_order(len(rows), seed, name)]


def distinct(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with distinct texts, in order of first appearance; texts with two different labels go."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row.text, set()).add(row.label)
    return [Row(text, *found) for text, found in labels.items() if len(found) == 1]


def held_out_count(texts: Sequence[str], n_test: int | None, name: str) -> int:
    """Return how many of the distinct ``texts`` to hold out: ``n_test``, or a fifth.

    Raises:
        ConfigError: nothing would be left to train on, or to test on.
        FormatError: there are fewer than two texts, so that nothing can be held out at all.
    """
    if len(texts) < 2:
        what = f"every row holds the text {texts[0][:_SHOWN]!r}" if texts else "there is no text"
        raise FormatError(f"{name}: {what}; a split needs two different texts, or a test file of its own")
    return held_out_of(len(texts), n_test, name)


def held_out_of(examples: int, n_test: int | None, name: str) -> int:
    """Return how many of so many distinct examples to hold out: ``n_test``, or a fifth.

    Raises:
        ConfigError: nothing would be left to train on, or to test on.
    """
    count = max(1, round(TEST_FRACTION * examples)) if n_test is None else whole(n_test, f"{name}: n_test")
    if not 1 <= count < examples:
        raise ConfigError(
            f"{name}: n_test={count} must lie between 1 and {examples - 1}: it has {examples} distinct examples"
        )
    return count


def split(rows: Sequence[Row], n_test: int | None, seed: int, name: str) -> tuple[list[Row], list[Row]]:
    """Return ``(train, test)``: the rows of ``n_test`` distinct texts (None: a fifth) are the test set.

    Raises:
        ConfigError: nothing would be left to train on, or to test on.
        FormatError: there are fewer than two different texts.
    """
    texts = list(dict.fromkeys(row.text for row in rows))
    count = held_out_count(texts, n_test, name)
    order = keyed_order(len(texts), seed, f"split/{name}")
    held_out = {texts[index] for index in order[:count]}
    shuffled = _by_text_order(rows, {texts[index]: place for place, index in enumerate(order)})
    return [row for row in shuffled if row.text not in held_out], [row for row in shuffled if row.text in held_out]


def _by_text_order(rows: Sequence[Row], place: dict[str, int]) -> list[Row]:
    return sorted(rows, key=lambda row: place[row.text])


def check_apart(train: Mapping[str, int], path: str, test: Mapping[str, int], test_path: str) -> None:
    """Raise if a text stands in two files; the mappings give the first line of each text.

    Raises:
        FormatError: naming how many there are, and the lines of the first.
    """
    both = [text for text in test if text in train]
    if both:
        raise FormatError(
            f"{test_path}, line {test[both[0]]}: this text stands in {path}, line {train[both[0]]} too, as do "
            f"{len(both)} of the {len(test)} texts to test on in all; a score on texts that were trained on measures "
            "nothing. Remove them from one of the two files"
        )


def check_covered(rows: Iterable[Row], classes: Sequence[str], name: str) -> None:
    """Raise if a class has no training row.

    Raises:
        FormatError: naming the first such class.
    """
    found = {row.label for row in rows}
    missing = [label for label in classes if label not in found]
    if missing:
        raise FormatError(
            f"{name}: no training row is of the class {missing[0]!r} ({len(missing)} of {len(classes)} classes have "
            "none), so it cannot be learned. Give a larger n_train, a smaller n_test or another seed, more rows of the "
            "class, or remove it from the file"
        )


def take(rows: Sequence[Row], count: int | None, what: str) -> list[Row]:
    """Return the first ``count`` rows (None: all); ConfigError where there are fewer. ``what`` names the argument."""
    if count is not None and not 1 <= whole(count, what) <= len(rows):
        raise ConfigError(f"{what}={count} must lie between 1 and {len(rows)}, the number there is")
    return list(rows[:count])


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct labels in order: as integers where all are integers, else by name."""
    found = set(labels)
    integers = all(label.removeprefix("-").isdecimal() and len(label) <= _DIGITS for label in found)
    return tuple(sorted(found, key=lambda label: (int(label), label)) if integers else sorted(found))


def to_texts(rows: Sequence[Row], classes: Sequence[str]) -> Texts:
    """Return the rows as texts and class ids."""
    ids = {name: index for index, name in enumerate(classes)}
    return Texts(tuple(row.text for row in rows), tuple(ids[row.label] for row in rows))
