"""Memory that two parameters share without being one tensor: left alone, and refused where one of them would move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.core.apply import applied, bind, merge
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.extract import extract
from dtheta.core.files import load
from dtheta.core.fingerprint import fingerprint
from dtheta.core.overlap import refuse_overlap
from dtheta.core.tensors import same_bits, shared
from dtheta.errors import UnsupportedLayer


def autoencoder(view: Callable[[Tensor], Tensor]) -> nn.Module:
    """Two layers, the second of which is a view of the memory of the first, and one of its own."""
    model = nn.Module()
    model.encoder, model.decoder, model.own = nn.Linear(6, 6, bias=False), nn.Module(), nn.Linear(3, 3)
    model.decoder.weight = nn.Parameter(view(model.encoder.weight.detach()))
    return model


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda w: w.t(),
    "reshaped": lambda w: w.reshape(4, 9),
    "rows": lambda w: w[2:4],
    "column": lambda w: w[:, 3],
    "one element": lambda w: w[5, 5],
    "every other": lambda w: w[::2, ::2],
    "expanded": lambda w: w[0].expand(6, 6),
    "halves": lambda w: w.view(torch.bfloat16),
}


def changed(name: str, model: nn.Module) -> Delta:
    change = Dense(torch.ones(dict(model.named_parameters())[name].shape))
    return Delta({name: change}, fingerprint(model).restrict([name]))


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("name", ["encoder.weight", "decoder.weight"])
def test_what_would_move_one_of_them_is_refused_and_names_both(kind: str, name: str, tmp_path: Path) -> None:
    model = autoencoder(VIEWS[kind])
    delta = changed(name, model)
    path = delta.save(tmp_path / "a.delta")
    moves: list[Callable[[], object]] = [
        lambda: applied(model, delta).__enter__(),
        lambda: merge(model, delta),
        lambda: bind(delta, model),
        lambda: load(path, model),
        lambda: attach(model, delta),
        lambda: attach(model, Full(), name),
        lambda: attach(model, LoRA(rank=1), "own.weight", also=name),
    ]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for move in moves:
        with pytest.raises(UnsupportedLayer, match=r"encoder\.weight and decoder\.weight share memory.*clone"):
            move()
    assert all(same_bits(p, before[n]) and p.requires_grad for n, p in model.named_parameters())


@pytest.mark.parametrize("kind", VIEWS)
def test_what_moves_neither_is_not(kind: str) -> None:
    model = autoencoder(VIEWS[kind])
    delta = changed("own.weight", model)
    with applied(model, delta):
        pass
    merged = merge(model, delta)
    assert list(extract(model, merged)) == ["own.weight"]
    attach(model, LoRA(rank=1), "own.weight").detach()


def test_views_that_share_no_element_are_left_alone() -> None:
    """q, k and v as columns of one matrix, weights in one flat buffer, and weights that are tied."""
    fused = torch.randn(4, 12)
    model = nn.ParameterDict({name: nn.Parameter(part) for name, part in zip("qkv", fused.split(4, 1), strict=True)})
    flat = torch.randn(20)
    model["first"], model["second"] = nn.Parameter(flat[:8].view(2, 4)), nn.Parameter(flat[8:].view(3, 4))
    model["even"], model["odd"] = (nn.Parameter(part) for part in torch.randn(6, 2).unbind(1))
    model["tied"] = nn.Parameter(model["q"].detach())
    refuse_overlap(shared(model), list(shared(model)))
    with applied(model, changed("q", model)):
        assert torch.equal(model["q"], model["tied"])
    attach(model, Full(), "@all").detach()


def test_a_tensor_of_its_own_memory_may_move_again() -> None:
    model = autoencoder(VIEWS["transposed"])
    model.decoder.weight.data = model.decoder.weight.data.clone()
    with applied(model, changed("encoder.weight", model)):
        pass
