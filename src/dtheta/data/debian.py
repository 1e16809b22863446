"""Data that comes as a Debian package: brought by apt without root, and only the wanted files kept.

Looked for, in this order: in the folders of ``$DTHETA_WHEELS``; where the installed package puts it; with ``apt-get
download`` on the machine's own package lists; and where there are none, on lists fetched into a private folder. Each
file is pinned by its own sha256, so the release of Debian does not matter.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dtheta.data.packages import find_local, last_line, verify
from dtheta.errors import FormatError, MissingExtra


@dataclass(frozen=True)
class DebianPackage:
    """One Debian package that carries data.

    Attributes:
        name: the package's name.
        version: the release that was examined; any release with the same files will do.
        installed: folder in which the package puts its files, absolute.
        digests: sha256 by file name; these files, and no others, are kept.
        size: bytes of the package, about.
        license: what is known of the license.
        content: what it carries, in a few words.
    """

    name: str
    version: str
    installed: str
    digests: dict[str, str]
    size: int
    license: str
    content: str

    def unpack(self, folder: Path) -> None:
        """Bring the package's files into ``folder`` and verify each.

        Raises:
            MissingExtra: the package cannot be had.
            FormatError: a file is not the one that was pinned.
        """
        with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
            found = self._local() or self._installed() or self._download(Path(aside))
            for filename, digest in self.digests.items():
                verify(found / filename, digest, f"{filename} of {self.name}")
                shutil.copyfile(found / filename, folder / filename)

    def _local(self) -> Path | None:
        paths = [find_local(filename) for filename in self.digests]
        return paths[0].parent if paths[0] is not None and None not in paths else None

    def _installed(self) -> Path | None:
        folder = Path(self.installed)
        return folder if all((folder / filename).is_file() for filename in self.digests) else None

    def _download(self, aside: Path) -> Path:
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise MissingExtra(self._unavailable("this machine has no apt-get and dpkg-deb"))
        package = find_local(f"{self.name}_*.deb") or self._from_apt(aside)
        run = _run(["dpkg-deb", "--extract", str(package), str(aside / "files")])
        if run.returncode:
            raise FormatError(f"{package.name} is not a readable Debian package: {last_line(run.stderr)}")
        return aside / "files" / self.installed.lstrip("/")

    def _from_apt(self, aside: Path) -> Path:
        run = self._apt(aside, [])
        if run.returncode:
            run = self._apt(aside, _private_lists(aside))
        if run.returncode:
            raise MissingExtra(self._unavailable(last_line(run.stderr)))
        return next(aside.glob(f"{self.name}_*.deb"))

    def _apt(self, aside: Path, options: list[str]) -> subprocess.CompletedProcess[str]:
        return _run(["apt-get", "--quiet", *_UNPRIVILEGED, *options, "download", self.name], cwd=aside)

    def _unavailable(self, why: str) -> str:
        return (
            f"cannot get the Debian package {self.name} ({self.content}): {why}. Install it (apt-get install "
            f"{self.name}), or put its files {', '.join(self.digests)} into a folder and set DTHETA_WHEELS to that "
            f"folder."
        )


_UNPRIVILEGED = ["-o", "APT::Sandbox::User="]  # apt would hand the download to a user who cannot see our folder


def _private_lists(aside: Path) -> list[str]:
    """Fetch apt's package lists into a folder of our own and return the options that make apt use them."""
    state, cache = aside / "state", aside / "cache"
    (state / "lists" / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    options = [
        "-o",
        f"Dir::State={state}",
        "-o",
        f"Dir::Cache={cache}",
        "-o",
        "Dir::State::status=/var/lib/dpkg/status",
    ]
    _run(["apt-get", "--quiet", *_UNPRIVILEGED, *options, "update"])
    return options


def _run(command: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
