"""Laws of prompts: padding does not matter, detaching leaves nothing behind, and offsets of zero are no offsets."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtheta.adapt.attach import attach
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.tuning import PromptTuning
from tests.unit.adapt.prompts.conftest import FAMILIES, make, padded, shake, states

MODELS = {name: make(name).requires_grad_(False) for name in FAMILIES}
TEXTS = st.lists(st.integers(2, 63), min_size=1, max_size=9)
METHODS = st.one_of(
    st.builds(PromptTuning, st.integers(1, 6), st.sampled_from(["vocabulary", "normal"])),
    st.builds(
        DePT, st.integers(0, 4), st.integers(1, 3), st.integers(1, 12), st.sampled_from([None, 8.0]),
        beyond=st.sampled_from(["none", "last"]),
    ),
)  # fmt: skip


def of(name: str, text: list[int], left: int, right: int) -> torch.Tensor:
    model = MODELS[name]
    found = states(model, padded(left, right, torch.tensor([text])))
    return found if model.config.is_encoder_decoder else found[:, left : left + len(text)]


@settings(max_examples=40)
@given(st.sampled_from(FAMILIES), TEXTS, st.integers(0, 4), st.integers(0, 4), METHODS, st.integers(0, 99))
def test_padding_does_not_matter_and_nothing_is_left_behind(
    name: str, text: list[int], left: int, right: int, method: PromptTuning | DePT, seed: int
) -> None:
    before = of(name, text, left, right)
    adapter = shake(attach(MODELS[name], method, seed=seed))
    try:
        found, alone = of(name, text, left, right), of(name, text, 0, 0)
    finally:
        adapter.detach()
    assert torch.allclose(found, alone, atol=1e-5, rtol=1e-5)
    assert torch.equal(of(name, text, left, right), before)


@settings(max_examples=20)
@given(st.sampled_from(FAMILIES), TEXTS, st.integers(0, 3), st.integers(1, 4), st.integers(1, 12))
def test_offsets_of_zero_are_no_offsets(name: str, text: list[int], left: int, length: int, positions: int) -> None:
    found = []
    for method in (DePT(length, rank=2, positions=positions, init="text", ids=(3, 7)),
                   PromptTuning(length, "text", (3, 7))):  # fmt: skip
        adapter = attach(MODELS[name], method)
        found.append(of(name, text, left, 1))
        adapter.detach()
    assert torch.equal(*found)
