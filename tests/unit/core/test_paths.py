"""Paths as users write them: home folders, and files whose names only look like one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtheta.core.paths import expanded
from dtheta.errors import ConfigError


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
