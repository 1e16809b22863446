"""Labeled texts for a delta that is trained already: those its training saw, those it did not, and its test texts.

    trained    the first n_train texts of the split that the delta's provenance names: data, seed, n_train, n_test
    fresh      the other texts of that file: no training saw them, and nothing was measured on them
    test       the test texts of that split

What is chosen by a score is chosen on fresh texts, and reported on others. Texts of another file than the delta was
trained on are all fresh, but for those held out to test on. A file is the same by its name, and by a digest of the
texts of both parts: one that grew or was sorted since would be split anew, and what was trained on be taken for fresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.columns import require_columns
from dtheta.cli.idle import refuse_idle
from dtheta.cli.options import CommonOptions
from dtheta.core.paths import expanded
from dtheta.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from dtheta.core.provenance import Provenance
    from dtheta.data.text import Texts, TextTask


DIGEST = "texts"  # of what a task says, the digest of its texts
FILE_OPTIONS = ("text", "label", "encoding")  # how a file is read; a packaged task has its own way


@dataclass(frozen=True)
class Source:
    """Where labeled texts come from, as options say it; ``data`` None means the packaged task that a delta names."""

    data: str | None = None
    text: str = "text"
    label: str | None = None
    encoding: str = "utf-8"

    @classmethod
    def of(cls, options: Any) -> Source:
        """Return where the texts are, as the options ``data``, ``text``, ``label`` and ``encoding`` say."""
        return cls(options.data, options.text, options.label, options.encoding)

    @property
    def path(self) -> Path | None:
        """The file, where it is one."""
        from dtheta.data.tasks import TASKS

        return None if self.data is None or self.data in TASKS else expanded(self.data)

    @property
    def classes(self) -> str:
        """The column of the classes."""
        return self.label or "label"

    def name(self, made: Provenance) -> str:
        """Return the name of the data for a delta: of a packaged task, or the stem of a file.

        Raises:
            ConfigError: If none is given and the delta's own data are not packaged.
        """
        from dtheta.data.tasks import TASKS

        if self.path is not None:
            return self.path.stem
        name = self.data or str(made.task.get("data", ""))
        if name not in TASKS:
            raise ConfigError(
                f"the delta was trained on {name!r}, which is no packaged task ({', '.join(TASKS)}): give its labeled "
                "texts with --data FILE"
            )
        return name

    def fetched(self, made: Provenance | None = None) -> bool:
        """Tell whether the texts are at hand: those given, or else those of a delta's own task."""
        from dtheta.data.sources import is_fetched
        from dtheta.data.tasks import TASKS

        name = str(self.data) if made is None else self.name(made)
        return self.path is not None or is_fetched(TASKS[name].package.name)


@dataclass(frozen=True)
class Labeled:
    """Labeled texts of one task; class ids are those of the delta.

    Attributes:
        name: Of the data.
        trained: What the delta was trained on.
        fresh: What it was not.
        test: What it was tested on.
    """

    name: str
    trained: Texts
    fresh: Texts
    test: Texts

    def held_out(self, count: int) -> tuple[Texts, Texts]:
        """Return ``count`` texts to choose by that training has not seen, and the test texts that are left.

        Fresh texts come first; where they are too few, test texts are taken, which are then not tested on.

        Raises:
            ConfigError: If there are not so many.
        """
        more = max(0, count - len(self.fresh))
        if count < 1 or more >= len(self.test):
            raise ConfigError(
                f"--validate {count}: {self.name} has {len(self.fresh)} texts that training has not seen and "
                f"{len(self.test)} test texts, one of which at least has to be left to test on"
            )
        chosen = _joined(_cut(self.fresh, 0, count), _cut(self.test, 0, more))
        return chosen, _cut(self.test, more, len(self.test))

    def to_learn(self, learn: int, validate: int) -> tuple[Texts, Texts]:
        """Return texts to learn coefficients on, and others to choose the epoch by: fresh ones first, then trained.

        Raises:
            ConfigError: If there are not so many.
        """
        every = _joined(self.fresh, self.trained)
        if learn < 1 or validate < 0 or learn + validate > len(every):
            raise ConfigError(
                f"--texts {learn} and --validate {validate}: {self.name} has {len(every)} texts that are not test texts"
            )
        return _cut(every, validate, validate + learn), _cut(every, 0, validate)


def labeled(made: Provenance, source: Source, seed: int) -> Labeled:
    """Return the labeled texts for a delta, by how it was made.

    Args:
        made: How, with its task.
        source: Where the texts are.
        seed: Of the split of data that the delta was not trained on.

    Raises:
        ConfigError: If the data are not there, lack a column or hold a class that the delta does not know, or if the
            delta was tested on a second file, or its file has changed, so that its split cannot be had again.
        FormatError: If the data are damaged.
    """
    name, task = source.name(made), made.task
    own = name == task.get("data")
    counts = [task.get("train"), task.get("test")]
    if own and ((made.settings.get("command") or {}).get("test") or not all(isinstance(n, int) for n in counts)):
        raise ConfigError(
            f"the delta was trained on {name!r} and tested on another file: give that file, or other texts, with --data"
        )
    if source.path is not None:
        require_labeled(source)
    n_train, n_test = (int(task["train"]), int(task["test"])) if own else (0, None)
    found = loaded(source, name, n_test, made.seed if own and made.seed is not None else seed)
    if own:
        _require_unchanged(task, texts_digest(_cut(found.train, 0, n_train), found.test, found.classes), source, name)
    train, test = (_known(texts, found, task["classes"]) for texts in (found.train, found.test))
    return Labeled(name, _cut(train, 0, n_train), _cut(train, n_train, len(train)), test)


