"""The loop of a federation: ask, wait, check, join, step, note; one round after the other, with or without waiting.

A round asks clients, and joins the answers that arrive. Where it waits for all, these are the answers to its own tasks;
asynchronously, those that arrive first, and the others stay under way. So the synchronous loop is the asynchronous one
with nothing left under way.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dtheta.core.delta import Delta
from dtheta.core.seeds import key
from dtheta.core.tensorfile import encode
from dtheta.errors import ConfigError, FederationFailed, FormatError
from dtheta.federate.asking import ask
from dtheta.federate.client import measured
from dtheta.federate.engine import Engine, InProcess
from dtheta.federate.federation import Federation
from dtheta.federate.frame import Frame
from dtheta.federate.history import Round
from dtheta.federate.joining import Arrived, joined, summed
from dtheta.federate.lock import held
from dtheta.federate.message import Failure, Reply, Task
from dtheta.federate.party import identity, with_basis
from dtheta.federate.plan import Plan
from dtheta.federate.secure.session import BelowThreshold
from dtheta.federate.server.admission import admitted
from dtheta.federate.server.downlink import Downlink
from dtheta.federate.server.server import Server
from dtheta.federate.state import Pending, State, check_new, load, save
from dtheta.federate.traffic import Traffic
from dtheta.fit.checkpoint import check_same_run


class Loop:
    """A federation under way."""

    def __init__(
        self, server: Server, engine: Engine, plan: Plan, evaluate: Callable[[Any], Any] | None, folder: Path | None
    ) -> None:
        """Make the frame and the beginning; nothing is asked or written yet."""
        self.server, self.engine, self.plan, self.evaluate, self.folder = server, engine, plan, evaluate, folder
        self.names = list(engine.names)
        self.template = server.template(plan.seed)
        self.frame = Frame.of(self.template)
        beginning = server.beginning(self.template, self.frame)
        self.state = State(Downlink(plan.downlink, self.frame, plan.seed, beginning))
        self.config = self._config()
        self._check_bound()

    def _check_bound(self) -> None:
        """Raise unless what a client adds to a secure sum is within the norm that the noise covers."""
        privacy, secure = self.plan.privacy, self.plan.secure
        if privacy is not None and secure is not None and secure.bound(self.frame) > privacy.clip:
            raise ConfigError(
                f"a client adds up to {secure.bound(self.frame):.4g} to the secure sum (scale sqrt(entries)), and the "
                f"noise covers clip={privacy.clip:.4g}; lower scale or density, or raise clip"
            )

    def _config(self) -> dict[str, Any]:
        own = getattr(self.engine, "config", dict)()
        config = {
            "server": self.server.to_dict(),
            "frame": identity(self.frame),
            "names": self.names,
            "clients": own,
            **self.plan.to_dict(),
        }
        return json.loads(encode(config))  # as a file has it

    def run(self, resume: bool) -> Federation:
        """Run to the last round and return the result."""
        with contextlib.nullcontext() if self.folder is None else held(self.folder):
            if self.folder is not None:
                self._open(self.folder, resume)
            else:
                self.engine.restore({}, [])
            return self._run()

    def _run(self) -> Federation:
        for number in range(len(self.state.history) + 1, self.plan.rounds + 1):
            self._round(number)
            self._give_up_or_go_on()
        self._require_learned()
        delta = with_basis(self._global(), self.server.model)
        return Federation(delta, tuple(self.state.history), self.config, self.frame.numel)

    def _open(self, folder: Path, resume: bool) -> None:
        found = load(folder, self.state, self.server.model) if resume else None
        if found is None:
            check_new(folder)
            self.engine.restore({}, [])
            return
        check_same_run(self.config, found.config, folder)
        if (done := len(found.state.history)) > self.plan.rounds:
            raise ConfigError(
                f"{folder} holds {done} rounds, and rounds is {self.plan.rounds}: what was learned since is not taken "
                f"back; give rounds={done} for what it holds, more to go on, or another folder to start anew"
            )
        self.state = found.state
        self.engine.restore(found.residuals, found.known)
        if not isinstance(self.engine, InProcess):
            self.state.downlink.known.clear()  # clients elsewhere may have lost what they knew: they get all of it

    def _give_up_or_go_on(self) -> None:
        patience = self.plan.most_skipped(len(self.names))
        last = self.state.history[-patience:]
        if len(last) == patience and all(row.skipped is not None for row in last):
            raise FederationFailed(
                f"round {last[-1].round}: {len(last)} rounds in a row were skipped {_why(last)}. See what the clients "
                "say, or raise timeout; with fewer min_clients begin in another folder"
            )

    def _require_learned(self) -> None:
        rows = self.state.history
        if not any(row.answered and row.skipped is None for row in rows):  # with privacy, noise alone is no result
            raise FederationFailed(f"no answer counted in {len(rows)} rounds, so nothing was learned {_why(rows)}")

    def _round(self, number: int) -> None:
        began = time.perf_counter()
        traffic = Traffic(self.plan.channel, self.plan.seed)
        asked, failed = ask(self.engine, self.plan, self.frame, self.state, number, traffic)
        arrived, more = self._arrivals()
        failed += more
        stale = self._staleness(arrived)  # before the step, which makes every answer one update older
        skipped, norm, left = self._step(arrived, number, traffic)
        failed += left
        out = {one.client for one in left}
        arrived = [one for one in arrived if one.reply.client not in out]
        row = Round(
            number, asked, [one.reply.client for one in arrived], {one.client: str(one) for one in failed}, skipped,
            traffic.replies, traffic.bits_up, traffic.bits_down, traffic.qubits, self._scores(number),
            self._metrics(arrived), norm, stale, traffic.qber, self._epsilon(number),
            transfer=traffic.slowest, seconds=time.perf_counter() - began,
        )  # fmt: skip
        self.state.history.append(row)
        if self.folder is not None:
            save(self.folder, self.state, self.config, self.engine.residuals())

    # wait and check

    def _arrivals(self) -> tuple[list[Arrived], list[Failure]]:
        """Take from what is under way what arrives in this round, and keep what counts."""
        under_way = sorted(self.state.pending, key=lambda one: (one.arrival, one.task.round, one.task.client))
        wanted = len(under_way) if self.plan.asynchronous is None else self.plan.asynchronous.buffer
        taken, self.state.pending = under_way[:wanted], under_way[wanted:]
        under_way.clear()
        self.state.clock = max([self.state.clock, *(one.arrival for one in taken)])
        arrived, failed = list[Arrived](), list[Failure]()
        taken.sort(key=lambda one: one.task.client, reverse=True)  # whatever the order of arrival, the same sum
        while taken:  # a payload is let go as soon as it is decoded
            found = self._checked(taken.pop())
            if isinstance(found, Failure):
                failed.append(found)
            else:
                arrived.append(found)
        return arrived, failed

    def _checked(self, one: Pending) -> Arrived | Failure:
        answer, down = one.answer, self.state.downlink
        if isinstance(answer, Failure):
            if answer.reason != "dropped":
                down.forgotten(answer.client)  # it may have come to know this version, or not
            return answer
        found = self._admitted(answer, one.task)
        if isinstance(found, Failure):
            down.forgotten(found.client)
            return found
        down.learned(answer.client, one.task.version)
        return Arrived(one.task, replace(answer, payloads=()), found)

    def _admitted(self, answer: Reply, task: Task) -> Delta | Failure:
        if self.plan.secure is None:
            return admitted(answer, task, self.frame, self.server.model)
        return Delta({}, self.frame.base)  # the delta itself stays with the client

    # join and step

    def _step(
        self, arrived: Sequence[Arrived], number: int, traffic: Traffic
    ) -> tuple[str | None, float, Sequence[Failure]]:
        """Move the global delta; return why not, how far, and who left meanwhile."""
        plan, left = self.plan, list[Failure]()
        least = max(plan.min_clients if plan.asynchronous is None else 1, self.server.aggregate.least)
        if plan.secure is not None:
            least = max(least, plan.secure.threshold or 2)
        if len(arrived) < least and (plan.privacy is None or plan.secure is not None):
            return f"{len(arrived)} answers, {least} needed", 0.0, left
        if plan.secure is None:
            missed = [self._missed(one) for one in arrived]
            delta = joined(self.server.aggregate, plan, self.frame, arrived, missed, len(self.names), number)
        else:
            try:
                delta, left = summed(self.engine, plan.secure, plan, self.frame, arrived, number, traffic)
            except (BelowThreshold, FormatError) as error:
                return f"no secure sum: {error}", 0.0, left
        step, self.state.optimizer = self.server.optimizer.step(delta, self.state.optimizer, self.frame)
        self.state.downlink.advance(step)
        return None, step.norm(), left

    def _missed(self, one: Arrived) -> int:
        return self.state.downlink.current.number - one.task.version

    # note

    def _staleness(self, arrived: Sequence[Arrived]) -> float:
        return sum(map(self._missed, arrived)) / len(arrived) if arrived else 0.0

    def _metrics(self, arrived: Sequence[Arrived]) -> dict[str, float]:
        """Return means by examples of the metrics that all answers have."""
        if not arrived:
            return {}
        total = sum(one.reply.examples for one in arrived)
        shared = set.intersection(*(set(one.reply.metrics) for one in arrived))
        means = {
            name: sum(one.reply.metrics[name] * (one.reply.examples / total) for one in arrived)
            for name in sorted(shared)
        }
        return {name: mean for name, mean in means.items() if math.isfinite(mean)}  # liars may claim any number

    def _scores(self, number: int) -> dict[str, float]:
        due = number % self.plan.evaluate_every == 0 or number == self.plan.rounds
        if self.evaluate is None or not due:
            return {}
        drawn = key(self.plan.seed, "federate/evaluate", number)
        with self.server.with_delta(self._global()) as called:
            return measured(self.evaluate, called, self.server.model, drawn, "evaluate")

    def _global(self) -> Delta:
        return self.server.labeled(self.state.downlink.delta, self.template)

    def _epsilon(self, number: int) -> float | None:
        if self.plan.privacy is None or not self.plan.privacy.noise:
            return None
        return self.plan.privacy.epsilon(number, self.plan.sample)


def _why(rows: Sequence[Round]) -> str:
    """Return why the last of some rounds was skipped, and what clients said in the last in which one failed."""
    told = next((row.excluded for row in reversed(rows) if row.excluded), {})
    said = "; ".join(f"{name} {reason}" for name, reason in list(told.items())[:3]) or "no client failed"
    return f"({rows[-1].skipped or 'nobody answered'}): {said}"
