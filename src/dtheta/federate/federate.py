"""federate: parties that keep their data train one delta.

    G_0 = 0
    round t:  the server tells G_t to the clients that it asks; each trains a fresh term on top and answers D_k
              D = joined answers, such as sum_k (n_k / N) D_k;   u = optimizer(D);   G_{t+1} = G_t + u

All D_k are deltas of the same base, so their mean is exact: of two low-rank answers it is the mean of the matrices and
not the product of mean factors. What travels is a delta in a codec, through a channel; every answer is checked before
it counts, and whoever fails is left out with a reason. Every draw is keyed by (seed, round, client), so a run repeats
to the bit, on any engine that computes alike; killed at any time and resumed it ends with the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from dtheta.core.arguments import number, whole
from dtheta.core.paths import expanded
from dtheta.errors import ConfigError
from dtheta.federate.asynchronous import Asynchronous
from dtheta.federate.channels.channel import Channel
from dtheta.federate.channels.registry import channel_of
from dtheta.federate.codecs import Codec, codec_of
from dtheta.federate.engine import Clients, Engine, InProcess
from dtheta.federate.federation import Federation
from dtheta.federate.loop import Loop
from dtheta.federate.plan import Plan
from dtheta.federate.privacy import Privacy
from dtheta.federate.processes import Processes
from dtheta.federate.secure.ternary import Secure
from dtheta.federate.server.aggregate import Mean
from dtheta.federate.server.server import Server


def federate(
    server: Server,
    clients: Clients | None = None,
    *,
    rounds: int,
    codec: str | Mapping[str, Any] | Codec = "dense",
    channel: str | Mapping[str, Any] | Channel = "classical",
    downlink: str | Mapping[str, Any] | Codec | None = None,
    sample: float = 1.0,
    dropout: float = 0.0,
    evaluate: Callable[[Any], Any] | None = None,
    evaluate_every: int = 1,
    asynchronous: Asynchronous | None = None,
    privacy: Privacy | None = None,
    secure: Secure | None = None,
    timeout: float | None = None,
    min_clients: int = 1,
    patience: int = 3,
    engine: Engine | None = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    seed: int = 0,
) -> Federation:
    """Train one delta over clients that keep their data.

    Args:
        server: The base, the method, and how answers become a step.
        clients: ``dt.Client`` each, with the server's method; or functions that make one, by name, for many. None where
            an engine has them.
        rounds: How many; of an asynchronous federation, updates of the global delta.
        codec: How answers travel: "dense", "exact", "ternary", "top-k", "sign", "low-rank", "amplitude", or
            a table with a name and fields. What a codec leaves out, its sender adds to the next answer.
        channel: What payloads travel through: "classical", or ``{"name": "quantum", "kilometers": 20}``.
        downlink: How updates of the global delta travel to clients; None for exactly. The server applies what clients
            will decode.
        sample: Share of the clients that is asked in a round, in (0, 1]; with ``privacy`` the probability of each.
        dropout: Probability that a client that was asked stays silent, in [0, 1).
        evaluate: (model with the global delta on it) -> number, or numbers by name.
        evaluate_every: Rounds from one evaluation to the next; the last round always has one.
        asynchronous: Go on as answers arrive; None for rounds.
        privacy: Clip answers and add noise; with the plain mean only.
        secure: Sum the answers so that the server sees none of them; they are ternary integers then, whatever ``codec``
            says, and all clients count alike.
        timeout: Seconds that a client has; each then runs in a process of its own, see ``Processes``.
        min_clients: Fewest answers with which a round counts; with fewer it is skipped.
        patience: Rounds skipped one after the other after which the federation is given up; asynchronously, as many
            answers in a row that do not count as there are in so many rounds.
        engine: What runs the clients; None for this process, or processes where there is a timeout.
        folder: Where each round's state is kept, whole at every moment; None keeps none.
        resume: Go on from the folder if something is in it; ``rounds`` may be larger than before, and no fewer than
            the folder holds; all else must be the same.
        seed: Of every draw.

    Returns:
        The global delta, the history, and figures.

    Raises:
        ConfigError: For an argument that cannot be meant, a resume of another federation, or a folder that holds one.
        FederationFailed: If ``patience`` rounds in a row had too few answers, or no answer counted in any round; the
            folder keeps what there is.
        DthetaError: As ``evaluate``, and the method on the server's model.
    """
    if not isinstance(server, Server):
        raise ConfigError(f"server is {server!r:.80}; expected dt.Server(model, method)")
    held = _engine(clients, engine, timeout)
    plan = Plan(
        rounds=whole(rounds, "rounds", least=1),
        codec=codec_of(codec),
        channel=channel_of(channel),
        downlink=codec_of("exact" if downlink is None else downlink),
        sample=_share(sample, "sample", 0.0, 1.0, low_open=True),
        dropout=_share(dropout, "dropout", 0.0, 1.0, low_open=False),
        evaluate_every=whole(evaluate_every, "evaluate_every", least=1),
        asynchronous=asynchronous,
        privacy=privacy,
        secure=secure,
        timeout=None if timeout is None else number(timeout, "timeout"),
        min_clients=whole(min_clients, "min_clients", least=1),
        patience=whole(patience, "patience", least=1),
        seed=whole(seed, "seed"),
    )
    _check(plan, server, held, folder, resume)
    path = None if folder is None else expanded(folder)
    return Loop(server, held, plan, evaluate, path).run(resume)


def _engine(clients: Clients | None, engine: Engine | None, timeout: float | None) -> Engine:
    if (clients is None) == (engine is None):
        raise ConfigError("give clients, or an engine that has them; one of the two")
    if engine is not None:
        return engine
    assert clients is not None
    return InProcess(clients) if timeout is None else Processes(clients)


def _share(value: Any, what: str, low: float, high: float, low_open: bool) -> float:
    found = number(value, what)
    if not (low < found <= high if low_open else low <= found < high):
        raise ConfigError(f"{what} is {found}; expected a share in {'(0, 1]' if low_open else '[0, 1)'}")
    return found


def _check(plan: Plan, server: Server, engine: Engine, folder: Any, resume: bool) -> None:
    if resume and folder is None:
        raise ConfigError("resume needs the folder of the run to go on with: give folder=...")
    if plan.timeout is not None and plan.timeout <= 0:
        raise ConfigError(f"timeout is {plan.timeout}; expected seconds above zero")
    if plan.downlink.drawn:
        raise ConfigError(
            f"downlink {plan.downlink.name!r}: every client would draw another global delta from it; take one whose "
            "outcome both sides know, such as 'ternary'"
        )
    if plan.asynchronous is not None and plan.min_clients > 1:
        raise ConfigError("an asynchronous update counts with its buffer full: leave min_clients out, or raise buffer")
    if plan.min_clients > len(engine.names):
        raise ConfigError(f"min_clients is {plan.min_clients}, and there are {len(engine.names)} clients")
    if server.aggregate.least > len(engine.names):
        raise ConfigError(f"{server.aggregate} needs {server.aggregate.least} clients; there are {len(engine.names)}")
    if plan.privacy is not None and (plan.asynchronous or not isinstance(server.aggregate, Mean)):
        raise ConfigError(
            "privacy is accounted for rounds and for the plain mean: leave asynchronous and aggregate out"
        )
    if plan.secure is not None and (plan.asynchronous or not isinstance(server.aggregate, Mean)):
        raise ConfigError("a secure sum gives a round's plain mean alone: leave asynchronous and aggregate out")
    if plan.privacy is not None and plan.min_clients > 1:
        raise ConfigError("with privacy no round may be skipped for who took part in it: leave min_clients out")
    if plan.privacy is not None and plan.privacy.noise and plan.privacy.delta * len(engine.names) >= 1:
        raise ConfigError(
            f"the delta of privacy is {plan.privacy.delta}, and there are {len(engine.names)} clients: to show one of "
            f"them whole would pass as private; take one well below {1 / len(engine.names):.2g}, such as 1e-5"
        )
    _check_reachable(plan, server, len(engine.names))


def _check_reachable(plan: Plan, server: Server, clients: int) -> None:
    """Raise if no round could ever have the answers that it needs."""
    at_work = plan.at_work(clients)
    if plan.asynchronous is not None:
        _check_buffer(plan.asynchronous.buffer, at_work, clients)
        asked, needed, advice = plan.asynchronous.buffer, server.aggregate.least, "raise asynchronous.buffer"
    elif plan.privacy is not None:  # each takes part by chance, so all may
        asked, needed, advice = clients, 1, ""
    else:
        asked, needed, advice = at_work, max(plan.min_clients, server.aggregate.least), "raise sample"
    if plan.secure is not None:
        needed = max(needed, plan.secure.threshold or 2)
    if asked < needed:
        advice = advice if asked < clients else "take more clients, or lower the threshold of secure"
        raise ConfigError(f"a round asks {asked} of {clients} clients and needs {needed} answers; {advice}")


def _check_buffer(buffer: int, at_work: int, clients: int) -> None:
    """Raise for an asynchronous buffer that never fills: every update would wait for all that are at work."""
    if buffer > at_work:
        more = "" if at_work == clients else ", or raise sample"
        raise ConfigError(
            f"asynchronous.buffer is {buffer}, and {at_work} of {clients} clients are at work at a time, so it never "
            f"fills; lower it to {at_work}, which waits for all of them{more}"
        )
