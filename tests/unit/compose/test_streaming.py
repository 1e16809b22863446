"""Merging of checkpoints a range at a time: the dense formulas exactly, whatever the layout or the memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dtheta.compose.merge_plan import MergeInput, MergePlan, MergeSlice, merge_plan
from dtheta.compose.preflight import preflight
from dtheta.compose.streaming import merge_checkpoints
from dtheta.core.checkpoints import open_checkpoint
from dtheta.core.delta import Delta
from dtheta.core.extract import extract
from dtheta.core.fingerprint import fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.rows import Rows
from dtheta.core.spectral import Spectral
from dtheta.errors import BaseMismatch, ConfigError, FormatError, NonFinite, OutputError, UnsupportedLayer
from tests.unit.compose.checkpoints import (
    SHAPES,
    crumbs,
    drawn,
    family,
    largest,
    normal,
    read,
    steps_reference,
    tensors,
    write,
)

WEIGHTS = (0.5, -0.3, 0.7)
KINDS: dict[str, dict[str, Any]] = {
    "task_arithmetic": {},
    "ties": {"consensus": True, "normalize": True},
    "dare_linear": {"rescale": True},
    "dare_ties": {"consensus": True, "rescale": True},
    "breadcrumbs": {},
    "breadcrumbs_ties": {"consensus": True},
}


def _trims(method: str, name: str, densities: tuple[float, ...]) -> list[Any]:
    if method == "task_arithmetic":
        return [largest(1.0)] * 3
    if method.startswith("dare"):
        return [drawn(density, 5, i, name) for i, density in enumerate(densities)]
    if method.startswith("breadcrumbs"):
        return [crumbs(density, 0.05) for density in densities]
    return [largest(density) for density in densities]


def _plan(method: str, folders: list[Path], densities: tuple[float, ...], **more: Any) -> MergePlan:
    own = [{"weight": w, "density": d} for w, d in zip(WEIGHTS, densities, strict=True)]
    if method.startswith("breadcrumbs"):
        more["gamma"] = 0.05
    models = list(zip(folders[1:], own, strict=True))
    return merge_plan(method, models, folders[0], seed=5, lambda_=0.9, **more)


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_steps_equal_the_whole_tensor_formulas(tmp_path: Path, method: str, dtype: torch.dtype) -> None:
    densities = (0.3, 0.65, 1.0)
    folders = family(tmp_path, dtype=dtype)
    merged = read(merge_checkpoints(_plan(method, folders, densities), tmp_path / "out").path)
    base, *models = (read(folder) for folder in folders)
    for name in SHAPES:
        trims = _trims(method, name, densities)
        wanted = steps_reference(base[name], [m[name] for m in models], trims, WEIGHTS, factor=0.9, **KINDS[method])
        assert merged[name].dtype == dtype
        assert torch.equal(merged[name], wanted), name


@pytest.mark.parametrize(("normalize", "rescale"), [(True, False), (False, True), (True, True)])
def test_ties_with_other_flags(tmp_path: Path, normalize: bool, rescale: bool) -> None:
    folders = family(tmp_path)
    plan = _plan("ties", folders, (0.2, 0.0, 0.5), normalize=normalize, rescale=rescale)
    merged = read(merge_checkpoints(plan, tmp_path / "out").path)
    base, *models = (read(folder) for folder in folders)
    for name in SHAPES:
        trims = [largest(0.2), largest(0.0), largest(0.5)]
        wanted = steps_reference(
            base[name], [m[name] for m in models], trims, WEIGHTS,
            consensus=True, normalize=normalize, rescale=rescale, factor=0.9,
        )  # fmt: skip
        assert torch.equal(merged[name], wanted), name


@pytest.mark.parametrize("normalize", [True, False])
def test_linear(tmp_path: Path, normalize: bool) -> None:
    folders = family(tmp_path)
    plan = merge_plan("linear", [(f, {"weight": w}) for f, w in zip(folders[1:], WEIGHTS, strict=True)])
    plan = MergePlan("linear", plan.slices, None, {"normalize": normalize})
    merged = read(merge_checkpoints(plan, tmp_path / "out").path)
    models = [read(folder) for folder in folders[1:]]
    for name in SHAPES:
        total = torch.zeros_like(models[0][name], dtype=torch.float64)
        for model, weight in zip(models, WEIGHTS, strict=True):
            total = total + model[name].double() * weight
        assert torch.equal(merged[name], (total / (sum(WEIGHTS) if normalize else 1)).float()), name


@pytest.mark.parametrize("t", [0.0, 0.35, 1.0])
def test_slerp(tmp_path: Path, t: float) -> None:
    folders = family(tmp_path)
    merged = read(merge_checkpoints(merge_plan("slerp", folders[:2], folders[0], t=t), tmp_path / "out").path)
    base, model = read(folders[0]), read(folders[1])
    for name in SHAPES:
        a, b = base[name].double(), model[name].double()
        cosine = float((a * b).sum() / max(float(a.norm() * b.norm()), 1e-300))
        if abs(cosine) > 0.9995 or not a.numel():
            wanted = (1 - t) * a + t * b
        else:
            angle = torch.arccos(torch.tensor(cosine, dtype=torch.float64))
            wanted = torch.sin((1 - t) * angle) / torch.sin(angle) * a + torch.sin(t * angle) / torch.sin(angle) * b
        torch.testing.assert_close(merged[name], wanted.float(), rtol=1e-6, atol=1e-7)
    if t == 0.0:
        assert all(torch.equal(merged[name], base[name]) for name in SHAPES)


def test_passthrough_copies_bits_and_scales(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {**tensors(1), "mask": torch.tensor([-torch.inf, 0.0, torch.nan])})
    merged = read(merge_checkpoints(merge_plan("passthrough", [folder]), tmp_path / "same").path)
    assert torch.equal(merged["mask"].view(torch.int32), read(folder)["mask"].view(torch.int32))
    scaled = [{"filter": "norm", "value": 0.5}, {"value": 1.0}]
    finite = write(tmp_path / "finite", tensors(1))
    merged = read(merge_checkpoints(merge_plan("passthrough", [finite], scale=scaled), tmp_path / "scaled").path)
    assert torch.equal(merged["layers.1.norm"], tensors(1)["layers.1.norm"] * 0.5)
    assert torch.equal(merged["layers.1.w"], tensors(1)["layers.1.w"])


def _bits(path: Path) -> dict[str, Tensor]:
    return {name: tensor.reshape(-1).view(torch.uint8) for name, tensor in read(path).items() if tensor.numel()}


@pytest.mark.parametrize("method", ["ties", "dare_ties", "breadcrumbs"])
def test_layout_and_memory_move_no_bit(tmp_path: Path, method: str) -> None:
    plain = _plan(method, family(tmp_path / "a"), (0.4, 0.5, 0.6))
    dealt = _plan(method, family(tmp_path / "b", shards=(3, 1, 4, 2)), (0.4, 0.5, 0.6))
    first = merge_checkpoints(plain, tmp_path / "first")
    least = merge_checkpoints(dealt, tmp_path / "least", max_memory=preflight(dealt).least)
    assert first.kept == first.tensors
    assert least.kept < least.tensors  # some were read again for every visit
    wanted, found = _bits(first.path), _bits(least.path)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert len(open_checkpoint(least.path).shards) == 3  # the base's layout
    # the same inputs, whatever their layout
    assert [*first.inputs.values()] == [*least.inputs.values()]


def test_other_tensors_and_order_do_not_move_dare(tmp_path: Path) -> None:
    folders = family(tmp_path / "a", count=1)
    small = [write(tmp_path / f"b{i}", {"layers.1.w": tensors(i)["layers.1.w"]}) for i in (0, 1)]
    found = []
    for base, model in (folders, small):
        plan = merge_plan("dare_linear", [model], base, weight=1.0, density=0.5, seed=3)
        found.append(read(merge_checkpoints(plan, tmp_path / f"out{len(found)}").path)["layers.1.w"])
    assert torch.equal(*found)
    other = merge_plan("dare_linear", [small[1]], small[0], weight=1.0, density=0.5, seed=4)
    assert not torch.equal(found[0], read(merge_checkpoints(other, tmp_path / "other").path)["layers.1.w"])


def test_a_gradient_runs_over_the_layers(tmp_path: Path) -> None:
    folders = family(tmp_path, count=1)
    plan = merge_plan("task_arithmetic", [folders[1]], folders[0], weight=[0.0, 0.5, 2.0])
    merged, base, model = read(merge_checkpoints(plan, tmp_path / "out").path), tensors(0), tensors(1)
    for name, weight in {"layers.0.w": 0.0, "layers.1.w": 0.5, "layers.2.w": 2.0, "embed.weight": 0.0}.items():
        step = (model[name] - base[name]).double()
        assert torch.equal(merged[name], (base[name].double() + weight * step).float()), name


def test_layers_are_stacked_from_slices(tmp_path: Path) -> None:
    folders = family(tmp_path, count=2)
    slices = (
        MergeSlice((MergeInput(folders[1], {}, (0, 2)),)),
        MergeSlice((MergeInput(folders[2], {"scale": 0.5}, (1, 3)),)),
    )
    merged = merge_checkpoints(MergePlan("passthrough", slices), tmp_path / "out")
    found, one, two = read(merged.path), tensors(1), tensors(2)
    assert torch.equal(found["layers.0.w"], one["layers.0.w"])
    assert torch.equal(found["layers.2.w"], (two["layers.1.w"] * 0.5))
    assert torch.equal(found["layers.3.norm"], (two["layers.2.norm"] * 0.5))
    assert torch.equal(found["embed.weight"], one["embed.weight"])
    assert torch.equal(found["scale"], two["scale"] * 0.5)
    assert json.loads((merged.path / "config.json").read_text())["num_hidden_layers"] == 4


def _change(kind: str) -> Any:
    if kind == "low-rank":
        return LowRank(normal("left", 1, 250, 4), 0.1 * normal("right", 1, 4, 300), None, (250, 300))
    return Rows(torch.tensor([3, 100, 249]), normal("rows", 1, 3, 300), (250, 300))


@pytest.mark.parametrize("kind", ["low-rank", "rows"])
def test_a_delta_is_an_input_like_a_checkpoint(tmp_path: Path, kind: str) -> None:
    folders = family(tmp_path, count=1)
    base = tensors(0)
    change = _change(kind)
    delta = Delta({"layers.1.w": change}, fingerprint(open_checkpoint(folders[0])).restrict(["layers.1.w"]))
    path = delta.save(tmp_path / "one.delta")
    plan = merge_plan("ties", [folders[1], path], folders[0], weight=1.0, density=0.5)
    merged = read(merge_checkpoints(plan, tmp_path / "out").path)
    name, step = "layers.1.w", change.dense()
    step_1 = tensors(1)[name] - base[name]
    kept = [largest(0.5)(item.reshape(-1)).reshape(step.shape).double() for item in (step_1, step)]
    sign = torch.where(kept[0] + kept[1] >= 0, 1.0, -1.0)
    agree = [(item * sign > 0).double() for item in kept]
    total, count = kept[0] * agree[0] + kept[1] * agree[1], agree[0] + agree[1]
    assert torch.equal(merged[name], (base[name].double() + total / count.clamp(min=1)).float())
    other = "layers.2.w"  # which the delta leaves alone
    alone = largest(0.5)((tensors(1)[other] - base[other]).reshape(-1)).reshape(250, 300)
    assert torch.equal(merged[other], (base[other].double() + alone.double()).float())


def test_a_delta_passes_through(tmp_path: Path) -> None:
    folders = family(tmp_path, count=1)
    path = extract(folders[0], folders[1]).save(tmp_path / "one.delta")
    merged = merge_checkpoints(merge_plan("passthrough", [path], folders[0]), tmp_path / "out")
    assert all(torch.equal(tensor, tensors(1)[name]) for name, tensor in read(merged.path).items())


def test_extracted_deltas_merge_as_their_checkpoints(tmp_path: Path) -> None:
    folders = family(tmp_path, count=2)
    paths = [extract(folders[0], f).save(tmp_path / f"{i}.delta") for i, f in enumerate(folders[1:])]
    whole = merge_checkpoints(merge_plan("ties", folders[1:], folders[0], weight=0.5, density=0.3), tmp_path / "a")
    deltas = merge_checkpoints(merge_plan("ties", paths, folders[0], weight=0.5, density=0.3), tmp_path / "b")
    wanted, found = _bits(whole.path), _bits(deltas.path)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_a_delta_of_another_base_leaves_nothing_behind(tmp_path: Path) -> None:
    folders = family(tmp_path, count=2)
    path = extract(folders[1], folders[2]).save(tmp_path / "other.delta")
    with pytest.raises(BaseMismatch, match=r"other\.delta was made for another base"):
        merge_checkpoints(merge_plan("task_arithmetic", [path], folders[0], weight=1.0), tmp_path / "out")
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


def test_what_cannot_be_merged_is_named(tmp_path: Path) -> None:
    folders = family(tmp_path, count=1)
    bad = write(tmp_path / "nan", {**tensors(1), "layers.0.norm": torch.full((300,), torch.nan)})
    for method in ("ties", "linear", "task_arithmetic", "slerp"):
        more: dict[str, Any] = {"t": 0.5} if method == "slerp" else {"weight": 1.0}
        more |= {"density": 0.5} if method == "ties" else {}
        with pytest.raises(NonFinite, match=r"layers\.0\.norm"):
            merge_checkpoints(merge_plan(method, [bad], folders[0], **more), tmp_path / "out")
    other = write(tmp_path / "ints", {**tensors(1), "positions": torch.arange(7) + 1})
    with pytest.raises(UnsupportedLayer, match="positions"):
        merge_checkpoints(merge_plan("linear", [folders[0], other], weight=1.0), tmp_path / "out")
    plan = merge_plan("linear", [folders[1]], weight=1e6, normalize=False, dtype=torch.float16)
    with pytest.raises(NonFinite, match=r"more than torch\.float16 holds"):
        merge_checkpoints(plan, tmp_path / "out")
    large = write(tmp_path / "large", {**tensors(1), "layers.0.norm": torch.full((300,), 1e5)})
    with pytest.raises(NonFinite, match=r"layers\.0\.norm: torch\.float16 cannot hold"):
        merge_checkpoints(merge_plan("passthrough", [large], dtype=torch.float16), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_places_and_memory_that_cannot_be(tmp_path: Path) -> None:
    folders = family(tmp_path, count=1)
    plan = merge_plan("task_arithmetic", [folders[1]], folders[0], weight=1.0)
    with pytest.raises(OutputError, match="it is the source"):
        merge_checkpoints(plan, folders[1])
    with pytest.raises(ConfigError, match=rf"takes {preflight(plan).least:,} bytes"):
        merge_checkpoints(plan, tmp_path / "out", max_memory=preflight(plan).least - 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    with pytest.raises(OutputError, match="it exists"):
        merge_checkpoints(plan, tmp_path / "out")


def test_a_file_cut_short_meanwhile(tmp_path: Path) -> None:
    folders = family(tmp_path, count=1)
    found = preflight(merge_plan("ties", [folders[1]], folders[0], weight=1.0, density=0.5))
    file = folders[1] / "model.safetensors"
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size - 1000)
    with pytest.raises(FormatError, match="was changed or replaced"):
        merge_checkpoints(found, tmp_path / "out")
    assert not (tmp_path / "out").exists()


_KILLED = """
import os, signal, sys
from dtheta.compose.merge_plan import merge_plan
from dtheta.compose.streaming import merge_checkpoints
base, one, out, last = sys.argv[1:]
def die(name, done, total):
    if name == last:
        os.kill(os.getpid(), signal.SIGKILL)
