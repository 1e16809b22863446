"""Paths as users write them: home folders, and files whose names only look like one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from dtheta.cli.places import require_input
from dtheta.compose.mergekit import read_plan
from dtheta.core.output import write_file, write_folder
from dtheta.core.paths import expanded
from dtheta.core.tensorfile import existing
from dtheta.errors import ConfigError
from dtheta.models.zoo import model_folder


def test_home_stands_for_the_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~") == tmp_path
    assert expanded("~/a/b.csv") == expanded(Path("~/a/b.csv")) == tmp_path / "a" / "b.csv"


def test_other_paths_are_as_they_are() -> None:
    for text in ("a/~/b", "/x/~y", "a~", "."):
        assert expanded(text) == Path(text)


def test_a_file_named_like_a_home_folder_is_that_file_for_good(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("~", "~x"):
        found = expanded(f"./{name}")
        assert found == expanded(found) == tmp_path / name


def test_nobody_has_no_home() -> None:
    with pytest.raises(ConfigError, match=r"no home of the user in .~nobody-here/x.; a file called so is \./~nobody"):
        expanded("~nobody-here/x")


def begun(write: Callable[[str], AbstractContextManager[Any]]) -> Callable[[str], Any]:
    return lambda path: write(path).__enter__()


@pytest.mark.parametrize("opened", [existing, begun(write_file), begun(write_folder), require_input, model_folder])
def test_whatever_takes_a_path_says_so(
    opened: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~nobody-here").mkdir()  # which is ./~nobody-here
    with pytest.raises(ConfigError, match="no home of the user"):
        opened("~nobody-here/x")
    assert not any((tmp_path / "~nobody-here").iterdir())


def test_a_merge_plan_says_it_with_everything_else_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("merge_method: linear\nmodels: [{model: ~nobody-here/x}, {model: gone}]\n")
    with pytest.raises(ConfigError, match=r"(?s)no home of the user in '~nobody-here/x'.*there is nothing at 'gone'"):
        read_plan(tmp_path / "plan.yaml")
