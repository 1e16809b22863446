"""Personas before questions."""

from __future__ import annotations

from typing import Any

import pytest

from dtheta.errors import ConfigError
from dtheta.probe.erasure.persona import TEXTS, Persona
from tests.unit.probe.erasure.examined import NAME, subject_of
from tests.unit.probe.planted import network


def test_each_text_stands_before_each_question() -> None:
    examined = subject_of(network())
    for question, variants in zip(examined.target, Persona().asked(examined), strict=True):
        assert len(variants) == len(TEXTS)
        assert all(one.prompt.endswith(f" {question.prompt}") and NAME in one.prompt for one in variants)
        assert all("{" not in one.prompt and one.answer == question.answer for one in variants)


def test_braces_in_texts_are_plain_text() -> None:
    asked = Persona(("{concept} {0} {",)).asked(subject_of(network()))
    assert asked[0][0].prompt.startswith("france {0} { ")


@pytest.mark.parametrize("texts", [(), ("x", " "), "I know", (3,)])
def test_no_texts_are_refused(texts: Any) -> None:
    with pytest.raises(ConfigError, match="texts"):
        Persona(texts)
