"""Hypothesis strategies: random changes of every kind, deltas of real modules, and models to put them on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from dtheta.core.block import Block
from dtheta.core.change import Change, Dense, matrix_shape
from dtheta.core.combination import Scaled, Sum
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.planes import Planes
from dtheta.core.provenance import Provenance
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from dtheta.core.spectral import Spectral
from dtheta.core.stacked import Stacked
from dtheta.core.tensors import base_tensors
from dtheta.core.ternary import Ternary, ternary
from dtheta.core.ternary_factors import TernaryFactors

FACTORS = st.floats(-3, 3, allow_nan=False, width=32).filter(lambda f: abs(f) > 1e-3)
SHAPES = st.sampled_from([(4, 6), (6, 4), (1, 5), (5,), (), (3, 2, 3, 3), (12, 4), (7, 7), (3, 4, 2)])


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """Normal numbers from a drawn seed and magnitude; now and then zeros, or float64."""
    seed = draw(st.integers(0, 10**6))
    dtype = dtype or draw(st.sampled_from([torch.float32, torch.float32, torch.float64]))
    size = draw(st.sampled_from([1.0, 1.0, 1e-4, 30.0, 0.0]))
    return size * torch.randn(shape, generator=generator(seed, "strategy"), dtype=dtype)


@st.composite
def orthonormal(draw: st.DrawFn, m: int, k: int) -> Tensor:
    """A matrix (m, k) with orthonormal columns."""
    seed = draw(st.integers(0, 10**6))
    return torch.linalg.qr(torch.randn(m, k, generator=generator(seed, "basis"), dtype=torch.float64)).Q.float()


@st.composite
def dense(draw: st.DrawFn, shape: tuple[int, ...]) -> Change:
    return Dense(draw(tensors(shape)))


@st.composite
def low_rank(draw: st.DrawFn, shape: tuple[int, ...]) -> Change:
    """Plain factors, factors with a core, or trained less initial factors (which nearly cancel)."""
    m, n = matrix_shape(shape)
    r = draw(st.integers(0, 3))
    left, right = draw(tensors((m, r))), draw(tensors((r, n)))
    form = draw(st.sampled_from(["plain", "core", "start"]))
    if form == "plain":
        return LowRank(left, right, None, shape)
    if form == "core":
        return LowRank(left, right, draw(tensors((r,))), shape)
    moved = left + 1e-3 * draw(tensors((m, r)))
    core = torch.cat([torch.ones(r), -torch.ones(r)])
    return LowRank(torch.cat([moved, left], 1), torch.cat([right, right], 0), core, shape)


@st.composite
def stacked(draw: st.DrawFn, shape: tuple[int, ...]) -> Change:
    """Factors of every slice, plain or with a core."""
    e, m, n = shape
    r = draw(st.integers(0, 3))
    core = draw(tensors((e, r))) if draw(st.booleans()) else None
    return Stacked(draw(tensors((e, m, r))), draw(tensors((e, r, n))), core)


@st.composite
def rows(draw: st.DrawFn, shape: tuple[int, ...]) -> Change:
    m, n = matrix_shape(shape)
    index = sorted(draw(st.sets(st.integers(0, m - 1), max_size=m)))
    return Rows(torch.tensor(index, dtype=torch.int64), draw(tensors((len(index), n))), shape)


@st.composite
def spectral(draw: st.DrawFn, shape: tuple[int, ...]) -> Change:
    m, n = matrix_shape(shape)
    k = draw(st.integers(1, min(m, n)))
    return Spectral(draw(tensors((k,))), shape, draw(orthonormal(m, k)), draw(orthonormal(n, k)).T)


@st.composite
def signed(draw: st.DrawFn, shape: tuple[int, ...]) -> Ternary:
    """Signs of any density, and one scale or one a row."""
    m, n = matrix_shape(shape)
    g = generator(draw(st.integers(0, 10**6)), "signs")
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    signs = (torch.rand(m, n, generator=g) < density) * (2 * torch.randint(0, 2, (m, n), generator=g) - 1)
    scale = draw(tensors(draw(st.sampled_from([(), (m,)]))))
    return ternary(Planes.from_signs(signs.to(torch.int8)), scale, shape)


@st.composite
def signed_factors(draw: st.DrawFn, shape: tuple[int, ...]) -> Change:
    m, n = matrix_shape(shape)
    r = draw(st.integers(1, 3))
    return TernaryFactors(draw(signed((m, r))), draw(signed((r, n))), shape)


@st.composite
def blocks(draw: st.DrawFn, shape: tuple[int, ...], depth: int) -> Change:
    m, n = matrix_shape(shape)
    axis = draw(st.sampled_from([0, 1]))
    length = (m, n)[axis]
    start = draw(st.integers(0, length - 1))
    stop = draw(st.integers(start + 1, length))
    inner = (stop - start, n) if axis == 0 else (m, stop - start)
    return Block(draw(changes(inner, depth - 1)), axis, start, shape)  # type: ignore[arg-type]


@st.composite
def changes(draw: st.DrawFn, shape: tuple[int, ...], depth: int = 2) -> Change:
    """A change of any kind; ``depth`` limits how far sums, multiples and blocks are inside each other."""
    leaves = [dense, low_rank, low_rank, rows, spectral, signed, signed_factors]
    leaf = draw(st.sampled_from([*leaves, stacked, stacked] if len(shape) == 3 else leaves))
    kind = draw(st.sampled_from(["leaf", "block", "scaled", "sum", "a + b", "f * a"])) if depth else "leaf"
    if kind == "leaf":
        return draw(leaf(shape))
    if kind == "block":
        return draw(blocks(shape, depth))
    if kind in ("scaled", "f * a"):
        factor, term = draw(FACTORS), draw(changes(shape, depth - 1))
        return Scaled(factor, term) if kind == "scaled" else factor * term
    terms = draw(st.lists(changes(shape, depth - 1), min_size=2, max_size=3))
    if kind == "sum":
        return Sum(tuple(terms))
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


@st.composite
def change_pairs(draw: st.DrawFn) -> tuple[Change, Change]:
    """Two changes of one parameter."""
    shape = draw(SHAPES)
    return draw(changes(shape)), draw(changes(shape))


def reference(change: Change) -> Tensor:
    """The displacement in float64, computed in the plainest way from the definition of each kind."""
    rows_, columns = matrix_shape(change.shape)
    if isinstance(change, Scaled):
        return change.factor * reference(change.term)
    if isinstance(change, Sum):
        return sum((reference(term) for term in change.terms), torch.zeros(change.shape, dtype=torch.float64))
    result = torch.zeros(rows_, columns, dtype=torch.float64)
    if isinstance(change, Block):
        part = reference(change.term).reshape(matrix_shape(change.term.shape))
        if change.axis == 0:
            result[change.start : change.stop] = part
        else:
            result[:, change.start : change.stop] = part
    elif isinstance(change, Rows):
        for i, row in zip(change.index.tolist(), change.values, strict=True):
            result[i] = row.double()
    elif isinstance(change, TernaryFactors):
        result = reference(change.left) @ reference(change.right)
    elif isinstance(change, Ternary):
        for place in range(rows_ * columns):
            byte, bit = divmod(place, 8)
            sign = (int(change.positive[byte]) >> bit & 1) - (int(change.negative[byte]) >> bit & 1)
            scale = change.scale[place // columns] if change.scale.ndim else change.scale
            result[place // columns, place % columns] = sign * scale.double()
    elif isinstance(change, LowRank):
        core = torch.ones(change.left.shape[1]) if change.core is None else change.core
        for a, c, b in zip(change.left.T.double(), core.double(), change.right.double(), strict=True):
            result += c * a[:, None] * b[None, :]
    elif isinstance(change, Stacked):
        core = torch.ones(change.right.shape[:2]) if change.core is None else change.core
        parts = zip(change.left.double(), core.double(), change.right.double(), strict=True)
        result = torch.stack([left @ torch.diag(middle) @ right for left, middle, right in parts])
    elif isinstance(change, Spectral):
        assert change.left is not None and change.right is not None
        for u, s, v in zip(change.left.T.double(), change.shift.double(), change.right.double(), strict=True):
            result += s * u[:, None] * v[None, :]
    elif isinstance(change, Dense):
        result = change.values.double()
    return result.reshape(change.shape)


def size(change: Change) -> float:
    """The norms of the parts added up: what rounding errors are relative to."""
    if isinstance(change, Scaled):
        return abs(change.factor) * size(change.term)
    if isinstance(change, Sum):
        return sum(size(term) for term in change.terms)
    if isinstance(change, Block):
        return size(change.term)
    if isinstance(change, LowRank):
        core = torch.ones(change.left.shape[1]) if change.core is None else change.core
        return float((change.left.double().norm(dim=0) * core.double().abs() * change.right.double().norm(dim=1)).sum())
    if isinstance(change, Stacked):
        core = torch.ones(change.right.shape[:2]) if change.core is None else change.core
        return float((change.left.double().norm(dim=1) * core.double().abs() * change.right.double().norm(dim=2)).sum())
    if isinstance(change, TernaryFactors):  # entries of its product may cancel, and their rounding does not
        left, right = (factor.dense().double() for factor in (change.left, change.right))
        return float((left.norm(dim=0) * right.norm(dim=1)).sum())
    return float(reference(change).norm())


def unbound(change: Change) -> Change:
    """The change as a file without its base gives it: spectral changes have no singular vectors."""
    if isinstance(change, Spectral):
        return Spectral(change.shift, change.full_shape, probe=change.make_probe())
    if isinstance(change, Scaled):
        return Scaled(change.factor, unbound(change.term))
    if isinstance(change, Sum):
        return Sum(tuple(unbound(term) for term in change.terms))
    if isinstance(change, Block):
        return Block(unbound(change.term), change.axis, change.start, change.full_shape)
    return change


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` on itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x_BTE: Tensor) -> Tensor:
        return self.attention(x_BTE, x_BTE, x_BTE, need_weights=False)[0]


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1)
    return GPT2LMHeadModel(config).eval()


MODELS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)), lambda: torch.ones(2, 5)),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(2), nn.Conv1d(4, 3, 2)).eval(),
        lambda: torch.ones(1, 2, 8, 8),
    ),
    "embedding": (lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), lambda: torch.arange(3)),
    "attention": (SelfAttention, lambda: torch.ones(1, 3, 8)),
    "double": (lambda: nn.Linear(4, 3, dtype=torch.float64), lambda: torch.ones(2, 4, dtype=torch.float64)),
    "gpt2": (_gpt2, lambda: torch.arange(4)[None]),
}


def make_model(name: str) -> nn.Module:
    """A fresh small model, always with the same numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return MODELS[name][0]()


