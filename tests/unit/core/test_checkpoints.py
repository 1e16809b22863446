"""Checkpoints: lazy reading, refusal of what is damaged or unsafe, and merging one tensor at a time."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from dtheta.core import checkpoint_folder, output
from dtheta.core.apply import merge
from dtheta.core.change import Dense, New
from dtheta.core.checkpoint_merge import merge_checkpoint
from dtheta.core.checkpoints import open_checkpoint
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.fingerprint import fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from dtheta.core.spectral import Spectral
from dtheta.errors import (
    BaseMismatch,
    ConfigError,
    FormatError,
    NonFinite,
    OutputError,
    UnknownParameter,
    UnsupportedLayer,
)

INDEX = "model.safetensors.index.json"


def normal(*shape: int, index: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "checkpoints", index))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def sharded(tmp_path: Path, tiny_llama: nn.Module) -> Path:
    """A Llama in several shards, as transformers writes it, with files beside it."""
    folder = tmp_path / "llama"
    tiny_llama.save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"stale")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"stale")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    save_file({"linear.weight": torch.zeros(2)}, folder / "1_Pooling" / "model.safetensors")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("x")
    return folder


@pytest.fixture
def delta(tiny_llama: nn.Module) -> Delta:
    changes = {
        "model.embed_tokens.weight": Rows(torch.tensor([3, 9]), normal(2, 16), (64, 16)),
        "model.layers.0.self_attn.q_proj.weight": LowRank(normal(16, 2), normal(2, 16)),
        "model.layers.1.mlp.down_proj.weight": Spectral(normal(16), (16, 32)),
        "model.norm.weight": Dense(normal(16)),
    }
    return Delta(changes, fingerprint(tiny_llama).restrict(changes))


def test_a_sharded_folder_reads_like_its_state_dict(sharded: Path, tiny_llama: nn.Module) -> None:
    checkpoint = open_checkpoint(sharded)
    state = tiny_llama.state_dict()
    assert set(checkpoint) == set(state) and len(checkpoint) == len(state)
    assert all(torch.equal(checkpoint[name], tensor) for name, tensor in state.items())
    entry = checkpoint.info("model.norm.weight")
    assert entry.dtype == torch.float32 and entry.shape == (16,) and entry.nbytes == 64
    assert checkpoint.nbytes == sum(4 * t.numel() for t in state.values())
    assert checkpoint.get("none") is None and "none" not in checkpoint and "model.norm.weight" in checkpoint
    with pytest.raises(UnknownParameter, match=r"did you mean 'model\.norm\.weight'"):
        checkpoint["model.nrom.weight"]
    assert open_checkpoint(sharded / INDEX).keys() == checkpoint.keys()
    assert fingerprint(checkpoint) == fingerprint(tiny_llama)
    assert str(sharded) in repr(checkpoint)


def test_opening_reads_no_tensor(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtheta.core.tensorfile.TensorFile.read", None)
    checkpoint = open_checkpoint(sharded)
    assert checkpoint.info("lm_head.weight").shape == (64, 16)


def test_single_files_and_folders(tmp_path: Path) -> None:
    save_file({"w": normal(2)}, tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert torch.equal(open_checkpoint(path)["w"], normal(2))
    (tmp_path / "model.safetensors").rename(tmp_path / "diffusion.safetensors")
    assert list(open_checkpoint(tmp_path)) == ["w"]
    save_file({"w": normal(2)}, tmp_path / "other.safetensors")
    with pytest.raises(FormatError, match="2 safetensors files and no index"):
        open_checkpoint(tmp_path)


def _edit(folder: Path, edit: object) -> None:
    index = json.loads((folder / INDEX).read_text())
    edit(index)  # type: ignore[operator]
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("../llama/model-00001-of-00005.safetensors", "no safetensors file of its folder"),
        ("/etc/passwd", "no safetensors file of its folder"),
        ("..", "no safetensors file of its folder"),
        ("a\\b.safetensors", "no safetensors file of its folder"),
        ("a\0.safetensors", "no safetensors file of its folder"),
        ("pytorch_model.bin", "no safetensors file of its folder"),
        (5, "no safetensors file of its folder"),
        ("model-00009-of-00005.safetensors", "is missing; did you mean"),
    ],
)
def test_an_index_may_not_lead_elsewhere(sharded: Path, place: object, message: str) -> None:
    _edit(sharded, lambda index: index["weight_map"].update({"model.norm.weight": place}))
    with pytest.raises(FormatError, match=message):
        open_checkpoint(sharded)


def test_index_and_shards_must_agree(sharded: Path) -> None:
    shards = sorted(p.name for p in sharded.glob("*.safetensors"))
    text = (sharded / INDEX).read_text()
    _edit(sharded, lambda index: index["weight_map"].update({"extra": shards[0]}))
    with pytest.raises(FormatError, match="should hold 'extra' and does not"):
        open_checkpoint(sharded)
    (sharded / INDEX).write_text(text)
    _edit(sharded, lambda index: index["weight_map"].pop("model.norm.weight"))
    with pytest.raises(FormatError, match=r"holds 'model\.norm\.weight', which the index does not"):
        open_checkpoint(sharded)
    for bad in (
        "{",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": {"a": "b", "a": "c"}}',
        '{"metadata": 1, "weight_map": {"a": "b"}}',
    ):
        (sharded / INDEX).write_text(bad)
        with pytest.raises(FormatError, match="index"):
            open_checkpoint(sharded)
    (sharded / INDEX).write_text(text)
    (sharded / shards[1]).write_bytes((sharded / shards[1]).read_bytes()[:-1])
    with pytest.raises(FormatError, match="cut short"):
        open_checkpoint(sharded)
    (sharded / shards[1]).unlink()
    with pytest.raises(FormatError, match="is missing"):
        open_checkpoint(sharded)


def test_what_is_no_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FormatError, match=r"pickle.*save_pretrained"):
        open_checkpoint(tmp_path)
    with pytest.raises(FormatError, match=r"pickle.*save_pretrained"):
        open_checkpoint(tmp_path / "pytorch_model.bin")
    (tmp_path / "disguised.safetensors").write_bytes((tmp_path / "pytorch_model.bin").read_bytes())
    with pytest.raises(FormatError, match="pickle"):
        open_checkpoint(tmp_path / "disguised.safetensors")
    Delta({}).save(tmp_path / "a.delta")
    with pytest.raises(FormatError, match=r"\.delta file.*dt\.load"):
        open_checkpoint(tmp_path / "a.delta")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="holds no checkpoint"):
        open_checkpoint(tmp_path / "empty")
    (tmp_path / "empty" / "adapter_config.json").touch()
    with pytest.raises(FormatError, match=r"peft adapter.*dt\.from_peft"):
        open_checkpoint(tmp_path / "empty")
    with pytest.raises(ConfigError, match="did you mean 'empty'"):
        open_checkpoint(tmp_path / "emtpy")
    both = tmp_path / "both"
    both.mkdir()
    save_file({"w": torch.zeros(2)}, both / "model.safetensors")
    (both / INDEX).write_text('{"weight_map": {"w": "model.safetensors"}}')
    with pytest.raises(FormatError, match="has both"):
        open_checkpoint(both)


def test_merging_shards_gives_what_merging_the_model_gives(
    sharded: Path, tiny_llama: nn.Module, delta: Delta, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    before = snapshot(sharded)
    seen: list[tuple[str, int, int]] = []
    done = merge_checkpoint(sharded, delta, tmp_path / "out", progress=lambda *step: seen.append(step))
    assert snapshot(sharded) == before
    merged, expected = open_checkpoint(tmp_path / "out"), merge(tiny_llama, delta)
    state = expected.state_dict()
    assert set(merged) == set(state) and all(torch.equal(merged[n], t) for n, t in state.items())
    assert set(done.changed) == set(delta) and done.path == tmp_path / "out"
    assert done.rounding == expected.dtheta_rounding
    assert done.left_out == ("onnx/model.onnx", "pytorch_model.bin")
    after = snapshot(tmp_path / "out")
    assert set(after) == {n for n in before if n not in done.left_out and not n.startswith(".cache")}
    assert all(after[n] == before[n] for n in after if n.endswith(".json") and n != INDEX)
    assert json.loads(after[INDEX])["weight_map"] == json.loads(before[INDEX])["weight_map"]
    assert done.nbytes == sum(len(after[n]) for n in merged.shards)
    assert len(seen) == len(merged) and seen[-1][1:] == (merged.nbytes, merged.nbytes)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(5)[None]
    assert torch.allclose(loaded(ids).logits, expected(ids).logits, atol=1e-6)
    with safe_open(tmp_path / "out" / next(iter(merged.shards)), "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_at_most_one_tensor_is_in_memory(
    sharded: Path, delta: Delta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weakref

    from dtheta.core.tensorfile import TensorFile

    plain, alive, held = TensorFile.read, weakref.WeakSet(), []

    def watching(self: TensorFile, name: str) -> torch.Tensor:
        tensor = plain(self, name)
        alive.add(tensor)
        held.append(len(list(alive)))
        return tensor

    monkeypatch.setattr(TensorFile, "read", watching)
    merge_checkpoint(sharded, delta, tmp_path / "out", strict=False)
    assert len(held) == len(delta) and max(held) == 1  # tensors that do not change are copied as bytes


def test_merging_a_single_file(tmp_path: Path) -> None:
    tensors = {"a": normal(4, 4), "b": normal(3).bfloat16(), "n": torch.tensor(3), "z": torch.zeros(0, 2)}
    save_file(tensors, tmp_path / "base.safetensors", metadata={"format": "pt", "note": "x"})
    delta = Delta(
        {"a": Dense(normal(4, 4, index=1)), "n": Dense(torch.tensor(2))}, fingerprint(tensors).restrict(["a"])
    )
    merge_checkpoint(tmp_path / "base.safetensors", delta, tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert torch.equal(found["a"], tensors["a"] + normal(4, 4, index=1)) and found["n"].item() == 5
    assert torch.equal(found["b"], tensors["b"]) and found["z"].shape == (0, 2)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "note": "x"}
    merge_checkpoint(tmp_path / "base.safetensors", Delta({}), tmp_path / "out.safetensors")  # replaces its own output
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "base.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"\.safetensors file, found 'out'"):
        merge_checkpoint(tmp_path / "base.safetensors", delta, tmp_path / "out")


def test_another_dtype_is_rounded_once_and_said_in_the_configuration(
    sharded: Path, tiny_llama: nn.Module, delta: Delta, tmp_path: Path
) -> None:
    merge_checkpoint(sharded, delta, tmp_path / "out", dtype=torch.bfloat16)
    merged = open_checkpoint(tmp_path / "out")
    double = merge(tiny_llama.double(), delta, strict=False).state_dict()
    assert all(torch.equal(merged[n], t.to(torch.bfloat16)) for n, t in double.items())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"
    assert json.loads((tmp_path / "out" / INDEX).read_text())["metadata"]["total_size"] == merged.nbytes
    with pytest.raises(ConfigError, match="floating dtype"):
        merge_checkpoint(sharded, delta, tmp_path / "other", dtype=torch.int8)


def test_a_wrong_base_is_refused_before_anything_is_written(sharded: Path, delta: Delta, tmp_path: Path) -> None:
    wrong = Delta({**delta.changes}, fingerprint({n: torch.zeros(1) for n in delta}))
    with pytest.raises(BaseMismatch, match="4 differ in content"):
        merge_checkpoint(sharded, wrong, tmp_path / "out")
    with pytest.raises(UnknownParameter, match="did you mean"):
        merge_checkpoint(sharded, Delta({"model.nrom.weight": Dense(normal(16))}), tmp_path / "out")
    with pytest.raises(UnsupportedLayer, match="prompt"):
        merge_checkpoint(sharded, Delta({"prompt": New(normal(2))}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge_checkpoint(sharded, wrong, tmp_path / "out", strict=False)


def test_nothing_half_written_stays(
    sharded: Path, delta: Delta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(tmp_path.iterdir())
    broken = Delta({**delta.changes, "lm_head.weight": Dense(torch.full((64, 16), 3e38))})
    broken = Delta({**broken.changes, "model.norm.weight": Dense(torch.full((16,), float("inf")))})
    with pytest.raises(NonFinite, match=r"model\.norm\.weight"):
        merge_checkpoint(sharded, broken, tmp_path / "out", strict=False)

    def full(*arguments: object, **keywords: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for module, name in [(output.os, "fsync"), (output.os, "replace"), (checkpoint_folder.shutil, "copyfile")]:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(OutputError, match="No space left"):
                merge_checkpoint(sharded, delta, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(output.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
        with pytest.raises(OutputError, match="the disk has 1,000 left"):
            merge_checkpoint(sharded, delta, tmp_path / "out")

    def stop(*step: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_checkpoint(sharded, delta, tmp_path / "out", progress=stop)
    assert set(tmp_path.iterdir()) == before


def test_the_source_is_never_written_to(sharded: Path, delta: Delta, tmp_path: Path) -> None:
    before = snapshot(sharded)
    (tmp_path / "link").symlink_to(sharded)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for out, message in [
        (sharded, "it is the source"),
        (tmp_path / "link", "it is the source"),
        (sharded / "merged", "inside it"),
        (tmp_path / "x" / ".." / "llama", "it is the source"),
        (tmp_path / "full", "it exists"),
    ]:
        with pytest.raises(OutputError, match=message):
            merge_checkpoint(sharded, delta, out)
    assert snapshot(sharded) == before
    save_file({"w": torch.zeros(2)}, tmp_path / "a.safetensors")
    os.link(tmp_path / "a.safetensors", tmp_path / "same.safetensors")
    for out in ("a.safetensors", "same.safetensors"):
        with pytest.raises(OutputError, match="it is the source"):
            merge_checkpoint(tmp_path / "a.safetensors", Delta({}), tmp_path / out)


def test_stored_copies_of_tied_embeddings_move_together(tmp_path: Path) -> None:
    embed = normal(6, 4)
    tensors = {"embed.weight": embed, "lm_head.weight": embed.clone(), "other.weight": normal(6, 4, index=1)}
    gpt2, llama = {"model_type": "gpt2"}, {"model_type": "llama"}  # which leave out what is usual: tied, and not
    said = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
    for i, (config, tied) in enumerate([(said[0], True), (said[1], False), (gpt2, True), (llama, False)]):
        folder = tmp_path / f"model-{i}"
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config))
        done = merge_checkpoint(folder, Delta({"embed.weight": Dense(torch.ones(6, 4))}), tmp_path / f"out-{i}")
        found = open_checkpoint(tmp_path / f"out-{i}")
        assert torch.equal(found["embed.weight"], embed + 1)
        assert torch.equal(found["lm_head.weight"], embed + 1 if tied else embed)
        assert set(done.changed) == {"embed.weight", *(["lm_head.weight"] if tied else [])}


def test_weights_behind_links_are_followed(sharded: Path, delta: Delta, tmp_path: Path) -> None:
    """A download cache keeps the files elsewhere and links to them."""
    links = tmp_path / "links"
    links.mkdir()
    for file in sharded.iterdir():
        if file.is_file():
            (links / file.name).symlink_to(file)
    merge_checkpoint(links, delta, tmp_path / "out")
    assert not any(p.is_symlink() for p in (tmp_path / "out").iterdir())
    assert len(open_checkpoint(tmp_path / "out")) == len(open_checkpoint(sharded))


@pytest.mark.parametrize("index", ["a.safetensors.index.json", "b.safetensors.index.json", "custom.index.json"])
def test_a_merged_copy_has_the_index_that_was_read(tmp_path: Path, index: str) -> None:
    """A folder may hold several, such as one a precision."""
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("a.safetensors.index.json", "b.safetensors.index.json", "custom.index.json"):
        shard = f"{name[0]}.safetensors"
        save_file({"w": torch.full((2,), float(ord(name[0])))}, folder / shard)
        (folder / name).write_text(json.dumps({"weight_map": {"w": shard}}))
    merge_checkpoint(folder / index, Delta({"w": Dense(torch.ones(2))}), tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == sorted([index, f"{index[0]}.safetensors"])
    assert open_checkpoint(tmp_path / "out" / index)["w"].tolist() == [ord(index[0]) + 1.0] * 2


def test_a_dtype_that_cannot_hold_a_tensor_which_does_not_change_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2), "b": torch.full((2,), 1e5)}, tmp_path / "base.safetensors")
    delta = Delta({"a": Dense(torch.ones(2))})
    with pytest.raises(NonFinite, match=r"b: torch\.float16 cannot hold .*bfloat16"):
        merge_checkpoint(tmp_path / "base.safetensors", delta, tmp_path / "out.safetensors", dtype=torch.float16)
    assert os.listdir(tmp_path) == ["base.safetensors"]
    merge_checkpoint(tmp_path / "base.safetensors", delta, tmp_path / "out.safetensors", dtype=torch.bfloat16)
    save_file({"a": torch.ones(2), "b": torch.tensor([1.0, float("inf")])}, tmp_path / "base.safetensors")
    merge_checkpoint(tmp_path / "base.safetensors", delta, tmp_path / "out.safetensors", dtype=torch.float16)


@pytest.mark.parametrize("beyond", [465.0, -1e4])
def test_a_dtype_without_infinity_saturates_nothing_silently(tmp_path: Path, beyond: float) -> None:
    place, eight = tmp_path / "base.safetensors", torch.float8_e4m3fn
    for name, said in (("a", r"a: base plus delta is not finite in torch\.float8_e4m3fn"), ("b", r"b: .* cannot hold")):
        tensors = {"a": torch.zeros(2), "b": torch.zeros(2)}
        tensors[name][1] = beyond
        save_file(tensors, place)
        with pytest.raises(NonFinite, match=said):
            merge_checkpoint(place, Delta({"a": Dense(torch.ones(2))}), tmp_path / "out.safetensors", dtype=eight)
        assert os.listdir(tmp_path) == ["base.safetensors"]
    save_file({"a": torch.tensor([460.0, -464.0]), "b": torch.tensor([464.0, 1.0]).bfloat16()}, place)
    merged = merge_checkpoint(place, Delta({"a": Dense(torch.zeros(2))}), tmp_path / "out.safetensors", dtype=eight)
    held = open_checkpoint(merged.path)
    assert held["a"].float().tolist() == [448.0, -448.0] and held["b"].float().tolist() == [448.0, 1.0]
    with pytest.raises(ConfigError, match=r"that safetensors files hold .*found torch\.float8_e4m3fnuz"):
        merge_checkpoint(place, Delta({}), tmp_path / "more.safetensors", dtype=torch.float8_e4m3fnuz)


def test_a_basis_that_does_not_fit_is_told_by_the_name_of_its_parameter(tmp_path: Path) -> None:
    save_file({"w": normal(5, 4)}, tmp_path / "base.safetensors")
    delta = Delta({"w": Spectral(torch.ones(2), (5, 4), probe=torch.full((5,), 9.0))})
    with pytest.raises(BaseMismatch, match=r"^w: the singular vectors"):
        merge_checkpoint(tmp_path / "base.safetensors", delta, tmp_path / "out.safetensors", strict=False)


def test_a_folder_that_may_not_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(FormatError, match="cannot be read: Permission denied"):
        open_checkpoint(tmp_path)
    with pytest.raises(FormatError, match="cannot be read: Permission denied"):
        load(tmp_path)


def test_weights_of_another_module_are_copied_whatever_they_are_called(tmp_path: Path) -> None:
    """As of a sentence transformer, whose dense layer lies in a folder of its own under the name of the model's."""
    folder = tmp_path / "base"
    for name in ("2_Dense", "3_Sharded"):
        (folder / name).mkdir(parents=True)
    save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    save_file({"linear.weight": torch.zeros(2)}, folder / "2_Dense" / "model.safetensors")
    save_file({"v": torch.zeros(2)}, folder / "3_Sharded" / "part.safetensors")
    (folder / "3_Sharded" / INDEX).write_text('{"weight_map": {"v": "part.safetensors"}}')
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    done = merge_checkpoint(folder, Delta({"w": Dense(torch.ones(2))}), tmp_path / "out")
    before, after = snapshot(folder), snapshot(tmp_path / "out")
    assert done.left_out == ("pytorch_model.bin.index.json",)
    assert set(after) == {*before} - {*done.left_out}
    assert all(after[name] == before[name] for name in after if name != "model.safetensors")
    assert open_checkpoint(tmp_path / "out")["w"].tolist() == [2.0, 2.0]
