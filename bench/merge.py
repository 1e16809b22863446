"""Merges of deltas against a dense formulation in torch, and against mergekit on the same files.

    memory   the merge alone: 4 dense deltas of 20M entries to one; peer: the formula on one stacked matrix (4, n), its
             threshold by kthvalue, as the released code of TIES has it, and one Bernoulli mask a vector for DARE
    files    from five safetensors files (a base and four tuned ones, 20 matrices each) to a merged one: a process for
             each contestant, all in turn in every round. CPU and wall seconds are those after its imports (of dtheta,
             with those that it does on first use, numba's); process seconds and peak memory are those of all of it

dtheta goes from files to a file in two ways. It extracts deltas and merges those: it then takes the fingerprints of all
that it reads and makes, which the others do not. Or, "streamed", it does what mergekit's configuration says, range by
range (dtheta merge --plan): the same work as mergekit's, and what the goal for TIES is for. TIES of deltas trims tensor
by tensor against mergekit, which does, and over all entries against torch. Results are compared, too, but those of
DARE, which are random.

mergekit pins old packages, so it needs an environment of its own, whose interpreter ``--mergekit`` names:

    python -m venv mk && mk/bin/pip install mergekit==0.1.4
    python bench/merge.py [--json] [--repeat 3] [--quick] [--only memory|files] [--mergekit mk/bin/python]

Its rows are left out without that. ``mergekit-pytorch`` runs with its defaults, on raw files, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from _measure import Row, compare, interleaved, main, resident
from torch import Tensor

MODELS, TENSORS = 4, 20
DENSITY, KEEP = 0.2, 0.1
METHODS = ("ties", "dare", "linear")


def drawn(side: int, seed: int) -> dict[str, Tensor]:
    """Return 20 square matrices."""
    draw = torch.Generator().manual_seed(seed)
    return {f"layers.{i:02d}.weight": torch.randn(side, side, generator=draw) for i in range(TENSORS)}


def moved(base: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return matrices that fine-tuning may have moved so."""
    return {name: base[name] + 1e-3 * step for name, step in drawn(base["layers.00.weight"].shape[0], seed).items()}


# The contestants; each imports what it needs, so that every one runs in an environment of its own.


def above(x_Mn: Tensor) -> Tensor:
    """Return where stacked vectors reach their thresholds: the k largest entries of each, and all equal to the last."""
    n = x_Mn.shape[1]
    return x_Mn.abs() >= x_Mn.abs().kthvalue(n - round(DENSITY * n) + 1, dim=1, keepdim=True).values


