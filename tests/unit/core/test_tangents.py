"""Tangents: every form gives what its plain array of derivatives gives, whatever way a Gram matrix is computed."""

from __future__ import annotations

import pytest
import torch

from dtheta.core import tangent_grams
from dtheta.core.seeds import generator
from dtheta.core.tangents import Direct, Outer, Rows, Summed, Tangent, plain_tangent
from tests.unit.kernels.tangent_reference import error, kernel

O, D1, D2 = 2, 5, 4


def drawn(*shape: int, name: str) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def outer(n: int, places: int, transposed: bool = False, name: str = "") -> Outer:
    shape = (D2, D1) if transposed else (D1, D2)  # W is (D2, D1) either way
    a, g = drawn(n, places, shape[0], name=f"a{name}"), drawn(n, O, places, shape[1], name=f"g{name}")
    return Outer(a, g, transposed)


def rows(n: int, places: int, name: str = "") -> Rows:
    index = torch.randint(D2, (n, places), generator=generator(0, f"i{name}"))
    return Rows(index, drawn(n, O, places, D1, name=f"e{name}"), D2)


#: Uses of one parameter (D2, D1), for n examples.
FORMS = {
    "outer, one place": lambda n: outer(n, 1),
    "outer": lambda n: outer(n, 3),
    "transposed": lambda n: outer(n, 3, transposed=True),
    "rows": lambda n: rows(n, 6),
    "direct": lambda n: Direct(drawn(n, O, D1 * D2, name="d")),
    "sum": lambda n: Summed((rows(n, 4, "2"), outer(n, 2, name="2"), outer(n, 1, True, "3"))),
}
each = pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)


def by_definition(tangent: Tangent) -> torch.Tensor:
    """The derivatives (N, O, P), entry by entry."""
    if isinstance(tangent, Summed):
        return torch.stack([by_definition(use) for use in tangent.uses]).sum(0)
    if isinstance(tangent, Direct):
        return tangent.derivatives
    if isinstance(tangent, Outer):
        pattern = "ntd,note->node" if tangent.transposed else "ntd,note->noed"
        return torch.einsum(pattern, tangent.inputs, tangent.gradients).flatten(2)
    assert isinstance(tangent, Rows)
    table = torch.zeros(tangent.examples, O, D2, D1, dtype=torch.float64)
    for n, ids in enumerate(tangent.index.tolist()):
        for t, i in enumerate(ids):
            table[n, :, i] += tangent.gradients[n, :, t]
    return table.flatten(2)


@each
def test_values_sizes_and_parts(make) -> None:
    tangent = make(3)
    J = by_definition(tangent)
    assert (tangent.examples, tangent.outputs, tangent.size) == J.shape
    assert torch.allclose(tangent.values(), J)
    step = tangent.columns
    assert torch.allclose(tangent.entries(step, 2 * step), J[..., step : 2 * step])
    assert torch.allclose(torch.cat(list(tangent.parts(most=1)), 2), J)
    assert torch.allclose(tangent.examples_of(1, 3).values(), J[1:3])
    assert torch.allclose(tangent.squares(), J.square().sum(2))


@each
def test_products_with_vectors(make) -> None:
    tangent = make(3)
    J, w, d = by_definition(tangent), drawn(3, O, name="w"), drawn(D1 * D2, name="direction")
    assert torch.allclose(tangent.accumulate(w), torch.einsum("nop,no->p", J, w))
    assert torch.allclose(tangent.dot(d), J @ d)


@pytest.mark.parametrize("outputs", ["mean", "full"])
@each
def test_gram_of_itself(make, outputs: str) -> None:
    tangent = make(4)
    assert error(tangent.gram(outputs=outputs), kernel(by_definition(tangent), outputs)) < 1e-12


@pytest.mark.parametrize("outputs", ["mean", "full"])
@pytest.mark.parametrize("second", FORMS.values(), ids=FORMS)
@each
def test_gram_of_every_pair(make, second, outputs: str) -> None:
    left, right = make(3), second(4)
    wanted = kernel(by_definition(left), outputs, by_definition(right))
    assert error(left.gram(right, outputs), wanted) < 1e-12


@pytest.mark.parametrize("outputs", ["mean", "full"])
def test_both_routes_agree_in_small_pieces_too(outputs, monkeypatch) -> None:
    left, right = outer(5, 3), outer(4, 2, name="r")
    wanted = kernel(by_definition(left), outputs, by_definition(right))
    for most in (1, 50, 1 << 22):
        monkeypatch.setattr(tangent_grams, "_MOST", most)
        assert error(tangent_grams._places(left, right, outputs), wanted) < 1e-12
        assert error(tangent_grams._materialized(left, right, outputs), wanted) < 1e-12


def test_the_cheaper_route_is_the_one_with_fewer_multiplications() -> None:
    long = Outer(torch.zeros(4, 64, 8), torch.zeros(4, 1, 64, 8))
    wide = Outer(torch.zeros(4, 2, 512), torch.zeros(4, 1, 2, 512))
    places, derivatives = tangent_grams.outer_costs(long, None, "mean")
    assert derivatives < places
    places, derivatives = tangent_grams.outer_costs(wide, None, "mean")
    assert places < derivatives


def test_plain_tangents() -> None:
    g = drawn(2, O, 3, D2, name="g")
    assert isinstance(plain_tangent(drawn(2, 3, D1, name="a"), g, False, D2), Outer)
    assert isinstance(plain_tangent(torch.zeros(2, 3, dtype=torch.long), g, False, 9), Rows)
    vector = plain_tangent(torch.zeros(2, 3, 0), g, False, D2)
    assert torch.equal(vector.values(), g.sum(2))
