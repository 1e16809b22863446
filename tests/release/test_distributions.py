"""The wheel holds the package, all of it and nothing else; the source distribution makes the same wheel."""

from __future__ import annotations

import email
import subprocess
import tarfile
import tomllib
import zipfile
from email.message import Message
from hashlib import sha256
from pathlib import Path

import pytest
from markdown import markdown

from dtheta import __version__
from tests.release.conftest import ROOT, hatchling

SOURCE = ROOT / "src"
LEFTOVERS = ("__pycache__", ".pyc", ".nbi", ".nbc", ".egg-info", ".ruff_cache", ".hypothesis", "_runs.jsonl")


def contents(wheel: Path) -> dict[str, str]:
    """Return the digest of every file of a wheel but the record of them."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("RECORD")]
        return {name: sha256(archive.read(name)).hexdigest() for name in names}


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_holds_every_file_of_the_package_as_it_is(wheel: Path) -> None:
    found = {name: digest for name, digest in contents(wheel).items() if ".dist-info/" not in name}
    files = [path for path in SOURCE.rglob("*") if path.is_file() and not any(mark in str(path) for mark in LEFTOVERS)]
    assert found == {str(path.relative_to(SOURCE)): sha256(path.read_bytes()).hexdigest() for path in files}
    data = {Path(name).suffix for name in found} - {".py"}
    assert {".safetensors", ".delta", ".tsv", ".j2", ".css", ".js", ".json", ".jsonl", ".md", ".typed"} <= data


def test_nothing_else_is_in_the_distributions(wheel: Path, sdist: Path) -> None:
    tops = {name.split("/")[0] for name in contents(wheel)}
    assert tops == {"dtheta", f"dtheta-{__version__}.dist-info"}
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    held = {name.split("/")[1] for name in names}
    assert held <= {
        "src", "tests", "scripts", "bench", "docs", "mkdocs.yml", "README.md", "CHANGELOG.md", "LICENSE", "PKG-INFO",
        "constraints.txt", "Makefile", "pyproject.toml", ".gitignore",
    }  # fmt: skip
    assert not [name for name in [*names, *contents(wheel)] if any(mark in name for mark in LEFTOVERS)]


def test_the_source_distribution_holds_what_git_has_of_its_folders(sdist: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is no checkout")
    command = ["git", "ls-files", "src", "tests", "bench", "docs"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    with tarfile.open(sdist) as archive:
        held = {name.split("/", 1)[1] for name in archive.getnames()}
    assert not [name for name in listed.stdout.splitlines() if (ROOT / name).is_file() and name not in held]


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    hatchling(tree, "-t", "wheel", "-d", str(tmp_path / "again"))
    (again,) = (tmp_path / "again").glob("*.whl")
    assert again.name == wheel.name and contents(again) == contents(wheel)


def test_the_metadata_say_what_the_project_says(metadata: Message) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (metadata["Name"], metadata["Version"]) == ("dtheta", __version__)
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra") or []) == set(project["optional-dependencies"])
    required = [need for need in metadata.get_all("Requires-Dist") or [] if "extra ==" not in need]
    assert sorted(required) == sorted(project["dependencies"])


def test_the_readme_is_the_description_and_renders(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    body = metadata.get_payload(decode=True)
    assert isinstance(body, bytes) and body.decode().strip() == (ROOT / "README.md").read_text().strip()
    page = markdown(body.decode(), extensions=["fenced_code", "tables"])
    assert page.startswith("<h1>dtheta</h1>") and "<table>" in page
    assert page.count("<pre>") == body.decode().count("\n```") / 2


def test_the_command_is_an_entry_point(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        points = archive.read(f"dtheta-{__version__}.dist-info/entry_points.txt").decode()
    assert points.split() == ["[console_scripts]", "dtheta", "=", "dtheta.cli.main:main"]
