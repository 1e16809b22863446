"""Circuits of others as layers: what is called with what, and that a delta moves their weights."""

from __future__ import annotations

import pytest
import torch

import dtheta as dt
from dtheta.errors import ConfigError
from dtheta.federate.quantum.qnode import QNodeLayer


def circuit(inputs: torch.Tensor, angles: torch.Tensor, shift: torch.Tensor) -> list[torch.Tensor]:
    return [torch.cos(inputs[:, 0] + angles[0]), torch.cos(inputs[:, 1] * angles[1]) + shift]


def test_it_calls_the_circuit_with_its_parameters() -> None:
    layer = QNodeLayer(circuit, {"angles": (2,), "shift": ()})
    x = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    expected = torch.stack(circuit(x, layer.angles, layer.shift), 1)
    assert torch.equal(layer(x), expected) and expected.shape == (3, 2)
    assert [name for name, _ in layer.named_parameters()] == ["angles", "shift"]
    assert all(bool(((p >= 0) & (p < 2 * torch.pi)).all()) for p in layer.parameters())
    again, other = QNodeLayer(circuit, {"angles": (2,), "shift": ()}), QNodeLayer(circuit, {"angles": (2,)}, seed=1)
    assert torch.equal(again.angles, layer.angles) and not torch.equal(other.angles, layer.angles)


def test_one_result_is_one_column() -> None:
    layer = QNodeLayer(lambda inputs, w: inputs.sum(1) * w, {"w": ()})
    assert layer(torch.ones(4, 3)).shape == (4, 1)


def test_a_delta_moves_its_weights() -> None:
    layer = QNodeLayer(circuit, {"angles": (2,), "shift": ()})
    before = layer.angles.detach().clone()
    x, target = torch.rand(8, 2), torch.zeros(8, 2)
    adapter = dt.attach(layer, dt.Full(), select="*")
    dt.fit(adapter, [(x, target)], steps=5, lr=0.1, quiet=True,
           loss=lambda net, batch: (net(batch[0]) - batch[1]).square().mean())  # fmt: skip
    delta = adapter.delta()
    moved = adapter(x)
    adapter.detach()
    assert delta["angles"].norm() > 0.01 and torch.equal(layer.angles, before)
    with dt.applied(layer, delta):
        torch.testing.assert_close(layer(x), moved)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, {"w": (1,)}), "can be called"),
        ((circuit, {}), "expected one at least"),
        ((circuit, {"inputs": (2,)}), "none called 'inputs'"),
        ((circuit, {"forward": (2,)}), "cannot be called 'forward'"),
        ((circuit, {"a b": (2,)}), "cannot be called 'a b'"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QNodeLayer(*arguments)
