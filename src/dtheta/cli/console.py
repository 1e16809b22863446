"""Console: the result on stdout, everything else on stderr.

With ``--json`` the result is one JSON document. Tables are drawn by rich on a terminal and as plain aligned text
everywhere else; progress is drawn on a terminal only.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dtheta.core.aligned import aligned

_NARROW = 80  # columns of a terminal; below it columns of a table fold into slivers, or are lost


@dataclass(frozen=True)
class Table:
    """Rows under headings; a heading that ends with ``>`` stands over numbers, aligned to the right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    def plain(self) -> str:
        """Return the table as aligned text."""
        names = [name.removesuffix(">") for name in self.headings]
        rows = [[str(cell) for cell in row] for row in self.rows]
        lines = aligned(names, rows, [name.endswith(">") for name in self.headings])
        return "\n".join([self.title, *lines] if self.title else lines)

    def stacked(self) -> str:
        """Return the rows one below the other, a cell a line: for a terminal too narrow for columns."""
        names = [name.removesuffix(">") for name in self.headings]
        lines = [self.title] if self.title else []
        for first, *rest in self.rows:
            lines.append(str(first))
            lines += [f"  {name}: {cell}" for name, cell in zip(names[1:], rest, strict=True) if str(cell)]
        return "\n".join(lines)

    @property
    def width(self) -> int:
        """Columns of a terminal that the aligned text takes."""
        return max(map(len, self.plain().splitlines()), default=0)


Part = str | Table


@dataclass(frozen=True)
class Console:
    """Where a verb writes.

    Attributes:
        json: Whether the result is wanted as JSON.
        quiet: Whether nothing but the result is wanted.
    """

    json: bool = False
    quiet: bool = False

    def note(self, text: str) -> None:
        """Say something that is not the result."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def result(self, record: Mapping[str, Any], parts: Sequence[Part]) -> None:
        """Print the result: ``record`` as JSON where that is wanted, else the parts one below the other."""
        if self.json:
            print(_json_text(_finite(record)))
            return
        for part in parts:
            self._show(part)

    def _show(self, part: Part) -> None:
        if isinstance(part, Table) and sys.stdout.isatty():
            columns = shutil.get_terminal_size().columns
            if columns < _NARROW and part.width > columns:
                print(part.stacked())
            else:
                _rich_table(part)
        else:
            print(part.plain() if isinstance(part, Table) else part)

    @property
    def animated(self) -> bool:
        """Whether progress may be drawn: on a terminal, and when not asked to be quiet."""
        return not self.quiet and sys.stderr.isatty()

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[str], None]]:
        """Yield a function to call once for each of ``total`` pieces of work with the name of the next one."""
        if not self.animated:
            yield lambda name: None
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")]
        with Progress(*columns, TimeElapsedColumn(), console=RichConsole(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            started = False

            def begin(name: str) -> None:
                nonlocal started
                bar.update(task, description=name, advance=1 if started else 0)
                started = True

            yield begin


def _json_text(record: Any) -> str:
    """Return JSON, with escapes for what stdout cannot carry: a code page of few letters, half a surrogate pair."""
    text = json.dumps(record, indent=2, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(record, indent=2)
    return text


def _rich_table(table: Table) -> None:
    from rich import box
    from rich.console import Console as RichConsole
    from rich.markup import escape
    from rich.table import Table as RichTable

    drawn = RichTable(title=escape(table.title) or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in table.headings:
        numeric = name.endswith(">")
        justify = "right" if numeric else "left"
        drawn.add_column(escape(name.removesuffix(">")), justify=justify, overflow="fold", no_wrap=numeric)
    for row in table.rows:
        drawn.add_row(*(escape(str(cell)) for cell in row))
    RichConsole().print(drawn)


def _finite(value: Any) -> Any:
    """Return a record with NaN and infinity as null, which JSON lacks."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
