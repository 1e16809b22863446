"""Flower simulated by Ray, and deployed on loopback: the bits of one process, and a SuperNode that is killed.

Slow for what it computes: a SuperNode starts a process for every task, and looks for tasks every three seconds.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="make test-flower")

from dtheta.federate.client import Client
from dtheta.federate.flower import server_app
from tests.parity import flower_app
from tests.parity.deployed import Deployment, kill, wait_for
from tests.parity.flower_app import client, client_side, federate

pytestmark = pytest.mark.slow
NODES = 3


class DiesInRound2(Client):
    def train(self, global_delta, round, seed):
        if round >= 2:
            raise RuntimeError("killed")
        return super().train(global_delta, round, seed)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flower")
    halts = folder / "halts"
    with Deployment(folder, Path(flower_app.__file__), DTHETA_CLIENTS=str(NODES), DTHETA_HALTS=str(halts)) as found:
        yield found


def test_a_deployment_gives_the_bits_of_one_process_and_outlives_a_killed_supernode(deployment):
    nodes = [deployment.node(i) for i in range(NODES)]
    first, second = deployment.folder / "first.json", deployment.folder / "second.json"
    deployment.run(first)
    found = deployment.result(first, 400)
    here = federate(clients=[client(i) for i in range(NODES)])
    assert found["delta"] == here.delta.digest
    assert [row["excluded"] for row in found["history"]] == [{}] * 3

    kill(nodes[-1])
    halting = deployment.node(NODES - 1, halts=True)
    deployment.run(second)
    wait_for((deployment.folder / "halts").exists, 300, "second round")
    kill(halting)
    found = deployment.result(second, 400)
    excluded = [row["excluded"] for row in found["history"]]
    assert [list(row) for row in excluded] == [[], ["c2"], ["c2"]]
    assert all(row["c2"].startswith("died: ") for row in excluded[1:])
    dying = [client(i, DiesInRound2 if i == NODES - 1 else Client) for i in range(NODES)]
    assert found["delta"] == federate(clients=dying).delta.digest


def test_a_simulation_gives_the_bits_of_one_process(monkeypatch, tmp_path):
    pytest.importorskip("ray", reason="make test-flower")
    for name, value in {"RAY_raylet_start_wait_time_s": "180", "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # where Ray's workers find the app
    from flwr.simulation import run_simulation

    found = []
    app = server_app(lambda engine, context: found.append(federate(engine=engine)), NODES, wait=120.0)
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(app, client_side, NODES, backend_config=resources)
    assert found[0].delta.digest == federate(clients=[client(i) for i in range(NODES)]).delta.digest
