"""Blocks: what a section of a page may hold. Plain records; the template alone knows their HTML.

Text in blocks is plain; `backticks` set code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dtheta.errors import ShapeMismatch
from dtheta.report.charts.palette import Style, legend
from dtheta.report.charts.svg import Chart

Outcome = Literal["holds", "partly", "unclear", "fails"]


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "prose"


@dataclass(frozen=True)
class Tile:
    """One figure of a row of figures: a large ``value`` under its ``name``, and a ``note``."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Tiles:
    """The figures to see first."""

    tiles: Sequence[Tile]
    kind: ClassVar[str] = "tiles"


@dataclass(frozen=True)
class Finding:
    """A statement about the data and whether it holds in them; ``label`` is the outcome in words."""

    text: str
    outcome: Outcome
    label: str


@dataclass(frozen=True)
class Findings:
    """Statements with their outcomes."""

    findings: Sequence[Finding]
    kind: ClassVar[str] = "findings"


@dataclass(frozen=True)
class Column:
    """A table column; numeric ones are aligned to the right in tabular digits."""

    name: str
    numeric: bool = False


@dataclass(frozen=True)
class Cell:
    """A table cell: ``text`` to read, ``order`` to sort by, and where the text leads, if it leads anywhere."""

    text: str
    order: float | str
    link: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column heads its row. ``folded`` hides it behind its caption until asked for."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ShapeMismatch(f"table {self.caption!r}: {len(self.columns)} columns, a row of {len(row)} cells")


@dataclass(frozen=True)
class Panels:
    """Charts side by side, one legend for all, a caption that says how to read them, and their data as tables."""

    charts: Sequence[Chart]
    caption: str = ""
    title: str = ""
    styles: dict[str, Style] = field(default_factory=dict)
    lines: bool = False
    tables: Sequence[Table] = ()
    kind: ClassVar[str] = "panels"

    @property
    def legend(self) -> tuple[tuple[str, str, str], ...]:
        """(series, color class, swatch markup)."""
        return legend(self.styles, self.lines)


@dataclass(frozen=True)
class KeyValues:
    """Names and values, such as provenance."""

    pairs: Sequence[tuple[str, str]]
    title: str = ""
    kind: ClassVar[str] = "key-values"


@dataclass(frozen=True)
class Step:
    """Something to do next: a sentence and, if there is one, the command."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Steps:
    """What to try next."""

    steps: Sequence[Step]
    kind: ClassVar[str] = "steps"


@dataclass(frozen=True)
class Picture:
    """An image with its class, and the predictions before and after; ``right`` tells whether each of the two is right.

    ``source`` is a data URI: pages load nothing from elsewhere.
    """

    source: str
    alt: str
    label: str
    before: str
    after: str
    right: tuple[bool, bool]


@dataclass(frozen=True)
class PictureGroup:
    """Pictures under a heading that has an outcome."""

    title: str
    outcome: Outcome
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Pictures:
    """Groups of pictures, as a grid."""

    title: str
    groups: Sequence[PictureGroup]
    kind: ClassVar[str] = "pictures"


Block = Prose | Tiles | Findings | Table | Panels | KeyValues | Steps | Pictures


def number(value: float, text: str) -> Cell:
    """A numeric cell."""
    return Cell(text, value)


def word(text: str) -> Cell:
    """A textual cell."""
    return Cell(text, text)
