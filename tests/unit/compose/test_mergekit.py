"""mergekit's configurations: read into plans, merged to numbers worked out by hand; what cannot be meant is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dtheta.compose import mergekit
from dtheta.compose.mergekit import plan_of, read_plan
from dtheta.compose.streaming import merge_checkpoints
from dtheta.errors import ConfigError
from tests.unit.compose.checkpoints import read, write


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("base", "one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


TIES = """
merge_method: ties
base_model: base
models:
  - model: one
    parameters:
      density: [0.2, 0.8]
      weight: 1e-1
  - model: two
    parameters:
      weight:
        - filter: mlp
          value: 0.5
        - value: 1
parameters:
  normalize: true
  int8_mask: true
dtype: float32
out_dtype: bfloat16
tokenizer_source: base
"""


def test_models(models: Path) -> None:
    (models / "ties.yaml").write_text(TIES)
    plan = read_plan("ties.yaml", seed=4)
    assert (plan.method, plan.base, plan.dtype, plan.seed) == ("ties", Path("base"), torch.bfloat16, 4)
    assert [item.model for item in plan.slices[0].inputs] == [Path("one"), Path("two")]
    assert plan.slices[0].inputs[0].parameters == {"density": [0.2, 0.8], "weight": "1e-1"}  # as YAML 1.1 reads it
    assert not plan.stacked


def test_slices(models: Path) -> None:
    sources = [{"model": "one", "layer_range": [0, 4]}, {"model": "two", "layer_range": [4, 8]}]
    plan = plan_of({"merge_method": "passthrough", "slices": [{"sources": [item]} for item in sources]})
    assert plan.stacked
    assert [part.inputs[0].layers for part in plan.slices] == [(0, 4), (4, 8)]


def test_paths_are_found_beside_the_file(models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (models / "ties.yaml").write_text(TIES)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert read_plan(models / "ties.yaml").base == models / "base"


def test_all_that_is_wrong_is_said_at_once(models: Path) -> None:
    document = {
        "merge_method": "tise",
        "base_model": "bass",
        "models": [{"model": "one", "weight": 1}, {"model": "one+lora"}, {"parameters": {}}],
        "tokenizer_source": "union",
        "modules": {"text": {}},
        "dtype": "int4",
        "paramaters": {},
    }
    with pytest.raises(ConfigError) as caught:
        plan_of(document)
    said = str(caught.value)
    for part in (
        "no merge_method 'tise'; did you mean 'ties'",
        "base_model: there is nothing at 'bass'; did you mean 'base'",
        "models[0]: unknown entry 'weight'",
        "a LoRA is not merged on the fly",
        "models[2]: a model must be a path, found None",
        "tokenizer_source: 'union'",
        "modules: give the inputs as",
        "dtype must be one of float32",
        "unknown entry 'paramaters'; did you mean 'parameters'",
    ):
        assert part in said, part


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"models": [{"model": "one"}]}, "merge_method is missing; there are linear, "),
        ({"merge_method": ["ties"], "models": [{"model": "one"}]}, "there is no merge_method"),
        ({"merge_method": "della", "models": [{"model": "one"}]}, "merge_method 'della' of mergekit is not done here"),
        ({"merge_method": "linear", "models": [{"model": "one"}], "dtype": ["float32"]}, "dtype must be one of"),
        ({"merge_method": "linear", "models": [{"model": "one"}], "parameters": [1]}, "parameters must be a table"),
        ({"merge_method": "linear", "models": [{"model": "org/one"}]}, "nothing is downloaded"),
        (
            {"merge_method": "linear", "models": [{"model": "one"}], "chat_template": "auto"},
            "chat_template: the base's",
        ),
        ({"merge_method": "ties"}, "give either 'models' or 'slices'"),
        ({"merge_method": "ties", "models": [{"model": "one"}], "slices": []}, "give either"),
        ({"merge_method": "ties", "models": "one"}, "models must be a list"),
        ({"merge_method": "ties", "models": ["one"]}, r"models\[0\] must be a table"),
        ({"merge_method": "ties", "models": [{"model": "one", "parameters": {"densty": 1}}]}, "did you mean 'density'"),
        ({"merge_method": "slerp", "models": [{"model": "one"}], "parameters": {"weight": 1}}, "slerp has no 'weight'"),
        ({"merge_method": "ties", "slices": [{"sources": [{"model": "one"}]}]}, "layer_range must be"),
        (
            {"merge_method": "ties", "slices": [{"sources": [{"model": "one", "layer_range": [3, 1]}]}]},
            "layer_range must be",
        ),
    ],
)
def test_what_cannot_be_meant(models: Path, document: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_of(document)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("merge_method: ties\nmerge_method: linear", "occurs twice"),
        ("a: [", "is not YAML"),
        ("- 1", "must be a merge configuration"),
        ("x: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("x: " + "1" * (1 << 20), "no merge configuration"),
    ],
)
def test_files_that_are_none(models: Path, text: str, said: str) -> None:
    (models / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_plan("x.yaml")


# base 1 1 1 1; the steps of one are 4 -2 1 0, those of two -1 -3 2 8
NUMBERS = {"base": [1, 1, 1, 1], "one": [5, -1, 2, 1], "two": [0, -2, 3, 9], "across": [1, -1, 1, -1]}
HALF = 2**0.5
BY_HAND: list[tuple[str, dict[str, Any], dict[str, Any], list[float]]] = [
    ("linear", {"one": {"weight": 1}, "two": {"weight": 3}}, {}, [1.25, -1.75, 2.75, 7]),
    ("linear", {"one": {"weight": 0.5}, "two": {"weight": 0.25}}, {"normalize": False}, [2.5, -1, 1.75, 2.75]),
    ("task_arithmetic", {"one": {"weight": 0.5}, "two": {"weight": 1}}, {"lambda": 2}, [3, -7, 6, 17]),
    ("task_arithmetic", {"one": {"weight": 3}, "two": {"weight": 1}}, {"normalize": True}, [3.75, -1.25, 2.25, 3]),
    # kept are 4 -2 0 0 and 0 -3 0 8
    ("ties", {"one": {}, "two": {}}, {"weight": 1, "density": 0.5, "int8_mask": True}, [5, -1.5, 1, 9]),
    ("ties", {"one": {"weight": 1}, "two": {"weight": 0.5}}, {}, [5, -4 / 3, 7 / 3, 9]),
    ("ties", {"one": {"weight": 1}, "two": {"weight": 0.5}}, {"normalize": False}, [5, -2.5, 3, 5]),
    # kept are 4 0 0 0, times 7 / 4, and 0 0 0 8, times 14 / 8
    ("ties", {"one": {}, "two": {}}, {"weight": 1, "density": 0.25, "rescale": True}, [8, 1, 1, 15]),
    ("dare_ties", {"one": {"weight": 1}, "two": {"weight": 0.5}}, {}, [5, -2.5, 3, 5]),
    ("dare_linear", {"one": {"weight": 1}, "two": {"weight": 0.5}}, {}, [4.5, -2.5, 3, 5]),
    ("dare_linear", {"one": {"density": 0}, "two": {}}, {"weight": 1}, [0, -2, 3, 9]),
    # kept are 0 -2 1 0 and 0 -3 2 0
    ("breadcrumbs", {"one": {}, "two": {}}, {"weight": 1, "density": 0.5, "gamma": 0.25}, [1, -4, 4, 1]),
    (
        "breadcrumbs_ties",
        {"one": {}, "two": {"weight": -1}},
        {"weight": 1, "density": 0.5, "gamma": 0.25},
        [1, 4, -1, 1],
    ),
    ("slerp", {"across": {}}, {"t": 0.5}, [HALF, 0, HALF, 0]),  # at a right angle: sin 45 / sin 90 of each
    ("passthrough", {"one": {"scale": 0.5}}, {}, [2.5, -0.5, 1, 0.5]),
    ("task_arithmetic", {"one": {}}, {"weight": [{"filter": "attn", "value": 2}, {"value": 0}]}, [1, 1, 1, 1]),
    ("task_arithmetic", {"one": {}}, {"weight": [{"filter": "mlp", "value": 2}, {"value": 0}]}, [9, -3, 3, 1]),
]


@pytest.mark.parametrize(("method", "each", "shared", "wanted"), BY_HAND, ids=lambda v: v if isinstance(v, str) else "")
def test_by_hand(
    tmp_path: Path, method: str, each: dict[str, Any], shared: dict[str, Any], wanted: list[float]
) -> None:
    for name, numbers in NUMBERS.items():
        write(tmp_path / name, {"layers.0.mlp.w": torch.tensor(numbers, dtype=torch.float32)})
    models = [{"model": str(tmp_path / name), "parameters": own} for name, own in each.items()]
    document = {"merge_method": method, "models": models, "parameters": shared, "dtype": "float32"}
    if method not in ("linear", "passthrough"):
        document["base_model"] = str(tmp_path / "base")
    found = read(merge_checkpoints(plan_of(document), tmp_path / "out").path)["layers.0.mlp.w"]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float32), rtol=1e-7, atol=1e-7)


def test_a_gradient_and_a_dtype_by_hand(tmp_path: Path) -> None:
    for name, numbers in NUMBERS.items():
        write(tmp_path / name, {f"layers.{i}.w": torch.tensor(numbers, dtype=torch.float32) for i in range(3)})
    one = {"model": str(tmp_path / "one"), "parameters": {"weight": [0, 0.001]}}
    document = {"merge_method": "task_arithmetic", "base_model": str(tmp_path / "base"), "models": [one]}
    plan = plan_of({**document, "dtype": "float32", "out_dtype": "bfloat16"})
    found = read(merge_checkpoints(plan, tmp_path / "out").path)
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    # next to 1, bfloat16 has 1 + 2^-7 and 1 - 2^-8: 1.002 and 1.004 go to 1 and (by a hair) to 1 + 2^-7
    assert [float(found[f"layers.{i}.w"][0]) for i in range(3)] == [1, 1, 1 + 2**-7]
    assert [float(found[f"layers.{i}.w"][1]) for i in range(3)] == [1, 1, 1 - 2**-8]


def test_models_known_by_name_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(mergekit.ZOO, "known", lambda: tmp_path / "cache")
    (tmp_path / "one").mkdir()
    document = {
        "merge_method": "task_arithmetic",
        "base_model": "known",
        "models": [{"model": "one", "parameters": {"weight": 1}}],
    }
    assert plan_of(document).base == tmp_path / "cache"
    (tmp_path / "known").mkdir()  # a folder of that name comes first
    assert plan_of(document).base == Path("known")
