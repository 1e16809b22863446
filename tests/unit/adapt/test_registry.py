"""Methods by name: the built-in ones, and outside ones by entry point."""

from __future__ import annotations

import pytest

from dtheta.adapt import registry
from dtheta.adapt.lora import LoRA
from dtheta.adapt.registry import BUILT_IN, method_class, method_names
from dtheta.errors import ConfigError


class Point:
    """An entry point as importlib.metadata gives it."""

    def __init__(self, name, load):
        self.name, self.load = name, load


@pytest.fixture
def outside(monkeypatch):
    """Put entry points into the group."""

    def put(*points):
        monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "dtheta.methods" else ())

    return put


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_methods_load_and_say_what_they_are(name):
    cls = method_class(name)
    assert cls.__name__ == name
    assert cls.summary
    assert method_class(name.lower()) is cls


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ConfigError, match="unknown method 'pisa'; did you mean 'PiSSA'"):
        method_class("pisa")


def test_outside_method(outside):
    class Mine(LoRA):
        """A method from elsewhere."""

    outside(Point("Mine", lambda: Mine))
    assert method_names() == [*BUILT_IN, "Mine"]
    assert method_class("mine") is Mine


def test_outside_method_that_does_not_load(outside):
    def broken():
        raise ImportError("no module named x")

    outside(Point("Broken", broken), Point("Odd", lambda: dict))
    with pytest.raises(ConfigError, match="'Broken' does not load: no module named x"):
        method_class("Broken")
    with pytest.raises(ConfigError, match="'Odd' is not a dtheta Method"):
        method_class("Odd")
