"""Cost: about how long training takes and how much memory, from the sizes in a model's header and a measured rate.

multiply-adds a token   P forward, P for the gradients of activations       P = weights in matrices, embeddings aside
rate                    of a matrix product of the machine, measured for a fraction of a second
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from dtheta.cli.bases import base_path

_EFFICIENCY = 0.6  # share of the rate of one large product that a network reaches
_ACTIVATIONS = 40  # floats kept for each token, layer and unit of width, about, while gradients are taken
_MEASURED = 0.2  # seconds


@dataclass(frozen=True)
class Cost:
    """Sizes of a model.

    Attributes:
        weights: Weights in matrices, without embeddings; 0 where the model is not at hand.
        nbytes: Bytes of its tensors; None where it is not at hand.
        width: The common side of its matrices.
        layers: Numbered layers.
    """

    weights: int = 0
    nbytes: int | None = None
    width: int = 0
    layers: int = 0

    @property
    def known(self) -> bool:
        """Whether the model is at hand."""
        return self.nbytes is not None

    @classmethod
    def of_model(cls, name: str) -> Cost:
        """Return the sizes of a model without loading it, and without fetching it.

        Raises:
            ConfigError: If it is no name of a model and no folder with one.
            FormatError: If its weights are damaged.
        """
        from dtheta.core.checkpoints import open_checkpoint
        from dtheta.core.selection import layer_index

        folder = base_path(name, fetch=False)
        if folder is None:
            return cls()
        checkpoint = open_checkpoint(folder)
        shapes = {n: checkpoint.info(n).shape for n in checkpoint if len(checkpoint.info(n).shape) == 2}
        matrices = {n: shape for n, shape in shapes.items() if layer_index(n) is not None}
        layers = len({layer_index(n) for n in matrices})
        width = min((min(shape) for shape in matrices.values()), default=0)
        return cls(sum(map(math.prod, matrices.values())), checkpoint.nbytes, width, layers)

    def seconds(self, trained: int, run: int) -> float | None:
        """Return about how many seconds it takes to train on some tokens and run on others; None if not known."""
        if not self.known:
            return None
        return 2 * self.weights * (2 * trained + run) / (_EFFICIENCY * product_rate())

    def memory(self, tokens: int) -> int | None:
        """Return about how many bytes training takes with so many tokens a step; None if not known."""
        if self.nbytes is None:
            return None
        return int(1.5 * self.nbytes + 4 * _ACTIVATIONS * tokens * self.width * self.layers + 5e8)


def product_rate() -> float:
    """Return the floating-point operations a second of a matrix product on this machine, now."""
    import torch

    a = torch.ones(768, 768)
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < _MEASURED or done < 3:
        torch.mm(a, a)
        done += 1
    return done * 2 * 768**3 / spent
