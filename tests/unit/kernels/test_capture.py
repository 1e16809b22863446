"""capture: inputs and gradients at chosen sites, from which the derivatives follow."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dtheta.core.selection import select, sites
from dtheta.errors import UnsupportedLayer
from dtheta.fit.batch import taken
from dtheta.kernels.capture import capture, tangents
from tests.unit.kernels.tangent_models import MODELS, N, bert, drawn, made, odd, texts
from tests.unit.kernels.tangent_reference import jacobian


def of_site(site, captured, J) -> None:
    (tangent,) = tangents(site, captured.inputs[site.key], captured.gradients[site.key])
    assert torch.allclose(tangent.values(), J, atol=1e-12)


def test_every_parameter_of_a_text_model() -> None:
    model, batch = bert(), texts()
    found = list(sites(model).values())
    captured = capture(None, model, found, batch)
    assert torch.equal(captured.logits, model(**batch).logits.detach())
    for site in found:
        of_site(site, captured, jacobian(model, batch, [site.tensor], N))
    linear = next(site for site in found if site.name.endswith("query.weight"))
    assert captured.inputs[linear.key].shape == (N, 7, 16)
    assert captured.gradients[linear.key].shape == (N, 3, 7, 16)


def test_padding_has_no_gradient() -> None:
    model, batch = bert(), texts()
    site = select(model, "*.0.attention.self.query")[0]
    gradients = capture(None, model, [site], batch).gradients[site.key]
    assert float(gradients[1, :, 4:].abs().max()) == 0.0 < float(gradients[1, :, :4].abs().max())


def test_slices_of_a_fused_projection() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double()
    x = drawn(N, 5, 8)
    found = select(model, "*.in_proj_weight")
    captured = capture(lambda m, b: m(b).mean(1)[:, :3], model, found, x)
    model.eval()
    whole = jacobian(model, x, [model.self_attn.in_proj_weight], N, lambda m, b: m(b).mean(1)[:, :3])
    for i, site in enumerate(found):
        of_site(site, captured, whole[..., 64 * i : 64 * (i + 1)])
    assert captured.inputs[found[0].key].data_ptr() == captured.inputs[found[2].key].data_ptr()  # held once


def test_a_layer_used_twice_has_its_places_side_by_side() -> None:
    model, x = made(MODELS["tokens"])
    site = select(model, "twice")[0]
    captured = capture(None, model, [site], x)
    assert captured.inputs[site.key].shape[1] == 2 * 8
    of_site(site, captured, jacobian(model, x, [site.tensor], N))


def test_pseudo_outputs_and_a_study_that_is_passed_on() -> None:
    model, batch = bert(), texts()
    found = select(model)
    first = capture(None, model, found, batch, "pseudo")
    assert torch.allclose(first.logits, model(**batch).logits.sum(1, keepdim=True).detach() / 3**0.5)
    half = taken(batch, slice(3, 6))
    again = capture(None, model, found, half, "pseudo", known=first.study)
    for site in found:
        assert torch.allclose(again.gradients[site.key], first.gradients[site.key][3:], atol=1e-12)


def test_terms_take_their_derivatives_from_a_pass_of_the_base() -> None:
    """As when methods are to be compared before any of them is attached."""
    import dtheta as dt

    model, batch = bert(layers=1), texts()
    found = select(model, "*query|*word_embeddings*")
    captured = capture(None, model, found, batch)
    for method in (dt.LoRA(rank=2), dt.PiSSA(rank=2), dt.SORSA(rank=2), dt.CLIPSVD()):
        terms = {key: term.double() for key, term in method.terms(found, 0).items()}
        adapter = dt.attach(model, method, select="*query|*word_embeddings*").double()
        for site in found:
            term = terms[site.key]
            J = jacobian(adapter, batch, list(adapter.term(site.key).parameters()), N)
            ours = term.tangents(captured.inputs[site.key], captured.gradients[site.key], site.kind == "transposed")
            assert torch.allclose(torch.cat([t.values() for t in ours], 2), J, atol=1e-10)
        adapter.detach()


def test_what_cannot_be_captured_is_named() -> None:
    model, x = made(odd)
    with pytest.raises(UnsupportedLayer, match=r"slope\.weight: nothing to capture"):
        capture(None, model, list(sites(model).values()), x)
    tied, tokens = made(MODELS["tied"])
    with pytest.raises(UnsupportedLayer, match="at once"):
        capture(None, tied, select(tied, "table"), tokens)
