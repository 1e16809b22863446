"""The output with displaced weight against the plain way: W x plus a product beside it, by torch's own gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dtheta.adapt.product import Added, _gradients, displaced
from dtheta.adapt.term import FactoredTerm, SpectralTerm, Term
from dtheta.core.seeds import generator
from dtheta.core.selection import Window

M, N, R = 6, 8, 3
DOUBLE = torch.float64


def drawn(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, name), dtype=DOUBLE)


def terms_for(rows: int, columns: int) -> dict[str, Term]:
    left, right = drawn(rows, R, name="l"), drawn(R, columns, name="r")
    start = (left - 0.1 * drawn(rows, R, name="l0"), right - 0.1 * drawn(R, columns, name="r0"))
    return {
        "lora": FactoredTerm(left, right, scale=1.5),
        "pissa": FactoredTerm(left, right, scale=0.7, start=(*start, None)),
        "sorsa": FactoredTerm(left, right, drawn(R, name="s"), scale=1.3, start=(*start, drawn(R, name="s0"))),
        "spectral": SpectralTerm(left, right, drawn(R, name="shift")),
    }


def plainly(x, weight, bias, added, transposed):
    """The same by ordinary operations on whole matrices."""
    moved = weight
    for term, window, w in added:
        matrix = term.matrix() * w
        if window is not None:
            after = weight.shape[window.axis] - window.stop
            matrix = F.pad(matrix, (0, 0, window.start, after) if window.axis == 0 else (window.start, after))
        moved = moved + matrix
    return F.linear(x, moved.T if transposed else moved, bias)


def grads(function, added, x, bias):
    inputs = [x, bias, *(p for term, _, _ in added for p in term.parameters())]
    output = function()
    return output, torch.autograd.grad((output * drawn(*output.shape, name="g")).sum(), inputs)


@pytest.mark.parametrize("kind", ["lora", "pissa", "sorsa", "spectral"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("tokens", [(2,), (5, 40)], ids=["few", "many"])
def test_output_and_gradients(kind, transposed, tokens):
    rows, columns = (N, M) if transposed else (M, N)
    term = terms_for(rows, columns)[kind]
    weight, x, bias = drawn(rows, columns, name="w"), drawn(*tokens, N).requires_grad_(), drawn(M).requires_grad_()
    added = [(term, None, 0.5)]
    fused = [Added(t.triple(), window, w) for t, window, w in added]
    ours = grads(lambda: displaced(x, weight, bias, fused, transposed), added, x, bias)
    theirs = grads(lambda: plainly(x, weight, bias, added, transposed), added, x, bias)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("transposed", [False, True])
def test_several_terms_some_on_a_part_of_the_outputs(transposed):
    axis = 1 if transposed else 0

    def part(kind, a, b):
        shape = (N, b - a) if transposed else (b - a, N)
        return terms_for(*shape)[kind], Window(axis, a, b, "v"), 1.0

    whole = (terms_for(*((N, M) if transposed else (M, N)))["pissa"], None, -2.0)
    added = [part("sorsa", 0, 2), whole, part("lora", 1, 5), part("spectral", 5, 6)]
    weight = drawn(*((N, M) if transposed else (M, N)), name="w")
    x, bias = drawn(3, 4, N).requires_grad_(), drawn(M).requires_grad_()
    fused = [Added(t.triple(), window, w) for t, window, w in added]
    ours = grads(lambda: displaced(x, weight, bias, fused, transposed), added, x, bias)
    theirs = grads(lambda: plainly(x, weight, bias, added, transposed), added, x, bias)
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(weight, drawn(*weight.shape, name="w"))


def test_both_routes_of_the_gradient():
    left, right, core = drawn(M, R), drawn(R, N), drawn(R)
    for rank in (1, R):  # a low rank goes through the factors, a high one of many tokens through g^T x
        x, g = drawn(60, N), drawn(60, M, name="g")
        L, s, A = left[:, :rank], core[:rank], right[:rank]
        G = g.T @ x
        found = _gradients(x, g, L, s, A, 1.5, (True, True, True))
        expected = [1.5 * (G @ A.T) * s, 1.5 * ((L.T @ G) * A).sum(1), 1.5 * s[:, None] * (L.T @ G)]
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
        assert _gradients(x, g, L, s, A, 1.5, (False, False, False)) == [None, None, None]
        only = _gradients(x, g, L, None, A, 1.0, (False, False, True))
        assert only[:2] == [None, None]
        torch.testing.assert_close(only[2], L.T @ G)


@pytest.mark.parametrize("kind", ["pissa", "sorsa", "spectral"])
def test_first_and_second_derivatives_by_differences(kind):
    term = terms_for(4, 3)[kind]
    weight, bias = drawn(4, 3, name="w"), drawn(4)
    parameters = [p.detach().clone().requires_grad_() for p in term.parameters()]
    names = [n for n, _ in term.named_parameters()]
    x = drawn(9, 3).requires_grad_()

    def function(x, *values):
        for name, value in zip(names, values, strict=True):
            term._parameters[name] = value
        return displaced(x, weight, bias, [Added(term.triple(), None, 1.0)], False)

    assert torch.autograd.gradcheck(function, (x, *parameters))
    assert torch.autograd.gradgradcheck(function, (x, *parameters))


def test_start_is_the_layers_own_output_bit_for_bit():
    weight, x, bias = drawn(M, N, name="w").float(), drawn(33, N).float(), drawn(M).float()
    for transposed in (False, True):
        rows, columns = (N, M) if transposed else (M, N)
        term = FactoredTerm(drawn(rows, R).float(), drawn(R, columns).float(), drawn(R).float(), subtract_start=True)
        base = weight.T.contiguous() if transposed else weight
        expected = torch.addmm(bias, x, base) if transposed else F.linear(x, base, bias)
        for enabled in (True, False):
            with torch.set_grad_enabled(enabled):
                found = displaced(x, base, bias, [Added(term.triple(), None, 1.0)], transposed)
            assert torch.equal(found, expected)


@pytest.mark.parametrize("transposed", [False, True])
def test_output_may_be_written_to_in_place(transposed):
    term = terms_for(*((N, M) if transposed else (M, N)))["pissa"]
    weight, x = drawn(*((N, M) if transposed else (M, N))), drawn(3, 20, N).requires_grad_()
    found = displaced(x, weight, None, [Added(term.triple(), None, 1.0)], transposed)
    assert not found._is_view()
    (found.relu_() * 2).sum().backward()
    ours, x.grad = x.grad, None
    (plainly(x, weight, None, [(term, None, 1.0)], transposed).relu() * 2).sum().backward()
    torch.testing.assert_close(ours, x.grad)


def test_unwanted_gradients_are_not_made():
    term = terms_for(M, N)["lora"]
    term.left.requires_grad_(False)
    out = displaced(drawn(50, N), drawn(M, N), None, [Added(term.triple(), None, 1.0)], False)
    out.sum().backward()
    assert term.left.grad is None
    assert term.right.grad is not None


def test_a_factor_that_changed_since_is_noticed():
    term = terms_for(M, N)["pissa"]
    out = displaced(drawn(50, N), drawn(M, N), None, [Added(term.triple(), None, 1.0)], False)
    with torch.no_grad():
        term.left.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
