"""Baselines of a federation: as many steps on the same data, by hand."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.apply import applied
from dtheta.errors import ConfigError, NonFinite
from dtheta.federate.attack import SignFlip, attacked
from dtheta.federate.baselines import alone, centralized
from dtheta.federate.federate import federate
from tests.unit.federate import parties


def test_one_client_in_one_round_is_that_client_alone() -> None:
    net = parties.model()
    clients = parties.clients(net, 1, steps=5)
    loss = parties.loss_of(clients)
    (found,) = alone(parties.server(net), clients, rounds=1, evaluate=loss)
    federated = federate(parties.server(net), clients, rounds=1, evaluate=loss)
    assert parties.bits(found.delta) == parties.bits(federated.delta)
    assert found.scores == dict(federated.scores) and (found.steps, found.examples) == (5, 20)


def test_all_the_data_at_one_place() -> None:
    net = parties.model()
    clients = parties.clients(net, 3, steps=2, optimizer="sgd", lr=0.1, clip=None)
    x, y = (torch.cat([client.data[0][i] for client in clients]) for i in range(2))
    loss = parties.loss_of(clients)
    found = centralized(parties.server(net), clients[0], [(x, y)], rounds=4, evaluate=loss)
    assert found.steps == 8 and found.examples == 63
    by_hand = parties.model()
    for _ in range(8):
        by_hand.zero_grad()
        parties.squared(by_hand, (x, y)).backward()
        with torch.no_grad():
            for p in by_hand.parameters():
                p -= 0.1 * p.grad  # type: ignore[operator]
    with applied(net, found.delta):
        for name, p in net.named_parameters():
            torch.testing.assert_close(p, by_hand.get_parameter(name))
    assert found.scores["score"] == pytest.approx(loss(by_hand), rel=1e-5)
    assert found.to_dict() == {"name": "centralized", "examples": 63, "steps": 8, "scores": dict(found.scores)}


def test_a_liar_alone_has_nobody_to_lie_to() -> None:
    net = parties.model()
    clients = parties.clients(net, 2)
    loss = parties.loss_of(clients)
    lying = attacked(clients, SignFlip(1), 0)
    one, two = (alone(parties.server(net), some, rounds=1, evaluate=loss) for some in (clients, lying))
    assert [b.scores for b in one] == [b.scores for b in two]


def test_judging_leaves_modes_and_generators_and_repeats() -> None:
    net = parties.model()
    clients = parties.clients(net, 2)

    def judged(model: torch.nn.Module) -> float:
        model.eval()
        return float(torch.rand(()))

    state = torch.get_rng_state()
    one, two = (centralized(parties.server(net), clients[0], clients[0].data, rounds=2, evaluate=judged) for _ in "ab")
    assert net.training and torch.equal(state, torch.get_rng_state())
    federated = federate(parties.server(net), clients, rounds=2, evaluate=judged)
    assert one.scores == two.scores == dict(federated.scores)  # the same draws for all that are compared


def test_errors_name_the_party() -> None:
    net = parties.model()
    with pytest.raises(NonFinite, match="c1 alone"):
        alone(parties.server(net), [parties.clients(net, 2, lr=1e30, clip=None)[1]], rounds=50, evaluate=lambda m: 0.0)
    with pytest.raises(ConfigError):
        alone(parties.server(net), [], rounds=1, evaluate=lambda m: 0.0)
