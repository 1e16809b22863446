"""Adapter folders without peft: layouts, refusals, damage. Against peft itself: tests/parity/test_peft_*.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.core.apply import merge
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.core.interop import from_peft, to_peft
from dtheta.core.lowrank import LowRank
from dtheta.core.peft_config import read_config
from dtheta.core.peft_layers import Layout, uses
from dtheta.core.provenance import Provenance
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from dtheta.core.spectral import Spectral
from dtheta.errors import (
    BaseMismatch,
    ConfigError,
    DthetaError,
    FormatError,
    NonFinite,
    OutputError,
    UnknownParameter,
    UnsupportedLayer,
)


def drawn(*shape: int, name: str = "draw") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, name))


def low_rank(*shape: int, rank: int = 2) -> LowRank:
    columns = 1
    for n in shape[1:]:
        columns *= n
    return LowRank(drawn(shape[0], rank, name="left"), drawn(rank, columns, name="right"), full_shape=shape)


def delta_of(model: nn.Module, **changes) -> Delta:
    named = {name.replace("__", "."): change for name, change in changes.items()}
    return Delta(named, fingerprint(model).restrict(named))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4), nn.Embedding(7, 3))


@pytest.fixture
def folder(model, tmp_path) -> Path:
    """A folder of ours with two modules of different rank."""
    delta = delta_of(model, **{"0__weight": low_rank(5, 6), "2__weight": low_rank(4, 5, rank=3)})
    return to_peft(delta, tmp_path / "adapter", model=model)


def rewrite(folder: Path, **settings) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= settings
    (folder / "adapter_config.json").write_text(json.dumps(config))


def replace_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


# ---- layouts


@given(
    use=st.sampled_from(["linear", "transposed", "embedding", "conv", "conv/2", "conv/3"]),
    rank=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_packing_and_unpacking_is_the_same_displacement(use, rank, seed):
    shape = (6, 4, 3, 2) if use.startswith("conv") else (6, 4)
    layout = Layout("layer", use, shape)
    left = torch.randn(6, rank, generator=generator(seed, "left"), dtype=torch.float64)
    right = torch.randn(rank, torch.Size(shape[1:]).numel(), generator=generator(seed, "right"), dtype=torch.float64)
    a, b = layout.pack(left, right)
    assert (tuple(a.shape), tuple(b.shape)) == layout.shapes(rank * layout.groups)
    again = layout.unpack(a, b)
    torch.testing.assert_close(again[0] @ again[1], left @ right)


def test_uses_leave_plain_linear_layers_out(tiny_gpt2, tiny_conv, tiny_mha):
    assert uses(nn.Sequential(nn.Linear(2, 2, bias=False))) == {}
    found = uses(tiny_gpt2)
    assert found["transformer.wte.weight"] == {"transformer.wte": "embedding", "lm_head": "linear"}
    assert found["transformer.h.0.attn.c_attn.weight"] == {"transformer.h.0.attn.c_attn": "transposed"}
    assert uses(tiny_conv, ["0.weight", "2.weight", "4.weight"]) == {
        "0.weight": {"0": "conv"},
        "2.weight": {"2": "conv/2"},
    }
    assert uses(tiny_mha, ["attention.in_proj_weight", "attention.out_proj.weight"]) == {
        "attention.in_proj_weight": {"attention": "in_proj"},
        "attention.out_proj.weight": {"attention.out_proj": "bypassed"},
    }


def test_module_under_two_paths_is_one_module():
    layer = nn.Linear(3, 2, bias=False)
    model = nn.ModuleDict({"a": layer, "b": layer, "c": nn.Linear(3, 2, bias=False)})
    model["c"].weight = layer.weight
    assert uses(model) == {"a.weight": {"a": "linear", "c": "linear"}}
    assert uses(nn.ModuleDict({"a": layer, "b": layer})) == {}


# ---- writing


def test_configuration_says_exactly_what_is_there(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 2, "0|2")
    assert config["rank_pattern"] == config["alpha_pattern"] == {"^2": 3}
    assert {n: tuple(t.shape) for n, t in load_file(folder / "adapter_model.safetensors").items()} == {
        "base_model.model.0.lora_A.weight": (2, 6),
        "base_model.model.0.lora_B.weight": (5, 2),
        "base_model.model.2.lora_A.weight": (3, 5),
        "base_model.model.2.lora_B.weight": (4, 3),
    }


def test_core_multiples_and_sums_are_folded_exactly(model, tmp_path):
    first = LowRank(drawn(5, 2), drawn(2, 6), torch.tensor([3.0, -0.5]))
    delta = delta_of(model, **{"0__weight": 0.25 * (first + -2.0 * low_rank(5, 6, rank=3))})
    again = from_peft(to_peft(delta, tmp_path / "adapter", model=model), model)
    assert again["0.weight"].rank == 5
    torch.testing.assert_close(again["0.weight"].dense(), delta["0.weight"].dense())


def test_trained_delta_records_its_layers_and_needs_no_model(tiny_gpt2, tmp_path):
    adapter = attach(tiny_gpt2, LoRA(rank=2), "*.c_attn")
    delta = adapter.delta()
    adapter.detach()
    assert set(delta.provenance.settings["uses"]) == set(delta)
    to_peft(delta, tmp_path / "adapter")


def test_delta_of_unknown_layers_asks_for_the_model(model, tmp_path):
    delta = delta_of(model, **{"0__weight": low_rank(5, 6)})
    with pytest.raises(ConfigError, match=r"model=model"):
        to_peft(delta, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("name", "change", "advice"),
    [
        ("0.weight", Dense(torch.ones(5, 6)), r"0\.weight: a dense change.*recompress"),
        ("3.weight", Rows(torch.tensor([1]), torch.ones(1, 3), (7, 3)), r"3\.weight: a rows change.*recompress"),
        ("0.bias", Dense(torch.ones(5)), r"nothing is left for LoRA's factors .*\(0\.bias\).*merge"),
        ("1.weight", Dense(torch.ones(5)), r"1\.weight: .*norm"),
    ],
)
def test_what_lora_cannot_carry_is_refused_by_name(model, tmp_path, name, change, advice):
    delta = Delta({name: change}, fingerprint(model).restrict([name]))
    with pytest.raises(DthetaError, match=advice) as refused:
        to_peft(delta, tmp_path / "adapter", model=model)
    assert name in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_spectral_change_needs_its_base(model, tmp_path):
    made = Provenance("train", settings={"uses": {}})
    delta = Delta({"0.weight": Spectral(torch.ones(3), (5, 6))}, fingerprint(model).restrict(["0.weight"]), made)
    with pytest.raises(ConfigError, match=r"0\.weight: .*bind"):
        to_peft(delta, tmp_path / "adapter")
    again = from_peft(to_peft(delta, tmp_path / "adapter", model=model), model)
    torch.testing.assert_close(again["0.weight"].dense(), delta.bind(model)["0.weight"].dense())


def test_bypassed_dilated_and_new_parameters_are_refused(tiny_mha, tmp_path):
    adapter = attach(tiny_mha, LoRA(rank=2), "*.out_proj")
    delta = adapter.delta()
    adapter.detach()
    with pytest.raises(UnsupportedLayer, match=r"attention\.out_proj\.weight.*twice"):
        to_peft(delta, tmp_path / "a")
    dilated = nn.Sequential(nn.Conv1d(2, 2, 3, dilation=2))
    with pytest.raises(UnsupportedLayer, match=r"0\.weight.*dilated"):
        to_peft(delta_of(dilated, **{"0__weight": low_rank(2, 2, 3)}), tmp_path / "b", model=dilated)
    with pytest.raises(DthetaError, match="prompt"):
        to_peft(Delta({"prompt": New(torch.ones(2, 3))}), tmp_path / "c", model=dilated)


def test_bound_spectral_change_becomes_lora_of_its_rank(model, tmp_path):
    adapter = attach(model, CLIPSVD(), "0")
    with torch.no_grad():
        adapter.term("0.weight").shift.normal_(generator=generator(0, "shift"))
    delta = adapter.delta()
    adapter.detach()
    again = from_peft(to_peft(delta, tmp_path / "adapter"), model)
    assert (again["0.weight"].kind, again["0.weight"].rank) == ("low-rank", 5)
    torch.testing.assert_close(again["0.weight"].dense(), delta["0.weight"].dense())


def test_wrong_base_is_refused_when_writing(model, tmp_path):
    delta = delta_of(model, **{"0__weight": low_rank(5, 6)})
    with torch.no_grad():
        model[0].weight[0, 0] += 1
    with pytest.raises(BaseMismatch, match=r"0\.weight"):
        to_peft(delta, tmp_path / "adapter", model=model)


def test_folder_appears_completely_or_not_at_all(model, tmp_path):
    delta = delta_of(model, **{"0__weight": low_rank(5, 6)})
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="taken"):
        to_peft(delta, tmp_path / "taken", model=model)
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["mine.txt"]
    with pytest.raises(OutputError, match="nowhere"):
        to_peft(delta, tmp_path / "nowhere" / "adapter", model=model)
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_modules_to_save_need_the_model_and_one_module(model, tmp_path):
    delta = delta_of(model, **{"0__weight": low_rank(5, 6), "2__bias": Dense(torch.ones(4))})
    with pytest.raises(ConfigError, match="model=model"):
        to_peft(delta, tmp_path / "adapter", modules_to_save=["2"])
    with pytest.raises(ConfigError, match=r"'head'.*\[\]"):
        to_peft(delta, tmp_path / "adapter", model=model, modules_to_save=["head"])
    folder = to_peft(delta, tmp_path / "adapter", model=model, modules_to_save=["2"])
    with pytest.raises(UnsupportedLayer, match=r"modules_to_save=True"):
        from_peft(folder, model)
    again = from_peft(folder, model, modules_to_save=True)
    assert list(again) == ["0.weight", "2.bias"]
    torch.testing.assert_close(again["2.bias"].dense().float(), torch.ones(4))


def test_a_module_stored_in_full_is_that_of_a_merged_model_or_refused(tmp_path):
    base = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 4)).half()
    delta = delta_of(base, **{"0__weight": low_rank(6, 5), "1__weight": low_rank(4, 6)})
    folder = to_peft(delta, tmp_path / "a", model=base, modules_to_save=["1"])
    stored = load_file(folder / "adapter_model.safetensors")["base_model.model.1.weight"]
    assert torch.equal(stored, merge(base, delta)[1].weight)
    large = delta_of(base, **{"0__weight": low_rank(6, 5), "1__weight": Dense(torch.full((4, 6), 1e5))})
    with pytest.raises(NonFinite, match=r"1\.weight: base plus delta is not finite in torch\.float16"):
        to_peft(large, tmp_path / "b", model=base, modules_to_save=["1"])
    assert not (tmp_path / "b").exists()


def test_folders_in_the_home_folder(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = to_peft(delta_of(model, **{"0__weight": low_rank(5, 6)}), "~/adapter", model=model)
    assert folder == tmp_path / "adapter"
    assert list(from_peft("~/adapter", model)) == ["0.weight"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_scale_does_not_depend_on_the_dtype_that_torch_has_by_default(model, tmp_path, dtype):
    folder = to_peft(delta_of(model, **{"0__weight": low_rank(5, 6)}), tmp_path / "a", model=model)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 0.7, "alpha_pattern": {}}))
    expected = from_peft(folder, model)
    torch.set_default_dtype(dtype)
    try:
        assert from_peft(folder, model) == expected
    finally:
        torch.set_default_dtype(torch.float32)


class Tied(nn.Module):
    """An embedding whose weight is the output layer's as well."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.layer, self.head = nn.Embedding(7, 5), nn.Linear(5, 5), nn.Linear(5, 7)
        self.head.weight = self.emb.weight


