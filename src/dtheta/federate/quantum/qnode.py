"""A circuit of PennyLane as a layer whose weights a delta can move.

``qml.qnn.TorchLayer`` keeps a second table of its weights and reads that one, so nothing that is attached to its
parameters reaches the circuit. Here the parameters themselves are handed to the circuit in every call. PennyLane is not
imported: anything that is called in this way will do.

Shape legend: B rows, F features, K results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dtheta.core.seeds import generator, uniform
from dtheta.errors import ConfigError


class QNodeLayer(nn.Module):
    """A layer that calls a circuit; its parameters have the names of the circuit's arguments.

    Attributes:
        qnode: the circuit.
    """

    def __init__(
        self, qnode: Callable[..., Any], shapes: Mapping[str, Sequence[int]], *, inputs: str = "inputs", seed: int = 0
    ) -> None:
        """Draw weights uniform in [0, 2 pi), by name.

        Args:
            qnode: called as ``qnode(inputs=rows, **weights)``; returns (B,) tensors, in a list or alone. With
                PennyLane: ``@qml.qnode(device, interface="torch")``.
            shapes: shape of every weight, by the name of its argument.
            inputs: the argument that takes the rows.
            seed: of the weights.

        Raises:
            ConfigError: something that cannot be called, no weight, or a name that is taken.
        """
        super().__init__()
        if not callable(qnode):
            raise ConfigError(f"qnode is {qnode!r:.60}; expected a circuit that can be called")
        if not shapes or inputs in shapes:
            raise ConfigError(f"weights {list(shapes)}: expected one at least, and none called {inputs!r} as the rows")
        self.qnode, self._names, self._inputs = qnode, tuple(shapes), inputs
        for name, shape in shapes.items():
            if not name.isidentifier() or hasattr(self, name):
                raise ConfigError(f"a weight cannot be called {name!r}; rename the argument of the circuit")
            drawn = uniform(tuple(shape), 0.0, 1.0, generator(seed, f"quantum/qnode/{name}"))
            self.register_parameter(name, nn.Parameter(2 * math.pi * drawn))

    def forward(self, x: Float[Tensor, "B F"]) -> Float[Tensor, "B K"]:
        """Return the circuit's results, one column each, in the dtype of the weights."""
        weights = {name: getattr(self, name) for name in self._names}
        found = self.qnode(**{self._inputs: x}, **weights)
        columns = torch.stack(list(found), -1) if isinstance(found, (list, tuple)) else found.reshape(len(x), -1)
        return columns.to(weights[self._names[0]].dtype)
