"""The method of docs/contributing.md, installed outside of the project, is a method like any other."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import dtheta as dt
from dtheta.adapt.registry import method_class, method_names
from dtheta.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "contributing.md").read_text()


def _block(opening: str) -> str:
    found = re.search(rf"^```{opening}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert found, opening
    return found[1]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's file and its metadata on the path, as an installer would put them there."""
    project = tomllib.loads(_block("toml"))["project"]
    (group, points), *others = project["entry-points"].items()
    assert not others
    site = tmp_path / "site"
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (site / "dtheta_frozen.py").write_text(_block('python title="dtheta_frozen.py"'))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {place}\n" for name, place in points.items()]
    (info / "entry_points.txt").write_text("".join([f"[{group}]\n", *lines]))
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield site
    sys.modules.pop("dtheta_frozen", None)


def test_an_outside_method_is_found_by_name_trains_and_trains_on(installed: Path, tmp_path: Path) -> None:
    assert "FrozenLoRA" in method_names()
    method = method_class("frozenlora")(rank=4)
    names = {"FrozenLoRA": type(method)}
    exec(_block("python"), names)
    base, delta = names["base"], names["delta"]

    delta.save(tmp_path / "frozen.delta")
    again = dt.attach(base, dt.load(tmp_path / "frozen.delta"))
    assert again.method == method
    assert [p.shape for p in again.trainable().values()] == [(16, 4)]
    assert again.delta().digest == delta.digest
    again.detach()


def test_a_delta_of_an_outside_method_applies_without_its_package(installed: Path, tmp_path: Path) -> None:
    names = {"FrozenLoRA": method_class("FrozenLoRA")}
    exec(_block("python"), names)
    names["delta"].save(tmp_path / "frozen.delta")
    sys.path.remove(str(installed))
    assert "FrozenLoRA" not in method_names()
    loaded = dt.load(tmp_path / "frozen.delta")
    with dt.applied(names["base"], 0.5 * loaded):
        pass
    assert dt.merge(names["base"], loaded) is not None
    sys.path.insert(0, str(installed))


def test_the_command_line_lists_and_trains_an_outside_method(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["methods", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)["methods"]}
    assert listed["FrozenLoRA"]["paper"] == "2308.03303"
    assert 0 < listed["FrozenLoRA"]["parameters"] < listed["LoRA"]["parameters"]

    small = ["--data", "bbc", "--n-train", "8", "--n-test", "8", "--steps", "2", "--max-length", "8", "--quiet"]
    assert main(["adapt", *small, "--method", "FrozenLoRA", "--rank", "4", "--out", "frozen.delta"]) == 0
    assert dt.load("frozen.delta").provenance.method == {"name": "FrozenLoRA", "rank": 4}