def test_a_module_stored_in_full_must_not_share_its_weight_with_another(tmp_path):
    """peft trains a copy of the module, and so unties it."""
    base = Tied()
    delta = delta_of(base, layer__weight=low_rank(5, 5))
    folder = to_peft(delta, tmp_path / "a", model=base, modules_to_save=["head"])
    assert list(from_peft(folder, base, modules_to_save=True)) == ["layer.weight"]  # stored, and as it was
    replace_tensors(folder, lambda t: t["base_model.model.head.bias"].add_(1))
    assert list(from_peft(folder, base, modules_to_save=True)) == ["layer.weight", "head.bias"]
    replace_tensors(folder, lambda t: t["base_model.model.head.weight"].add_(1))
    with pytest.raises(UnsupportedLayer, match=r"'head\.weight'.*ties to 'emb\.weight'.*untie"):
        from_peft(folder, base, modules_to_save=True)
    untied = Tied()
    untied.load_state_dict(base.state_dict())
    untied.head.weight = nn.Parameter(base.emb.weight.detach().clone())
    found = from_peft(folder, untied, modules_to_save=True, strict=False)
    assert list(found) == ["layer.weight", "head.weight", "head.bias"]


def test_copies_of_all_that_share_a_weight_are_one_change_where_they_agree(tmp_path):
    base = Tied()
    delta = delta_of(base, layer__weight=low_rank(5, 5), emb__weight=Dense(torch.ones(7, 5)))
    folder = to_peft(delta, tmp_path / "a", model=base, modules_to_save=["emb", "head"])
    found = from_peft(folder, base, modules_to_save=True)
    torch.testing.assert_close(found["emb.weight"].dense().float(), torch.ones(7, 5))
    for one in ("emb", "head"):
        folder = to_peft(delta, tmp_path / one, model=base, modules_to_save=["emb", "head"])
        replace_tensors(folder, lambda t, one=one: t[f"base_model.model.{one}.weight"].add_(1))
        with pytest.raises(UnsupportedLayer, match="untie"):
            from_peft(folder, base, modules_to_save=True)


