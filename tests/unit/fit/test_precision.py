"""Mixed precision: autocast, the gradient scaler, and the order of clipping and the method's gradient under it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.errors import ConfigError
from dtheta.fit.loop import fit
from tests.unit.fit.models import Shift, regression, same, sentences, squared, values


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_forward_runs_in_the_precision_and_the_terms_stay_float32(
    tiny_mlp: nn.Module, precision: Any, dtype: torch.dtype
) -> None:
    seen = set()

    def loss(model: Any, batch: Any) -> Tensor:
        output = model(batch[0])
        seen.add(output.dtype)
        return (output.float() - batch[1]).square().mean()

    adapter = attach(tiny_mlp, LoRA(rank=2), "*.weight")
    record = fit(adapter, regression(8), steps=20, lr=1e-2, loss=loss, precision=precision, eval=regression(8))
    assert seen == {dtype}
    assert {p.dtype for p in adapter.trainable().values()} == {torch.float32}
    assert record.losses[-1][1] < record.losses[0][1]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_nearly_as_full_precision_does(tiny_llama: nn.Module, precision: Any) -> None:
    found = []
    for kind in ("fp32", precision):
        adapter = attach(tiny_llama, LoRA(rank=4))
        found.append([loss for _, loss in fit(adapter, sentences(6), steps=10, lr=1e-2, precision=kind).losses])
        adapter.detach()
    assert found[1] == pytest.approx(found[0], rel=0.02)


@pytest.mark.parametrize("limit", [1e-3, None])
def test_with_a_scaler_the_methods_gradient_meets_unscaled_gradients(tiny_mlp: nn.Module, limit: float | None) -> None:
    plain, scaled = Shift(tiny_mlp, 8), Shift(tiny_mlp, 8)
    fit(plain, regression(4), steps=3, loss=squared, clip=limit, lr=1e-4)
    fit(scaled, regression(4), steps=3, loss=squared, clip=limit, lr=1e-4, precision="fp16")
    norms = [[norm for _, norm in adapter.method.calls] for adapter in (plain, scaled)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-2)


def test_an_overflow_of_the_scaled_gradient_skips_the_step_and_training_goes_on(tiny_mlp: nn.Module) -> None:
    adapter = attach(tiny_mlp, LoRA(rank=2), "*.weight")
    before = values(adapter)
    seen: list[dict[str, Tensor]] = []

    def steep(model: Any, batch: Any) -> Tensor:
        return 1e3 * squared(model, batch)

    record = fit(adapter, regression(4), steps=12, loss=steep, lr=1e-2, precision="fp16",
                 callbacks=[lambda s: seen.append(values(s.adapter))])  # fmt: skip
    assert same(seen[0], before)
    assert not same(seen[-1], before)
    assert len(record.losses) == 12


def test_the_precision_of_the_launcher_is_the_default(tiny_mlp: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    adapter = attach(tiny_mlp, LoRA(rank=2), "*.weight")
    assert fit(adapter, regression(4), steps=1, loss=squared).config["settings"]["precision"] == "bf16"
    own = fit(adapter, regression(4), steps=1, loss=squared, precision="fp32")
    assert own.config["settings"]["precision"] == "fp32"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ConfigError, match="fp8"):
        fit(adapter, regression(4), steps=1, loss=squared)
