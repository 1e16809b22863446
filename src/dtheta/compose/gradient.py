"""The gradient of a loss by coefficients: one backward pass to the weights, and inner products.

    theta^(j) = theta0^(j) + sum_i c_i^(j) tau_i^(j)        composed without a graph, into a buffer that is used again
    G^(j)     = dL/dtheta^(j)                               one backward pass
    dL/dc_i^(j) = <G^(j), tau_i^(j)>                        as soon as G^(j) is there; then G^(j) is freed

Exact, and what automatic differentiation through the sum gives up to rounding (aTLAS, arXiv 2407.02880, whose code
builds that sum inside the graph at every step: n products per block, forwards and backwards). Memory: the buffer, one
G at a time, and the deltas in the form in which they are stored, however many.

Coefficients of several backward passes add up until ``clear``: accumulation over batches, or a sum of losses whose
graphs need not be held together.

Shape legend: n deltas, m blocks, K parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dtheta.compose.subspace import Subspace
from dtheta.compose.swap import Place, places, stamp, swapped
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, NonFinite


class Composition:
    """A model whose parameters are composed from coefficients.

    Attributes:
        model: What a loss is to be called with.
        gradient: (n, m, K) float64 on the CPU, what backward passes since ``clear`` have added up.
        leaves: The tensors by which a loss is differentiated.
        half: Whether one of them is float16, whose gradients underflow unless the loss is scaled.
    """

    def __init__(
        self, model: nn.Module, subspaces: Sequence[Subspace], leaves: Mapping[str, Sequence[Tensor]],
        show: Callable[..., None],
    ) -> None:  # fmt: skip
        self.model = model
        self.leaves = [leaf for held in leaves.values() for leaf in held]
        self.half = any(leaf.dtype == torch.float16 for leaf in self.leaves)
        first = subspaces[0]
        self.gradient = torch.zeros(first.count, len(subspaces), first.parts, dtype=torch.float64)
        self._show = show
        self._index = {id(leaf): j for j, s in enumerate(subspaces) for leaf in leaves[s.name]}
        self._subspaces = subspaces
        self._reached = False  # whether the backward pass under way came to a leaf

    def show(self, values_nmK: Tensor, exact: bool = False) -> None:
        """Make the model show the composition with these coefficients.

        Args:
            values_nmK: Coefficients, float64 on the CPU.
            exact: Whether to compose to the bit as ``applied`` does with the composed delta, more slowly.

        Raises:
            NonFinite: If a coefficient is not finite in float32, or the exact sum not in the dtype of a parameter.
        """
        if not bool(torch.isfinite(values_nmK.float()).all()):
            _, j, _ = (~torch.isfinite(values_nmK.float())).nonzero()[0].tolist()
            raise NonFinite(f"{self._subspaces[j].name}: a coefficient is not finite; lower the learning rate")
        self._show(values_nmK, exact)

    def clear(self) -> None:
        """Start a new sum of gradients."""
        self.gradient.zero_()

    def backward(self, loss: Tensor, weight: float = 1.0) -> None:
        """Add ``weight`` times the gradient of a scalar loss to ``gradient``.

        Raises:
            ConfigError: If the loss is no scalar, or does not depend on any composed parameter.
        """
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(f"the loss must be a scalar tensor, got {found}; return its mean")
        self._reached = False
        if loss.requires_grad:
            self._backward(loss, weight)
        if not self._reached:
            raise ConfigError(
                "the loss does not depend on any parameter that a delta changes: it was computed without gradients, or "
                "by another model than the one it was called with"
            )

    def _backward(self, loss: Tensor, weight: float) -> None:
        torch.autograd.backward(loss.reshape(()), loss.new_tensor(weight).reshape(()), inputs=self.leaves)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Run a block in which the gradient of each leaf becomes that of its coefficients, and is freed at once."""
        handles = [leaf.register_post_accumulate_grad_hook(self._take) for leaf in self.leaves]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _take(self, leaf: Tensor) -> None:
        self._reached = True
        if leaf.grad is not None:
            gradient, leaf.grad = leaf.grad, None
            j = self._index[id(leaf)]
            self.gradient[:, j] += self._subspaces[j].up(gradient)


def subspaces(
    deltas: Sequence[Delta], found: Sequence[Place], selected: Tensor, parts: int, seed: int
) -> list[Subspace]:
    """Return the subspace of each place: the selected (n, m) changes of it, on its device."""
    made = []
    for j, place in enumerate(found):
        device = place.base.device
        chosen = [i for i, delta in enumerate(deltas) if bool(selected[i, j]) and place.name in delta]
        changes = {i: deltas[i].changes[place.name].map(lambda t, d=device: t.to(d)) for i in chosen}
        made.append(Subspace(place.name, changes, len(deltas), parts, seed))
    return made


@contextmanager
def composed(
    model: nn.Module, deltas: Sequence[Delta], names: Sequence[str], selected: Tensor, parts: int = 1, seed: int = 0
) -> Iterator[Composition]:
    """Run a block with a model that shows the composition of deltas; after it, every bit is as it was.

    Args:
        model: Any module; ``show(values)`` of the composition changes what it shows, at first the base.
        deltas: n deltas that fit it, spectral changes bound.
        names: The m blocks.
        selected: Bool (n, m); the others have no coefficient.
        parts: K.
        seed: Of the partition.

    Raises:
        UnsupportedLayer: If a block is no parameter that takes gradients.
        ConfigError: If a delta is applied to the model just now.
    """
    found = places(model, names)
    spaces = subspaces(deltas, found, selected, parts, seed)
    bases = {place.name: place.base for place in found}
    buffers = {name: base.clone(memory_format=torch.contiguous_format) for name, base in bases.items()}

    def show(values_nmK: Tensor, exact: bool) -> None:
        for j, space in enumerate(spaces):
            write = space.exactly if exact else space.down
            write(bases[space.name], values_nmK[:, j], buffers[space.name])
        stamp(found)

    with swapped(model, found, buffers):
        composition = Composition(model, spaces, {place.name: place.tensors for place in found}, show)
        with composition.listening():
            yield composition