merge_checkpoints(merge_plan("task_arithmetic", [one], base, weight=1.0), out, progress=die)
"""


def test_a_killed_merge_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    folders = family(tmp_path, count=1, shards=(2, 1))
    out, last = tmp_path / "out", list(open_checkpoint(folders[0]))[-1]
    command = [sys.executable, "-c", _KILLED, str(folders[0]), str(folders[1]), str(out), last]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    (left,) = tmp_path.glob(".out.*.part")
    assert {path.name[-5:] for path in left.iterdir()} == {"nsors", ".part"}  # shards, the last unfinished; no config
    merge_checkpoints(merge_plan("task_arithmetic", [folders[1]], folders[0], weight=1.0), out)  # can be done anew
    assert len(open_checkpoint(out)) == len(open_checkpoint(folders[0]))


def test_a_basis_that_is_not_the_bases_is_refused_by_the_name_of_its_tensor(tmp_path: Path) -> None:
    base, other = {"w": normal("w", 0, 12, 9)}, normal("w", 1, 12, 9)
    change = Spectral(torch.ones(9), (12, 9)).bind(other)  # what another numerical library would give
    Delta({"w": change}, fingerprint(base)).save(tmp_path / "a.delta")
    plan = merge_plan("task_arithmetic", [(tmp_path / "a.delta", {"weight": 1.0})], write(tmp_path / "base", base))
    with pytest.raises(BaseMismatch, match=r"^w: the singular vectors of this base do not reproduce"):
        merge_checkpoints(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