@pytest.mark.parametrize("whole", [["head"], ["emb"]])
def test_one_of_the_modules_that_share_a_weight_is_not_written_in_full(whole, tmp_path):
    base = Tied()
    delta = delta_of(base, layer__weight=low_rank(5, 5), emb__weight=Dense(torch.ones(7, 5)))
    with pytest.raises(UnsupportedLayer, match=r"tied to '(head|emb)\.weight', which is not among modules_to_save"):
        to_peft(delta, tmp_path / "a", model=base, modules_to_save=whole)


def test_a_module_stored_in_full_is_checked_too(model, tmp_path):
    delta = delta_of(model, **{"0__weight": low_rank(5, 6), "2__bias": Dense(torch.ones(4))})
    folder = to_peft(delta, tmp_path / "a", model=model, modules_to_save=["2"])
    replace_tensors(folder, lambda t: t["base_model.model.2.bias"].fill_(float("inf")))
    with pytest.raises(NonFinite, match=r"2\.bias: the tuned holds NaN or infinity"):
        from_peft(folder, model, modules_to_save=True)
    replace_tensors(folder, lambda t: t.update({"base_model.model.2.bias": torch.ones(4).cfloat()}))
    with pytest.raises(FormatError, match=r"2\.bias.*complex64"):
        from_peft(folder, model, modules_to_save=True)


