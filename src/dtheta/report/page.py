"""Page: one self-contained HTML file, readable by eye first, written completely or not at all.

No network: style, script and charts are inside, and a content security policy forbids everything else. The page
follows the reader's light or dark setting, prints, works without script, and by keyboard.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from dtheta.core.output import write_file
from dtheta.report.blocks import Block

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Section:
    """A titled part of a page; ``lead`` says in a sentence or two what is seen and how to read it."""

    title: str
    blocks: Sequence[Block]
    lead: str = ""

    @property
    def anchor(self) -> str:
        """Name of the section in links."""
        return re.sub(r"[\W_]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """A report. ``kicker`` is the small line above the title, ``verdict`` the one sentence that matters."""

    title: str
    verdict: str
    sections: Sequence[Section] = field(default_factory=tuple)
    kicker: str = ""
    footer: str = ""

    def html(self) -> str:
        """The whole document."""
        return (
            _templates()
            .get_template("page.html.j2")
            .render(page=self, style=_asset("page.css"), script=_asset("page.js"))
        )

    def render(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to ``path``, replacing a file that is there, and return it.

        Raises:
            OutputError: If it cannot be written; an earlier file at ``path`` is then still the earlier file.
        """
        document = self.html().encode(errors="replace")  # of a file's name that is no text
        with write_file(path) as stream:
            stream.write(document)
        return Path(path)


def _asset(name: str) -> str:
    return files("dtheta.report").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _templates() -> Environment:
    # Lazy: the command line starts without Jinja.
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup, escape

    def code(text: str) -> Markup:
        """Plain text with `backticks` -> escaped HTML with code elements."""
        return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))

    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["code"] = code
    return environment
