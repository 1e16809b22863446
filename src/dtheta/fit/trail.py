"""Trail: digests of the batches of an epoch, by which a resumed run knows its data again.

    h_0 = "",   h_k = xxh3_128(h_(k-1), batch k)          so h_k speaks of all batches up to k, and of their order

Kept are the last h and those of every ``stride``-th batch. The stride is 1 until there are ``LIMIT`` of them; then
every other one goes and the stride doubles, so that a trail stays small however long the epoch is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dtheta.fit.batch import linked
from dtheta.fit.trainable import Batch

LIMIT = 1024  # even, so that the last mark stays when every other one goes


class Trail:
    """The digests of the batches so far.

    Attributes:
        count: Batches so far.
        stride: Batches from one mark to the next.
        last: h of the last batch, as hex.
        marks: h of every ``stride``-th batch.
    """

    def __init__(self) -> None:
        """Begin before the first batch."""
        self.count, self.stride = 0, 1
        self.last = ""
        self.marks: list[str] = []

    def add(self, batch: Batch) -> None:
        """Go on by one batch."""
        self.last = linked(self.last, batch)
        self.count += 1
        if self.count % self.stride == 0:
            self.marks.append(self.last)
        if len(self.marks) == LIMIT:
            self.marks, self.stride = self.marks[1::2], 2 * self.stride

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores."""
        return {"last": self.last, "marks": list(self.marks)}

    def difference(self, stored: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return between which batches, counted from 1, the first one differs from those of a trail of equal length.

        None says that all are equal. The two numbers are equal as long as the stride is 1.
        """
        for index, (found, expected) in enumerate(zip(self.marks, stored["marks"], strict=False)):
            if found != expected:
                return index * self.stride + 1, (index + 1) * self.stride
        return None if self.last == stored["last"] else (len(self.marks) * self.stride + 1, self.count)
