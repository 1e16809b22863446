"""What the pages say of the program is so: verbs, files, names, options and messages that they quote exist."""

from __future__ import annotations

import ast
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import dtheta
from dtheta.cli.options import parse
from dtheta.cli.verbs import ACTIONS, VERBS

ROOT = Path(__file__).parents[2]
DOCS, SOURCE = ROOT / "docs", ROOT / "src" / "dtheta"
PAGES = sorted(DOCS.rglob("*.md"))
SHELL = re.compile(r"^```(?:sh|console)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
QUOTED = re.compile(r"^### `(.*)`$", flags=re.MULTILINE)


def _rows(page: Path) -> list[list[str]]:
    """Return the cells of every table row of a page."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# The reference


def test_every_public_name_is_in_the_reference_once() -> None:
    shown = Counter(
        name
        for page in (DOCS / "api").glob("*.md")
        for name in re.findall(r"^::: dtheta\.(\w+)", page.read_text(), re.M)
    )
    assert shown == Counter(dtheta.__all__)


# Verbs


def test_every_verb_has_a_place_where_it_is_explained() -> None:
    explained = re.findall(r"^### `(\w+)`: ", (DOCS / "how-to.md").read_text(), re.M)
    assert sorted(explained) == sorted(VERBS)


def _commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in SHELL.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.removeprefix("$ ")
                if line.startswith("dtheta "):
                    yield str(page.relative_to(DOCS)), line


@pytest.mark.parametrize("page", sorted({page for page, _ in _commands()}))
def test_commands_have_only_options_that_there_are(page: str) -> None:
    for line in [line for where, line in _commands() if where == page]:
        verb, *rest = shlex.split(line, comments=True)[1:]
        assert verb in VERBS, line
        module = verb
        if verb in ACTIONS:
            action, *rest = rest
            assert action in ACTIONS[verb], line
            module = f"{verb}_{action}"
        parse(import_module(f"dtheta.cli.{module}").Options, rest, verb, "")


# The map


def test_the_map_has_all_twelve_systems_with_verbs_and_files_that_there_are() -> None:
    systems = [row for row in _rows(DOCS / "map.md") if row[0].startswith("**")]
    assert len(systems) == 12
    for name, _, equation, verbs, files in systems:
        assert re.search(r"\d{4}\.\d{5}", name), name
        assert _code(equation), name
        assert _code(verbs) and set(_code(verbs)) <= set(VERBS), name
        assert _code(files), name
        assert [file for file in _code(files) if not (SOURCE / file).is_file()] == [], name


def test_files_of_the_source_that_pages_name_exist() -> None:
    named = {
        (page.name, path)
        for page in PAGES
        for path in re.findall(r"`((?:src|tests|bench|scripts)/[\w/.-]*\w)`", page.read_text())
    }
    assert named
    assert [(page, path) for page, path in sorted(named) if not (ROOT / path).exists()] == []


# Troubleshooting


def _template(node: ast.AST) -> str:
    """Return the text of a string, with {} where something is filled in; of f-strings and sums of strings as well."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "{}"
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_template, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left) + _template(node.right)
    return "{}"


def _texts() -> set[str]:
    """Return every string of the source as a template."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr | ast.BinOp) or (isinstance(node, ast.Constant) and node.value):
                found.add(re.sub(r"(\{\})+", "{}", " ".join(_template(node).split())))  # what is filled in, once
    return found


def test_every_message_in_troubleshooting_is_one_of_the_source() -> None:
    quoted = QUOTED.findall((DOCS / "troubleshooting.md").read_text())
    assert len(quoted) >= 25 and len(set(quoted)) == len(quoted)
    texts = "\n".join(_texts())
    # … stands for what is filled in
    wanted = {message: re.sub("…+", "{}", message) for message in quoted}
    assert [message for message, template in wanted.items() if template not in texts] == []
