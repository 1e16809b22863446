"""mergekit 0.1.4 and we on the same configurations and the same files: the same weights, up to its float32 rounding.

mergekit is no dependency, of the tests neither, since it pins old packages; where it is missing these are skipped.
In an environment of its own (bench/merge.py says how it is made) that finds behind its own packages those of this one:

    echo SITE-PACKAGES-OF-THIS > VENV/lib/python3.11/site-packages/this.pth
    PYTHONPATH=src VENV/bin/python -m pytest tests/parity/test_mergekit_parity.py

DARE below density 1 draws at random, from a global generator there and by keyed draws here: only what is done with the
kept entries is compared. Breadcrumbs are compared where gamma drops at least one entry of every tensor: where it drops
none, mergekit keeps none. ``-s`` prints the largest deviations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dtheta.compose.mergekit import read_plan
from dtheta.compose.streaming import merge_checkpoints
from dtheta.core.checkpoints import open_checkpoint

pytest.importorskip("mergekit", reason="mergekit is not installed; see this file's docstring")

SHARDS = {"base": "60KB", "m0": "5GB", "m1": "40KB", "m2": "90KB"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tiny Llamas in different shards."""
    from transformers import LlamaConfig, LlamaForCausalLM

    root = tmp_path_factory.mktemp("mergekit")
    config = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        base = LlamaForCausalLM(config)
        for name, size in SHARDS.items():
            model = LlamaForCausalLM(config)
            model.load_state_dict(base.state_dict())
            if name != "base":
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.05)
            model.save_pretrained(root / name, max_shard_size=size)
    return root


def _models(**each: Sequence[Any]) -> list[dict[str, Any]]:
    own = [{key: values[i] for key, values in each.items()} for i in range(3)]
    return [{"model": f"m{i}", "parameters": parameters} for i, parameters in enumerate(own)]


def _source(model: str, first: int, last: int, **parameters: Any) -> dict[str, Any]:
    return {"model": model, "layer_range": [first, last], "parameters": parameters}


WEIGHT = [0.5, 0.3, [0.1, 0.9]]
BY_PART = [{"filter": "mlp", "value": 0.3}, {"value": 0.6}]
CONFIGURATIONS: dict[str, Mapping[str, Any]] = {
    "linear": {"merge_method": "linear", "models": _models(weight=[1, 0.5, [0, 0.3, 1]])},
    "linear as it is": {
        "merge_method": "linear",
        "models": _models(weight=[1, 0.5, 0.2]),
        "parameters": {"normalize": False},
    },
    "task arithmetic": {
        "merge_method": "task_arithmetic",
        "models": _models(weight=WEIGHT),
        "parameters": {"lambda": 0.8},
    },
    "task arithmetic, normalized": {
        "merge_method": "task_arithmetic",
        "models": _models(weight=WEIGHT),
        "parameters": {"normalize": True},
    },
    "ties": {
        "merge_method": "ties",
        "models": _models(weight=WEIGHT, density=[0.5, [0.2, 0.8], BY_PART]),
        "parameters": {"int8_mask": True},
    },
    "ties, rescaled": {
        "merge_method": "ties",
        "models": _models(weight=[1, -0.4, 0.6], density=[0.5, 0.37, 0.2]),
        "parameters": {"normalize": False, "rescale": True},
    },
    "ties in bfloat16": {
        "merge_method": "ties",
        "models": _models(weight=[0.4, [{"filter": "self_attn", "value": [0.1, 0.9]}, {"value": 0.2}], 0.3]),
        "parameters": {"density": 0.3},
        "out_dtype": "bfloat16",
    },
    "breadcrumbs": {
        "merge_method": "breadcrumbs",
        "models": _models(weight=[0.5, 0.3, 0.2], density=[0.9, 0.5, 0.97], gamma=[0.05, 0.1, 0.05]),
    },
    "breadcrumbs ties": {
        "merge_method": "breadcrumbs_ties",
        "models": _models(weight=[0.5, 0.3, 0.2], density=[0.9, 0.5, 0.8], gamma=[0.05, 0.1, 0.04]),
    },
    "dare ties, all kept": {"merge_method": "dare_ties", "models": _models(weight=[0.5, 0.3, 0.2])},
    "dare linear, all kept": {"merge_method": "dare_linear", "models": _models(weight=[0.5, 0.3, 0.2])},
    "slerp": {
        "merge_method": "slerp",
        "models": [{"model": "base"}, {"model": "m0"}],
        "parameters": {
            "t": [
                {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
                {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
                {"value": 0.5},
            ]
        },
    },
    "stacked": {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [_source("m0", 0, 3)]},
            {"sources": [_source("m1", 1, 4, scale=[{"filter": "o_proj", "value": 0.5}, {"value": 1.0}])]},
        ],
    },
    "ties of slices": {
        "merge_method": "ties",
        "slices": [
            {
                "sources": [_source("m0", 0, 2, weight=0.7), _source("m1", 0, 2), _source("base", 0, 2)],
                "parameters": {"density": 0.4},
            },
            {"sources": [_source("m2", 2, 4), _source("base", 2, 4)]},
        ],
        "parameters": {"weight": [0.2, 0.8], "density": 0.6},
    },
}


