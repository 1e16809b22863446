"""Every fenced Python example of the documentation runs, as one program a page, in an empty folder.

On the pages of RUN the commands of fenced ``sh`` blocks run as well, where they stand between the Python ones.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dtheta.cli.main import main

ROOT = Path(__file__).parents[2]
FOUND = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
RUN = {"tutorial.md"}
BLOCK = re.compile(r"^```(python|sh)\b[^\n]*\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
PAGES = [path for path in FOUND if "```python" in path.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", program)  # where dataclasses look up their annotations
    for language, text in BLOCK.findall(page.read_text()):
        if language == "python":
            exec(compile(text, page.name, "exec"), program.__dict__)
        elif page.name in RUN:
            for line in text.splitlines():
                called, *arguments = shlex.split(line)
                assert called == "dtheta", line
                assert main(arguments) == 0, line


def test_the_pages_with_examples_are_found() -> None:
    assert {"README.md", "compose.md", "compress.md", "tutorial.md", "ternary.md"} <= {page.name for page in PAGES}
