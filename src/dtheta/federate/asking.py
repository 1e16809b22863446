"""Asking: who gets a task in a round, what is in it, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dtheta.core.seeds import generator, uniform
from dtheta.data.text import keyed_order
from dtheta.federate.engine import Engine
from dtheta.federate.frame import Frame
from dtheta.federate.message import Failure, Reply, Task
from dtheta.federate.party import identity
from dtheta.federate.plan import Plan, plain
from dtheta.federate.privacy import sampled
from dtheta.federate.server.admission import matched, refusal
from dtheta.federate.server.downlink import Downlink
from dtheta.federate.state import Pending, State
from dtheta.federate.traffic import Traffic


def ask(
    engine: Engine, plan: Plan, frame: Frame, state: State, number: int, traffic: Traffic
) -> tuple[list[str], list[Failure]]:
    """Send the tasks of a round, run them, and put what comes back under way.

    Returns:
        Who was asked, and why answers that nobody asked for do not count.
    """
    names = chosen(plan, engine.names, {one.task.client for one in state.pending}, number)
    tasks = [task_for(name, plan, frame, state.downlink, number) for name in names]
    unreached = {task.client: failure for task in tasks if (failure := traffic.down(task)) is not None}
    silent = {t.client: Failure(t.client, number, "dropped", "simulated") for t in tasks if drops(plan, t)}
    working = [task for task in tasks if task.client not in unreached and task.client not in silent]
    came, odd = matched(working, engine.run(working, plan.timeout) if working else [])
    answers: dict[str, Reply | Failure] = {
        task.client: _sent(came[task.client], task, frame, traffic) for task in working
    }
    answers |= silent | unreached
    for task in tasks:
        at = state.clock + duration(plan, task, traffic.seconds.get(task.client, 0.0))
        state.pending.append(Pending(at, replace(task, payloads=()), answers[task.client]))
    return names, odd


def _sent(answer: Reply | Failure, task: Task, frame: Frame, traffic: Traffic) -> Reply | Failure:
    """Return an answer as it arrives; what the channel would do for false claims, it is not asked."""
    refused = refusal(answer, task, frame) if isinstance(answer, Reply) else None
    return traffic.up(refused or answer, task)


def chosen(plan: Plan, clients: Sequence[str], busy: set[str], number: int) -> list[str]:
    """Return who is asked in a round, in the clients' own order; who is at work is not asked again."""
    if plan.privacy is not None:
        return sampled(clients, plan.sample, plan.privacy.seed(plan.seed), number)
    free = [name for name in clients if name not in busy]
    order = keyed_order(len(free), plan.seed, f"federate/{number}/sample")
    return [free[i] for i in sorted(order[: plan.at_work(len(clients)) - len(busy)])]


def task_for(client: str, plan: Plan, frame: Frame, down: Downlink, number: int) -> Task:
    """Return a client's task in a round."""
    origin, payloads = down.message(client)
    return Task(
        client=client,
        round=number,
        seed=plan.seed,
        frame=identity(frame),
        origin=origin,
        start=down.current.digest,
        version=down.current.number,
        oldest=down.versions[0].number,
        codec=plan.codec.to_dict(),
        downlink=plan.downlink.to_dict(),
        clip=None if plan.privacy is None else plan.privacy.clip,
        secure=plain(plan.secure) or {},
        payloads=payloads,
    )


def drops(plan: Plan, task: Task) -> bool:
    """Tell whether a client stays silent, as simulated."""
    drawn = uniform((), 0.0, 1.0, generator(plan.seed, f"federate/{task.round}/{task.client}/dropout"))
    return float(drawn) < plan.dropout


def duration(plan: Plan, task: Task, transfer: float) -> float:
    """Return how long an answer takes, as simulated; nothing where the server waits for all anyway."""
    if plan.asynchronous is None:
        return 0.0
    return transfer + plan.asynchronous.duration(task.client, task.round, plan.seed)
