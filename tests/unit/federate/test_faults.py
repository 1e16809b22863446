"""Clients that fail in every way: each is left out with a reason, and the round goes on without it."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

import pytest
import torch

from dtheta.adapt.full import Full
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, FederationFailed
from dtheta.federate import codecs
from dtheta.federate.channels.channel import Channel, Delivery
from dtheta.federate.engine import InProcess
from dtheta.federate.federate import federate
from dtheta.federate.message import Reply, Task
from dtheta.federate.party import cap_of
from dtheta.federate.payload import Payload
from dtheta.federate.processes import Processes
from tests.unit.federate.parties import Dies, Leaves, Lies, Sleeps, Vanishes, bits, clients, model, server


def _with(bad: Any, net: Any = None, count: int = 3) -> list[Any]:
    """Good clients, and one in place of the second."""
    good = clients(net, count)
    return [good[0], bad, *good[2:]]


def _bad(kind: type, net: Any, **settings: Any) -> Any:
    return clients(net, 2, kind=kind, **settings)[1]


def _why(found: Any) -> str:
    why = found.history[0].excluded["c1"]
    assert all(set(row.excluded) == {"c1"} and row.answered == ["c0", "c2"] for row in found.history)
    return why


def _run(parties: list[Any], net: Any, engine: Any = InProcess, **settings: Any) -> Any:
    return federate(server(net), engine=engine(parties), **{"rounds": 2} | settings)


def _nan(delta: Delta) -> Delta:
    return delta.map(lambda _, old: Dense(old.dense() * float("nan")))


def _other_shape(delta: Delta) -> Delta:
    return delta.map(lambda _, old: Dense(torch.ones(3)))


def _other_name(delta: Delta) -> Delta:
    return delta.rename(lambda name: f"x.{name}")


@pytest.mark.parametrize(
    ("turned", "why"), [(_nan, "nan"), (_other_shape, "shape"), (_other_name, "shape")], ids=lambda v: str(v)[:12]
)
def test_what_does_not_fit_is_left_out(turned, why):
    net = model()
    kind = type("Odd", (Lies,), {"turned": staticmethod(turned)})
    found = _run(_with(_bad(kind, net), net), net)
    assert _why(found).startswith(f"{why}: ")
    assert bits(found.delta) == bits(_run([c for c in clients(net, 3) if c.name != "c1"], net).delta)


@pytest.mark.parametrize(("kind", "what"), [(Dies, "RuntimeError: out of luck"), (Leaves, "SystemExit: 1")])
def test_a_client_that_raises_or_exits_dies_alone(kind, what):
    net = model()
    assert _why(_run(_with(_bad(kind, net), net), net)) == f"died: {what}"


def test_a_client_that_diverges_is_left_out():
    net = model()
    why = _why(_run(_with(_bad(Dies.__base__, net, lr=1e30, steps=8, clip=None, optimizer="sgd"), net), net))
    assert why.startswith("nan: step")


def test_a_client_with_another_base_is_left_out():
    net = model()
    assert _why(_run(_with(_bad(Dies.__base__, model(1)), net), net)).startswith("base: ")


def test_a_client_that_cannot_be_made_is_left_out():
    net = model()
    good = clients(net, 3)

    def fails() -> Any:
        raise OSError("no such data")

    made = {"c0": lambda: good[0], "c1": fails, "c2": lambda: good[2]}
    assert _why(_run(made, net)) == "died: OSError: no such data"


def test_a_process_that_ends_without_a_word_is_noticed():
    net = model()
    found = _run(_with(_bad(Vanishes, net), net), net, Processes)
    assert _why(found) == "died: its process ended with code 7"


def test_a_client_that_hangs_is_ended_and_left_out():
    net = model()
    began = time.monotonic()
    found = federate(server(net), _with(_bad(Sleeps, net), net), rounds=2, timeout=1.5)
    assert _why(found).startswith("hung: no answer after 1.")
    assert time.monotonic() - began < 60
    with pytest.raises(ConfigError, match="nothing in one process can end a client that hangs"):
        InProcess(clients(net)).run([], timeout=1.0)


class Forger(InProcess):
    """An engine whose second client's answer is changed on its way."""

    changed: Any = staticmethod(lambda reply: [reply])

    def run(self, tasks: Any, timeout: Any = None) -> Any:
        found = []
        for answer in super().run(tasks, timeout):
            found += type(self).changed(answer) if answer.client == "c1" else [answer]
        return found


def _forged(change: Any) -> type[Forger]:
    return type("Forged", (Forger,), {"changed": staticmethod(change)})


