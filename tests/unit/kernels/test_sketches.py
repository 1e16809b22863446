"""Count-sketches of derivatives: unbiased, with the variance that theory gives, the same for every form."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.tangents import Direct, Outer, Rows, Summed, Tangent
from dtheta.kernels.sketches import Sketch
from dtheta.kernels.tangent import tangent_kernel
from tests.unit.kernels.tangent_models import MODELS, N, drawn, made
from tests.unit.kernels.tangent_reference import error

INDEX = torch.tensor([[0, 2, 2], [3, 1, 0]])
FORMS: dict[str, Tangent] = {
    "outer": Outer(drawn(2, 3, 5, name="a"), drawn(2, 2, 3, 4, name="g")),
    "transposed": Outer(drawn(2, 3, 5, name="a"), drawn(2, 2, 3, 4, name="g"), transposed=True),
    "rows": Rows(INDEX, drawn(2, 2, 3, 5, name="e"), 4),
    "sum": Summed((Rows(INDEX, drawn(2, 2, 3, 5, name="e"), 4), Outer(drawn(2, 1, 5), drawn(2, 2, 1, 4)))),
}


@pytest.mark.parametrize("tangent", FORMS.values(), ids=FORMS)
def test_a_form_is_sketched_as_its_values_are(tangent: Tangent) -> None:
    sketch = Sketch(width=7, seed=3)
    assert torch.allclose(
        sketch.of(tangent, "w").double(), sketch.of(Direct(tangent.values()), "w").double(), atol=1e-5
    )


@pytest.mark.parametrize("name", ["tokens", "tied"])
def test_the_mean_over_seeds_is_the_kernel(name: str) -> None:
    model, x = made(MODELS[name])
    K = tangent_kernel(model, x)
    found = torch.stack([tangent_kernel(model, x, method="sketch", width=512, seed=seed) for seed in range(24)])
    bound = (K.diagonal()[:, None] * K.diagonal() + K.square()) / 512  # of one seed, summed over outputs at most
    assert bool(((found.mean(0) - K).square() < 25 * bound / 24 + 1e-9).all())
    assert float(found.var(0).mean()) < 2 * float(bound.mean())


def test_two_sets_and_chunks_have_the_same_draws() -> None:
    model, x = made(MODELS["mlp"])
    whole = tangent_kernel(model, x, outputs="full", method="sketch", width=64, seed=5)
    again = tangent_kernel(model, x[:2], x, outputs="full", method="sketch", width=64, seed=5, chunk=1, memory=1000)
    assert error(again, whole[:2]) < 1e-5
    assert whole.shape == (N, N, 3, 3)
    assert not torch.allclose(whole, tangent_kernel(model, x, outputs="full", method="sketch", width=64, seed=6))
