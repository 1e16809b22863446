"""Names of terms: one for every key, none that torch keeps for itself, and back to the key."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.adapt.names import module_name, parameter_name
from dtheta.core.apply import applied

KEYS = st.text(st.sampled_from("ab./%2F5"), min_size=1, max_size=8) | st.sampled_from(dir(nn.ModuleDict()))


def test_usual_names_stay_readable():
    assert module_name("layers.0.attn.weight[q]") == "layers/0/attn/weight[q]"
    assert parameter_name("layers/0/attn/weight[q].left") == "layers.0.attn.weight[q].left"
    assert module_name("a/b.weight") == "a%2Fb/weight"
    assert module_name("keys") == "%6Beys"
    assert module_name("training") == "%74raining"


@given(KEYS, KEYS)
def test_different_keys_have_different_names_that_torch_takes(first, second):
    terms = nn.ModuleDict({module_name(key): nn.Linear(1, 1) for key in (first, second)})
    assert len(terms) == len({first, second})
    assert {parameter_name(name) for name, _ in terms.named_parameters()} == {
        f"{key}.{factor}" for key in (first, second) for factor in ("weight", "bias")
    }


class Slashes(nn.Module):
    """Two layers that differ in a dot and a slash."""

    def __init__(self):
        super().__init__()
        self.a = nn.ModuleDict({"b": nn.Linear(4, 4, bias=False)})
        self.add_module("a/b", nn.Linear(4, 4, bias=False))

    def forward(self, x):
        return self.a["b"](x) - getattr(self, "a/b")(x)


def test_layers_that_differ_in_a_slash_have_terms_of_their_own():
    model, x = Slashes(), torch.ones(3, 4)
    adapter = attach(model, LoRA(rank=2), "@all")
    assert list(adapter.trainable()) == [
        f"{key}.{side}" for key in ("a.b.weight", "a/b.weight") for side in ("left", "right")
    ]
    assert adapter.term("a.b.weight") is not adapter.term("a/b.weight")
    with torch.no_grad():
        for i, key in enumerate(adapter.sites):
            adapter.term(key).left.fill_(i + 1.0)
    moved, delta = model(x), adapter.delta()
    adapter.detach()
    with applied(model, delta):
        torch.testing.assert_close(model(x), moved)