def _data(reply: Reply, change: Any) -> list[Reply]:
    (payload,) = reply.payloads
    return [dataclasses.replace(reply, payloads=(dataclasses.replace(payload, data=change(payload.data)),))]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: [], "hung: no answer came"),
        (lambda r: [dataclasses.replace(r, round=r.round + 1)], "stale: it answers round"),
        (lambda r: [dataclasses.replace(r, start="0" * 64)], "stale: it trained from another global delta"),
        (lambda r: [dataclasses.replace(r, frame="0" * 64)], "base: its base, method or selection"),
        (lambda r: [dataclasses.replace(r, examples=0)], "examples: it claims 0"),
        (lambda r: [dataclasses.replace(r, examples=1 << 60)], "examples: it claims"),
        (lambda r: [dataclasses.replace(r, payloads=())], "corrupted: it has 0 payloads"),
        (lambda r: _data(r, lambda d: b""), "corrupted: a payload of 0 bytes"),
        (lambda r: _data(r, lambda d: d[:-3]), "corrupted: a payload was damaged"),
        (lambda r: _data(r, lambda d: d[:40] + b"\xff" + d[41:]), "corrupted: a payload was damaged"),
        (lambda r: _data(r, lambda d: d + bytes(1 << 22)), "corrupted: a payload of 4,"),
    ],
)
def test_an_answer_that_is_none_is_left_out(change, why):
    net = model()
    assert _why(_run(clients(net, 3), net, _forged(change))).startswith(why)


@pytest.mark.parametrize("name", ["c0", "someone"])
def test_answers_that_nobody_asked_for_do_not_count(name):
    net = model()
    twice = _forged(lambda r: [r, dataclasses.replace(r, client=name, examples=10**9)])
    found = _run(clients(net, 3), net, twice)
    assert bits(found.delta) == bits(_run(clients(net, 3), net).delta)
    assert all(row.excluded[name].startswith("uninvited") for row in found.history)


def test_a_hostile_payload_allocates_no_more_than_its_cap():
    import tracemalloc

    net = model()
    frame = InProcess(clients(net))._frame(clients(net)[0])
    good = codecs.TopK(density=0.1).encode(clients(net)[0].train(Delta({}), 1, 0).delta, frame, seed=0, key="k")
    tracemalloc.start()
    for at in range(len(good.data)):
        hostile = Payload(good.data[:at] + b"\xff\xff\xff\x7f" + good.data[at + 4 :], good.bits)
        with pytest.raises(Exception, match=r".+"):
            codecs.TopK(density=0.1).decode(hostile, frame, cap=cap_of(frame), seed=0, key="k")
    assert tracemalloc.get_traced_memory()[1] < 4 * cap_of(frame)
    tracemalloc.stop()


class Forgetful(InProcess):
    """Clients that lose what they know of the global delta before the third round."""

    def run(self, tasks: Any, timeout: Any = None) -> Any:
        if tasks[0].round == 3:
            self._knowledge.versions.clear()
        return super().run(tasks, timeout)


def test_a_client_that_lost_the_global_delta_says_so_and_gets_all_of_it_next():
    net = model()
    found = _run(clients(net), net, Forgetful, rounds=5, downlink="ternary")
    rows = found.history
    assert all(why.startswith("stale: the updates are of a global delta") for why in rows[2].excluded.values())
    assert len(rows[2].excluded) == 4 and rows[2].skipped == "0 answers, 1 needed"
    assert not rows[3].excluded and rows[3].bits_down > 4 * rows[4].bits_down


class Damages(Channel):
    """Turns the last byte of what the second client sends or gets."""

    name = "damages"

    def send(self, payload: Payload, *, seed: int, key: str) -> Delivery:
        if "/c1/" not in key:
            return Delivery(payload)
        return Delivery(dataclasses.replace(payload, data=payload.data[:-1] + bytes([payload.data[-1] ^ 1])))


def test_damage_on_the_line_is_noticed_both_ways():
    net = model()
    found = _run(clients(net, 3), net, channel=Damages())
    whys = [row.excluded["c1"] for row in found.history]
    assert whys[0].startswith("corrupted: a payload was damaged") and "did not arrive as it was sent" in whys[1]


def test_a_channel_on_which_someone_listens_is_given_up():
    net = model()
    line = {"name": "quantum", "kilometers": 1, "eavesdropper": {"name": "intercept-resend", "share": 1.0}}
    with pytest.raises(FederationFailed, match=r"3 rounds in a row were skipped \(0 answers, 1 needed\)"):
        _run(clients(net, 3), net, channel=line, rounds=9)
    quiet = _run(clients(net, 3), net, channel=line | {"eavesdropper": None})
    assert not any(row.excluded for row in quiet.history) and quiet.history[0].qber == 0.0
    assert quiet.figures["qubits"] > quiet.figures["bits_up"]


def test_too_few_answers_skip_the_round_and_too_many_such_rounds_end_it():
    net = model()
    parties = [*clients(net, 2), *clients(net, 4, kind=Dies)[2:]]
    with pytest.raises(FederationFailed, match=r"2 rounds in a row were skipped .2 answers, 3 needed.: c2 died"):
        _run(parties, net, min_clients=3, patience=2, rounds=5)
    found = _run(parties, net, min_clients=3, patience=3, rounds=2)
    assert not len(found.delta) and found.figures["skipped"] == 2
    assert all(row.skipped == "2 answers, 3 needed" for row in found.history)


def test_a_task_for_a_client_goes_by_its_name(tmp_path):
    net = model()
    task = Task("nobody", 1, 0, "f")
    (answer,) = InProcess(clients(net)).run([task])
    assert answer.reason == "died" and "nobody" in answer.detail
    assert os.listdir(tmp_path) == [] and isinstance(Full(), Full)
