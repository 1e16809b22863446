"""Federations with privacy, and with secure sums, over the loop."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.errors import ConfigError, FederationFailed
from dtheta.federate.asynchronous import Asynchronous
from dtheta.federate.channels.classical import Classical
from dtheta.federate.engine import InProcess
from dtheta.federate.federate import federate
from dtheta.federate.privacy import Privacy
from dtheta.federate.processes import Processes
from dtheta.federate.secure.ternary import Secure
from dtheta.federate.server.coordinatewise import Median
from tests.unit.federate.parties import Scales, bits, clients, loss_of, model, server

pytest.importorskip("cryptography")
SECURE = Secure(scale=0.05, density=0.5)


def _run(net=None, parties=None, **settings):
    net = net or model()
    parties = parties or clients(net, 5)
    return federate(server(net), parties, **{"rounds": 3, "evaluate": loss_of(clients(net, 5))} | settings)


def test_privacy_bounds_what_a_client_can_do():
    net = model()
    parties = [*clients(net, 4), clients(net, 5, kind=Scales)[4]]
    quiet = _run(net, parties, privacy=Privacy(clip=0.1, noise=0.0), rounds=1)
    assert quiet.delta.norm() <= 0.1 * (1 + 1e-6) and quiet.history[0].epsilon is None
    assert _run(net, parties, rounds=1).delta.norm() > 1.0


def test_privacy_is_accounted_and_noise_is_on_every_entry():
    pytest.importorskip("dp_accounting")
    found = _run(privacy=Privacy(clip=0.1, noise=1.0), sample=0.8, rounds=4)
    spent = [row.epsilon for row in found.history]
    assert spent == sorted(spent) and spent[0] > 0 and found.figures["epsilon"] == spent[-1]
    assert len({len(row.asked) for row in found.history}) >= 1
    one = _run(privacy=Privacy(clip=0.1, noise=1.0), sample=0.8, rounds=1).delta
    noise = torch.cat([one[name].dense().flatten() for name in one])
    assert float(noise.std()) == pytest.approx(0.1 / 4, rel=0.3) and bool((noise != 0).all())


def test_a_secure_sum_is_the_plain_sum_of_the_integers():
    net = model()
    engine = InProcess(clients(net, 5))
    found = federate(server(net), engine=engine, rounds=1, secure=SECURE)
    support = SECURE.support(InProcess(clients(net))._frame(clients(net)[0]), 0, 1)
    total = torch.stack(list(engine._vectors.values())).sum(0)
    frame = engine._frame(clients(net)[0])
    plain = SECURE.dequantize(total, frame, support)
    for name in plain:
        torch.testing.assert_close(found.delta[name].dense(), plain[name].dense() / 5, rtol=1e-6, atol=1e-9)
    assert found.history[0].bits_up > 0 and found.history[0].answered == ["c0", "c1", "c2", "c3", "c4"]


def test_secure_rounds_learn_repeat_and_are_those_of_processes():
    net = model()
    found = _run(net, rounds=6, secure=SECURE)
    losses = [row.scores["score"] for row in found.history]
    assert losses[-1] < losses[0]
    forked = federate(server(net), engine=Processes(clients(net, 5), workers=2), rounds=6, secure=SECURE)
    assert bits(forked.delta) == bits(found.delta)  # keys are fresh, and the sum is exact


def test_clients_that_leave_a_secure_sum_are_out_and_the_sum_holds_or_the_round_is_skipped():
    found = _run(secure=Secure(scale=0.05, density=0.5, threshold=2), channel=Classical(loss=0.03), rounds=6)
    left = [why for row in found.history for why in row.excluded.values()]
    assert left and any(row.skipped is None and row.excluded for row in found.history)
    with pytest.raises(FederationFailed, match=r"no secure sum|answers, 5 needed"):
        _run(secure=Secure(scale=0.05, threshold=5), channel=Classical(loss=0.3), rounds=9)


def test_privacy_beside_a_secure_sum_adds_its_noise_and_checks_the_bound():
    frame = InProcess(clients(net := model()))._frame(clients(net)[0])
    bound = SECURE.bound(frame)
    with pytest.raises(ConfigError, match="lower scale or density, or raise clip"):
        _run(secure=SECURE, privacy=Privacy(clip=0.5 * bound, noise=1.0))
    pytest.importorskip("dp_accounting")
    clip = math.ceil(bound * 1e3) / 1e3
    noisy, quiet = (_run(secure=SECURE, privacy=Privacy(clip=clip, noise=z), rounds=1) for z in (1.0, 0.0))
    noise = torch.cat([(noisy.delta[n].dense() - quiet.delta[n].dense()).flatten() for n in quiet.delta])
    assert float(noise.std()) == pytest.approx(clip / 5, rel=0.2)


@pytest.mark.parametrize("what", [{"privacy": Privacy(0.1, 1.0)}, {"secure": SECURE}], ids=str)
def test_what_cannot_be_protected_is_refused(what):
    net = model()
    with pytest.raises(ConfigError, match="leave asynchronous and aggregate out"):
        _run(asynchronous=Asynchronous(), **what)
    with pytest.raises(ConfigError, match="leave asynchronous and aggregate out"):
        federate(server(net, aggregate=Median()), clients(net), rounds=1, **what)
