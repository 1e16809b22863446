"""Rows of numbers with a class each: packaged tables, and one's own CSV, TSV or JSONL files.

    iris             150 flowers, 4 lengths in cm, 3 species
    wine             178 wines, 13 measurements, 3 growers
    breast-cancer    569 cell samples, 30 measurements, 2 outcomes
    digits           1797 digits, 8 x 8 brightnesses in [0, 1]

All four come with scikit-learn. Rows with equal numbers land on the same side of a split, which depends on the seed and
the name. ``standardized`` subtracts means and divides by deviations of the training rows; pixels share one unit, and
need none of that.

Shape legend: N rows, F features.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dtheta.core.paths import expanded
from dtheta.data.lines import label_field, numbered_lines
from dtheta.data.scikit import data_file
from dtheta.data.text import class_names, held_out_of, keyed_order
from dtheta.errors import ConfigError, FormatError, did_you_mean

_BRIGHTEST = 16  # of scikit-learn's digits
_SCIKIT = "scikit-learn BSD-3-Clause; the data CC-BY-4.0 (UCI)"


@dataclass(frozen=True)
class Table:
    """Rows and their class ids, in step.

    Attributes:
        x: the numbers, float32.
        labels: indices into the classes of the task.
    """

    x: Float[Tensor, "N F"]
    labels: Int[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor | Sequence[int]) -> Table:
        """Return some of the rows, in the order of ``index``."""
        chosen = torch.as_tensor(index, dtype=torch.long)
        return Table(self.x[chosen], self.labels[chosen])


@dataclass(frozen=True)
class TabularTask:
    """A classification task on rows of numbers.

    Attributes:
        name: the task's name.
        classes: class names; a label is an index into them.
        features: names of the columns.
        train: what to learn from.
        test: what to measure on; shares no row with ``train``.
        license: what is known of the rights in the data.
        source: where they come from.
    """

    name: str
    classes: tuple[str, ...]
    features: tuple[str, ...]
    train: Table
    test: Table
    license: str
    source: str

    @property
    def scale(self) -> tuple[Float[Tensor, " F"], Float[Tensor, " F"]]:
        """Means and divisors of the columns over the training rows, float64: deviations, 1 where one is constant."""
        x = self.train.x.double()
        deviation = x.std(0, correction=0)
        return x.mean(0), deviation.where(deviation > 0, 1.0)

    def standardized(self) -> TabularTask:
        """Return the task with features of mean 0 and deviation 1 over the training rows; a constant one becomes 0.

        Parties that pool nothing can have the same numbers from two sums a feature, sum x and sum x^2, of each party.
        """
        mean, deviation = self.scale
        parts = {
            name: Table(((part.x.double() - mean) / deviation).float(), part.labels)
            for name, part in (("train", self.train), ("test", self.test))
        }
        return replace(self, **parts)


def load_tabular(
    data: str | Path, label: str = "label", *, n_test: int | None = None, seed: int = 0, encoding: str = "utf-8"
) -> TabularTask:
    """Return a packaged task or that of one's own file; numbers are as the file has them, digits in [0, 1].

    Args:
        data: "iris", "wine", "breast-cancer" or "digits", or a ``.csv``, ``.tsv`` or ``.jsonl`` file, of which every
            column but the classes holds numbers.
        label: the column of the classes in a file.
        n_test: how many distinct rows to test on; a fifth if None.
        seed: decides which rows are held out, and the order.
        encoding: of a file.

    Raises:
        ConfigError: a task, file or column that is not there, or more rows wanted than there are.
        FormatError: a damaged file, a cell that is no finite number, or a single class; the message names the line.
        MissingExtra: scikit-learn, which carries the packaged tasks, is not installed.
    """
    if str(data) in TABULAR_TASKS:
        name = str(data)
        x, labels, classes, features = TABULAR_TASKS[name]()
        return _cut(name, x, labels, classes, features, n_test, seed, _SCIKIT, "scikit-learn")
    path = expanded(data)
    if not path.exists() and not path.suffix:
        raise ConfigError(
            f"there is no task {str(data)!r} and no such file; packaged tasks: {', '.join(TABULAR_TASKS)}"
            f"{did_you_mean(str(data), TABULAR_TASKS)}"
        )
    x, labels, classes, features = _own(path, label, encoding)
    return _cut(path.stem, x, labels, classes, features, n_test, seed, "the user's own data", path.name)


Found = tuple[Tensor, Tensor, tuple[str, ...], tuple[str, ...]]


def _cut(
    name: str, x: Tensor, labels: Tensor, classes: tuple[str, ...], features: tuple[str, ...], n_test: int | None,
    seed: int, license: str, source: str,
) -> TabularTask:  # fmt: skip
    """Return the task whose test rows are the first of the distinct rows in a keyed order."""
    rows = [row.tobytes() for row in x.numpy()]
    distinct = list(dict.fromkeys(rows))
    if len(distinct) < 2:
        raise FormatError(f"{name}: every row holds the same numbers; a split needs two different rows")
    count = held_out_of(len(distinct), n_test, name)
    place = {distinct[index]: order for order, index in enumerate(keyed_order(len(distinct), seed, f"split/{name}"))}
    order = sorted(range(len(rows)), key=lambda index: place[rows[index]])
    test, train = ([i for i in order if (place[rows[i]] < count) is held] for held in (True, False))
    every = Table(x, labels)
    missing = set(range(len(classes))) - set(labels[train].tolist())
    if missing:
        raise FormatError(
            f"{name}: no training row is of the class {classes[min(missing)]!r}, so it cannot be learned; give a "
            "smaller n_test or another seed"
        )
    return TabularTask(name, classes, features, every.take(train), every.take(test), license, source)


def read_rows(path: Path, label: str, encoding: str) -> tuple[Float[Tensor, "N F"], list[str], tuple[str, ...]]:
    """Return the numbers of a file, the class of every row, and the names of the columns of numbers.

    Raises:
        ConfigError: If there is no such file or column, or its type is not read.
        FormatError: For a cell that is no finite number, or rows of other columns; the message names the line.
    """
    numbers: list[list[float]] = []
    labels: list[str] = []
    names: list[str] = []
    for number, fields in numbered_lines(path, encoding):
        where = f"{path.name}, line {number}"
        labels.append(label_field(fields, label, where))
        here = [name for name in fields if name != label]
        names = names or here
        if set(here) != set(names):
            raise FormatError(f"{where}: expected the columns {', '.join(names)}, found {', '.join(here)}")
        numbers.append([_number(fields[name], name, where) for name in names])
    if not names:
        raise FormatError(f"{path.name} holds no column of numbers beside {label!r}, or no rows")
    x = torch.tensor(numbers, dtype=torch.float64).float()
    if not bool(torch.isfinite(x).all()):
        row, column = (~torch.isfinite(x)).nonzero()[0].tolist()
        raise FormatError(f"{path.name}: row {row + 1} holds a {names[column]} beyond the numbers of float32")
    return x, labels, tuple(names)


def _own(path: Path, label: str, encoding: str) -> Found:
    x, labels, names = read_rows(path, label, encoding)
    classes = class_names(labels)
    if len(classes) < 2:
        raise FormatError(f"{path.name}: every row has the {label} {labels[0]!r}; a task needs at least two classes")
    ids = {name: index for index, name in enumerate(classes)}
    return x, torch.tensor([ids[name] for name in labels]), classes, names


def _number(value: object, name: str, where: str) -> float:
    """Return a cell as a number; a flag counts 0 or 1."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        empty = "" if str(value).strip() else "; fill the cell in, or leave the row out"
        raise FormatError(f"{where}: {name} is {value!r:.60}; expected a finite number{empty}")
    return found


