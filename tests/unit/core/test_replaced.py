"""Replaced MLPs as tensors: names, shapes, the function they make, and the codes of random features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.features import RandomFeatures
from dtheta.core.features.code import code_of, features_from
from dtheta.core.mlps import Mlp, find_mlps
from dtheta.core.replaced import Surrogate, is_replaced, replaced_name, replaced_part, seal_of, whole
from dtheta.core.replaced_forward import standing_in, why_unread
from dtheta.errors import FormatError, ShapeMismatch, UnsupportedLayer

D, H, M, R, OUT = 5, 8, 3, 2, 4


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, H), nn.GELU(), nn.Linear(H, OUT))


def _mlp() -> Mlp:
    return find_mlps(_net())[0]


def _tensors(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name.replace("__", "."): torch.randn(shape) for name, shape in shapes.items()}


def _shapes(parts: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {"seal": (64,), **{name: tuple(t.shape) for name, t in parts.items()}}


OWN = {"up__weight": (M, D), "up__bias": (M,), "down__weight": (OUT, M), "down__bias": (OUT,)}


def test_names_say_the_mlp_and_the_part_and_other_names_say_nothing() -> None:
    for mlp in ("encoder.layer.0.intermediate", ""):
        for part in ("seal", "up.weight", "up.0.weight", "down.1.bias", "skip.weight", "random.relu,A=0.5.psi"):
            assert replaced_part(replaced_name(mlp, part)) == (mlp, part)
    for name in ("a.up.weight", "a.replaced.left", "replaced", "a.replaced.seal.more", "a.unreplaced.seal"):
        assert not is_replaced(name)


def test_neurons_and_a_linear_path_make_what_the_equation_says() -> None:
    parts = _tensors(**OWN, skip__weight=(OUT, D))
    x = torch.randn(2, 7, D)
    found = Surrogate(_mlp(), _shapes(parts))(x, parts)
    wanted = F.gelu(x @ parts["up.weight"].T + parts["up.bias"]) @ parts["down.weight"].T + parts["down.bias"]
    torch.testing.assert_close(found, wanted + x @ parts["skip.weight"].T)


def test_products_of_two_matrices_make_what_the_equation_says() -> None:
    parts = _tensors(
        up__0__weight=(R, D), up__1__weight=(H, R), up__1__bias=(H,),
        down__0__weight=(R, H), down__1__weight=(OUT, R), down__1__bias=(OUT,),
    )  # fmt: skip
    x = torch.randn(6, D)
    hidden = F.gelu(x @ (parts["up.1.weight"] @ parts["up.0.weight"]).T + parts["up.1.bias"])
    wanted = hidden @ (parts["down.1.weight"] @ parts["down.0.weight"]).T + parts["down.1.bias"]
    torch.testing.assert_close(Surrogate(_mlp(), _shapes(parts))(x, parts), wanted)


def test_random_features_are_drawn_again_from_the_name() -> None:
    features = RandomFeatures("relu", D, 6, seed=3, projection="orthogonal", threshold=-0.5)
    name = f"random.{code_of(features)}"
    parts = {f"{name}.psi": torch.randn(OUT, features.width), f"{name}.bias": torch.randn(OUT)}
    x = torch.randn(6, D)
    wanted = features.phi(x) @ parts[f"{name}.psi"].T + parts[f"{name}.bias"]
    torch.testing.assert_close(Surrogate(_mlp(), _shapes(parts))(x, parts), wanted)


def test_narrow_inputs_are_computed_in_the_dtype_of_the_tensors() -> None:
    parts = _tensors(**OWN)
    x = torch.randn(6, D).bfloat16()
    surrogate = Surrogate(_mlp(), _shapes(parts))
    assert torch.equal(surrogate(x, parts), surrogate(x.float(), parts).bfloat16())


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"up.weight": (M, D + 1)}, "up.weight"),
        ({"up.bias": (1,)}, "up.bias"),
        ({"down.weight": (OUT, M + 1)}, "down.weight"),
        ({"down.bias": None}, "down.bias"),
        ({"up.weight": None}, "up"),
        ({"seal": None}, "seal"),
        ({"seal": (1,)}, "seal"),
        ({"gate.weight": (M, D), "gate.bias": (M,)}, "gate.weight"),
        ({"skip.weight": (D, OUT)}, "skip.weight"),
    ],
)
def test_tensors_that_do_not_fit_or_are_missing_are_refused(changed: dict[str, tuple[int, ...]], what: str) -> None:
    shapes = {**_shapes(_tensors(**OWN)), **changed}
    with pytest.raises(ShapeMismatch, match=f"replaced.{what}"):
        Surrogate(_mlp(), {part: shape for part, shape in shapes.items() if shape is not None})


def test_two_sets_of_random_features_are_refused() -> None:
    shapes = {"one": (1,), "random.relu,count=2.psi": (OUT, 2), "random.relu,count=3.psi": (OUT, 3)}
    with pytest.raises(ShapeMismatch, match="2 sets of random features"):
        Surrogate(_mlp(), shapes)


def test_a_sum_or_a_multiple_is_refused() -> None:
    fits = [seal_of(_tensors(up__weight=(M, D), up__bias=(size,))) for size in (1, 2, 3)]
    for seal in fits:
        whole("a.replaced.seal", seal)
    a, b, c = fits
    mixtures = [2 * a, 0.5 * a, -a, a + b, (a + b) / 2, 0.3 * a + 0.7 * b, a + b - c, a - b, 0 * a, (a + b + c) / 3]
    for seal in (*mixtures, torch.ones(1), a * torch.nan):
        with pytest.raises(UnsupportedLayer, match="a sum, an average or a multiple"):
            whole("a.replaced.seal", seal)


def test_a_seal_is_keyed_by_the_names_and_the_content() -> None:
    parts = _tensors(**OWN)
    assert torch.equal(seal_of(parts), seal_of({name: t.clone() for name, t in reversed(parts.items())}))
    other = {**parts, "up.bias": parts["up.bias"] * (1 + 1e-6)}
    renamed = {("skip.weight" if name == "up.weight" else name): t for name, t in parts.items()}
    for different in (other, renamed):
        assert not torch.equal(seal_of(parts), seal_of(different))


@pytest.mark.parametrize(
    "features",
    [
        RandomFeatures("relu", D, 1),
        RandomFeatures("gelu", D, 4, seed=-2, projection="sobol", balance=0.25),
        RandomFeatures("exp", D, 4, split="positive", A=1e-3, bias=False, name="a/b"),
    ],
    ids=lambda features: features.function,
)
def test_a_code_gives_the_same_features_back(features: RandomFeatures) -> None:
    assert features_from(code_of(features), D) == features


@pytest.mark.parametrize("code", ["", "nothing,count=2", "relu,count=x", "relu,count=2,inputs=9", "relu,coun=2"])
def test_a_code_that_is_none_is_refused(code: str) -> None:
    with pytest.raises(FormatError, match="names no random features"):
        features_from(code, D)


def test_what_stands_in_is_run_and_leaves_no_trace_also_when_the_block_raises() -> None:
    net = _net()
    mlp, other, x = find_mlps(net)[0], nn.Linear(D, OUT), torch.randn(3, D)
    before = net(x)
    with standing_in([(mlp, other)]):
        torch.testing.assert_close(net(x), other(x))
        assert why_unread(mlp.up) and why_unread(mlp.down)
        with pytest.raises(UnsupportedLayer, match="replaced already"), standing_in([(mlp, other)]):
            pass
        torch.testing.assert_close(net(x), other(x))
    with pytest.raises(RuntimeError, match="stop"), standing_in([(mlp, other)]):
        raise RuntimeError("stop")
    assert torch.equal(net(x), before) and not why_unread(mlp.up)
    assert all("forward" not in vars(module) for module in net.modules())