def _require_unchanged(task: Mapping[str, Any], digest: str, source: Source, name: str) -> None:
    """Raise where a delta names the digest of its texts, and it is another one."""
    if task.get(DIGEST) not in (None, digest):
        raise ConfigError(
            f"{source.path or name} has other texts than when the delta was trained on {name!r}, so nothing tells "
            "which of them it has seen: give the file as it was, or texts that are all new, under another name, with "
            "--data"
        )


def texts_digest(train: Texts, test: Texts, classes: Sequence[str]) -> str:
    """Return a digest of the texts of a split and their classes, in order."""
    from dtheta.core.jsonfile import json_digest

    parts = [[[text, classes[label]] for text, label in zip(part.texts, part.labels, strict=True)]
             for part in (train, test)]  # fmt: skip
    return json_digest(parts)


def refuse_of_files(options: CommonOptions, task: str, columns: Iterable[str] = FILE_OPTIONS) -> None:
    """Raise for what says how files of one's own are read, where the data are a packaged task.

    Raises:
        ConfigError: Naming the option.
    """
    refuse_idle(options, columns, f"is for files of one's own, and {task} is packaged; leave it out")
    refuse_idle(options, ("test",), f"is for files of one's own; the task {task} has a test part")


def require_read(options: CommonOptions, sources: Iterable[Source]) -> None:
    """Raise for a column or an encoding where no texts come from a file: it would do nothing.

    Raises:
        ConfigError: Naming the option.
    """
    if all(source.path is None for source in sources):
        why = "is for a file of one's own (--data FILE), and these texts are of a packaged task; leave it out"
        refuse_idle(options, FILE_OPTIONS, why)


def require_labeled(source: Source) -> None:
    """Raise what ``loaded`` would raise of the names alone; the texts are not read.

    Raises:
        ConfigError: If there is no such task or file, or the file has no such columns.
        FormatError: If the file is damaged.
    """
    from dtheta.data.corpus import columns
    from dtheta.data.image_tasks import IMAGE_TASKS
    from dtheta.data.tasks import TASKS

    data, path = str(source.data), source.path
    if data in IMAGE_TASKS or (path is not None and path.is_dir()):
        raise ConfigError(f"--data {data} holds pictures; this verb looks at classifiers of texts alone")
    if path is None:
        return
    if not path.exists() and not path.suffix:
        raise ConfigError(
            f"there is no task {data!r} and no such file; packaged tasks: {', '.join(TASKS)}{did_you_mean(data, TASKS)}"
        )
    there = columns(path, source.encoding)
    if source.label is None and source.classes not in there:
        raise ConfigError(f"{path.name}: give the column of the classes with --label; there are: {', '.join(there)}")
    require_columns(path, there, {"--text": source.text, "--label": source.classes})


def loaded(source: Source, name: str, n_test: int | None, seed: int) -> TextTask:
    """Return the packaged task of that name, or the texts of the file under that name, split by a seed.

    Raises:
        ConfigError, FormatError: As the loaders of texts.
    """
    from dtheta.data.table import load_table
    from dtheta.data.tasks import load_task

    path = source.path
    if path is None:
        return load_task(name, None, n_test, seed)
    return load_table(path, source.text, source.classes, None, None, n_test, seed, source.encoding)


def _known(texts: Texts, found: TextTask, classes: Sequence[str]) -> Texts:
    """Return texts with the class ids of the delta."""
    from dtheta.data.text import Texts

    ids: dict[int, int] = {}
    for index in sorted(set(texts.labels)):
        label = found.classes[index]
        if label not in classes:
            raise ConfigError(
                f"the class {label!r} in {found.name} is none that the delta knows{did_you_mean(label, classes)}"
            )
        ids[index] = classes.index(label)
    return Texts(texts.texts, tuple(ids[index] for index in texts.labels))


def _cut(texts: Texts, start: int, stop: int) -> Texts:
    from dtheta.data.text import Texts

    return Texts(texts.texts[start:stop], texts.labels[start:stop])


def _joined(a: Texts, b: Texts) -> Texts:
    from dtheta.data.text import Texts

    return Texts((*a.texts, *b.texts), (*a.labels, *b.labels))


def described(labeled: Labeled, chosen: Texts) -> dict[str, Any]:
    """Return where some texts come from, for a record."""
    trained = set(labeled.trained.texts)
    seen = sum(text in trained for text in chosen.texts)
    return {"data": labeled.name, "texts": len(chosen), "seen_in_training": seen}
