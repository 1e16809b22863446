"""Smaller blocks in place of a block: exact where they can be, optimal where fitted, better than plain choices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch, UnsupportedLayer
from dtheta.kernels.feed_forward import FeedForward
from dtheta.kernels.fit_mlp import VARIANTS, calibrate, fit_mlp, relative_error
from dtheta.kernels.neurons import OwnNeurons, choose_neurons

D_IN, HIDDEN, D_OUT = 8, 24, 5


def draw(*shape: int, name: str = "x", dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator(0, name), dtype=dtype)


def layer(inputs: int, outputs: int, name: str, bias: bool = True) -> nn.Linear:
    made = nn.Linear(inputs, outputs, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        made.weight.copy_(draw(outputs, inputs, name=name) / inputs**0.5)
        if bias:
            made.bias.copy_(draw(outputs, name=f"{name}/bias"))
    return made


@pytest.fixture(params=["plain", "gated"])
def block(request: pytest.FixtureRequest) -> FeedForward:
    """A block with GELU, or with a gate, SiLU and no biases, as in Llama."""
    if request.param == "plain":
        return FeedForward.of(layer(D_IN, HIDDEN, "up"), layer(HIDDEN, D_OUT, "down"), nn.GELU())
    up, gate, down = (
        layer(D_IN, HIDDEN, "up", False),
        layer(D_IN, HIDDEN, "gate", False),
        layer(HIDDEN, D_OUT, "down", False),
    )
    return FeedForward.of(up, down, F.silu, gate)


def test_a_block_is_read_off_its_modules(block: FeedForward) -> None:
    x = draw(3, 7, D_IN)
    up, down = block.up.weight, block.down.weight
    if block.gate is None:
        wanted = F.gelu(x @ up.mT + block.up.bias) @ down.mT + block.down.bias
        assert block.parameters == HIDDEN * (D_IN + D_OUT + 1) + D_OUT
    else:
        wanted = (F.silu(x @ block.gate.weight.mT) * (x @ up.mT)) @ down.mT
        assert block.parameters == HIDDEN * (2 * D_IN + D_OUT)
    torch.testing.assert_close(block(x), wanted)


def test_conv1d_stores_its_weight_transposed(tiny_gpt2: nn.Module) -> None:
    mlp = tiny_gpt2.transformer.h[0].mlp  # type: ignore[union-attr, index]
    x = draw(4, 16, dtype=torch.float32)
    found = FeedForward.of(mlp.c_fc, mlp.c_proj, mlp.act)
    torch.testing.assert_close(found(x), mlp.eval()(x))


@pytest.mark.parametrize("skip", [True, False])
def test_all_neurons_are_the_block(block: FeedForward, skip: bool) -> None:
    x = draw(400, D_IN)
    fitted = fit_mlp(block, [x[:150], x[150:]], HIDDEN, skip=skip, ridge=0.0, held_out=[draw(20, D_IN, name="new")])
    assert isinstance(fitted.module, OwnNeurons) and fitted.examples == 400
    assert fitted.error is not None and fitted.error < 1e-15
    assert fitted.parameters == sum(p.numel() for p in fitted.module.parameters())


def test_any_width_is_the_optimum_for_its_neurons(block: FeedForward) -> None:
    x = draw(300, D_IN)
    fitted = fit_mlp(block, [x], 6, ridge=0.2)
    module = fitted.module
    assert isinstance(module, OwnNeurons) and module.skip is not None
    missed = (block(x) - module(x)).square().sum()
    (missed + 0.2 * sum(p.square().sum() for p in (module.down.weight, module.skip.weight))).backward()
    for parameter in (module.down.weight, module.down.bias, module.skip.weight):
        assert parameter.grad is not None and float(parameter.grad.abs().max()) < 1e-9 * missed.item()
    assert fitted.calibration_error == pytest.approx(relative_error(module, block, [x]), rel=1e-9)
    torch.testing.assert_close(module.up.weight, block.up.weight[module.neurons], rtol=0, atol=0)


def greedily(H: Tensor, base: Tensor, Y: Tensor, width: int) -> list[int]:
    """Forward selection by refitting with every candidate, the plain way; ``base`` stands beside the neurons."""
    chosen: list[int] = []
    for _ in range(width):
        errors = []
        for j in range(H.shape[1]):
            P = torch.cat([base, H[:, [*chosen, j]]], 1)
            errors.append(
                float((Y - P @ torch.linalg.lstsq(P, Y).solution).square().sum()) if j not in chosen else torch.inf
            )
        chosen.append(errors.index(min(errors)))
    return sorted(chosen)


@pytest.mark.parametrize("skip", [True, False])
def test_greedy_choices_are_those_of_refitting_every_candidate(block: FeedForward, skip: bool) -> None:
    x = draw(200, D_IN)
    base = torch.cat([torch.ones(200, 1).double()] + ([x] if skip else []), 1)
    found = choose_neurons(calibrate(block, [x]).joint, HIDDEN, 5, skip=skip)
    assert found.tolist() == greedily(block.hidden(x), base, block(x), 5)


def test_pivoted_choices_are_those_of_qr_with_pivoting(block: FeedForward) -> None:
    x = draw(200, D_IN)
    H = block.hidden(x)
    left, chosen = H - H.mean(0), []
    for _ in range(5):
        j = int(left.square().sum(0).argmax())
        chosen.append(j)
        q = left[:, j] / left[:, j].norm()
        left = left - torch.outer(q, q @ left)
    found = choose_neurons(calibrate(block, [x]).joint, HIDDEN, 5, skip=False, pivot="pivoted")
    assert found.tolist() == sorted(chosen)


def test_neurons_that_depend_on_others_are_left_out() -> None:
    up, down = layer(D_IN, HIDDEN, "up"), layer(HIDDEN, D_OUT, "down")
    with torch.no_grad():
        up.weight[12:], up.bias[12:] = up.weight[:12], up.bias[:12]
    block = FeedForward.of(up, down, F.gelu)
    fitted = fit_mlp(block, [draw(300, D_IN)], HIDDEN)
    assert isinstance(fitted.module, OwnNeurons) and fitted.module.neurons.numel() == 12
    assert fitted.calibration_error is not None and fitted.calibration_error < 1e-8


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_on_rows_of_any_shape_and_dtype(block: FeedForward, variant: str) -> None:
    single = FeedForward(*(None if a is None else type(a)(*(t.float() for t in a)) if isinstance(a, tuple) else a
                           for a in (block.up, block.down, block.activation, block.gate)))  # type: ignore[arg-type] # fmt: skip
    x = draw(4, 50, D_IN, dtype=torch.float32)
    fitted = fit_mlp(single, [x], 4, variant=variant, held_out=[x])  # type: ignore[arg-type]
    y = fitted.module(x)
    assert y.shape == (4, 50, D_OUT) and y.dtype == torch.float32
    assert fitted.error == pytest.approx(relative_error(fitted.module, single, [x.reshape(-1, D_IN)]), rel=1e-4)
    assert fitted.calibration_error is None or fitted.error == pytest.approx(fitted.calibration_error, rel=1e-3)
    y.sum().backward()
    assert all(p.grad is not None for p in fitted.module.parameters())


def test_own_neurons_beat_the_plain_choices() -> None:
    block = FeedForward.of(layer(D_IN, 96, "up"), layer(96, D_OUT, "down"), nn.GELU())
    x, new = draw(3000, D_IN), draw(1000, D_IN, name="new")
    errors = {
        v: fit_mlp(block, [x], 24, variant=v, held_out=[new]).error for v in ("own-neurons", "own-random", "random")
    }
    assert errors["own-neurons"] < 0.8 * errors["own-random"]  # type: ignore[operator]
    assert errors["own-neurons"] < 0.8 * errors["random"]  # type: ignore[operator]


def test_full_rank_is_the_block_and_a_cut_is_the_best_of_its_rank() -> None:
    up, down = layer(D_IN, HIDDEN, "up"), layer(HIDDEN, D_IN, "down")
    block = FeedForward.of(up, down, lambda z: z)  # linear: the outputs show the cut of W1 and W2 themselves
    x = draw(500, D_IN) @ torch.diag(torch.arange(1, D_IN + 1).double())
    full = fit_mlp(block, [x], D_IN, variant="low-rank", held_out=[x])
    assert full.error is not None and full.error < 1e-20 and full.calibration_error is None
    cut = fit_mlp(block, [x], 3, variant="low-rank").module
    H, centered = block.hidden(x), x - x.mean(0)
    missed = float((H - cut.up(x)).square().sum())  # type: ignore[operator]
    best = torch.linalg.svdvals(centered @ up.weight.mT)[3:].square().sum()
    assert missed == pytest.approx(float(best), rel=1e-9)


def test_targets_may_be_given_and_sums_serve_several_widths(block: FeedForward) -> None:
    x = draw(300, D_IN)
    found = calibrate(block, [(x, block(x))])
    for width in (3, 9):
        one, other = fit_mlp(block, found, width), fit_mlp(block, [x], width)
        assert all(torch.equal(a, b) for a, b in zip(one.module.parameters(), other.module.parameters(), strict=True))
    moved = fit_mlp(block, [(x, block(x) + 3)], 9)
    torch.testing.assert_close(moved.module(x), other.module(x) + 3)


def test_bad_input(block: FeedForward) -> None:
    x = draw(40, D_IN)
    with pytest.raises(ConfigError, match="did you mean 'own-neurons'"):
        fit_mlp(block, [x], 4, variant="own-neuron")  # type: ignore[arg-type]
    for variant in ("own-neurons", "own-random", "low-rank"):
        with pytest.raises(ConfigError, match="must lie between 1 and"):
            fit_mlp(block, [x], 99, variant=variant)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="choose a smaller width"):
        fit_mlp(block, [x], 10**9, variant="random")
    with pytest.raises(ConfigError, match="features of its own"):
        fit_mlp(block, calibrate(block, [x]), 4, variant="random")
    for variant in VARIANTS:
        with pytest.raises(ConfigError, match=r"no calibration inputs|no examples"):
            fit_mlp(block, [], 4, variant=variant)
    with pytest.raises(ShapeMismatch, match=r"inputs have shape \(40, 7\)"):
        fit_mlp(block, [x[:, 1:]], 4)
    with pytest.raises(ConfigError, match="measure the error"):
        fit_mlp(block, [x], 4, held_out=[])
    with pytest.raises(UnsupportedLayer, match="LayerNorm"):
        FeedForward.of(nn.LayerNorm(3), nn.Linear(3, 3), F.gelu)
    with pytest.raises(ShapeMismatch, match="takes 4 neurons; the up map gives 3"):
        FeedForward.of(nn.Linear(2, 3), nn.Linear(4, 2), F.gelu)
    x[0, 0] = torch.nan
    with pytest.raises(NonFinite):
        fit_mlp(block, [x], 4)