def torch_ties(x_Mn: Tensor) -> Tensor:
    """TIES of stacked vectors, as released: threshold by kthvalue, elect by the sum, average what agrees."""
    kept = x_Mn * above(x_Mn)
    elected = torch.where(kept.sum(0) >= 0, 1.0, -1.0)
    agrees = kept.sign() == elected
    return (kept * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def torch_dare(x_Mn: Tensor) -> Tensor:
    """DARE of stacked vectors, from the global generator."""
    return (x_Mn * torch.bernoulli(torch.full_like(x_Mn, KEEP)) / KEEP).mean(0)


def torch_linear(x_Mn: Tensor) -> Tensor:
    """The mean of stacked vectors."""
    return x_Mn.mean(0)


def run_torch(method: str, folder: Path, out: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = load_file(folder / "base.safetensors")
    tuned = [load_file(folder / f"tuned{i}.safetensors") for i in range(MODELS)]
    x_Mn = torch.stack([torch.cat([(one[name] - base[name]).reshape(-1) for name in base]) for one in tuned])
    merged = {"ties": torch_ties, "dare": torch_dare, "linear": torch_linear}[method](x_Mn)
    parts = merged.split([one.numel() for one in base.values()])
    save_file({name: one + part.view_as(one) for (name, one), part in zip(base.items(), parts, strict=True)}, out)


def run_dtheta(method: str, folder: Path, out: Path) -> None:
    from dtheta.compose.compose import compose
    from dtheta.compose.dare import dare
    from dtheta.compose.ties import ties
    from dtheta.core.checkpoint_merge import merge_checkpoint
    from dtheta.core.extract import extract

    base = folder / "base.safetensors"
    deltas = [extract(base, folder / f"tuned{i}.safetensors") for i in range(MODELS)]
    make: dict[str, Callable[[], Any]] = {
        "ties": lambda: ties(deltas, DENSITY),
        "ties by tensor": lambda: ties(deltas, DENSITY, per="tensor"),
        "dare": lambda: dare(deltas, KEEP, seed=0, weights=1 / MODELS),
        "linear": lambda: compose(deltas, 1 / MODELS),
    }
    merge_checkpoint(base, make[method](), out)


def run_streamed(method: str, folder: Path, out: Path) -> None:
    from dtheta.compose.mergekit import plan_of
    from dtheta.compose.streaming import merge_checkpoints

    merge_checkpoints(plan_of(configuration(method, folder)), out)


def run_mergekit(method: str, folder: Path, out: Path) -> None:
    from click.testing import CliRunner
    from mergekit.scripts.merge_raw_pytorch import main as command  # pyright: ignore[reportMissingImports]

    (folder / "merge.yml").write_text(json.dumps(configuration(method, folder)))
    done = CliRunner().invoke(command, [str(folder / "merge.yml"), str(out), "--quiet"], catch_exceptions=False)
    if done.exit_code:
        raise SystemExit(done.output)


def configuration(method: str, folder: Path) -> dict[str, Any]:
    """Return what mergekit is to do, and the streamed merge with it."""
    kind = {"ties": "ties", "dare": "dare_linear", "linear": "task_arithmetic"}[method]
    # mergekit-pytorch fails where a density is not given, also where the method has no use for it
    density = {"ties": DENSITY, "dare": KEEP, "linear": 1.0}[method]
    given = {"weight": 1.0 if method == "ties" else 1 / MODELS, "density": density}
    models = [{"model": str(folder / f"tuned{i}.safetensors"), "parameters": given} for i in range(MODELS)]
    base = str(folder / "base.safetensors")
    return {"merge_method": kind, "base_model": base, "models": models, "dtype": "float32"}


RUN = {"dtheta": run_dtheta, "streamed": run_streamed, "torch": run_torch, "mergekit": run_mergekit}
IMPORTS = {
    "dtheta": ("dtheta.compose.dare", "dtheta.compose.ties", "dtheta.core.checkpoints", "dtheta.core.extract"),
    "streamed": ("dtheta.compose.mergekit", "dtheta.compose.streaming"),
    "torch": ("safetensors.torch",),
    "mergekit": ("mergekit.scripts.merge_raw_pytorch",),
}


def child(who: str, method: str, folder: Path, out: Path) -> None:
    """Merge, and print seconds and peak memory; imports come before."""
    torch.set_num_threads(1)
    for name in IMPORTS[who]:
        import_module(name)
    if who in ("dtheta", "streamed"):
        import_module("dtheta.compose.sieves").loops()
        import_module("dtheta.core.compiled").loops("topk")
    before = resident()
    start, wall = time.process_time(), time.perf_counter()
    RUN[who](method, folder, out)
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    print(json.dumps({"cpu": seconds, "wall": wall, "peak": resident() / 2**20, "imports": before / 2**20}))


# The benchmark.


def measured(python: str, who: str, method: str, folder: Path, out: Path) -> dict[str, float]:
    """Run a contestant in a process of its own."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    command = [python, __file__, "--child", who, method, str(folder), str(out)]
    start = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{who} {method} failed:\n{done.stdout}\n{done.stderr}")
    return {**json.loads(done.stdout.splitlines()[-1]), "process": time.perf_counter() - start}


def medians(contestants: Mapping[str, tuple[str, str]], folder: Path, repeat: int) -> dict[str, dict[str, float]]:
    """Return the medians of every contestant over interleaved rounds, after one that does not count."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for round_ in range(1 + repeat):
        for name, (python, method) in contestants.items():
            shutil.rmtree(place(folder, name), ignore_errors=True)
            once = measured(python, name.split()[0], method, folder, place(folder, name))
            if round_:
                found[name].append(once)
    return {name: {k: statistics.median(one[k] for one in runs) for k in runs[0]} for name, runs in found.items()}


def place(folder: Path, name: str) -> Path:
    """Return where a contestant writes: a new folder, or a file."""
    return folder / (f"out-{name}" if name in ("mergekit", "streamed") else f"out-{name}.safetensors")


def result(folder: Path, name: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    out = place(folder, name)
    parts = sorted(out.glob("*.safetensors")) if out.is_dir() else [out]
    return {name: tensor for part in parts for name, tensor in load_file(part).items()}


def files(side: int, repeat: int, mergekit: str | None) -> Iterator[Row]:
    """From files to a file."""
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as name:
        folder, base = Path(name), drawn(side, 0)
        save_file(base, folder / "base.safetensors")
        for i in range(MODELS):
            save_file(moved(base, i + 1), folder / f"tuned{i}.safetensors")
        for method in METHODS:
            runs = {"dtheta": (sys.executable, method), "torch": (sys.executable, method)}
            ours = "dtheta by tensor" if method == "ties" else "dtheta"
            if mergekit is not None:
                runs[ours] = (sys.executable, ours.replace("dtheta", method))
                runs["streamed"], runs["mergekit"] = (sys.executable, method), (mergekit, method)
            found = medians(runs, folder, repeat)
            yield from against(folder, method, "dtheta", "torch", found)
            if mergekit is not None:
                yield from against(folder, method, ours, "mergekit", found)
                yield from against(folder, method, "streamed", "mergekit", found)


def against(folder: Path, method: str, ours: str, peer: str, found: Mapping[str, Mapping[str, float]]) -> Iterator[Row]:
    """Return the rows of dtheta and one other."""
    mine, other = found[ours], found[peer]
    title = f"files, {ours.replace('dtheta', method).replace('streamed', method + ' streamed')}, peer {peer}"
    goal = 3.0 if method == "ties" and ours == "streamed" else None
    yield compare(title, mine["cpu"], other["cpu"], "CPU s", goal=goal)
    yield compare(title, mine["wall"], other["wall"], "wall s", goal=goal)
    yield compare(f"{title}: process", mine["process"], other["process"], "wall s")
    note = f"after imports {mine['imports']:.0f} and {other['imports']:.0f}"
    yield compare(f"{title}: peak memory", mine["peak"], other["peak"], "MiB", note=note)
    if method != "dare":
        a, b = result(folder, ours), result(folder, peer)
        differ = sum(int(((a[n] - b[n]).abs() > 1e-6).sum()) for n in a)
        total = sum(one.numel() for one in a.values())
        # float32 differences of numbers near 1 are often equal: at the threshold each keeps others of them, or all
        note = f"of {total} by 1e-6; 1 in 1000 may"
        yield Row(f"{title}: result", differ, 0, "entries", None, 0, 0, differ <= total // 1000, note)


def memory(side: int, repeat: int) -> Iterator[Row]:
    """The merge alone."""
    from dtheta.compose.compose import compose
    from dtheta.compose.dare import dare
    from dtheta.compose.ties import ties
    from dtheta.core.change import Dense
    from dtheta.core.delta import Delta

    changes = [{n: Dense(1e-3 * step) for n, step in drawn(side, i + 1).items()} for i in range(MODELS)]
    deltas = [Delta(one) for one in changes]
    for one in deltas:
        len(one.digest)  # taken once; a delta from a file has it
    x_Mn = torch.stack([torch.cat([change.values.reshape(-1) for change in one.values()]) for one in changes])
    seconds = interleaved(
        {
            "ties": lambda: ties(deltas, DENSITY),
            "dare": lambda: dare(deltas, KEEP, seed=0, weights=1 / MODELS),
            "linear": lambda: [change.dense() for change in compose(deltas, 1 / MODELS).changes.values()],
            "torch ties": lambda: torch_ties(x_Mn),
            "torch dare": lambda: torch_dare(x_Mn),
            "torch linear": lambda: torch_linear(x_Mn),
        },
        repeat,
    )
    size = f"{MODELS} x {x_Mn.shape[1] / 1e6:g}M"
    for method in METHODS:
        goal = 3.0 if method != "linear" else None
        yield compare(f"memory, {method}, {size}", seconds[method], seconds[f"torch {method}"], "CPU s", goal=goal)
    found = torch.cat([change.dense().reshape(-1) for change in ties(deltas, DENSITY).changes.values()])
    # in float64, since float32 sums elect other signs near zero; the peer keeps all entries equal to the threshold
    differ, more = int(((found - torch_ties(x_Mn.double())).abs() > 1e-9).sum()), int(above(x_Mn).sum())
    more -= MODELS * round(DENSITY * x_Mn.shape[1])
    note = f"of {found.numel()} by 1e-9; {more} more equal the threshold"
    yield Row("memory, ties: result", differ, 0, "entries", None, more, 0, differ <= more, note)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    side = 100 if arguments.quick else 1000
    if arguments.only in (None, "memory"):
        yield from memory(side, arguments.repeat)
    if arguments.only in (None, "files"):
        yield from files(side, arguments.repeat, arguments.mergekit)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="matrices of 100 x 100 in place of 1000 x 1000")
    parser.add_argument("--only", choices=("memory", "files"), help="measure one part")
    parser.add_argument("--mergekit", metavar="PYTHON", help="interpreter of an environment with mergekit")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]))
    else:
        packages = ("torch", "numpy", "safetensors", "dtheta")
        main("Merges of 4 deltas of 20M entries", measure, repeat=3, packages=packages, options=options)
