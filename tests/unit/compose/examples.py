"""Models, deltas of every kind on them, and the official formulation: the sum built inside the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dtheta.compose.coefficients import blocks
from dtheta.core.block import Block
from dtheta.core.change import Change, Dense, matrix_shape
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.planes import Planes
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from dtheta.core.spectral import Spectral
from dtheta.core.tensors import base_tensors
from dtheta.core.ternary import ternary

Loss = Callable[[nn.Module, Tensor], Tensor]


def normal(*shape: int, index: int = 0, name: str = "compose") -> Tensor:
    return torch.randn(shape, generator=generator(0, name, index))


def dense(weight: Tensor, index: int) -> Change:
    return Dense(0.1 * normal(*weight.shape, index=index, name="dense"))


def low_rank(weight: Tensor, index: int) -> Change:
    m, n = matrix_shape(weight.shape)
    left, right = normal(m, 2, index=index, name="left"), 0.1 * normal(2, n, index=index, name="right")
    return LowRank(left, right, None, tuple(weight.shape))


def signed(weight: Tensor, index: int, by_row: bool = False) -> Change:
    m, n = matrix_shape(weight.shape)
    values = normal(m, n, index=index, name="signs")
    signs = (values.sign() * (values.abs() > 0.8)).to(torch.int8)
    scale = 0.05 + 0.1 * normal(m, index=index, name="scale").abs() if by_row else torch.tensor(0.07)
    return ternary(Planes.from_signs(signs), scale, tuple(weight.shape))


def signed_rows(weight: Tensor, index: int) -> Change:
    return signed(weight, index, by_row=True)


def some_rows(weight: Tensor, index: int) -> Change:
    m, n = matrix_shape(weight.shape)
    chosen = torch.arange(0, m, 2)
    return Rows(chosen, 0.1 * normal(len(chosen), n, index=index, name="rows"), tuple(weight.shape))


def spectral(weight: Tensor, index: int) -> Change:
    m, n = matrix_shape(weight.shape)
    shift = 0.1 * normal(min(m, n, 2), index=index, name="shift")
    return Spectral(shift, tuple(weight.shape)).bind(weight.detach())


def fused(weight: Tensor, index: int) -> Change:
    m, n = matrix_shape(weight.shape)
    half = max(1, m // 2)
    part = weight.detach().reshape(m, n)[m - half :]
    return Block(low_rank(part, index), 0, m - half, tuple(weight.shape)) + Block(
        signed(part, index + 50), 0, 0, tuple(weight.shape)
    )


def mixed(weight: Tensor, index: int) -> Change:
    return 0.5 * (low_rank(weight, index) + signed(weight, index)) + some_rows(weight, index)


KINDS: Mapping[str, Callable[[Tensor, int], Change]] = {
    "dense": dense, "low-rank": low_rank, "ternary": signed, "ternary by row": signed_rows, "rows": some_rows,
    "spectral": spectral, "fused": fused, "mixed": mixed,
}  # fmt: skip


def delta(model: nn.Module, kind: str = "dense", index: int = 0, names: Sequence[str] | None = None) -> Delta:
    """A delta of the named parameters of a model, all of one kind, or of all kinds in turn ("every")."""
    tensors = {n: t for n, t in base_tensors(model).items() if isinstance(t, nn.Parameter)}
    chosen = list(names or tensors)
    order = list(KINDS.values())
    makers = [order[(i + index) % len(order)] if kind == "every" else KINDS[kind] for i in range(len(chosen))]
    changes = {n: make(tensors[n], 100 * index + i) for i, (n, make) in enumerate(zip(chosen, makers, strict=True))}
    return Delta(changes, fingerprint(model).restrict(chosen))


class Shared(nn.Module):
    """Embedding 11 x 6 tied to the output layer, a linear layer and a norm between."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.middle = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.middle(self.words(ids)).tanh()))


def shared() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Shared().eval()


def official(model: nn.Module, deltas: Sequence[Delta], values_nm: Tensor, loss: Loss, batch: Tensor) -> Tensor:
    """The gradient by the coefficients as the paper's code takes it: through the n-fold sum, in float64."""
    names = blocks(deltas)
    c = values_nm.clone().requires_grad_()
    tensors = base_tensors(model)
    double = {n: t.detach().double() for n, t in tensors.items() if t.is_floating_point()}
    for j, name in enumerate(names):
        for i, one in enumerate(deltas):
            if name in one:
                double[name] = double[name] + c[i, j] * one[name].dense().double()

    class Functional(nn.Module):
        def forward(self, *args: object, **kwargs: object) -> object:
            return torch.func.functional_call(model, double, args, kwargs)  # type: ignore[arg-type]

    (gradient,) = torch.autograd.grad(loss(Functional(), batch), c)
    return gradient


def bits(model: nn.Module) -> dict[str, tuple[object, ...]]:
    """All that has to be as before: content, storage, flags, gradients, versions, modes."""
    found: dict[str, tuple[object, ...]] = {}
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        grad = None if p.grad is None else p.grad.tolist()
        found[name] = (id(p), p.data_ptr(), p.detach().tolist(), p.requires_grad, grad, p._version)
    found["modes"] = tuple(module.training for module in model.modules())
    return found
