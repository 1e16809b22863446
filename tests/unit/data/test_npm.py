"""npm packages: brought by ``npm pack``, verified, unpacked in part, and refused where they are not what was pinned."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from dtheta.data.npm import NpmPackage
from dtheta.errors import FormatError, MissingExtra

FILES = {"package/package.json": b"{}", "package/data/a.json": b"alpha", "package/data/b.json": b"beta"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def make_package(tmp_path):
    """Write a tarball into ``tmp_path/tarballs`` and return its pin; ``entries`` are put in after the files."""

    def make(entries=(), **changes):
        (tmp_path / "tarballs").mkdir(exist_ok=True)
        path = tmp_path / "tarballs" / "toy-1.0.0.tgz"
        with tarfile.open(path, "w:gz") as tarball:
            for name, content in FILES.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tarball.addfile(info, io.BytesIO(content))
            for info in entries:
                tarball.addfile(info, io.BytesIO(b"x" * info.size))
        fields = {
            "name": "toy",
            "version": "1.0.0",
            "filename": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
            "members": ("package/data/*",),
            "license": "none",
            "content": "a toy",
        }
        return NpmPackage(**{**fields, **changes})

    return make


@pytest.fixture
def local(tmp_path, monkeypatch):
    monkeypatch.setenv("DTHETA_WHEELS", str(tmp_path / "tarballs"))


@pytest.fixture
def fake_npm(tmp_path, monkeypatch):
    """An ``npm`` on an otherwise empty PATH that logs its arguments and then runs the given line of shell."""

    def make(line):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "npm").write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/log\n{line}\n')
        (tmp_path / "bin" / "npm").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    return make


def _entry(name, kind=tarfile.REGTYPE, size=0, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, target
    return info


def test_unpacks_only_the_wanted_members(make_package, folder, local):
    make_package().unpack(folder)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == ["package/data/a.json", "package/data/b.json"]
    assert (folder / "package/data/b.json").read_bytes() == b"beta"


def test_npm_brings_it_without_scripts(make_package, folder, tmp_path, fake_npm):
    package = make_package()
    fake_npm(f'for last; do :; done; /bin/cp {tmp_path}/tarballs/toy-1.0.0.tgz "$last"')
    package.unpack(folder)
    assert (folder / "package/data/a.json").read_bytes() == b"alpha"
    asked = (tmp_path / "log").read_text().split()
    assert asked[:3] == ["pack", "toy@1.0.0", "--ignore-scripts"]


def test_what_npm_cannot_bring_is_named_with_its_reason(make_package, folder, fake_npm):
    package = make_package()
    fake_npm("echo 'npm error code ETARGET\nnpm error notarget No matching version found for toy@1.0.0.' >&2; exit 1")
    with pytest.raises(MissingExtra, match=r"toy 1\.0\.0 .*through npm: notarget No matching.*DTHETA_WHEELS"):
        package.unpack(folder)
    assert not list(folder.iterdir())


def test_an_npm_that_brings_nothing(make_package, folder, fake_npm):
    package = make_package()
    fake_npm("exit 0")
    with pytest.raises(MissingExtra, match="no reason was given"):
        package.unpack(folder)


def test_without_npm_the_message_says_what_to_do(make_package, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra, match=r"no npm\. Install npm .*toy-1\.0\.0\.tgz into a folder .*DTHETA_WHEELS"):
        make_package().unpack(folder)


def test_another_tarball_than_the_pinned_one_is_refused(make_package, folder, local):
    with pytest.raises(FormatError, match="not the file that was pinned"):
        make_package(sha256="0" * 64).unpack(folder)
    assert not list(folder.iterdir())


def test_inner_files_are_verified_too(make_package, folder, local):
    with pytest.raises(FormatError, match=r"a\.json"):
        make_package(digests={"package/data/a.json": "0" * 64}).unpack(folder)


@pytest.mark.parametrize("name", ["package/data/../../../evil", "/package/data/evil", "package/data/..\\evil"])
def test_members_that_would_escape_are_refused(make_package, folder, tmp_path, local, name):
    with pytest.raises(FormatError, match="outside its folder"):
        make_package([_entry(name, size=4)], members=("*evil",)).unpack(folder)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(make_package, folder, local, kind):
    entry = _entry("package/data/c.json", kind, target="package/package.json")
    with pytest.raises(FormatError, match=r"link or device .*c\.json"):
        make_package([entry]).unpack(folder)


@pytest.mark.parametrize("keep", [0, 40, 120])
def test_a_file_that_is_no_tarball(make_package, folder, tmp_path, local, keep):
    make_package()
    path = tmp_path / "tarballs" / "toy-1.0.0.tgz"
    content = path.read_bytes()[:keep] or b"no gzip at all"
    package = make_package(sha256=hashlib.sha256(content).hexdigest())
    path.write_bytes(content)
    with pytest.raises(FormatError, match="not a readable tarball"):
        package.unpack(folder)
