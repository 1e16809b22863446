"""Limits around a piece of code: memory that it may take, processor time after which it counts as hung."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

_STATUS = Path("/proc/self/statm")


@contextlib.contextmanager
def address_space(extra: int) -> Iterator[None]:
    """Let this process reserve at most ``extra`` bytes more than it has; torch's and NumPy's memory counts, too."""
    if resource is None or not _STATUS.exists():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(_STATUS.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def file_size(largest: int) -> Iterator[None]:
    """Let no file grow beyond ``largest`` bytes: the next write of it fails as on a full disk."""
    assert resource is not None
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class Hung(BaseException):
    """A reader did not end; no reader can take this for an error of its own."""


@contextlib.contextmanager
def processor_time(seconds: float) -> Iterator[None]:
    """Raise `Hung` after so many seconds of this process's own time, many times what is needed."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise Hung(f"still running after {seconds} s of processor time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
