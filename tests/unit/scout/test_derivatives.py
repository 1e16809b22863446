"""Kernels of methods from one captured pass: equal to explicit Jacobians of the network with the method attached."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import dtheta as dt
from dtheta.adapt.adapter import Adapter
from dtheta.core.tangents import Outer
from dtheta.models.classifier import classifier
from dtheta.scout.attached import derivatives_in
from dtheta.scout.candidates import candidates_of
from dtheta.scout.derivatives import Derivatives, Glance, derivatives_of, sketched
from dtheta.scout.examples import Examples, examples_of
from dtheta.scout.head import directions, head_of, projected
from tests.unit.kernels.tangent_reference import jacobian
from tests.unit.scout.planted import Small, inputs, sentences, tiny_bert

METHODS = [
    (dt.LoRA(rank=2), None),
    (dt.LoRA(rank=2, alpha=8.0), "layers.1"),
    (dt.PiSSA(rank=3), None),
    (dt.SORSA(rank=2), None),
    (dt.CLIPSVD(), None),
    (dt.BitFit(), None),
    (dt.Full(), None),
]


def jacobian_of(adapter: Adapter, glance: Glance, examples: Examples) -> Tensor:
    """Return J (n, O, P) by autograd, one example at a time; the head is left out."""
    moving = [p for name, p in adapter.trainable().items() if not name.startswith("head.")]
    return jacobian(adapter, examples.of(glance.index), moving, len(glance.index), glance.function)


def compare(found: Derivatives, J: Tensor, residual: Tensor) -> None:
    """Compare a kernel, its slope and its signed move with those of a Jacobian."""
    K = found.kernel()
    assert K is not None
    wanted = torch.einsum("nop,mop->nm", J, J).double() / J.shape[1]
    torch.testing.assert_close(K, wanted, rtol=1e-4, atol=1e-5 * float(wanted.max()))
    gradient = torch.einsum("nop,no->p", J, residual.to(J))
    assert found.slope == pytest.approx(float(gradient.abs().sum()), rel=1e-4)
    assert found.signed is not None
    signed = (J @ gradient.sign()).double()
    torch.testing.assert_close(found.signed, signed, rtol=1e-3, atol=1e-4 * float(signed.abs().max()))
    assert found.count == J.shape[2]


def scene(net: nn.Module, data) -> tuple[Examples, Glance]:
    """Return examples and a glance at the first of them, with a random head along two directions."""
    examples = examples_of(data, 24, None, 0)
    head = head_of(net, None)
    weight = torch.randn(examples.classes, head.module.in_features, generator=torch.Generator().manual_seed(3)).double()
    function = projected(head, weight, directions(examples.classes, 2, 0))
    index = torch.arange(0, 20, 2)
    residual = torch.randn(10, min(2, examples.classes - 1), generator=torch.Generator().manual_seed(4)).double()
    return examples, Glance(function, index, residual)


@pytest.mark.parametrize(("method", "select"), METHODS, ids=lambda value: str(value))
def test_the_kernel_of_a_method_is_that_of_its_explicit_jacobian(method, select) -> None:
    net, x = Small(), inputs(24).double()
    examples, glance = scene(net, [(x, torch.arange(24) % 3)])
    candidates, refused = candidates_of(net, [(method, select)], "head", seed=5)
    assert not refused
    found = derivatives_of(net, examples, [glance], candidates, chunk=4)[0][candidates[0].name]
    adapter = dt.attach(net, method, select, seed=5)
    compare(found, jacobian_of(adapter, glance, examples), glance.residual)


@pytest.mark.parametrize("method", [dt.LoRA(rank=2), dt.BitFit(), dt.Full()], ids=lambda m: m.name)
def test_tokens_of_texts_of_several_lengths_and_padding_add_up(method) -> None:
    net = classifier(tiny_bert(), 2)
    examples, glance = scene(net, sentences(24))
    candidates, _ = candidates_of(net, [method], "head", seed=5)
    found = derivatives_of(net, examples, [glance], candidates, chunk=4)[0][candidates[0].name]
    adapter = dt.attach(net, method, candidates[0].method and _pattern(candidates[0]), seed=5)
    compare(found, jacobian_of(adapter, glance, examples), glance.residual)


def test_a_method_in_two_selections_has_the_kernels_of_each() -> None:
    net, x = Small(), inputs(24).double()
    examples, glance = scene(net, [(x, torch.arange(24) % 3)])
    methods = [dt.LoRA(rank=2), (dt.LoRA(rank=2), "layers.0"), (dt.LoRA(rank=2), "layers.1")]
    candidates, _ = candidates_of(net, methods, "head", seed=5)
    (found,) = derivatives_of(net, examples, [glance], candidates, chunk=4)
    both, first, second = (found[c.name].kernel() for c in candidates)
    assert both is not None and first is not None and second is not None
    torch.testing.assert_close(both, first + second)
    assert float(torch.dist(first, second)) > 0.1 * float(both.norm())


def _pattern(candidate) -> str:
    return "|".join(site.name for site in candidate.sites.values())


@pytest.mark.parametrize("method", [dt.PromptTuning(length=3), dt.DePT(length=2, rank=2)], ids=lambda m: m.name)
def test_a_prompt_is_looked_at_where_it_is_attached(method) -> None:
    net = classifier(tiny_bert(), 2)
    examples, glance = scene(net, sentences(24))
    adapter = dt.attach(net, method, seed=5)
    (found,) = derivatives_in(adapter, examples, [glance], chunk=4)
    compare(found, jacobian_of(adapter, glance, examples), glance.residual)


def test_coefficients_of_deltas_move_the_outputs_along_the_deltas() -> None:
    net, x = Small(), inputs(24).double()
    examples, glance = scene(net, [(x, torch.arange(24) % 3)])
    adapter = dt.attach(net, dt.LoRA(rank=2), "layers.*")
    with torch.no_grad():
        for p in adapter.trainable().values():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    delta = adapter.delta()
    adapter.detach()
    candidates, refused = candidates_of(net, [[delta]], "head", seed=0)
    assert not refused
    found = derivatives_of(net, examples, [glance], candidates, chunk=5)[0][candidates[0].name]
    batch, columns = examples.of(glance.index), []
    for name in delta.changes:
        part = delta.restrict(name)
        with dt.applied(net, 1e-4 * part):
            ahead = glance.function(net, batch)
        with dt.applied(net, -1e-4 * part):
            columns.append((ahead - glance.function(net, batch)) / 2e-4)
    compare(found, torch.stack(columns, -1).detach(), glance.residual)


def test_a_sketch_has_the_same_kernel_on_average() -> None:
    drawn = torch.Generator().manual_seed(0)
    whole = Outer(torch.randn(30, 6, 600, generator=drawn), torch.randn(30, 2, 6, 200, generator=drawn))
    parts = [
        Outer(whole.inputs.roll(k, 0)[:, :, torch.randperm(600, generator=drawn)], whole.gradients.roll(k, 0))
        for k in range(12)
    ]
    close = torch.stack([sketched(p).gram().roll((-k, -k), (0, 1)) for k, p in enumerate(parts)]).mean(0)
    exact = whole.gram()
    assert float(torch.dist(close, exact) / exact.norm()) < 0.1
    assert sketched(Outer(whole.inputs[..., :100], whole.gradients)).inputs.shape[2] == 100  # type: ignore[attr-defined]
