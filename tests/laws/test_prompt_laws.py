"""Laws of prompts: padding does not matter, detaching leaves nothing behind, and offsets of zero are no offsets."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtheta.adapt.attach import attach
from dtheta.adapt.prompts.coop import CoOp
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.image_names import Position
from dtheta.adapt.prompts.tuning import PromptTuning
from tests.unit.adapt.prompts import image_models
from tests.unit.adapt.prompts.conftest import FAMILIES, make, padded, shake, states

MODELS = {name: make(name).requires_grad_(False) for name in FAMILIES}
IMAGE_MODELS = {"clip": image_models.make_clip(), "dual": image_models.make_dual()}
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


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.integers(2, 47), min_size=1, max_size=5), min_size=1, max_size=4),
    st.integers(0, 3),
    st.integers(1, 6),
    st.sampled_from(["end", "front", "middle"]),
    st.sampled_from(["clip", "dual"]),
    st.integers(0, 9),
)
def test_a_context_knows_no_padding_and_no_neighbor(
    names: list[list[int]], padding: int, length: int, position: Position, kind: str, seed: int
) -> None:
    model, columns = IMAGE_MODELS[kind], max(map(len, names)) + 2 + padding

    def read(given: dict[str, torch.Tensor]) -> torch.Tensor:
        output = model.get_text_features(**given)
        return output.detach() if isinstance(output, torch.Tensor) else output.pooler_output.detach()

    before = read(image_models.texts(names, columns))
    adapter = image_models.shake(attach(model, CoOp(length, position), seed=seed), seed)
    try:
        found = read(image_models.texts(names, columns))
        alone = torch.cat([read(image_models.texts([name])) for name in names])
    finally:
        adapter.detach()
    assert torch.allclose(found, alone, atol=1e-5, rtol=1e-4)
    assert torch.equal(read(image_models.texts(names, columns)), before)
