"""Debian packages: brought without root, from wherever they can be had, and verified file by file."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess

import pytest

from dtheta.data.debian import DebianPackage
from dtheta.errors import FormatError, MissingExtra

CONTENT = b"some images"


@pytest.fixture
def package(tmp_path):
    return DebianPackage(
        name="dataset-toy",
        version="1.0",
        installed=str(tmp_path / "usr" / "share" / "toy"),
        digests={"toy.gz": hashlib.sha256(CONTENT).hexdigest()},
        size=1,
        license="none",
        content="a toy",
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def no_tools(tmp_path, monkeypatch):
    """A PATH on which neither apt-get nor dpkg-deb is found; returns the folder to put others into."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def _build_deb(package, folder):
    """A real .deb that holds the package's file, made by dpkg-deb."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("this machine has no dpkg-deb")
    root = folder / "root"
    place = root / package.installed.lstrip("/")
    place.mkdir(parents=True)
    (place / "toy.gz").write_bytes(CONTENT)
    (root / "DEBIAN").mkdir()
    control = (
        "Package: dataset-toy\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: t\n"
    )
    (root / "DEBIAN" / "control").write_text(control)
    deb = folder / "dataset-toy_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(deb)], check=True, capture_output=True)
    return deb


def test_the_installed_package_is_used(package, folder, tmp_path, no_tools):
    (tmp_path / "usr" / "share" / "toy").mkdir(parents=True)
    (tmp_path / "usr" / "share" / "toy" / "toy.gz").write_bytes(CONTENT)
    package.unpack(folder)
    assert (folder / "toy.gz").read_bytes() == CONTENT


def test_files_put_into_a_folder_by_hand_are_used(package, folder, tmp_path, no_tools, monkeypatch):
    (tmp_path / "toy.gz").write_bytes(CONTENT)
    monkeypatch.setenv("DTHETA_WHEELS", str(tmp_path))
    package.unpack(folder)
    assert (folder / "toy.gz").read_bytes() == CONTENT


def test_a_changed_file_is_refused(package, folder, tmp_path, no_tools, monkeypatch):
    (tmp_path / "toy.gz").write_bytes(b"others")
    monkeypatch.setenv("DTHETA_WHEELS", str(tmp_path))
    with pytest.raises(FormatError, match=r"toy\.gz of dataset-toy"):
        package.unpack(folder)


def test_without_apt_the_message_says_what_to_do(package, folder, no_tools):
    with pytest.raises(MissingExtra, match=r"no apt-get.*apt-get install dataset-toy.*DTHETA_WHEELS"):
        package.unpack(folder)


def test_a_deb_put_into_a_folder_is_unpacked(package, folder, tmp_path, monkeypatch):
    _build_deb(package, tmp_path)
    monkeypatch.setenv("DTHETA_WHEELS", str(tmp_path))
    package.unpack(folder)
    assert [path.name for path in folder.iterdir()] == ["toy.gz"]


@pytest.mark.parametrize("lists", ["there", "missing"])
def test_apt_is_asked_and_then_asked_with_lists_of_our_own(package, folder, tmp_path, monkeypatch, lists):
    deb = _build_deb(package, tmp_path)
    (tmp_path / "bin").mkdir()
    log = tmp_path / "log"
    fake = f"""#!/bin/sh
echo "$*" >> {log}
case "$*" in
  *Dir::State=*download*) cp {deb} . ;;
  *download*) test {lists} = there && cp {deb} . || {{ echo "E: Unable to locate package" >&2; exit 100; }} ;;
esac
"""
    (tmp_path / "bin" / "apt-get").write_text(fake)
    (tmp_path / "bin" / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    package.unpack(folder)
    assert (folder / "toy.gz").read_bytes() == CONTENT
    verbs = [line.split()[-1] if "download" not in line else "download" for line in log.read_text().splitlines()]
    assert verbs == (["download"] if lists == "there" else ["download", "update", "download"])


def test_what_apt_does_not_find_is_named_with_its_reason(package, folder, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for tool in ("apt-get", "dpkg-deb"):
        (tmp_path / "bin" / tool).write_text(
            "#!/bin/sh\necho 'E: Unable to locate package dataset-toy' >&2\nexit 100\n"
        )
        (tmp_path / "bin" / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(MissingExtra, match="Unable to locate package dataset-toy"):
        package.unpack(folder)
