"""Serve: a folder of deltas in the browser of this machine: the family, the map, and a page a delta.

Pages are made when asked for, from what the folder then holds, and nothing is written. Of files that stay as they are
nothing is read or compared twice. The server listens on this machine alone, answers GET alone, serves the pages of this
file and no file, and refuses requests that name another host, as those of a foreign page that had its name point here
(DNS rebinding).
"""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import cast
from urllib.parse import quote, unquote, urlsplit

from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.errors import ConfigError, DthetaError
from dtheta.report.blocks import Cell, Column, Table, word
from dtheta.report.deltas import delta_page
from dtheta.report.page import Page, Section
from dtheta.report.survey import Angle, survey_of

HOST = "127.0.0.1"
_HOSTS = {"127.0.0.1", "localhost", "[::1]"}
_KICKER = "dtheta report --serve"
_Stamp = tuple[int, int, int, int]  # modified, bytes, changed (also by a rename, or by permissions), inode


@dataclass
class Folder:
    """The deltas of a folder and the folders in it, read when they change.

    Args:
        path: The folder.

    Raises:
        ConfigError: If it is no folder.
    """

    path: Path
    _read: dict[str, tuple[_Stamp, Delta | str]] = field(default_factory=dict)
    _angles: dict[tuple[str, str], Angle] = field(default_factory=dict)
    _whole: Page | None = None  # that of "/", as long as no file changes
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise ConfigError(f"{self.path} is no folder; 'dtheta report FILES' draws a page of files")

    def page(self, place: str) -> Page | None:
        """Return the page of a place: "/" of all, "/delta/NAME" of one; None where there is none."""
        with self._lock:  # two requests at once do not take the same angles twice
            deltas, broken = self._contents()
            if place == "/":
                self._whole = self._whole or self._all(deltas, broken)
                return self._whole
        name = unquote(place.removeprefix("/delta/"))
        if not place.startswith("/delta/") or name not in deltas:
            return None
        return _linked_home(delta_page(survey_of([(name, *deltas[name])]), kicker=_KICKER))

    def _contents(self) -> tuple[dict[str, tuple[Delta, int]], dict[str, str]]:
        """Return the deltas by name, each with the bytes of its file, and of what cannot be read, why."""
        there: dict[str, tuple[_Stamp, Delta | str]] = {}
        for file in sorted(self.path.rglob("*.delta")):
            name, stamp = file.relative_to(self.path).with_suffix("").as_posix(), _stamp(file)
            if stamp is None:  # gone meanwhile, or a link that leads nowhere
                continue
            known = self._read.get(name)
            there[name] = known if known is not None and known[0] == stamp else (stamp, _loaded(file))
        self._forget({name for name in {*there, *self._read} if there.get(name) is not self._read.get(name)})
        self._read = there
        deltas = {name: (found, stamp[1]) for name, (stamp, found) in there.items() if isinstance(found, Delta)}
        return deltas, {name: found for name, (_, found) in there.items() if isinstance(found, str)}

    def _forget(self, changed: set[str]) -> None:
        """Drop what was found out of files that have come, gone or changed."""
        if changed:
            self._whole = None
            self._angles = {pair: angle for pair, angle in self._angles.items() if changed.isdisjoint(pair)}

    def _all(self, deltas: dict[str, tuple[Delta, int]], broken: dict[str, str]) -> Page:
        if not deltas:
            text = f"There are no deltas in {self.path} yet; reload this page when there are."
            page = Page(self.path.resolve().name, text, [], _KICKER)
        else:
            entries = [(name, *found) for name, found in deltas.items()]
            page = delta_page(
                survey_of(entries, self._angles), {name: f"/delta/{quote(name)}" for name in deltas}, _KICKER
            )
        return _with_broken(page, broken)


def _stamp(file: Path) -> _Stamp | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ctime_ns, found.st_ino) if file.is_file() else None


def _loaded(file: Path) -> Delta | str:
    try:
        return load(file)
    except (DthetaError, OSError) as error:
        return str(error)


def _linked_home(page: Page) -> Page:
    back = Table("All deltas of the folder", [Column("Page")], [[Cell("all deltas", "all deltas", "/")]])
    return replace(page, sections=[*page.sections, Section("Folder", [back])])


def _with_broken(page: Page, broken: dict[str, str]) -> Page:
    if not broken:
        return page
    rows = [[word(name), word(why)] for name, why in broken.items()]
    left_out = Section("Not read", [Table("Files that are no whole deltas", [Column("File"), Column("Why")], rows)])
    return replace(page, sections=[*page.sections, left_out])


def server(folder: Folder, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of a folder, which listens already; ``serve_forever`` answers.

    Args:
        folder: What is served.
        port: 0 takes a free one; ``server_address`` tells which.

    Raises:
        ConfigError: If the port is taken or not ours to take.
    """

    class Handler(_Handler):
        page = staticmethod(folder.page)

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"port {port}: {error}; --port 0 takes a free one") from error


class _Handler(BaseHTTPRequestHandler):
    page: Callable[[str], Page | None]

    def do_GET(self) -> None:
        """Answer with a page."""
        if not self._is_local():
            self._answer(HTTPStatus.FORBIDDEN, "this server answers requests to 127.0.0.1 and localhost alone")
            return
        try:
            found = self.page(urlsplit(self.path).path)
        except DthetaError as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
            return
        if found is None:
            self._answer(HTTPStatus.NOT_FOUND, f"there is no page {self.path}; the page of the folder is /")
        else:
            self._send(HTTPStatus.OK, found.html().encode(errors="replace"))

    def _is_local(self) -> bool:
        host = self.headers.get("Host", "")
        return host.removesuffix(f":{cast(ThreadingHTTPServer, self.server).server_port}").lower() in _HOSTS

    def _answer(self, status: HTTPStatus, text: str) -> None:
        said = f"<!DOCTYPE html><title>{status.phrase}</title><p>{html.escape(text)}</p>"
        self._send(status, said.encode(errors="replace"))

    def _send(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: what is asked for is its reader's business."""