@pytest.mark.parametrize(
    "entry",
    [
        "x",
        [],
        {},
        None,
        {"0": "conv/0"},
        {"0": "conv/x"},
        {"0": "conv/2"},
        {"0": [1]},
        {"0": "in_proj"},
        {"0": "conv"},
        {"0": "new"},
        {"0": "linear", "1": ""},
    ],
    ids=str,
)
def test_uses_that_a_file_may_hold_and_that_cannot_be(entry, model, tmp_path):
    delta = delta_of(model, **{"0__weight": low_rank(5, 6)})
    for settings in ({"uses": {"0.weight": entry}}, {"uses": {"0.weight": {"0": "linear", "1": entry}}}):
        edited = Delta(delta.changes, delta.base, Provenance("train", settings=settings))
        if entry is None and settings["uses"]["0.weight"] is None:
            continue  # nothing on record: a plain linear layer
        with pytest.raises(ConfigError, match=r"^0\.weight: what this delta records .*model=model"):
            to_peft(edited, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_two_changes_for_one_module_are_refused(model, tmp_path):
    delta = delta_of(model, **{"0__weight": low_rank(5, 6), "2__weight": low_rank(4, 5)})
    edited = Delta(delta.changes, delta.base, Provenance("train", settings={"uses": {"2.weight": {"0": "linear"}}}))
    with pytest.raises(ConfigError, match=r"two changes .* module '0'"):
        to_peft(edited, tmp_path / "a")


def test_full_fine_tuning_has_nothing_for_lora(model, tmp_path):
    adapter = attach(model, Full(), "2.bias")
    delta = adapter.delta()
    adapter.detach()
    with pytest.raises(ConfigError, match="nothing is left"):
        to_peft(delta, tmp_path / "adapter", model=model, modules_to_save=["2"])


# ---- reading


def test_reading_back_gives_the_same_changes(folder, model):
    delta = from_peft(folder, model)
    assert torch.equal(delta["0.weight"].left, low_rank(5, 6).left)
    assert torch.equal(delta["2.weight"].right, low_rank(4, 5, rank=3).right)
    assert delta.base.digests == fingerprint(model).restrict(["0.weight", "2.weight"]).digests
    assert delta.provenance.operation == "from_peft"


def test_scaling_with_patterns(folder, model):
    rewrite(folder, lora_alpha=6, alpha_pattern={"2": 4.5}, use_rslora=True)
    delta = from_peft(folder, model)
    torch.testing.assert_close(delta["0.weight"].core, torch.full((2,), 6 / 2**0.5))
    torch.testing.assert_close(delta["2.weight"].core, torch.full((3,), 4.5 / 3**0.5))


def test_damaged_json(folder, model):
    path = folder / "adapter_config.json"
    text = path.read_text()
    for damage in (text[:40], "[]", '"LORA"', "{}", "[" * 100_000, text.replace("2", "NaN"), "\udcff"):
        path.write_bytes(damage.encode("utf-8", "surrogateescape"))
        with pytest.raises(FormatError, match=r"adapter_config\.json"):
            from_peft(folder, model)


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 0},
        {"r": "8"},
        {"r": True},
        {"lora_alpha": "big"},
        {"rank_pattern": [1]},
        {"rank_pattern": {"(": 2}},
        {"rank_pattern": {"2": -1}},
        {"alpha_pattern": {"(a+)+$": 2}},
        {"alpha_pattern": {r"(.)\1": 2}},
        {"alpha_pattern": {"(a|a)" * 30: 2}},
        {"target_modules": {"0": 1}},
        {"target_modules": [1]},
        {"modules_to_save": "head"},
        {"lora_alpha": 1e308},
        {"lora_alpha": -(10**400)},
        {"alpha_pattern": {"2": 10**400}},
        {"r": 10**400},
        {"lora_dropout": 7.0},
        {"lora_dropout": 1},
        {"lora_dropout": -0.1},
        {"lora_dropout": "0.1"},
        {"lora_dropout": True},
        {"use_rslora": "no"},
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant(settings, folder, model):
    rewrite(folder, **settings)
    with pytest.raises(FormatError):
        from_peft(folder, model)


