"""Tables as plain text: columns of one width, two spaces apart."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool] | None = None) -> list[str]:
    """Return the lines of a table, headings first, without spaces at their ends.

    Args:
        head: Headings.
        rows: Cells, as many a row as there are headings.
        numeric: Which columns stand on the right; all but the first by default.
    """
    right = [i > 0 for i in range(len(head))] if numeric is None else numeric
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if on_right else cell.ljust(width)
            for cell, width, on_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in (head, *rows)
    ]
