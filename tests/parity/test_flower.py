"""Flower as an engine: the same bits as in one process, and every failure with a reason.

flwr pins what other packages here need in other versions, so these tests have an environment of their own:
``make test-flower``.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import dtheta as dt
from dtheta.errors import ConfigError
from dtheta.federate.client import Client, Update
from dtheta.federate.message import Failure, Reply, Task

pytest.importorskip("flwr", reason="make test-flower")

from dtheta.federate.flower import FlowerEngine, LocalGrid, client_app, envelope, server_app
from dtheta.federate.flower.memory import Memory
from dtheta.federate.flower.package import Error, Message, RecordDict
from dtheta.federate.frame import Frame
from dtheta.federate.party import Knowledge, Stale
from tests.parity.flower_app import CLIENTS, client, federate, make, model


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def on_grid(grid, work, clients=CLIENTS):
    """Run ``work(engine)`` as a ServerApp, and return what it returns."""
    found = []
    grid.run_app(server_app(lambda engine, context: found.append(work(engine)), clients, wait=5.0))
    return found[0]


def grid_of(make_client=make, count=CLIENTS, **config):
    return LocalGrid(client_app(make_client), count, config)


class Raises(Client):
    def train(self, global_delta, round, seed) -> Update:
        raise RuntimeError("out of luck")


@pytest.mark.parametrize(
    "settings",
    [
        {"codec": "dense"},
        {"codec": "ternary", "sample": 0.6, "rounds": 4},
        {"codec": "ternary", "downlink": "ternary", "dropout": 0.3, "rounds": 4},
    ],
    ids=["dense", "ternary", "both ways, with drop-outs"],
)
def test_a_grid_gives_the_bits_of_one_process(settings):
    here = federate(clients=[client(i) for i in range(CLIENTS)], **settings)
    there = on_grid(grid_of(), lambda engine: federate(engine=engine, **settings))
    assert there.delta.digest == here.delta.digest
    assert there.scores == here.scores
    same = [name for name in here.figures if name != "seconds"]
    assert [there.figures[name] for name in same] == [here.figures[name] for name in same]
    assert len(here.delta) > 0


def test_names_keep_the_order_that_is_given_and_nodes_may_come_in_any():
    order = [f"c{i}" for i in (3, 0, 2, 1)]
    here = federate(clients=[client(i) for i in (3, 0, 2, 1)], sample=0.5)
    turned = grid_of(lambda context: client(3 - int(context.node_config["partition-id"])), 4)
    there = on_grid(turned, lambda engine: (list(engine.names), federate(engine=engine, sample=0.5)), order)
    assert there[0] == order
    assert there[1].delta.digest == here.delta.digest
    assert on_grid(grid_of(count=4), lambda engine: list(engine.names), 4) == sorted(order)


def test_one_engine_runs_a_second_federation_as_a_first():
    first, second = on_grid(grid_of(count=3), lambda engine: [federate(engine=engine) for _ in range(2)], 3)
    assert first.delta.digest == second.delta.digest


def test_a_killed_server_resumes_with_the_same_bits(tmp_path):
    straight = on_grid(grid_of(count=4), lambda engine: federate(engine=engine, rounds=4), 4)
    grid = grid_of(count=4)

    def killed(net):
        calls.append(net)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 0.0

    calls = []
    settings = {"rounds": 4, "folder": tmp_path / "f", "evaluate": killed}
    with pytest.raises(KeyboardInterrupt):
        on_grid(grid, lambda engine: federate(engine=engine, **settings), 4)
    resumed = on_grid(grid, lambda engine: federate(engine=engine, resume=True, **settings), 4)
    assert resumed.delta.digest == straight.delta.digest
    assert [row.excluded for row in resumed.history] == [{}] * 4


def test_what_goes_wrong_at_a_client_is_a_reason():
    def parties(context):
        i = int(context.node_config["partition-id"])
        return client(i, Raises if i == 1 else Client)

    found = on_grid(grid_of(parties, 3), lambda engine: federate(engine=engine, rounds=1), 3)
    assert found.history[0].excluded == {"c1": "died: RuntimeError: out of luck"}
    assert found.history[0].answered == ["c0", "c2"]


class Faulty(LocalGrid):
    """A grid whose tasks end as ``turned`` says: (message, reply) -> reply, or None for none at all."""

    turned = staticmethod(lambda message, reply: reply)

    def _reply(self, message):
        reply = super()._reply(message)
        return self.turned(message, reply) if message.metadata.message_type == "train" else reply

    def pull_messages(self, message_ids):
        return [found for found in super().pull_messages(message_ids) if found is not None]


def asked(grid, turned=None, timeout=None, before=lambda engine: None):
    """Ask the one client of a grid, and return its answer."""

    def work(engine):
        before(engine)
        grid.turned = turned or grid.turned
        return engine.run([task("c0")], timeout)[0]

    return on_grid(grid, work, 1)


def task(name, **settings):
    return Task(name, 1, 0, "frame", codec={"name": "dense"}, downlink={"name": "exact"}, **settings)


def one_node():
    return Faulty(client_app(make), 1)


@pytest.mark.parametrize(("code", "reason"), [(2, "died"), (3, "lost"), (4, "hung"), (5, "died"), (8, "died")])
def test_flowers_errors_are_reasons(code, reason):
    found = asked(one_node(), lambda message, reply: Message(Error(code, "it says why"), reply_to=message))
    assert found == Failure("c0", 1, reason, f"Flower's error {code}: it says why")


def test_who_does_not_answer_in_time_hangs():
    assert asked(one_node(), lambda message, reply: None, timeout=0.05) == Failure(
        "c0", 1, "hung", "no answer after 0.05 s"
    )


def test_a_node_that_leaves_has_died(monkeypatch):
    monkeypatch.setattr("dtheta.federate.flower.engine._LOOK", 0.0)
    grid = one_node()
    leaves = asked(grid, lambda message, reply: grid.contexts.clear())
    assert leaves == Failure("c0", 1, "died", "its SuperNode has gone")
    grid = one_node()
    assert asked(grid, before=lambda engine: grid.contexts.clear()).detail == "its SuperNode is not connected"


def test_a_message_that_flower_does_not_take_is_lost(monkeypatch):
    grid = one_node()
    found = asked(grid, before=lambda engine: monkeypatch.setattr(grid, "push_messages", lambda messages: [None]))
    assert found == Failure("c0", 1, "lost", "Flower did not take the message")


@pytest.mark.parametrize(
    "content",
    [
        envelope.content({"message": Failure("c1", 1, "nan").to_bytes()}),
        envelope.content({"message": task("c0").to_bytes()}),
        envelope.content({"message": b"noise"}),
        RecordDict(),
    ],
    ids=["in the name of another", "a task", "noise", "nothing"],
)
def test_an_answer_that_is_none_is_corrupted(content):
    assert asked(one_node(), lambda message, reply: Message(content, reply_to=message)).reason == "corrupted"


def test_a_node_that_is_started_again_takes_its_name_and_catches_up():
    grid = grid_of(count=3)

    def restarted(net):
        calls.append(net)
        if len(calls) == 2:
            old = grid.contexts.pop(2)
            grid.contexts[99] = type(old)(old.run_id, 99, old.node_config, RecordDict(), old.run_config)
        return 0.0

    calls = []
    found = on_grid(grid, lambda engine: federate(engine=engine, rounds=4, evaluate=restarted), 3)
    assert [sorted(row.excluded) for row in found.history] == [[], [], ["c0"], []]
    assert found.history[2].excluded["c0"].startswith("stale: ")


def test_clients_that_cannot_begin_are_told():
    def broken(context):
        raise OSError("no such file: rows.csv")

    with pytest.raises(ConfigError, match=r"0 of 2 clients are there; a node says: OSError: no such file: rows.csv"):
        on_grid(grid_of(broken, 2), lambda engine: None, 2)
    with pytest.raises(ConfigError, match=r"make_client returned 3; expected dt.Client"):
        on_grid(grid_of(lambda context: 3, 1), lambda engine: None, 1)
    with pytest.raises(ConfigError, match=r"two nodes are client 'c0'; give every SuperNode its own"):
        on_grid(grid_of(lambda context: client(0), 2), lambda engine: None, 2)
    for wanted, words in [(3, "2 of 3 clients are there"), (["c0", "x"], "these clients are not there: x")]:
        grid = grid_of(count=2)
        late = server_app(lambda engine, context: None, wanted, wait=0.05)
        with pytest.raises(ConfigError, match=words):
            grid.run_app(late)
    for wanted in ([], "c0", ["a", "a"], 0):
        with pytest.raises(ConfigError):
            FlowerEngine(grid_of(count=1), wanted)


def test_a_client_keeps_its_name():
    calls = []

    def renamed(context):
        calls.append(context)
        return client(len(calls) - 1)

    found = on_grid(grid_of(renamed, 1), lambda engine: engine.run([task("c0")])[0], 1)
    assert found == Failure("c0", 1, "died", "this is client 'c1'; the task is for 'c0'")


def test_a_secure_sum_is_refused_before_anyone_works():
    def work(engine):
        with pytest.raises(ConfigError, match="secure sums take clients"):
            engine.run([task("c0", secure={"density": 0.1})])
        with pytest.raises(ConfigError, match="secure sums take clients"):
            engine.secure(None, None, {})
        return engine.residuals()

    assert on_grid(grid_of(count=1), work, 1) == {}


def test_memory_gives_back_what_was_before_a_round_that_is_asked_again():
    net = model()
    template = client(0).template(net)
    frame, known = Frame.of(template), Knowledge()
    start, before, after = (scale * template + other for scale, other in [(1.0, moved(net, i)) for i in range(3)])
    known.learn(4, start)
    held = Memory(6, 4, start, None, before).then(asks(7, start), reply(7), known, after)
    state = RecordDict()
    held.write(state, frame)
    read = Memory.read(state, frame)
    assert (read.round, read.version, read.start.digest) == (7, 4, start.digest)
    assert read.residual(8).digest == after.digest
    assert read.residual(7).digest == before.digest
    with pytest.raises(Stale, match="has answered round 7 already, and is asked for round 6"):
        read.residual(6)
    failed = read.then(asks(8, start), Failure("c0", 8, "nan"), known, None)
    assert (failed.round, failed.residual(8).digest) == (7, after.digest)
    Memory().write(state, frame)
    assert Memory.read(state, frame) == Memory()


def moved(net, i):
    """A delta of the client's frame, drawn by i."""
    return client(0).train(dt.Delta({}, client(0).template(net).base), i, i).delta


def asks(round, start):
    return Task("c0", round, 0, "frame", start=start.digest)


def reply(round):
    return Reply("c0", round, "frame", "", 1)


def test_a_local_grid_leaves_no_identity_behind():
    from flwr.supercore.task_identity import TaskIdentity

    grid = grid_of(count=1)
    on_grid(grid, lambda engine: None, 1)
    assert (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id) == (None, None, None)
    with pytest.raises(ConfigError, match="a local grid has no run"):
        _ = grid.run


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "flower.md").read_text()
    blocks = re.findall(r"```py\n(.*?)```", page, flags=re.DOTALL)
    held = {}
    for block in blocks:
        exec(compile(block, "docs/flower.md", "exec"), held)
    assert "hospital-7" in capsys.readouterr().out
    LocalGrid(held["client"], 8).run_app(held["server"])
    assert len(dt.load("global.delta")) == 2
