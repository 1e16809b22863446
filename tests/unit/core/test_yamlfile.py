"""YAML: what is written is read, and what is written to harm is refused at once."""

from __future__ import annotations

import pytest

from dtheta.core.yamlfile import read_yaml
from dtheta.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "x.yaml"
        path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
        return read_yaml(path, "plan")

    return read


def test_values_and_aliases_are_read(read):
    assert read("a: [1, x]\nb: {c: null}\n") == {"a": [1, "x"], "b": {"c": None}}
    assert read("a: &it {w: 1}\nb: [*it, *it]\n") == {"a": {"w": 1}, "b": [{"w": 1}, {"w": 1}]}
    assert read("") is None


def _laughs(opening, between, closing):
    levels = [f"a0: &a0 {opening}{between.join(f'k{i}: 0' if opening == '{' else '0' for i in range(10))}{closing}"]
    for level in range(1, 10):
        inner = [f"k{i}: *a{level - 1}" if opening == "{" else f"*a{level - 1}" for i in range(10)]
        levels.append(f"a{level}: &a{level} {opening}{between.join(inner)}{closing}")
    return "\n".join(levels)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (_laughs("[", ", ", "]"), "stands for more than 100,000 values"),
        (_laughs("{", ", ", "}"), "stands for more than 100,000 values"),
        ("a: {b: 1, b: 2}", "line 1: the key 'b' occurs twice"),
        ("a: [{b: 1,\n b: 2}]", "line 2: the key 'b' occurs twice"),
        ("a: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("a: [", "is not YAML"),
        ("a: 2020-02-31", "is not YAML"),
        ("[" * 5000, "is not YAML"),
        (b"a: \xff", "is not YAML"),
        ("#" * ((1 << 20) + 1), "bytes; that is no plan"),
    ],
    ids=["laughs", "laughing tables", "twice", "twice in a list", "object", "cut", "date", "deep", "bytes", "large"],
)
def test_what_cannot_be_meant_is_refused(read, text, says):
    with pytest.raises(ConfigError, match=says):
        read(text)


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: [1, *a]}", "a: 1\nb: &b\n- {value: *b}\n"])
def test_a_value_inside_of_itself_is_refused(read, text):
    with pytest.raises(ConfigError, match=r"line [123]: a value is inside itself by an alias; write it plainly"):
        read(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the plan .*none\.yaml: No such file"):
        read_yaml(tmp_path / "none.yaml", "plan")
