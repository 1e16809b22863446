"""A writer killed at any point leaves the old file or the new one, and is done again with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hardening.writers import WRITERS, Writer, content

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are copies of this one")
_POINTS = 5


def _events(run: Callable[[], object]) -> int:
    """Count the calls that a writer makes, of Python and of C: the points at which it is killed."""
    count = 0

    def see(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(see)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def _killed(run: Callable[[], object], at: int) -> bool:
    """Run in a copy of this process that is killed, by the signal that nobody can catch, at its ``at``-th call."""
    child = os.fork()
    if not child:
        left = at

        def see(*_: object) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(see)
        run()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("name", WRITERS)
def test_killed_anywhere(name: str, tmp_path: Path) -> None:
    writer = WRITERS[name]
    straight, old = _straight(writer, tmp_path / "straight")
    points = _events(lambda: writer.write(_begun(writer, tmp_path / "count"), 1))
    draw = random.Random(name)
    last = [points - draw.randrange(1, min(points, 60)) for _ in range(_POINTS)]  # where it is put in place
    for number, at in enumerate([*(draw.randrange(1, points) for _ in range(_POINTS)), *last]):
        folder = _begun(writer, tmp_path / f"cut{number}")
        _killed(lambda folder=folder: writer.write(folder, 1), at)
        left = content(folder / writer.name)
        if writer.name != "x.runs.jsonl":  # whose file grows: a line that is cut off does not count
            assert left in (old, straight), f"killed at call {at} of {points}"
        if left is not None:
            writer.read(folder)
        if writer.replaces or left is None:
            writer.write(folder, 1)
        assert content(folder / writer.name) == straight


def _begun(writer: Writer, folder: Path) -> Path:
    folder.mkdir()
    writer.before(folder)
    if writer.replaces:
        writer.write(folder, 0)
    return folder


def _straight(writer: Writer, folder: Path) -> tuple[dict[str, bytes] | None, dict[str, bytes] | None]:
    """Return what is there after both versions, and after the first."""
    old = content(_begun(writer, folder) / writer.name)
    writer.write(folder, 1)
    assert content(folder / writer.name) != old
    return content(folder / writer.name), old
