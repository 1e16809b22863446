"""Terms: every way of acting gives the same displacement, exactly zero at the start."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dtheta.adapt.term import DenseTerm, FactoredTerm, SpectralTerm, Term, prefers_matrix
from dtheta.core.lowrank import LowRank
from dtheta.core.seeds import generator

M, N, R = 5, 7, 3


def drawn(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, name))


def factored(**settings) -> FactoredTerm:
    core = settings.pop("core", None)
    return FactoredTerm(drawn(M, R, name="left"), drawn(R, N, name="right"), core, **settings)


TERMS = {
    "dense": lambda: DenseTerm(drawn(M, N)),
    "factored": lambda: factored(),
    "scaled": lambda: factored(scale=1.7),
    "core": lambda: factored(core=drawn(R), scale=0.3),
    "start": lambda: factored(scale=2.0, subtract_start=True),
    "core and start": lambda: factored(core=drawn(R), scale=1.5, subtract_start=True),
    "spectral": lambda: SpectralTerm(drawn(M, R), drawn(R, N), drawn(R)),
}
each = pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)


def moved(make) -> Term:
    term = make()
    with torch.no_grad():
        for name, p in term.named_parameters():
            p.add_(drawn(*p.shape, name=name), alpha=0.5)
    return term


def plain(term: Term) -> torch.Tensor:
    """The displacement by its definition, in float64: c (L s R - L0 s0 R0)."""
    if isinstance(term, DenseTerm):
        return term.values.detach().double()
    if isinstance(term, SpectralTerm):
        return term.left.double() @ torch.diag(term.shift.detach().double()) @ term.right.double()
    now = [None if t is None else t.detach().double() for t in (term.left, term.core, term.right)]
    start = [None if t is None else t.double() for t in (term.left0, term.core0, term.right0)]
    total = torch.zeros(M, N, dtype=torch.float64)
    for sign, (left, core, right) in ((1, now), (-1, start)):
        if left is not None:
            total += sign * term.scale * left @ torch.diag(torch.ones(R).double() if core is None else core) @ right
    return total


@each
def test_all_ways_of_acting_agree(make):
    term = moved(make)
    expected = plain(term)
    close = lambda a, b: torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)  # noqa: E731
    x, y, index = drawn(2, 4, N), drawn(2, 4, M, name="y"), torch.tensor([[0, 3], [3, 1]])
    close(term.matrix(), expected)
    close(term.product(x), x.double() @ expected.T)
    close(term.product(x[:, :1, :]), x[:, :1, :].double() @ expected.T)
    close(term.transposed(y), y.double() @ expected)
    close(term.rows(index), expected[index])
    close(term.change().dense(), expected)
    if (triple := term.triple()) is not None:
        left, right = triple.pair()
        close(left @ right, expected)


@each
def test_a_term_knows_whether_it_is_zero(make):
    assert not moved(make).is_zero()
    assert make().is_zero() == (not bool(make().matrix().any()))
    term = SpectralTerm(drawn(M, R), drawn(R, N), torch.zeros(R))
    assert term.is_zero() and FactoredTerm(torch.zeros(M, R), drawn(R, N)).is_zero()
    last = torch.zeros(1000, R)
    last[-1] = 1.0
    assert not FactoredTerm(last, drawn(R, N), dropout=0.9).is_zero()


@each
def test_change_is_a_copy(make):
    term = moved(make)
    change = term.change()
    before = change.dense().clone()
    with torch.no_grad():
        for p in term.parameters():
            p.zero_()
    assert torch.equal(change.dense(), before)


@pytest.mark.parametrize("name", ["start", "core and start"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_subtracted_start_leaves_exact_zeros(name, dtype):
    term = TERMS[name]()
    x, y = drawn(3, N).to(dtype), drawn(3, M).to(dtype)
    for out in (term.product(x), term.transposed(y), term.rows(torch.tensor([1, 2])), term.matrix()):
        assert not out.any()


def test_accuracy_is_relative_to_the_displacement_and_not_to_the_weight():
    """A difference of two products would be off by the rounding of the products, a thousand times what is left."""
    left, right = drawn(64, 8, name="l"), drawn(8, 48, name="r")
    term = FactoredTerm(left.clone(), right.clone(), subtract_start=True)
    with torch.no_grad():
        term.left.add_(drawn(64, 8, name="dl"), alpha=1e-5)
        term.right.add_(drawn(8, 48, name="dr"), alpha=1e-5)
    exact = term.left.double() @ term.right.double() - left.double() @ right.double()
    naive = term.left @ term.right - left @ right
    error = lambda found: float((found.double() - exact).norm() / exact.norm())  # noqa: E731
    assert error(term.matrix()) < 1e-5
    assert error(naive) > 100 * error(term.matrix())


def test_the_start_is_not_trained_and_goes_with_the_state():
    term = TERMS["core and start"]()
    assert {n for n, _ in term.named_parameters()} == {"left", "right", "core"}
    assert {"left0", "right0", "core0"} <= set(term.state_dict())


def test_stored_form_of_a_start_is_the_stacked_factors():
    term = moved(TERMS["core and start"])
    change = term.change()
    assert isinstance(change, LowRank)
    assert change.rank == 2 * R
    assert torch.equal(change.left[:, :R], term.left)
    assert torch.equal(change.right[R:], term.right0)
    assert torch.equal((change.core[:R] / term.scale).float(), term.core)


def test_dropout_acts_on_the_inputs_while_training():
    term = factored(dropout=0.5)
    x = torch.ones(200, N)
    assert term.triple() is None
    torch.manual_seed(0)
    dropped = term.product(x)
    torch.manual_seed(0)
    expected = F.linear(F.linear(F.dropout(x, 0.5), term.right), term.left)
    torch.testing.assert_close(dropped, expected)
    term.eval()
    assert term.triple() is not None
    torch.testing.assert_close(term.product(x), x @ term.matrix().T)


def test_spectral_term_trains_nothing_but_the_shift_and_stores_no_basis():
    term = TERMS["spectral"]()
    assert [n for n, _ in term.named_parameters()] == ["shift"]
    assert set(term.state_dict()) == {"shift"}


@pytest.mark.parametrize("tokens", [1, 50])
def test_spectral_routes_have_equal_gradients(tokens):
    term = TERMS["spectral"]()
    x = drawn(tokens, N).requires_grad_()
    assert prefers_matrix(x, M, N) is (tokens == 50)
    term.product(x).sin().sum().backward()
    found = (term.shift.grad.clone(), x.grad.clone())
    term.shift.grad = x.grad = None
    (x @ term.matrix().T).sin().sum().backward()
    torch.testing.assert_close(found, (term.shift.grad, x.grad), rtol=1e-4, atol=1e-4)


def test_terms_follow_the_module_protocol():
    terms = nn.ModuleDict({name.replace(" ", "-"): make() for name, make in TERMS.items()})
    assert terms.to(torch.float64)["start"].matrix().dtype == torch.float64