def test_costly_target_expression_is_not_matched_but_the_tensors_decide(folder, model):
    rewrite(folder, target_modules=".*?(0|2).*?.*?.*?.*?.*?.*?")
    assert read_config(folder).targets is None
    assert len(from_peft(folder, model)) == 2


def test_unknown_variant_is_refused_and_unknown_switched_off_is_not(folder, model):
    rewrite(folder, use_brand_new=False, brand_new_config=None)
    assert len(from_peft(folder, model)) == 2
    rewrite(folder, use_brand_new=True)
    with pytest.raises(UnsupportedLayer, match="'use_brand_new'"):
        from_peft(folder, model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("base_model.model.0.lora_B.weight"), r"lacks the tensor 'base_model\.model\.0\.lora_B"),
        (lambda t: t.update({"base_model.model.0.lora_A.weight": torch.ones(2, 7)}), r"\(2, 7\).*expected \(2, 6\)"),
        (lambda t: t.update({"base_model.model.0.lora_A.weight": torch.ones(2, 6).int()}), r"int32"),
        (lambda t: t["base_model.model.0.lora_A.weight"].fill_(float("nan")), "NaN"),
        (
            lambda t: t.update({"base_model.model.0.lora_A.weight": torch.ones(2, 6).to(torch.float8_e4m3fn)}),
            r"0\.lora_A\.weight is .* of torch\.float8_e4m3fn; .*in float32",
        ),
        (lambda t: t.update({"base_model.model.0.lora_B.weight": torch.ones(5, 2).cfloat()}), "complex64"),
        (lambda t: t.update({"base_model.model.0.lora_magnitude_vector": torch.ones(5)}), "lora_magnitude_vector"),
        (lambda t: t.update({"stray": torch.ones(5)}), "'stray'"),
        (lambda t: t.clear(), "lacks the factors"),
    ],
    ids=["missing", "misshapen", "integer", "NaN", "eight bits", "complex", "magnitude", "stray", "empty"],
)
def test_damaged_tensors(change, message, folder, model):
    replace_tensors(folder, change)
    with pytest.raises(FormatError, match=message):
        from_peft(folder, model)