def _read(file: str, task: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Read a table of scikit-learn: a first line of rows, columns and class names, then numbers and the class."""
    text = data_file(file, task).read_text(encoding="ascii")
    first, _, rest = text.partition("\n")
    cells = torch.from_numpy(np.loadtxt(rest.splitlines(), delimiter=",", dtype=np.float64))
    return cells[:, :-1].float(), cells[:, -1].long(), tuple(first.strip().split(",")[2:])


def _table(file: str, task: str, features: tuple[str, ...] = ()) -> Callable[[], Found]:
    def read() -> Found:
        x, labels, classes = _read(file, task)
        return x, labels, classes, features or tuple(f"x{index}" for index in range(x.shape[1]))

    return read


def _digits() -> Found:
    with gzip.open(data_file("digits.csv.gz", "digits"), "rt", encoding="ascii") as handle:
        cells = torch.from_numpy(np.loadtxt(handle, delimiter=",", dtype=np.float64))
    names = tuple(f"pixel {index // 8}, {index % 8}" for index in range(64))
    return (cells[:, :-1] / _BRIGHTEST).float(), cells[:, -1].long(), tuple(str(digit) for digit in range(10)), names


TABULAR_TASKS: dict[str, Callable[[], Found]] = {
    "iris": _table("iris.csv", "iris", ("sepal length", "sepal width", "petal length", "petal width")),
    "wine": _table("wine_data.csv", "wine"),
    "breast-cancer": _table("breast_cancer.csv", "breast-cancer"),
    "digits": _digits,
}
