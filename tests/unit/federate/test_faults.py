"""Clients that fail in every way: each is left out with a reason, and the round goes on without it."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from typing import Any

import pytest
import torch

from dtheta.adapt.full import Full
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.errors import ConfigError, FederationFailed
from dtheta.federate import codecs
from dtheta.federate.asynchronous import Asynchronous
from dtheta.federate.channels.channel import Channel, Delivery
from dtheta.federate.client import Client, Update
from dtheta.federate.engine import InProcess
from dtheta.federate.federate import federate
from dtheta.federate.message import Reply, Task
from dtheta.federate.party import cap_of
from dtheta.federate.payload import Payload
from dtheta.federate.privacy import Privacy
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
    data = change(payload.data)
    return [dataclasses.replace(reply, payloads=(dataclasses.replace(payload, data=data, bits=8 * len(data)),))]


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


def test_a_task_for_a_client_goes_by_its_name(tmp_path):
    net = model()
    task = Task("nobody", 1, 0, "f")
    (answer,) = InProcess(clients(net)).run([task])
    assert answer.reason == "died" and "nobody" in answer.detail
    assert os.listdir(tmp_path) == [] and isinstance(Full(), Full)


def _claiming(**claims: Any) -> Any:
    return lambda r: [dataclasses.replace(r, payloads=(dataclasses.replace(r.payloads[0], **claims),))]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_claiming(copies=1), "corrupted: a payload of"),
        (_claiming(qubits=5), "corrupted: a payload of"),
        (_claiming(mixed=1), "corrupted: a payload of"),
        (_claiming(bits=1 << 61), "corrupted: a payload of"),
        (_claiming(bits=1), "corrupted: a payload of"),
        (lambda r: [dataclasses.replace(r, payloads=r.payloads * 9)], "corrupted: it has 9 payloads"),
    ],
)
@pytest.mark.parametrize(
    "line", [{"name": "classical", "bandwidth": 1e6}, {"name": "quantum", "kilometers": 0}], ids=str
)
def test_false_claims_of_what_travels_neither_count_nor_end_the_federation(change, why, line):
    net = model()
    found = _run(clients(net, 3), net, _forged(change), channel=line)
    assert _why(found).startswith(why)
    assert [row.replies for row in found.history] == [2, 2]


@pytest.mark.parametrize("claims", [{"copies": None}, {"copies": 1 << 60}, {"copies": 3}, {"qubits": 0}, {"mixed": 2}])
def test_false_claims_of_a_state_are_left_out(claims):
    net = model()
    line = {"name": "quantum", "kilometers": 0}
    settings = {"channel": line, "codec": {"name": "amplitude", "shots": 50}}
    assert _why(_run(clients(net, 3), net, _forged(_claiming(**claims)), **settings)).startswith(
        "corrupted: a state of"
    )
    assert not any(row.excluded for row in _run(clients(net, 3), net, **settings).history)


def test_metrics_beyond_what_a_mean_holds_are_left_out_of_the_history():
    net = model()
    most = _forged(lambda r: [dataclasses.replace(r, examples=1 << 40, metrics={"loss": 1.7e308, "loss_before": 1})])
    found = _run(clients(net, 3), net, most)
    assert not any(row.excluded for row in found.history) and found.to_json()
    assert all(abs(row.metrics["loss"]) <= 1.8e308 for row in found.history)


def _enormous(delta: Delta) -> Delta:
    def grown(_: str, old: Any) -> Any:
        rows, columns = (old.shape[0], 1) if len(old.shape) == 1 else old.shape
        factors = torch.full((rows, 1), 1e30), torch.full((1, columns), 1e30)
        return LowRank(*factors, full_shape=tuple(old.shape)) if len(old.shape) > 1 else Dense(old.dense())

    return delta.map(grown)


def _huge(delta: Delta) -> Delta:
    return delta.map(lambda _, old: Dense(torch.full(tuple(old.shape), 3e38)))


@pytest.mark.parametrize("turned", [_enormous, _huge])
def test_numbers_that_a_sum_could_not_hold_do_not_end_the_federation(turned):
    net = model()
    kind = type("Odd", (Lies,), {"turned": staticmethod(turned)})
    found = _run(_with(_bad(kind, net), net), net, codec="exact", rounds=3)
    assert _why(found).startswith("nan: its delta has the norm")


class Mismeasures(Client):
    """Answers with what no message can hold."""

    told: Any = None

    def train(self, global_delta: Delta, round: int, seed: int) -> Update:
        return dataclasses.replace(super().train(global_delta, round, seed), **type(self).told)


@pytest.mark.parametrize(
    "told", [{"metrics": {"loss": float("nan")}}, {"examples": "many"}, {"metrics": {"x": object()}}]
)
@pytest.mark.parametrize("engine", [InProcess, Processes])
def test_an_answer_that_no_message_can_hold_is_a_failure_of_its_client(told, engine):
    net = model()
    kind = type("Odd", (Mismeasures,), {"told": told})
    assert _why(_run(_with(_bad(kind, net), net), net, engine)).split(":")[0] in ("died", "corrupted")


def test_the_processes_of_clients_leave_ctrl_c_to_the_server():
    net = model()
    kind = type("Interrupted", (Lies,), {"turned": staticmethod(lambda d: os.kill(os.getpid(), signal.SIGINT) or d)})
    found = _run(_with(_bad(kind, net), net), net, Processes)
    assert not any(row.excluded for row in found.history)


def test_a_federation_in_which_nothing_counted_fails_and_keeps_its_folder(tmp_path):
    net = model()
    with pytest.raises(
        FederationFailed, match=r"no answer counted in 2 rounds.*0 answers, 1 needed.: c0 died: Runtime"
    ):
        federate(server(net), clients(net, 3, kind=Dies), rounds=2, folder=tmp_path / "f")
    assert (tmp_path / "f" / "state.json").exists()
    with pytest.raises(FederationFailed, match=r"no answer counted in 1 rounds.*nobody answered"):
        federate(server(net), clients(net, 3, kind=Dies), rounds=1, privacy=Privacy(clip=1.0, noise=0.0))


def test_asynchronous_patience_is_that_of_as_many_answers_as_rounds_have():
    net = model()
    settings = {"asynchronous": Asynchronous(), "patience": 2, "rounds": 40}
    found = federate(server(net), clients(net, 4), dropout=0.5, **settings)
    rows = [row.skipped is None for row in found.history]
    assert any(rows[i : i + 3] == [False] * 3 for i in range(38))  # that alone would have ended it
    with pytest.raises(FederationFailed, match="8 rounds in a row"):
        federate(server(net), clients(net, 4, kind=Dies), **settings)
