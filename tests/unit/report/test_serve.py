"""A folder of deltas served to this machine: pages, changes on disk, damage, and what is refused."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError
from dtheta.report.serve import HOST, Folder, server

Ask = Callable[..., tuple[int, str]]


def delta(seed: int) -> Delta:
    return Delta({"w": Dense(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)))})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    delta(0).save(tmp_path / "a b.delta")
    delta(1).save(tmp_path / "in" / "c.delta")
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path


@pytest.fixture
def ask(folder: Path) -> Iterator[Ask]:
    with server(Folder(folder)) as listening:
        port = listening.server_address[1]
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()

        def request(place: str, method: str = "GET", host: str | None = None) -> tuple[int, str]:
            connection = http.client.HTTPConnection(HOST, port, timeout=30)
            connection.request(method, place, headers={} if host is None else {"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        yield request
        listening.shutdown()
        thread.join()


def test_the_folder_and_each_delta_have_a_page(ask: Ask) -> None:
    status, page = ask("/")
    assert status == 200 and "2 deltas" in page and 'href="/delta/a%20b"' in page and 'href="/delta/in/c"' in page
    status, page = ask("/delta/a%20b")
    assert status == 200 and "<h1>a b</h1>" in page and 'href="/"' in page
    assert ask("/delta/in/c?x=1")[0] == 200


def test_what_changes_on_disk_changes_on_the_page(ask: Ask, folder: Path) -> None:
    assert "2 deltas" in ask("/")[1]
    delta(2).save(folder / "new.delta")
    (folder / "in" / "c.delta").write_bytes(b"nonsense")
    status, page = ask("/")
    assert status == 200 and "2 deltas" in page and "Not read" in page and "in/c" in page
    assert ask("/delta/in/c")[0] == 404
    (folder / "new.delta").unlink()
    assert ask("/delta/new")[0] == 404


def test_angles_are_taken_once_as_long_as_their_files_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    cosine = Delta.cosine

    def counted(self: Delta, other: Delta) -> float:
        taken.append(1)
        return cosine(self, other)

    monkeypatch.setattr(Delta, "cosine", counted)
    served = Folder(folder)
    first = served.page("/")
    assert len(taken) == 1 and served.page("/") is first and len(taken) == 1
    delta(2).save(folder / "new.delta")
    second = served.page("/")
    assert len(taken) == 3  # the pairs of the new one alone
    assert second is not None and second.html() == Folder(folder).page("/").html()  # type: ignore[union-attr]
    taken.clear()
    delta(3).save(folder / "new.delta")
    third = served.page("/")
    assert len(taken) == 2 and third.html() == Folder(folder).page("/").html() != second.html()  # type: ignore[union-attr]
    (folder / "new.delta").unlink()
    assert served.page("/").html() == first.html()  # type: ignore[union-attr]


def test_a_file_that_takes_the_name_of_another_is_seen_though_it_is_as_large_and_as_old(folder: Path) -> None:
    served, files = Folder(folder), [folder / "a b.delta", folder / "in" / "c.delta"]
    for file in files:
        os.utime(file, ns=(10**18, 10**18))
    assert files[0].stat().st_size == files[1].stat().st_size
    served.page("/delta/a b")
    files[1].replace(files[0])
    assert served.page("/delta/a b").html() == Folder(folder).page("/delta/a b").html()  # type: ignore[union-attr]


def test_an_empty_folder_says_so(ask: Ask, folder: Path) -> None:
    for file in folder.rglob("*.delta"):
        file.unlink()
    status, page = ask("/")
    assert status == 200 and "There are no deltas" in page


@pytest.mark.parametrize(
    "place",
    ["/secret.txt", "/delta/../secret.txt", "/delta/%2e%2e/secret", "/delta/", "/delta", "//delta/a", "/favicon.ico"],
)
def test_nothing_but_deltas_is_served(ask: Ask, place: str) -> None:
    status, page = ask(place)
    assert status == 404 and "secret</" not in page.replace("secret.txt</p>", "")


def test_only_get_from_this_machine_by_its_name(ask: Ask) -> None:
    assert ask("/", "POST")[0] == 501
    for host, status in (("evil.example", 403), ("localhost", 200), ("127.0.0.1.evil.example", 403), ("", 403)):
        assert ask("/", host=host)[0] == status


def test_markup_in_a_place_is_escaped(ask: Ask) -> None:
    assert "<script>" not in ask("/<script>alert(1)</script>")[1]


def test_a_page_that_cannot_be_made_says_why(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ConfigError("a is said to be made of itself")

    monkeypatch.setattr("dtheta.report.serve.delta_page", fails)
    status, page = ask("/")
    assert status == 500 and "made of itself" in page


def test_a_file_is_no_folder_and_a_taken_port_is_told(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        Folder(folder / "a b.delta")
    with server(Folder(folder)) as first, pytest.raises(ConfigError, match="--port 0 takes a free one"):
        server(Folder(folder), first.server_address[1])
    with pytest.raises(ConfigError, match="port 70000"):
        server(Folder(folder), 70000)


@pytest.mark.parametrize("place", ["/", "/delta/a%20b"])
def test_a_page_does_not_need_what_another_request_read_meanwhile(
    place: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = Folder._contents

    def then_emptied(self: Folder) -> object:
        found = contents(self)
        self._read = {}  # as a request leaves it that finds the folder empty
        return found

    monkeypatch.setattr(Folder, "_contents", then_emptied)
    page = Folder(folder).page(place)
    assert page is not None and "a b" in page.html()
