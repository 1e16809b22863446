"""Clients that lie: what they send, that the seed decides who they are, and what a mean and a median make of it."""

from __future__ import annotations

import pytest
import torch

from dtheta.errors import ConfigError
from dtheta.federate.attack import Attack, Malicious, Noise, Scaling, SignFlip, attacked
from dtheta.federate.federate import federate
from dtheta.federate.server.coordinatewise import Median
from tests.unit.federate import parties


def told(attack: Attack) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What an honest client answers, and what it answers when it lies."""
    net = parties.model()
    honest = parties.clients(net, 2)
    liar = next(one for one in attacked(honest, attack, 0) if isinstance(one, Malicious))
    start = parties.server(net).template(0) * 0.0
    plain = next(one for one in honest if one.name == liar.name)
    return tuple(  # type: ignore[return-value]
        {name: change.dense() for name, change in one.train(start, 1, 0).delta.changes.items()} for one in (plain, liar)
    )


@pytest.mark.parametrize(
    ("attack", "factor"), [(SignFlip(), -1.0), (SignFlip(scale=3), -3.0), (Scaling(factor=5), 5.0)]
)
def test_a_multiple_of_what_was_learned(attack: Attack, factor: float) -> None:
    true, lie = told(attack)
    for name, values in true.items():
        torch.testing.assert_close(lie[name], factor * values)


def test_noise_has_its_length() -> None:
    true, lie = told(Noise(norm=4))
    length = sum(float(v.square().sum()) for v in true.values()) ** 0.5
    added = sum(float((lie[name] - v).square().sum()) for name, v in true.items()) ** 0.5
    assert added == pytest.approx(4 * length, rel=1e-4)


def test_the_seed_decides_who_lies() -> None:
    clients = parties.clients(parties.model(), 6)
    liars = [{c.name for c in attacked(clients, SignFlip(2), seed) if isinstance(c, Malicious)} for seed in range(8)]
    assert all(len(names) == 2 for names in liars) and len({frozenset(names) for names in liars}) > 1
    assert attacked(clients, SignFlip(2), 3)[0].to_dict().get("attack") == (
        SignFlip(2).to_dict() if "c0" in liars[3] else None
    )


@pytest.mark.parametrize("given", [{"clients": 0}, {"scale": 0.0}])
def test_numbers_that_cannot_be_meant(given: dict) -> None:
    with pytest.raises(ConfigError):
        SignFlip(**given)


def test_an_honest_client_is_left() -> None:
    with pytest.raises(ConfigError, match="honest"):
        attacked(parties.clients(parties.model(), 2), SignFlip(2), 0)


def test_a_median_holds_where_a_mean_does_not() -> None:
    net = parties.model()
    clients = parties.clients(net, 5, steps=4)
    loss = parties.loss_of(clients)
    lying = attacked(clients, SignFlip(1, scale=20), 0)
    plain = federate(parties.server(net), lying, rounds=4, evaluate=loss)
    robust = federate(parties.server(net, aggregate=Median()), lying, rounds=4, evaluate=loss)
    assert robust.scores["score"] < plain.scores["score"]
