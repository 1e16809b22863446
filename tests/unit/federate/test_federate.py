"""The loop of a federation: what it computes, on what it depends, and what it counts."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dtheta as dt
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.adapt.pissa import PiSSA
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError
from dtheta.federate.asynchronous import Asynchronous
from dtheta.federate.channels.classical import Classical
from dtheta.federate.client import Client
from dtheta.federate.engine import InProcess
from dtheta.federate.federate import federate
from dtheta.federate.privacy import Privacy
from dtheta.federate.processes import Processes
from dtheta.federate.quantum.classifier import QuantumClassifier
from dtheta.federate.quantum.program import ProgramClassifier
from dtheta.federate.secure.ternary import Secure
from dtheta.federate.server.adaptive import FedAdam
from dtheta.federate.server.coordinatewise import TrimmedMean
from dtheta.federate.server.krum import Krum
from dtheta.federate.server.optimizer import FedAvgM
from tests.unit.federate.parties import batch, bits, clients, loss_of, model, server, squared


def _run(net=None, method=None, select=None, parties=None, optimizer=None, **settings):
    net = net or model()
    parties = parties or clients(net, method=method, select=select)
    made = server(net, method, select=select, **({"optimizer": optimizer} if optimizer else {}))
    return federate(made, parties, **{"rounds": 3, "evaluate": loss_of(parties)} | settings)


def test_it_learns_and_the_base_stays():
    net = model()
    before = {n: p.clone() for n, p in net.named_parameters()}
    found = _run(net, rounds=6)
    losses = [row.scores["score"] for row in found.history]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.95 * losses[0]
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    with dt.applied(net, found.delta):
        assert loss_of(clients(net))(net) == losses[-1]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_full_batch_step_a_round_is_centralized_sgd(momentum):
    """FedAvg over iid parts with one local step of SGD is SGD on all the data; FedAvgM is SGD with momentum."""
    net, rounds, lr = model(), 5, 0.1
    parties = clients(net, steps=1, lr=lr, optimizer="sgd", clip=None)
    found = _run(net, parties=parties, rounds=rounds, optimizer=FedAvgM(momentum=momentum))
    x, y = (torch.cat(parts) for parts in zip(*(c.data[0] for c in parties), strict=True))
    theta = {n: p.detach().double().requires_grad_() for n, p in net.named_parameters()}
    velocity = {n: torch.zeros_like(p) for n, p in theta.items()}
    for _ in range(rounds):
        out = torch.func.functional_call(net.double(), theta, (x.double(),))
        gradients = torch.autograd.grad(F.mse_loss(out, y.double()), list(theta.values()))
        for (name, p), g in zip(list(theta.items()), gradients, strict=True):
            velocity[name] = momentum * velocity[name] + g
            theta[name] = (p.detach() - lr * velocity[name]).requires_grad_()
    base = dict(model().named_parameters())
    for name, p in theta.items():
        torch.testing.assert_close(
            found.delta[name].dense().double(), p.detach() - base[name].double(), rtol=1e-4, atol=1e-6
        )


def test_the_order_of_the_clients_does_not_show():
    net = model()
    parties = clients(net)
    one, other = _run(net, parties=parties), _run(net, parties=parties[::-1])
    assert bits(one.delta) == bits(other.delta)


def test_a_mean_of_low_rank_answers_is_the_mean_of_their_matrices():
    net = model()
    parties = clients(net, 3, method=LoRA(rank=1), select="0.weight")
    answers = [c.train(Delta({}), 1, 0) for c in parties]
    total = sum(a.examples for a in answers)
    dense = sum(a.examples / total * a.delta["0.weight"].dense().double() for a in answers)
    found = _run(net, LoRA(rank=1), "0.weight", parties, rounds=1, codec="exact", evaluate=None).delta["0.weight"]
    assert found.rank == 3  # factors beside each other: a mean of the factors would have rank 1
    torch.testing.assert_close(found.dense().double(), dense, rtol=1e-6, atol=1e-8)
    left, right = (sum(a.examples / total * f for a, f in zip(answers, fs, strict=True))
                   for fs in zip(*(a.delta["0.weight"].factors() for a in answers), strict=True))  # fmt: skip
    assert float((left @ right - dense).norm()) > 0.05 * float(dense.norm())


def test_the_global_delta_never_outgrows_the_parameters():
    found = _run(method=LoRA(rank=2), select="*.weight", codec="exact", rounds=6)
    for name in found.delta:
        assert found.delta[name].nbytes <= 4 * found.delta[name].dense().numel()
    assert isinstance(found.delta["0.weight"], Dense)


@pytest.mark.parametrize("settings", [{}, {"codec": "ternary", "downlink": "ternary"}, {"sample": 0.5, "dropout": 0.3}])
def test_a_seed_gives_the_same_bits_and_another_seed_others(settings):
    one, again = (_run(seed=3, **settings) for _ in range(2))
    assert bits(one.delta) == bits(again.delta)
    assert [r.asked for r in one.history] == [r.asked for r in again.history]
    assert bits(_run(seed=4, method=LoRA(rank=2), **settings).delta) != bits(
        _run(seed=3, method=LoRA(rank=2), **settings).delta
    )


@pytest.mark.parametrize("method", [LoRA(rank=2), PiSSA(rank=2), CLIPSVD()], ids=repr)
@pytest.mark.parametrize("codec", ["exact", "dense"])
def test_factored_methods_go_round(method, codec):
    found = _run(method=method, select="*.weight", codec=codec)
    losses = [row.scores["score"] for row in found.history]
    assert losses[-1] < losses[0] and not any(row.excluded for row in found.history)


@pytest.mark.parametrize("codec", ["dense", "ternary", "top-k", "sign"])
def test_both_sides_hold_the_same_bits_whatever_travels_down(codec):
    engine = InProcess(parties := clients(net := model()))
    found = federate(server(net), rounds=4, engine=engine, downlink=codec, evaluate=loss_of(parties))
    assert not any(row.excluded for row in found.history)  # a client refuses what does not add up
    assert all(d.base.digests for _, d in engine._knowledge.versions.values())


def test_updates_travel_down_where_they_are_smaller_than_the_whole():
    whole, coded = _run(rounds=6), _run(rounds=6, downlink="ternary")
    down = [row.bits_down for row in coded.history]
    assert down[0] == 0 and max(down[2:]) < whole.history[-1].bits_down / 8
    assert coded.history[-1].scores["score"] < coded.history[0].scores["score"]


def test_a_client_that_was_away_gets_the_updates_it_missed_or_all():
    found = _run(rounds=8, downlink="ternary", sample=0.5)
    assert not any(row.excluded for row in found.history)
    assert all(len(row.asked) == 2 for row in found.history)
    assert len({tuple(row.asked) for row in found.history}) > 1


def test_who_drops_out_is_noted_and_does_not_count():
    found = _run(rounds=8, dropout=0.5)
    dropped = [set(row.excluded) for row in found.history]
    assert all(set(row.asked) == set(row.answered) | gone for row, gone in zip(found.history, dropped, strict=True))
    assert 0.25 < sum(map(len, dropped)) / 32 < 0.75
    assert all(why.startswith("dropped") for row in found.history for why in row.excluded.values())


def test_loss_on_the_line_is_counted_and_excluded():
    found = _run(rounds=6, channel=Classical(loss=0.3, latency=0.5))
    lost = [why for row in found.history for why in row.excluded.values()]
    assert lost and all(why.startswith("lost") for why in lost)
    assert found.figures["excluded"] == {"lost": len(lost)} and found.history[0].transfer >= 0.5


def test_processes_give_the_bits_of_one_process():
    net = model()
    parties = clients(net, method=LoRA(rank=2, dropout=0.2), select="*.weight")
    made = server(net, LoRA(rank=2, dropout=0.2), select="*.weight")
    settings = {"rounds": 3, "codec": "ternary", "downlink": "ternary"}
    one = federate(made, engine=InProcess(parties), **settings)
    two = federate(made, engine=Processes(parties, workers=2), **settings)
    assert bits(one.delta) == bits(two.delta)
    assert [r.bits_up for r in one.history] == [r.bits_up for r in two.history]


def test_adaptive_optimizers_go_round():
    found = _run(optimizer=FedAdam(lr=0.05), rounds=5)
    assert found.history[-1].scores["score"] < found.history[0].scores["score"]


def test_asynchronous_runs_repeat_and_old_answers_count_less():
    settings = {"asynchronous": Asynchronous(spread=1.0), "rounds": 12}
    one, again = (_run(**settings) for _ in range(2))
    assert bits(one.delta) == bits(again.delta)
    assert all(len(row.answered) == 1 for row in one.history)
    assert max(row.staleness for row in one.history) >= 2
    assert one.history[0].staleness == 0  # of what the first answer was trained from, nothing had changed yet
    assert one.history[-1].scores["score"] < one.history[0].scores["score"]
    steady = _run(asynchronous=Asynchronous(spread=1.0, exponent=0.0), rounds=12)
    assert bits(steady.delta) != bits(one.delta)


def test_an_asynchronous_buffer_of_all_clients_is_the_synchronous_round():
    held = _run(asynchronous=Asynchronous(buffer=4), rounds=3)
    synchronous = _run(rounds=3)
    assert bits(held.delta) == bits(synchronous.delta)
    assert all(row.staleness == 0 for found in (held, synchronous) for row in found.history)


def _iris():
    datasets = pytest.importorskip("sklearn.datasets")
    found = datasets.load_iris()
    x = torch.tensor(found.data, dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0), torch.tensor(found.target)


@pytest.mark.parametrize("kind", ["variational", "program"])
def test_quantum_clients_are_clients_as_any(kind):
    x, labels = _iris()
    made = QuantumClassifier if kind == "variational" else ProgramClassifier
    net = made(4, 3, layers=2, constant=True, head="affine")
    parts = [torch.arange(k, 150, 3) for k in range(3)]
    parties = [
        Client(f"c{k}", net, [{"x": x[p], "labels": labels[p]}], Full(), steps=5, lr=0.1) for k, p in enumerate(parts)
    ]

    def accuracy(held):
        with torch.no_grad():
            return {"accuracy": float((held(x).logits.argmax(1) == labels).float().mean())}

    found = federate(server(net), parties, rounds=6, evaluate=accuracy)
    assert not any(row.excluded for row in found.history)
    assert found.scores["accuracy"] > 0.8


def test_the_result_goes_to_json():
    found = _run(codec="ternary")
    record = json.loads(found.to_json())
    assert record["figures"]["answers"] == 12 and record["delta"] == found.delta.digest
    assert len(record["history"]) == 3 and record["history"][0]["asked"] == ["c0", "c1", "c2", "c3"]
    assert record["figures"]["times_fewer_bits"] > 10 and "bits up" in repr(found)
    dense = _run().figures
    assert 0.9 < dense["times_fewer_bits"] <= 1.0 and dense["parameters"] == 12 * 16 + 16 + 16 * 8 + 8


def test_metrics_of_clients_are_means_by_examples():
    found = _run(parties=clients(net := model(), evaluate=lambda m: {"one": 1.0}), net=net, rounds=1)
    assert found.history[0].metrics["one"] == pytest.approx(1.0) and found.history[0].metrics["loss"] > 0


def test_clients_may_be_made_when_they_are_asked():
    net = model()
    held = clients(net)
    made = {c.name: (lambda c=c: c) for c in held}
    assert bits(_run(net, parties=made, evaluate=None).delta) == bits(_run(net, parties=held, evaluate=None).delta)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"sample": 0.0}, "sample is 0.0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"codec": "tenary"}, "did you mean 'ternary'"),
        ({"downlink": "amplitude"}, "another global delta"),
        ({"min_clients": 5}, "min_clients is 5, and there are 4"),
        ({"resume": True}, "resume needs the folder"),
        ({"timeout": 0.0}, "timeout is 0.0"),
        ({"engine": InProcess(clients(model()))}, "one of the two"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, what):
    with pytest.raises(ConfigError, match=what):
        _run(**settings)


def test_clients_that_cannot_be_told_apart_or_are_none_are_refused():
    net = model()
    for wrong, what in (
        ([*clients(net), *clients(net)], "two clients have one name"),
        ([], "at least one client"),
        (["c"], "a client is 'c'"),
        (clients(net)[0], "expected a list of dt.Client"),
    ):
        with pytest.raises(ConfigError, match=what):
            federate(server(net), wrong, rounds=1)


def test_the_package_can_be_called():
    import dtheta.federate as package

    net = model()
    assert bits(package(server(net), clients(net), rounds=1).delta) == bits(_run(net, rounds=1).delta)


def test_dropout_in_the_model_is_off_while_it_is_judged():
    net = nn.Sequential(model(), nn.Dropout(0.5))
    assert net.training
    seen = []
    found = federate(server(net), clients(net), rounds=1, evaluate=lambda m: seen.append(m.training) or 0)
    assert seen == [False] and net.training and found.scores == {"score": 0.0}
    assert squared(net.eval(), batch(3, 0)).isfinite()


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"sample": 0.5, "min_clients": 3}, "a round asks 2 of 4 clients and needs 3 answers; raise sample"),
        (
            {"asynchronous": Asynchronous(buffer=1), "aggregate": Krum(bad=0)},
            "needs 3 answers; raise asynchronous.buffer",
        ),
        (
            {"secure": Secure(scale=0.1, threshold=5)},
            "a round asks 4 of 4 clients and needs 5 answers; take more clients, or lower the threshold",
        ),
        ({"asynchronous": Asynchronous(buffer=5)}, "4 of 4 clients are at work .* lower it to 4"),
        ({"asynchronous": Asynchronous(buffer=3), "sample": 0.5}, "2 of 4 clients .* lower it to 2.* raise sample"),
        ({"aggregate": TrimmedMean(0.2)}, r"TrimmedMean\(share=0.2\) needs 5 clients; there are 4"),
        ({"asynchronous": Asynchronous(), "aggregate": TrimmedMean(0.25)}, "raise asynchronous.buffer"),
        ({"privacy": Privacy(clip=1.0, noise=1.0, delta=0.25)}, "there are 4 clients.*below 0.25"),
        ({"sample": 0.25, "secure": Secure(scale=0.1)}, "a round asks 1 of 4 clients and needs 2 answers"),
    ],
)
def test_rounds_that_could_never_count_are_refused(settings, what):
    net = model()
    made = server(net, **{"aggregate": settings.pop("aggregate")} if "aggregate" in settings else {})
    with pytest.raises(ConfigError, match=what):
        federate(made, clients(net), rounds=2, **settings)


@pytest.mark.parametrize("makers", [{1: lambda: None}, {"": lambda: None}, {"\ud800": lambda: None}, {"a": 3}])
def test_what_makes_no_client_by_name_is_refused(makers):
    with pytest.raises(ConfigError):
        federate(server(model()), makers, rounds=1)


def test_a_client_that_is_made_has_the_name_it_was_made_for():
    net = model()
    one, two = clients(net, 2)
    found = federate(server(net), {"c0": lambda: one, "c1": lambda: one, "c2": lambda: two}, rounds=1)
    assert found.history[0].answered == ["c0"]
    assert "made 'c0'; the name keys its draws" in found.history[0].excluded["c1"]


@pytest.mark.parametrize("name", ["a/b", "../../etc", "c\n0", "ключ", "federate/1/c1", " ", "🙂"])
def test_names_of_any_signs_are_names(tmp_path, name):
    net = model()
    parties = [dataclasses.replace(one, name=name) if i == 1 else one for i, one in enumerate(clients(net, 3))]
    settings = {"codec": "ternary", "folder": tmp_path / "f", "dropout": 0.2, "min_clients": 1}
    federate(server(net), parties, rounds=1, **settings)
    found = federate(server(net), parties, rounds=3, resume=True, **settings)
    assert any(name in row.answered for row in found.history)
    assert not [p for p in (tmp_path / "f").rglob("*") if p.is_dir()]
