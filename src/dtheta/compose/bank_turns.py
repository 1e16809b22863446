"""Turns: one thread at a time shows experts on a model, and blocks end in the reverse order of their beginnings.

What a model shows is one state that all threads see. A thread that enters a block waits until the others left theirs.
One that shows an expert without a block cannot be waited for, so others are refused until it shows the base again.
Concurrent tasks of one thread (asyncio) cannot wait for each other; blocks of theirs that overlap are noticed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dtheta.errors import ConfigError


@dataclass(eq=False)
class Block:
    """A block in which an expert is shown; ``before`` is what is shown after it."""

    before: str | None


class Turns:
    """Who may change what a model shows.

    Attributes:
        lock: Held by the thread whose turn it is; also for what only needs the experts to stay what they are.
    """

    def __init__(self, shown: Callable[[], str | None]) -> None:
        """Make turns for a bank; ``shown`` says what its model shows just now."""
        self.lock = threading.RLock()
        self._shown = shown
        self._depth = 0
        self._holder: threading.Thread | None = None
        self._blocks: list[Block] = []

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Run a block in which no other thread changes what is shown; others wait.

        Raises:
            ConfigError: If another thread, still running, shows an expert without a block.
        """
        with self.lock:
            holder, name = self._holder, self._shown()
            if name is not None and holder is not threading.current_thread() and holder and holder.is_alive():
                raise ConfigError(
                    f"thread {holder.name!r} shows {name!r} by bank.switch, which another thread cannot wait for: use "
                    "'with bank.using(name)' in all threads, or bank.switch(None) in that one"
                )
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    self._holder = None if self._shown() is None else threading.current_thread()

    def begin(self, before: str | None) -> Block:
        """Say that a block begins, after which ``before`` is to be shown."""
        self._blocks.append(Block(before))
        return self._blocks[-1]

    def end(self, block: Block) -> str | None:
        """Say that a block ends, and return what is to be shown now.

        Raises:
            ConfigError: If one that began later is open, which then shows afterwards what this one should have.
        """
        at = self._blocks.index(block)
        del self._blocks[at]
        if at < len(self._blocks):
            self._blocks[at].before = block.before
            raise ConfigError(
                "a block of the bank ended while another, begun inside of it, was open, so the model did not show what "
                "this one asked for: tasks that take turns in one thread need a bank and a model each, or bank.run"
            )
        return block.before