def _merge_theirs(configuration: Mapping[str, Any], out: Path) -> None:
    import mergekit.architecture.base as architecture  # type: ignore[import-not-found]
    from mergekit.config import MergeConfiguration  # type: ignore[import-not-found]
    from mergekit.merge import run_merge  # type: ignore[import-not-found]
    from mergekit.options import MergeOptions  # type: ignore[import-not-found]

    for kind in ("ConfiguredModuleArchitecture", "ConfiguredModelArchitecture"):
        # configurations of transformers 5 name torch in their types, which pydantic must be told
        getattr(architecture, kind).model_rebuild(_types_namespace={"torch": torch})
    options = MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False, device="cpu")
    run_merge(MergeConfiguration.model_validate(configuration), str(out), options)


def _merge_ours(configuration: Mapping[str, Any], out: Path) -> None:
    plan = out.with_suffix(".yaml")
    plan.write_text(yaml.safe_dump(dict(configuration)))
    merge_checkpoints(read_plan(plan), out, max_memory=1 << 26)


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_the_same_weights(folder: Path, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    configuration: dict[str, Any] = {"dtype": "float32", **CONFIGURATIONS[case]}
    if configuration["merge_method"] not in ("linear", "passthrough"):
        configuration["base_model"] = "base"
    _merge_theirs(configuration, tmp_path / "theirs")
    _merge_ours(configuration, tmp_path / "ours")
    theirs, ours = open_checkpoint(tmp_path / "theirs"), open_checkpoint(tmp_path / "ours")
    assert set(theirs) == set(ours)
    worst = 0.0
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype
        off = float((ours[name].double() - theirs[name].double()).abs().max() / theirs[name].abs().max())
        worst = max(worst, off)
        assert off <= (2**-8 if ours[name].dtype == torch.bfloat16 else 1e-6), name
    print(f"{case}: largest deviation {worst:.1e} of a tensor's largest entry")
    layers = [
        json.loads((tmp_path / who / "config.json").read_text())["num_hidden_layers"] for who in ("theirs", "ours")
    ]
    assert layers[0] == layers[1]


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("rescale", [True, False])
def test_drawn_entries_are_rescaled_alike(
    folder: Path, method: str, rescale: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was drawn, what is kept of one model's step is that step times one number of each tensor, the same."""
    monkeypatch.chdir(folder)
    one = {"model": "m0", "parameters": {"weight": 0.7, "density": 0.4}}
    configuration = {"merge_method": method, "base_model": "base", "models": [one], "dtype": "float32"}
    configuration["parameters"] = {"rescale": rescale}
    _merge_theirs(configuration, tmp_path / "theirs")
    _merge_ours(configuration, tmp_path / "ours")
    base, model = open_checkpoint("base"), open_checkpoint("m0")
    for who in ("theirs", "ours"):
        merged = open_checkpoint(tmp_path / who)
        for name in base:
            step, moved = (model[name] - base[name]).double(), (merged[name] - base[name]).double()
            kept = moved != 0
            ratio = float(step.abs().sum() / step[kept].abs().sum()) if rescale else 1.0
            torch.testing.assert_close(moved[kept], 0.7 * ratio * step[kept], rtol=1e-3, atol=1e-6)
            assert step.numel() < 1000 or abs(float(kept.double().mean()) - 0.4) < 0.1, (who, name)
