"""The site builds without a warning, holds every page, and loads nothing from another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

import dtheta

pytest.importorskip("material", reason="the extra 'docs' is not installed")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "mkdocs.yml"
# what a browser fetches by itself: not the targets of links
LOADED = re.compile(r"""<(?:script|img|iframe|source|audio|video|embed)\b[^>]*?\bsrc=["']?([^"'\s>]+)""")
LINKED = re.compile(r"<link\b[^>]*>")
IMPORTED = re.compile(r"""@import\s+(?:url\()?["']?([^"')\s]+)|url\(["']?(https?:[^"')]+|//[^"')]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning, such as a link that leads nowhere, fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(CONFIG), "-d", str(folder)]
    run = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def _pages(entries: object) -> list[str]:
    """Return the files that a navigation names, in order."""
    if isinstance(entries, str):
        return [entries]
    inner = entries.values() if isinstance(entries, dict) else entries
    return [page for entry in inner for page in _pages(entry)]  # type: ignore[union-attr]


def test_the_navigation_holds_every_page_once() -> None:
    named = _pages(yaml.safe_load(CONFIG.read_text())["nav"])
    docs = ROOT / "docs"
    assert sorted(named) == sorted(str(path.relative_to(docs)) for path in docs.rglob("*.md"))


def test_every_page_is_built(site: Path) -> None:
    named = _pages(yaml.safe_load(CONFIG.read_text())["nav"])
    assert [page for page in named if not (site / page).with_suffix(".html").is_file()] == []
    assert "class dtheta.PiSSA" not in (site / "api/adapt.html").read_text()  # a heading, and no raw directive
    assert ":::" not in (site / "api/adapt.html").read_text()


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    found = []
    for path in site.rglob("*.html"):
        text = path.read_text()
        links = [m[1] for tag in LINKED.findall(text) if (m := re.search(r"""href=["']?([^"'\s>]+)""", tag))]
        found += [(path.name, address) for address in [*LOADED.findall(text), *links] if _elsewhere(address)]
    for path in site.rglob("*.css"):
        found += [
            (path.name, str(match)) for match in IMPORTED.findall(path.read_text()) if any(map(_elsewhere, match))
        ]
    assert found == []


def _elsewhere(address: str) -> bool:
    return address.startswith(("http:", "https:", "//"))


def test_links_between_pages_lead_to_something(site: Path) -> None:
    texts = {path: path.read_text() for path in site.rglob("*.html") if path.name != "404.html"}
    anchors = {path: set(re.findall(r"""\bid=["']?([^"'\s>]+)""", text)) for path, text in texts.items()}
    lost = []
    for path, text in texts.items():
        for address in set(re.findall(r"""<a\b[^>]*?\bhref=["']?([^"'\s>]+)""", text)):
            if _elsewhere(address):
                continue
            target, _, anchor = unquote(address).partition("#")
            file = (path.parent / target).resolve() if target else path
            if not file.is_file() or (anchor and anchor not in anchors.get(file, ())):
                lost.append((str(path.relative_to(site)), address))
    assert lost == []


def test_every_public_name_has_a_place_in_the_reference(site: Path) -> None:
    pages = (path.read_text() for path in (site / "api").glob("*.html"))
    places = {place for text in pages for place in re.findall(r"""\bid=["']?(dtheta\.\w+)["'\s>]""", text)}
    assert [name for name in dtheta.__all__ if f"dtheta.{name}" not in places] == []
