"""Batched statevectors: ours against PennyLane's default.qubit with backpropagation.

    amplitude input, 4 StronglyEntangling layers, all <Z_q>, forward and backward; complex64, CPU time of one thread

The ``limit`` is the time of the matrix products alone: two of 2^(n/2) a layer, each once forward and twice backward, at
the rate of a large real product of this machine. The errors are those of complex64 results against each other.

    python bench/statevector.py [--json] [--repeat 5] [--only 8x64]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from _measure import Row, compare, interleaved, main, product_rate
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.errors import MissingExtra
from dtheta.federate.quantum.encode import amplitude
from dtheta.federate.quantum.layers import Layers, strongly_entangling
from dtheta.federate.quantum.measure import expectation_z

LAYERS = 4
GOALS = {(8, 64): 6.0, (8, 512): 6.0, (10, 64): 6.0, (10, 512): 6.0, (12, 64): 4.0}
Values = Callable[[Tensor, Tensor], Tensor]  # (rows, angles) -> <Z> (B, n)


def ours(circuit: Layers) -> Values:
    return lambda rows, angles: expectation_z(circuit(angles, amplitude(rows)))


def peer(qubits: int) -> Values:
    try:
        import pennylane as qml
    except ImportError as error:
        raise MissingExtra("the peer is PennyLane: pip install 'dtheta[quantum]'") from error

    @qml.qnode(qml.device("default.qubit", wires=qubits), interface="torch", diff_method="backprop")
    def circuit(rows: Tensor, angles: Tensor) -> list:
        qml.AmplitudeEmbedding(rows, wires=range(qubits), normalize=True)
        qml.StronglyEntanglingLayers(angles, wires=range(qubits))
        return [qml.expval(qml.PauliZ(q)) for q in range(qubits)]

    return lambda rows, angles: torch.stack(list(circuit(rows, angles)), 1)


def step(values: Values, rows: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Return values, and the gradient of the mean of all of them."""
    leaf = angles.clone().requires_grad_()
    found = values(rows, leaf)
    found.mean().backward()
    assert leaf.grad is not None
    return found.detach(), leaf.grad


def limit(qubits: int, batch: int) -> float:
    """Return the seconds of the matrix products at the rate of a large one."""
    half = (qubits + 1) // 2
    flops = 3 * LAYERS * 8.0 * batch * 2**qubits * (2**half + 2 ** (qubits - half))
    return flops / product_rate(512, 512, 512)


def case(qubits: int, batch: int, goal: float, repeat: int) -> Iterator[Row]:
    circuit, draws = strongly_entangling(qubits, LAYERS), generator(0, "bench/statevector")
    rows, angles = torch.randn(batch, 2**qubits, generator=draws), torch.randn(circuit.shape, generator=draws)
    contestants = {"ours": ours(circuit), "peer": peer(qubits)}
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def run(name: str) -> Callable[[], None]:
        return lambda: found.update({name: step(contestants[name], rows, angles)})

    seconds = interleaved({name: run(name) for name in contestants}, repeat)
    title = f"{qubits} qubits, batch {batch}"
    yield compare(title, seconds["ours"], seconds["peer"], "CPU s", goal=goal, limit=limit(qubits, batch))
    for what, one, other in zip(("values", "gradients"), found["ours"], found["peer"], strict=True):
        error = float((one - other).abs().max())
        yield compare(f"{title}: {what}", error, 1e-6, "largest difference", goal=1.0)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    for (qubits, batch), goal in GOALS.items():
        if arguments.only in (None, f"{qubits}x{batch}"):
            yield from case(qubits, batch, goal, arguments.repeat)


def options(parser: argparse.ArgumentParser) -> None:
    """Add our own options."""
    parser.add_argument("--only", choices=[f"{n}x{b}" for n, b in GOALS], help="one size only")


if __name__ == "__main__":
    main("Batched statevectors", measure, packages=("torch", "pennylane"), options=options)
