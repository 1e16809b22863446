"""What may travel."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

import dtheta as dt
from dtheta.core.change import Change, Dense, New
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import Fingerprint, fingerprint
from dtheta.errors import (
    BaseMismatch,
    ConfigError,
    NonFinite,
    ShapeMismatch,
    UnknownParameter,
    UnsupportedLayer,
)
from dtheta.federate.frame import Frame

BASE = {"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "other": torch.ones(1)}


def delta(**changes: Change) -> Delta:
    return Delta(changes, fingerprint(BASE).restrict(changes))


def example() -> Delta:
    return delta(a=Dense(torch.zeros(2, 3)), b=Dense(torch.zeros(4)), prompt=New(torch.zeros(2, 2)))


def test_a_frame_knows_names_shapes_new_vectors_and_the_base():
    frame = Frame.of(example())
    assert frame.shapes == {"a": (2, 3), "b": (4,), "prompt": (2, 2)} and frame.new == {"prompt"}
    assert frame.numel == 14 and frame.spans == {"a": (0, 6), "b": (6, 10), "prompt": (10, 14)}
    assert set(frame.base.digests) == {"a", "b"} and frame.base.root == fingerprint(BASE).root
    wider = Frame(frame.shapes, frame.new, fingerprint(BASE))
    assert wider == frame and "other" not in wider.base.digests and hash(wider) == hash(frame)


def test_the_digest_tells_names_order_shapes_new_vectors_and_base_apart():
    frame = Frame.of(example())
    others = [
        Frame({"c": (2, 3), "b": (4,), "prompt": (2, 2)}, frame.new, frame.base),
        Frame({"b": (4,), "a": (2, 3), "prompt": (2, 2)}, frame.new, frame.base),
        Frame({**frame.shapes, "a": (3, 2)}, frame.new, frame.base),
        Frame(frame.shapes, frozenset(), frame.base),
        Frame(frame.shapes, frame.new, Fingerprint({**frame.base.digests, "a": "0" * 64})),
        Frame(frame.shapes, frame.new, Fingerprint({"a": frame.base.digests["a"]})),
    ]
    assert len({other.digest for other in (frame, *others)}) == 7
    assert len({other.tag for other in (frame, *others)}) == 7
    assert all(len(other.tag) == 16 for other in others)
    assert {other.tag[:8] == frame.tag[:8] for other in others[:4]} == {False}
    assert {other.tag[:8] == frame.tag[:8] for other in others[4:]} == {True}
    assert frame != "frame"


def test_the_root_of_the_base_and_the_content_of_the_template_do_not_count():
    one = Frame.of(example())
    other = Frame.of(delta(a=Dense(torch.ones(2, 3)), b=Dense(torch.ones(4)), prompt=New(torch.ones(2, 2))))
    assert one.digest == other.digest
    assert one == dataclasses.replace(one, base=Fingerprint(one.base.digests))


def test_the_frame_of_an_adapter_is_the_same_on_both_sides():
    def frame() -> Frame:
        model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        with torch.no_grad():
            for i, parameter in enumerate(model.parameters()):
                parameter.fill_(i)
        adapter = dt.attach(model, dt.LoRA(rank=1), select="*.weight")
        found = adapter.delta()
        adapter.detach()
        return Frame.of(found)

    assert frame() == copy.deepcopy(frame()) and frame().shapes == {"0.weight": (3, 4), "1.weight": (2, 3)}


def test_what_fits_is_let_pass_also_where_parameters_are_left_out():
    frame = Frame.of(example())
    for found in (example(), Delta({}), delta(b=Dense(torch.ones(4))), delta(prompt=New(torch.ones(2, 2)))):
        frame.require(found)


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        (lambda: delta(aa=Dense(torch.ones(2, 3))), UnknownParameter, "'aa'; did you mean 'a'"),
        (lambda: delta(a=Dense(torch.ones(3, 2))), ShapeMismatch, r"a: the change is \(3, 2\), expected \(2, 3\)"),
        (lambda: delta(a=New(torch.ones(2, 3))), UnsupportedLayer, "a: found a new vector, expected a change"),
        (lambda: delta(prompt=Dense(torch.ones(2, 2))), UnsupportedLayer, "prompt: found a change of the base"),
        (lambda: Delta({"a": Dense(torch.ones(2, 3))}), BaseMismatch, "1 of 1 tensors differ in content, first: a"),
        (lambda: delta(a=Dense(torch.full((2, 3), math.nan))), NonFinite, "a: the change holds NaN"),
        (lambda: delta(a=Dense(torch.full((2, 3), -math.inf))), NonFinite, "a: the change holds NaN"),
    ],
)
def test_what_does_not_fit_is_refused(found, error, message):
    with pytest.raises(error, match=message):
        Frame.of(example()).require(found())


def test_a_delta_of_another_checkpoint_is_refused():
    tuned = fingerprint({**BASE, "b": 2 * BASE["b"]})
    changes = {"a": Dense(torch.ones(2, 3)), "b": Dense(torch.ones(4))}
    with pytest.raises(BaseMismatch, match="1 of 2 tensors differ in content, first: b"):
        Frame.of(example()).require(Delta(changes, tuned.restrict(changes)))


def test_what_is_no_frame_is_refused():
    with pytest.raises(ConfigError, match="without parameters"):
        Frame({})
    with pytest.raises(UnknownParameter, match="'promt' has no shape; did you mean 'prompt'"):
        Frame({"prompt": (2,)}, frozenset({"promt"}))
    with pytest.raises(ConfigError, match="expected one delta"):
        Frame.of("a.delta")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected one delta"):
        Frame.of(example()).require(None)  # type: ignore[arg-type]