def test_truncated_and_missing_files(folder, model, tmp_path):
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for length in (0, 4, 20, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            from_peft(folder, model)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(FormatError, match="pickle"):
        from_peft(folder, model)
    with pytest.raises(FormatError, match="nothing-here"):
        from_peft(tmp_path / "nothing-here", model)


def test_base_weights_beside_the_factors(folder, model):
    """peft stores a targeted embedding's table too: equal to the model's it may be there, otherwise it may not."""
    name = "base_model.model.3.weight"
    replace_tensors(folder, lambda t: t.update({name: model[3].weight.detach().clone()}))
    assert len(from_peft(folder, model)) == 2
    replace_tensors(folder, lambda t: t.update({name: torch.zeros(8, 3)}))
    with pytest.raises(UnsupportedLayer, match=r"3\.weight.*\(8, 3\)"):
        from_peft(folder, model)


def test_module_that_the_model_does_not_have(folder):
    with pytest.raises(UnknownParameter, match=r"'2'"):
        from_peft(folder, nn.Sequential(nn.Linear(6, 5)), strict=False)


@given(data=st.data())
def test_no_edited_byte_of_a_folder_does_harm(data, tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2))
    folder = to_peft(
        delta_of(model, **{"0__weight": low_rank(2, 3, rank=1)}), tmp_path_factory.mktemp("x") / "a", model=model
    )
    path = folder / data.draw(st.sampled_from(["adapter_config.json", "adapter_model.safetensors"]))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        delta = from_peft(folder, model)
    except DthetaError:
        return
    assert all(change.is_finite() for change in delta.changes.values())


@pytest.mark.parametrize("name", ["strict", "modules_to_save", "pissa_start"])
def test_what_reading_is_told_is_yes_or_no(model, folder, name):
    with pytest.raises(ConfigError, match=f"{name} is .*expected True or False"):
        from_peft(folder, model, **{name: ["head"]})


def test_a_folder_is_made_of_a_delta(tmp_path):
    with pytest.raises(ConfigError, match="expected one delta"):
        to_peft("news.delta", tmp_path / "adapter")
