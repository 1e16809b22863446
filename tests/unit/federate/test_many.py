"""A thousand clients in bounded memory: made when they are asked, and gone after they have answered."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import weakref

import torch
from torch import nn

from dtheta.adapt.full import Full
from dtheta.federate.client import Client
from dtheta.federate.engine import InProcess
from dtheta.federate.federate import federate
from dtheta.federate.server.server import Server

WIDTH = 256


def _model():
    return nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False)).requires_grad_(False)


def _loss(net, x):
    return net(x).square().mean()


class Makers:
    """Counts how many clients are alive."""

    def __init__(self, net):
        self.net, self.alive, self.most = net, weakref.WeakSet(), 0

    def __call__(self, index):
        def make():
            draws = torch.Generator().manual_seed(index)
            data = [torch.randn(4, WIDTH, generator=draws)]
            one = Client(f"c{index}", self.net, data, Full(), steps=1, loss=_loss, schedule="constant")
            self.alive.add(data[0])
            self.most = max(self.most, len(self.alive))
            return one

        return make


def run(count, rounds, sample):
    net = _model()
    makers = Makers(net)
    engine = InProcess({f"c{i}": makers(i) for i in range(count)})
    found = federate(Server(net, Full()), engine=engine, rounds=rounds, sample=sample)
    gc.collect()
    return found, makers, engine


def test_clients_live_no_longer_than_their_answer():
    found, makers, engine = run(1000, 3, 0.01)
    assert [len(row.answered) for row in found.history] == [10, 10, 10] and not any(r.excluded for r in found.history)
    assert makers.most <= 3 and len(makers.alive) <= 1
    assert len(engine._knowledge.versions) == 1 and not engine._residuals


_SCRIPT = """
import resource, sys
from tests.unit.federate.test_many import run
run(10, 1, 1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(1000, 1, 0.06)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_thousand_clients_take_the_memory_of_one_round_s_answers():
    """Sixty answers of a quarter of a megabyte are under way at most; a thousand models would take a quarter of a
    gigabyte."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, env=_environment())
    assert done.returncode == 0, done.stderr
    kilobytes = int(done.stdout.split()[-1])
    assert kilobytes < 4 * 60 * WIDTH * WIDTH * 4 / 1024, kilobytes
    assert resource.getpagesize() > 0


def _environment():
    import os

    return os.environ | {"PYTHONPATH": "src:.", "OMP_NUM_THREADS": "1"}
