"""Progress of an archive: which chunks of members are written for which leads, one line a chunk in a journal.

    {"chunk": 3, "lead": 12, "digest": "..."}       digest: xxh3_128 over the bytes of all fields, in order

A line is written after the data that it speaks of, and in one piece; what a killed process left unfinished has no line,
or half of one, and does not count. Every process writes a journal of its own, so none waits for another.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xxhash


class Progress:
    """The journals of an archive.

    Attributes:
        folder: where they are.
        done: digest by (chunk, lead).
    """

    def __init__(self, folder: Path) -> None:
        """Read all journals."""
        self.folder = folder
        self.done: dict[tuple[int, int], str] = {}
        self._own = folder / f"{secrets.token_hex(6)}.jsonl"
        self.read()

    def read(self) -> None:
        """Take up what other processes have written meanwhile."""
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                try:
                    found = json.loads(line)
                    self.done[int(found["chunk"]), int(found["lead"])] = str(found["digest"])
                except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                    continue  # unfinished or damaged: that chunk counts as not written

    def add(self, chunk: int, lead: int, digest: str) -> None:
        """Write down that a chunk is complete at a lead."""
        line = json.dumps({"chunk": chunk, "lead": lead, "digest": digest}) + "\n"
        with self._own.open("ab") as handle:
            handle.write(line.encode())
            handle.flush()
            os.fsync(handle.fileno())
        self.done[chunk, lead] = digest


def content_digest(arrays: Iterable[np.ndarray]) -> str:
    """Return the digest of arrays, one after the other."""
    digest = xxhash.xxh3_128()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()
