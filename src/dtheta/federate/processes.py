"""Processes: a process for every task, forked from this one and ended at the deadline.

A fork shares the model and data with this process until someone writes to them, so it costs little; a client that
hangs, dies without a word or leaves its model in pieces takes only its own process with it. An answer does not depend
on how many run at a time. Two limits: a fork takes an operating system that has it (Linux), and a model on the CPU,
since accelerators do not survive one.

A client runs on one thread there; where this process uses more, results may differ from ``InProcess`` in their last
bits.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError
from dtheta.federate.engine import Clients, InProcess
from dtheta.federate.frame import Frame
from dtheta.federate.message import Failure, Reply, Task, message
from dtheta.federate.party import Left, from_own_bytes, own_bytes

_LARGEST = 1 << 31


class Processes(InProcess):
    """Clients in processes of their own.

    Args:
        clients: As for ``InProcess``.
        workers: Processes at a time.

    Raises:
        ConfigError: Where the operating system cannot fork.
    """

    def __init__(self, clients: Clients, workers: int = 1) -> None:
        super().__init__(clients)
        self._workers = whole(workers, "workers", least=1)
        if "fork" not in multiprocessing.get_all_start_methods():
            raise ConfigError("this system cannot fork processes; use dt.InProcess without a timeout, or Flower")
        self._context = multiprocessing.get_context("fork")

    def run(self, tasks: Sequence[Task], timeout: float | None = None) -> Sequence[Reply | Failure]:
        """Run the tasks, ``workers`` at a time; each has ``timeout`` seconds from its start."""
        waiting, running, answers = list(tasks), list[_Running](), dict[str, Reply | Failure]()
        try:
            while waiting or running:
                while waiting and len(running) < self._workers:
                    running.append(self._start(waiting.pop(0), timeout))
                for one in self._ended(running):
                    running.remove(one)
                    answers[one.task.client] = self._collect(one)
        finally:
            for one in running:
                one.end()
        return [answers[task.client] for task in tasks]

    def _start(self, task: Task, timeout: float | None) -> _Running:
        task = Task.from_bytes(task.to_bytes())
        frame = self._learned(task)
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=self._child, args=(task, frame, theirs), daemon=True)
        process.start()
        theirs.close()
        return _Running(task, process, ours, None if timeout is None else time.monotonic() + timeout, frame)

    def _learned(self, task: Task) -> Frame | None:
        """Bring the global delta up to date where every later process finds it; of trouble, the client tells."""
        try:
            frame = self._frame(self._client(task.client))
            self._knowledge.brought_up(task, frame)
            return frame
        except (Exception, SystemExit):
            return None

    def _child(self, task: Task, frame: Frame | None, pipe: Connection) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends its processes
        for sign in (signal.SIGTERM, signal.SIGHUP):  # the server's handler would unwind what is the server's
            if signal.getsignal(sign) is not signal.SIG_IGN:
                signal.signal(sign, signal.SIG_DFL)
        torch.set_num_threads(1)  # threads do not come along through a fork
        _, data, left = self._answered(task)
        pipe.send_bytes(data)
        pipe.send_bytes(b"" if left.residual is None or frame is None else own_bytes(left.residual, frame))
        pipe.send_bytes(b"" if left.vector is None else left.vector.to(torch.int8).numpy().tobytes())
        pipe.close()

    def _ended(self, running: Sequence[_Running]) -> list[_Running]:
        """Wait until something comes or a deadline passes; return who is done with."""
        deadlines = [one.deadline for one in running if one.deadline is not None]
        left = None if not deadlines else max(0.0, min(deadlines) - time.monotonic())
        ready: list[Any] = wait([one.pipe for one in running], left)
        now = time.monotonic()
        return [one for one in running if one.pipe in ready or (one.deadline is not None and one.deadline <= now)]

    def _collect(self, one: _Running) -> Reply | Failure:
        """Return an answer, and keep the client's residual; whatever else happened is a failure."""
        try:
            if not one.pipe.poll():
                seconds = f"{time.monotonic() - one.began:.1f} s"
                return Failure(one.task.client, one.task.round, "hung", f"no answer after {seconds}")
            answer, residual, vector = (one.pipe.recv_bytes(_LARGEST) for _ in range(3))
            integers = torch.frombuffer(bytearray(vector), dtype=torch.int8).int() if vector else None
            left_out = from_own_bytes(residual, one.frame) if residual and one.frame is not None else None
            self._keep(one.task.client, Left(left_out, integers))
            return message(answer)  # type: ignore[return-value]  # what the child sent is no task
        except (EOFError, OSError):
            one.process.join(1.0)
            code = one.process.exitcode
            return Failure(one.task.client, one.task.round, "died", f"its process ended with code {code}")
        finally:
            one.end()


class _Running:
    """A process at work."""

    def __init__(
        self, task: Task, process: BaseProcess, pipe: Connection, deadline: float | None, frame: Frame | None
    ) -> None:
        self.task, self.process, self.pipe, self.deadline, self.frame = task, process, pipe, deadline, frame
        self.began = time.monotonic()

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
