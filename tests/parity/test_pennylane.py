"""Circuits, gradients and channels against PennyLane, where it is installed."""

from __future__ import annotations

import pytest
import torch

from dtheta.adapt.full import Full
from dtheta.core.seeds import generator
from dtheta.data.tabular import load_tabular
from dtheta.federate.client import Client
from dtheta.federate.federate import federate
from dtheta.federate.partition import dirichlet
from dtheta.federate.quantum import density as exact
from dtheta.federate.quantum.circuit import Circuit
from dtheta.federate.quantum.classifier import QuantumClassifier
from dtheta.federate.quantum.encode import amplitude, angle
from dtheta.federate.quantum.layers import strongly_entangling
from dtheta.federate.quantum.measure import expectation, expectation_z, z_values
from dtheta.federate.quantum.noise import amplitude_damping, depolarizing, phase_damping
from dtheta.federate.quantum.qnode import QNodeLayer
from dtheta.federate.quantum.statevector import zero_state
from dtheta.federate.server.server import Server
from dtheta.models.classifier import Prediction

qml = pytest.importorskip("pennylane", reason="pip install 'dtheta[quantum]'")

GATES = [
    ("H", 0), ("RX", 1), ("RY", 2), ("RZ", 0), ("CNOT", 0, 2), ("CZ", 1, 2), ("SWAP", 0, 1), ("X", 2), ("Z", 1),
    ("CRX", 2, 0), ("CRY", 0, 1), ("CRZ", 1, 2), ("RX", 0),
]  # fmt: skip
NAMES = {"H": "Hadamard", "X": "PauliX", "Y": "PauliY", "Z": "PauliZ"}


def draws(*shape: int, name: str = "angles") -> torch.Tensor:
    return 2 * torch.randn(shape, dtype=torch.float64, generator=generator(0, name))


def apply_gates(circuit: Circuit, angles: torch.Tensor, after=lambda wire: None) -> None:
    free = iter(angles)
    for gate in circuit.gates:
        operation = getattr(qml, NAMES.get(gate.name, gate.name))
        operation(*([next(free)] if gate.free else []), wires=list(gate.wires))
        for wire in gate.wires:
            after(wire)


@pytest.mark.parametrize("qubits", [1, 2, 3, 5])
def test_strongly_entangling_layers_are_pennylanes_values_and_gradients(qubits):
    circuit, x = strongly_entangling(qubits, 4), draws(6, 2**qubits, name="rows")

    @qml.qnode(qml.device("default.qubit", wires=qubits), interface="torch", diff_method="backprop")
    def peer(rows, weights):
        qml.AmplitudeEmbedding(rows, wires=range(qubits), normalize=True)
        qml.StronglyEntanglingLayers(weights, wires=range(qubits))
        return [qml.expval(qml.PauliZ(q)) for q in range(qubits)]

    ours, theirs = (draws(*circuit.shape).requires_grad_() for _ in range(2))
    found = expectation_z(circuit(ours, amplitude(x)))
    expected = torch.stack(list(peer(x, theirs)), 1)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    weight = draws(6, qubits, name="weight")
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=0)


def test_gates_and_pauli_strings_are_pennylanes():
    circuit, rows = Circuit(3, GATES), draws(4, 3, name="rows")
    angles = draws(*circuit.shape)

    @qml.qnode(qml.device("default.qubit", wires=3), interface="torch")
    def peer(row):
        qml.AngleEmbedding(row, wires=range(3), rotation="Y")
        apply_gates(circuit, angles)
        return [qml.expval(qml.pauli.string_to_pauli_word(s)) for s in ("XYZ", "ZIY", "IXX")]

    state = circuit(angles, angle(rows))
    found = torch.stack([expectation(state, s) for s in ("XYZ", "ZIY", "IXX")], 1)
    torch.testing.assert_close(found, torch.stack([torch.stack(list(peer(row))) for row in rows]), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("name", "kraus"), [
    ("DepolarizingChannel", depolarizing(0.1).kraus()), ("AmplitudeDamping", amplitude_damping(0.2)),
    ("PhaseDamping", phase_damping(0.3)),
])  # fmt: skip
def test_channels_are_pennylanes(name, kraus):
    circuit = Circuit(3, GATES)
    angles, strength = draws(*circuit.shape), {"D": 0.1, "A": 0.2, "P": 0.3}[name[0]]

    @qml.qnode(qml.device("default.mixed", wires=3))  # of torch it would make complex64
    def peer():
        apply_gates(circuit, angles.tolist(), lambda wire: getattr(qml, name)(strength, wires=wire))
        return [qml.expval(qml.PauliZ(q)) for q in range(3)]

    rho = exact.evolve(circuit, angles, exact.density(zero_state(3, dtype=torch.complex128)), kraus)
    expected = torch.tensor([float(value) for value in peer()], dtype=torch.float64)
    torch.testing.assert_close(z_values(exact.outcomes(rho))[0], expected, atol=1e-12, rtol=0)


class Foreign(torch.nn.Module):
    """A user's own classifier: a circuit of PennyLane under a linear head, starting where ours does."""

    def __init__(self, ours: QuantumClassifier) -> None:
        super().__init__()
        qubits = ours.circuit.qubits

        @qml.qnode(qml.device("default.qubit", wires=qubits), interface="torch", diff_method="backprop")
        def circuit(inputs, angles):
            qml.AmplitudeEmbedding(inputs, wires=range(qubits), normalize=True, pad_with=0.0)
            qml.StronglyEntanglingLayers(angles, wires=range(qubits))
            return [qml.expval(qml.PauliZ(q)) for q in range(qubits)]

        self.layer = QNodeLayer(circuit, {"angles": tuple(ours.angles.shape)})
        self.head = torch.nn.Linear(qubits, ours.classes)
        with torch.no_grad():
            self.layer.angles.copy_(ours.angles)
            self.head.load_state_dict(ours.head.state_dict())

    def forward(self, x, labels=None):
        logits = self.head(self.layer(x))
        return Prediction(None if labels is None else torch.nn.functional.cross_entropy(logits, labels), logits)


def test_a_circuit_of_pennylane_is_a_client_like_any_module() -> None:
    task = load_tabular("iris").standardized()
    parts = [task.train.take(part) for part in dirichlet(task.train.labels, 3, alpha=1.0, least=4)]
    ours = QuantumClassifier(4, 3, layers=2)
    found = {}
    for model in (ours, Foreign(ours)):
        clients = [
            Client(f"c{i}", model, [{"x": part.x, "labels": part.labels}], Full(), select="*", steps=2, lr=0.2,
                   optimizer="sgd")
            for i, part in enumerate(parts)
        ]  # fmt: skip
        result = federate(Server(model, Full(), select="*"), clients, rounds=3)
        found[type(model)] = {name.split(".", 1)[-1]: c.dense() for name, c in result.delta.changes.items()}
    mine, theirs = found[QuantumClassifier], found[Foreign]
    assert set(mine) == set(theirs) == {"angles", "weight", "bias"}
    for name, change in mine.items():
        assert float(change.norm()) > 0.01
        torch.testing.assert_close(theirs[name].float(), change.float(), atol=1e-4, rtol=0)
