"""The .delta file beyond its laws: what is refused before writing, and what each wrong input is told."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from dtheta.core import header, output
from dtheta.core.change import Dense, New
from dtheta.core.combination import Scaled
from dtheta.core.delta import Delta
from dtheta.core.files import check, load, read_header, save
from dtheta.core.fingerprint import fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.provenance import Provenance
from dtheta.core.seeds import generator
from dtheta.core.spectral import Spectral
from dtheta.errors import BaseMismatch, ConfigError, FormatError, NonFinite, OutputError, UnknownParameter


def normal(*shape: int, index: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "files", index))


@pytest.fixture
def delta(tiny_mlp: nn.Module) -> Delta:
    weight = tiny_mlp[2].weight.detach()
    changes = {
        "0.weight": LowRank(normal(16, 2), normal(2, 12)),
        "2.weight": Spectral(normal(8), (8, 16)).bind(weight),
        "2.bias": Dense(normal(8)),
    }
    return Delta(changes, fingerprint(tiny_mlp).restrict(changes), Provenance("train", {"name": "LoRA", "rank": 2}))


def test_method_of_delta_saves_too(delta: Delta, tmp_path: Path) -> None:
    assert delta.save(str(tmp_path / "a.delta")) == tmp_path / "a.delta"
    assert load(str(tmp_path / "a.delta")) == delta


def test_the_safetensors_library_reads_the_tensors(delta: Delta, tmp_path: Path) -> None:
    delta.save(tmp_path / "a.delta")
    with safe_open(tmp_path / "a.delta", "pt") as file:
        assert set(file.metadata()) == {"dtheta"}
        assert torch.equal(file.get_tensor("0.weight:left"), delta["0.weight"].tensors()["left"])


def test_header_tells_everything_without_tensors(delta: Delta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = delta.save(tmp_path / "a.delta")
    monkeypatch.setattr("dtheta.core.tensorfile.TensorFile.read", None)
    header = read_header(path)
    assert header.digest == delta.digest and header.version == 1 and header.base == delta.base
    assert header.changes["0.weight"] == {"kind": "low-rank", "shape": [16, 12], "rank": 2, "core": False}
    assert header.provenance.method == {"name": "LoRA", "rank": 2} and header.nbytes == path.stat().st_size


def test_spectral_changes_store_shifts_only(tiny_mlp: nn.Module, tmp_path: Path) -> None:
    weight = tiny_mlp[2].weight.detach()
    delta = Delta({"2.weight": Spectral(normal(8), (8, 16)).bind(weight)})
    small, large = delta.save(tmp_path / "a.delta"), delta.save(tmp_path / "b.delta", include_basis=True)
    assert large.stat().st_size - small.stat().st_size > 4 * (8 * 8 + 8 * 16) - 4 * 8
    loose = load(small)
    with pytest.raises(ConfigError, match=r"dt\.load\(path, base=model\)"):
        loose["2.weight"].dense()
    with pytest.raises(ConfigError, match=r"2\.weight: .*delta\.bind\(model\) first"):
        loose.save(tmp_path / "c.delta", include_basis=True)
    assert torch.equal(load(large)["2.weight"].dense(), delta["2.weight"].dense())
    assert torch.equal(load(small, tiny_mlp)["2.weight"].dense(), delta["2.weight"].dense())
    assert torch.equal(loose.bind(tiny_mlp)["2.weight"].dense(), delta["2.weight"].dense())


def test_loading_onto_a_base_checks_it(delta: Delta, tiny_mlp: nn.Module, tmp_path: Path) -> None:
    path = delta.save(tmp_path / "a.delta")
    assert load(path, dict(tiny_mlp.named_parameters())) == delta
    with torch.no_grad():
        tiny_mlp[2].bias += 1
    with pytest.raises(BaseMismatch, match=r"first: 2\.bias"):
        load(path, tiny_mlp)
    assert load(path, tiny_mlp, strict=False) == delta
    with pytest.raises(UnknownParameter, match="which the base does not have"):
        load(path, nn.Linear(2, 2), strict=False)


def test_another_base_cannot_bind_even_when_not_strict(delta: Delta, tiny_mlp: nn.Module, tmp_path: Path) -> None:
    path = delta.save(tmp_path / "a.delta")
    with torch.no_grad():
        tiny_mlp[2].weight.copy_(normal(8, 16, index=5))
    with pytest.raises(BaseMismatch, match=r"2\.weight: .*singular vectors"):
        load(path, tiny_mlp, strict=False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_must_be_finite(tmp_path: Path, value: float) -> None:
    with pytest.raises(NonFinite, match=r"^layer\.w: .*'term\.values'"):
        Delta({"layer.w": 2 * Dense(torch.tensor([1.0, value]))}).save(tmp_path / "a.delta")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.float32(1), {1: 2}, math.nan, object(), torch.float32, {"a": [1, {2}]}])
def test_provenance_must_be_plain(tmp_path: Path, value: object) -> None:
    delta = Delta({}, provenance=Provenance("train", settings={"x": value}))
    with pytest.raises(ConfigError, match=r"provenance\.settings"):
        delta.save(tmp_path / "a.delta")
    assert list(tmp_path.iterdir()) == []


def test_names_may_be_strange(tmp_path: Path) -> None:
    names = ["", ":", "a:left", "a", "__metadata__", "ü\n\"'\\", "x" * 300, "\ud800"]
    delta = Delta({name: Dense(normal(2, index=i)) for i, name in enumerate(names)})
    assert load(delta.save(tmp_path / "a.delta")) == delta
    assert list(load(tmp_path / "a.delta")) == names


def test_a_tensor_that_changed_after_its_digest_was_taken_is_saved_as_it_is(tmp_path: Path) -> None:
    values = torch.zeros(3)
    delta = Delta({"w": Dense(values)})
    stale = delta.digest
    values += 1
    loaded = load(delta.save(tmp_path / "a.delta"))
    assert torch.equal(loaded["w"].dense(), torch.ones(3)) and loaded.digest != stale


def test_saving_where_one_cannot(delta: Delta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        delta.save(tmp_path / "folder")
    with pytest.raises(OutputError, match="no folder"):
        delta.save(tmp_path / "none" / "a.delta")
    with pytest.raises(ConfigError, match="expected a Delta"):
        save({"w": 1}, tmp_path / "a.delta")  # type: ignore[arg-type]
    path = delta.save(tmp_path / "a.delta")
    before = path.read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(output.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        (2 * delta).save(path)
    assert path.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {"folder", "a.delta"}


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    plain = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(2)}, plain)
    peft = tmp_path / "adapter"
    peft.mkdir()
    (peft / "adapter_config.json").write_text("{}")
    save_file({"base_model.model.q.lora_A.weight": torch.zeros(2)}, peft / "adapter_model.safetensors")
    model = tmp_path / "model"
    model.mkdir()
    save_file({"w": torch.zeros(2)}, model / "model.safetensors")
    deltas = tmp_path / "deltas"
    deltas.mkdir()
    Delta({}).save(deltas / "news.delta")
    torch.save({"w": torch.zeros(2)}, tmp_path / "weights.pt")
    for path, message in [
        (plain, r"plain safetensors file.*'dtheta extract BASE model\.safetensors'"),
        (peft, r"peft adapter folder.*dt\.from_peft\('adapter', model\)"),
        (peft / "adapter_model.safetensors", r"peft adapter.*dt\.from_peft"),
        (model, r"model checkpoint.*'dtheta extract BASE model'"),
        (deltas, r"such as 'news\.delta'"),
        (tmp_path / "weights.pt", "pickle"),
    ]:
        for read in (load, check, read_header):
            with pytest.raises(FormatError, match=message):
                read(path)
    with pytest.raises(ConfigError, match=r"did you mean 'news\.delta'"):
        load(deltas / "new.delta")


def test_a_file_rewritten_by_another_program_is_refused(delta: Delta, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = delta.save(tmp_path / "a.delta")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), tmp_path / "b.delta", metadata={**metadata, "note": "mine"})
    with pytest.raises(FormatError, match="unknown metadata 'note'"):
        load(tmp_path / "b.delta")


def test_saved_files_are_deterministic(delta: Delta, tmp_path: Path) -> None:
    assert delta.save(tmp_path / "a").read_bytes() == delta.save(tmp_path / "b").read_bytes()


def test_tensors_that_share_memory_or_are_views_are_saved(tmp_path: Path) -> None:
    whole = normal(6, 4)
    delta = Delta({"a": Dense(whole.T), "b": LowRank(whole[:, 1:3], whole[1:3]), "c": Dense(whole[::2])})
    assert load(delta.save(tmp_path / "a.delta")) == delta


def test_new_vectors_and_integers_are_kept(tmp_path: Path) -> None:
    delta = Delta({"prompt": New(normal(3, 4)), "count": Dense(torch.tensor(7)), "s": Scaled(1e-300, Dense(normal(2)))})
    loaded = load(delta.save(tmp_path / "a.delta"))
    assert loaded == delta and isinstance(loaded["prompt"], New) and loaded["count"].dense().dtype == torch.float64


def test_the_size_of_the_parts_goes_with_a_difference(tmp_path: Path) -> None:
    base = {"w": torch.eye(8)}
    made = [Spectral(normal(8) + i * 1e-4 * normal(8, index=1), (8, 8)).bind(base["w"]) for i in range(2)]
    a, b = (load(Delta({"w": change}).save(tmp_path / f"{i}.delta")) for i, change in enumerate(made))
    path = (b - a).save(tmp_path / "b-a.delta")
    found = load(path, base)
    assert found == b - a and isinstance(found["w"], Spectral) and found["w"].parts == (b - a)["w"].parts
    assert torch.allclose(found["w"].dense(), made[1].dense() - made[0].dense(), atol=1e-6)
    assert found.save(tmp_path / "again.delta").read_bytes() == path.read_bytes()
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {"w:shift", "w:probe", "w:parts"}


@pytest.mark.parametrize("parts", [{"parts": -1.0}, {"parts": 1.0, "probe": None}, {"left": 1.0}])
def test_further_tensors_that_do_not_belong_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, float | None]
) -> None:
    change = Spectral(normal(3), (3, 3)).bind(torch.eye(3))
    stored: dict[str, Any] = {**change.stored(), **{n: v and torch.tensor(v).double() for n, v in parts.items()}}
    monkeypatch.setattr(Spectral, "stored", lambda *_: {n: t for n, t in stored.items() if t is not None})
    path = Delta({"w": change}).save(tmp_path / "a.delta")
    with pytest.raises(FormatError, match=r"a\.delta: .*w"):
        load(path)


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "a.delta", tmp_path / "b.delta"
    old, new = Delta({"w": Dense(torch.zeros(3))}), Delta({"w": Dense(torch.ones(3))})
    old.save(path)
    new.save(other)
    original = header.open_tensors

    def overtaken(opened: Path) -> Any:
        found = original(opened)
        if other.exists():
            other.replace(path)
        return found

    monkeypatch.setattr(header, "open_tensors", overtaken)
    assert load(path) == new


def test_a_path_in_the_home_folder_is_returned_as_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    delta = Delta({"w": Dense(torch.ones(2))})
    assert delta.save("~/a.delta") == tmp_path / "a.delta"
    assert load("~/a.delta") == delta


def test_nothing_is_written_where_the_path_names_the_home_of_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"a file called so is \./~nobody-is-called-so"):
        save(Delta({"w": Dense(torch.ones(2))}), "~nobody-is-called-so.delta")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["~", "~root", "~nobody-is-called-so"])
def test_a_file_in_this_folder_named_like_a_home_is_saved_and_read_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    delta = Delta({"w": Dense(torch.ones(2))})
    assert save(delta, f"./{name}") == tmp_path / name
    assert load(f"./{name}") == delta