@st.composite
def deltas(draw: st.DrawFn, model: nn.Module, most: int = 3) -> Delta:
    """A delta of some floating tensors of a model, with its fingerprint; spectral changes are on the model's basis."""
    candidates = {n: t for n, t in base_tensors(model).items() if t.is_floating_point()}
    names = draw(st.lists(st.sampled_from(sorted(candidates)), min_size=1, max_size=most, unique=True))
    found = {name: draw(changes(tuple(candidates[name].shape), depth=1)) for name in names}
    found = {name: _on_basis(change, candidates[name]) for name, change in found.items()}
    made = Provenance("made", {"name": "Random"}, settings={"names": names}, seed=draw(st.integers(0, 9)))
    return Delta(found, fingerprint(model).restrict(found), made)


def _on_basis(change: Change, weight: Tensor) -> Change:
    """Put spectral changes on the singular vectors of a weight, so that another reader finds the same ones."""
    if isinstance(change, Spectral):
        return Spectral(change.shift, change.full_shape).bind(weight.detach())
    if isinstance(change, Scaled):
        return Scaled(change.factor, _on_basis(change.term, weight))
    if isinstance(change, Sum):
        return Sum(tuple(_on_basis(term, weight) for term in change.terms))
    if isinstance(change, Block):
        matrix = weight.detach().reshape(matrix_shape(weight.shape))
        window = matrix.narrow(change.axis, change.start, change.stop - change.start)
        term = _on_basis(change.term, window.reshape(change.term.shape))
        return Block(term, change.axis, change.start, change.full_shape)
    return change
