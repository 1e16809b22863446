"""Merge four checkpoints of a billion parameters each under a memory cap: peak memory, wall time, rates.

    inputs   four synthetic models and their base, bfloat16, in shards of half a gigabyte: 10 GB
    runs     ties and task_arithmetic, each in a process of its own: dtheta merge --plan FILE --max-memory 1GiB
    peak     largest resident memory of that process, as the system counted it
    limit    seconds to read every input once and write the result at the measured rate of this disk (files written
             a moment ago are read from the page cache: that rate is what is measured, and what the runs meet too)

    peer     mergekit, one thread as ours, where --peer names an interpreter that has it (it is not installed here:
             it would bring its own transformers); it has no cap

    python bench/outofcore.py --dir FOLDER [--scale 1.0] [--json] [--max-memory 1GiB] [--peer VENV/bin/python]

The files are made under FOLDER and removed afterwards. ``--scale 0.1`` makes a tenth of the layers and of the
vocabulary, where the disk is too small (15 GB are needed at full size) or time is short; ``--quick`` is a twentieth.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from _measure import Row, compare, main

from dtheta.cli.merge_plan import parse_size
from dtheta.core.seeds import generator
from dtheta.core.tensorfile import data_of, write_tensors

WIDTH, INNER, VOCABULARY, LAYERS = 2048, 5632, 32000, 19  # a Llama of 1.04 billion parameters
MODELS = 4
SHARD = 500_000_000
PLANS = {
    "ties": {"merge_method": "ties", "parameters": {"weight": 0.25, "density": 0.2}},
    "task_arithmetic": {"merge_method": "task_arithmetic", "parameters": {"weight": 0.25}},
}
_CHILD = """
import resource, sys
from dtheta.cli.main import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
unit = 1 if sys.platform == "darwin" else 1024
print("PEAK", used.ru_maxrss * unit, used.ru_utime + used.ru_stime, file=sys.stderr)
sys.exit(code)
"""

_PEER = """
import resource, sys, torch, yaml
import mergekit.architecture.base as architecture
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
torch.set_num_threads(1)
config = MergeConfiguration.model_validate(yaml.safe_load(open(sys.argv[1])))
for kind in ("ConfiguredModuleArchitecture", "ConfiguredModelArchitecture"):  # transformers 5 names torch in its types
    getattr(architecture, kind).model_rebuild(_types_namespace={"torch": torch})
run_merge(config, sys.argv[2], MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False, device="cpu"))
used = resource.getrusage(resource.RUSAGE_SELF)
unit = 1 if sys.platform == "darwin" else 1024
print("PEAK", used.ru_maxrss * unit, used.ru_utime + used.ru_stime, file=sys.stderr)
"""


def shapes(scale: float) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a Llama-like model with this share of layers and vocabulary."""
    words, layers = max(1, round(scale * VOCABULARY)), max(1, round(scale * LAYERS))
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, WIDTH)}
    for i in range(layers):
        at = f"model.layers.{i}."
        found |= {f"{at}self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
        found |= {f"{at}mlp.{name}_proj.weight": (INNER, WIDTH) for name in ("gate", "up")}
        found |= {f"{at}mlp.down_proj.weight": (WIDTH, INNER), f"{at}input_layernorm.weight": (WIDTH,)}
        found[f"{at}post_attention_layernorm.weight"] = (WIDTH,)
    return found | {"model.norm.weight": (WIDTH,)}


def configuration(scale: float) -> dict[str, Any]:
    """Return what transformers, and so mergekit, must know of the model."""
    table = shapes(scale)
    layers = sum(name.endswith("input_layernorm.weight") for name in table)
    sizes = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": layers, "num_attention_heads": 16}
    words = table["model.embed_tokens.weight"][0]
    kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True}
    return {**kind, **sizes, "vocab_size": words, "torch_dtype": "bfloat16"}


def make(folder: Path, scale: float, seed: int) -> None:
    """Write a model: the base's numbers, and for seed > 0 a step of a tenth of their size on top."""
    folder.mkdir()
    table, groups, size = shapes(scale), [[]], 0
    for name, shape in table.items():
        nbytes = 2 * torch.Size(shape).numel()
        if size + nbytes > SHARD and groups[-1]:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += nbytes
    noise = torch.randn(1 << 22, generator=generator(0, "bench/outofcore"))
    step = 0.1 * torch.randn(1 << 22, generator=generator(seed, "bench/outofcore step"))
    weights = {}
    for i, names in enumerate(groups):
        file = f"model-{i + 1:05}-of-{len(groups):05}.safetensors"
        weights |= dict.fromkeys(names, file)
        specs = {name: (torch.bfloat16, table[name]) for name in names}
        with (folder / file).open("wb") as handle:
            write_tensors(handle, specs, {"format": "pt"}, lambda name: _numbers(name, table[name], noise, step, seed))
    index = {"metadata": {"total_size": 2 * sum(torch.Size(s).numel() for s in table.values())}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(configuration(scale)))


def _numbers(
    name: str, shape: tuple[int, ...], noise: torch.Tensor, step: torch.Tensor, seed: int
) -> Iterable[memoryview]:
    """Yield numbers of a tensor: two long tables of normal draws, each shifted anew for every piece."""
    left, piece = torch.Size(shape).numel(), 0
    draw = generator(0, name)
    while left:
        shift, other = (int(torch.randint(noise.numel(), (), generator=draw)) for _ in range(2))
        values = noise.roll(shift)
        if seed:
            values += step.roll(other)
        yield data_of(values[:left].mul_(0.02).to(torch.bfloat16))
        left, piece = left - min(left, noise.numel()), piece + 1


def disk_rate(folder: Path, nbytes: int = 1 << 30) -> float:
    """Return bytes a second of writing and then reading a file, flushed to disk in between."""
    block, file = os.urandom(1 << 24), folder / "rate"
    start = time.perf_counter()
    with file.open("wb") as handle:
        for _ in range(nbytes >> 24):
            handle.write(block)
        handle.flush()
        os.fsync(handle.fileno())
    with file.open("rb") as handle:
        while handle.read(1 << 24):
            pass
    taken = time.perf_counter() - start
    file.unlink()
    return 2 * nbytes / taken


def merge(folder: Path, method: str, cap: str, peer: str | None = None) -> tuple[float, int, float]:
    """Run one merge in a process of its own; return wall seconds, peak bytes and CPU seconds."""
    models = [{"model": str(folder / f"model{i}")} for i in range(MODELS)]
    plan = folder / f"{method}.yaml"
    base = {"base_model": str(folder / "base"), "dtype": "float32", "out_dtype": "bfloat16"}
    plan.write_text(json.dumps({**PLANS[method], **base, "models": models}))
    out = folder / "merged"
    ours = [sys.executable, "-c", _CHILD, "merge", "--plan", plan, "--out", out, "--max-memory", cap, "--quiet"]
    command = ours if peer is None else [peer, "-c", _PEER, plan, out]
    start = time.perf_counter()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    shutil.rmtree(out)
    peak, cpu = done.stderr.rsplit("PEAK", 1)[1].split()
    return wall, int(peak), float(cpu)


def measure(arguments: argparse.Namespace) -> Iterable[Row]:
    nbytes = 2 * sum(torch.Size(shape).numel() for shape in shapes(arguments.scale).values())
    require_disk(arguments.dir, (MODELS + 2) * nbytes + (2 << 30), arguments.scale)
    folder = Path(tempfile.mkdtemp(prefix="outofcore-", dir=arguments.dir))
    try:
        rate = disk_rate(folder)
        for i, name in enumerate(["base", *(f"model{i}" for i in range(MODELS))]):
            make(folder / name, arguments.scale, i)
        for method in PLANS:
            yield from rows(folder, method, nbytes, rate, arguments)
    finally:
        shutil.rmtree(folder)


def require_disk(folder: Path, needed: int, scale: float) -> None:
    """Stop with a message where the disk is too small."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        fits = max(0.0, scale * (free - (2 << 30)) / (needed - (2 << 30)))
        raise SystemExit(
            f"{folder} has {free / 1e9:.1f} GB left and {needed / 1e9:.1f} GB are needed; give --dir on another disk, "
            f"or --scale {math.floor(100 * fits) / 100:g} or less"
        )


def rows(folder: Path, method: str, nbytes: int, rate: float, arguments: argparse.Namespace) -> Iterable[Row]:
    """Run one method and yield its peak memory, wall time and CPU time."""
    wall, peak, cpu = merge(folder, method, arguments.max_memory)
    moved, cap = (MODELS + 2) * nbytes, parse_size(arguments.max_memory)
    name = f"{method}, {MODELS} x {nbytes / 2e9:.2f} billion parameters"
    note = f"{moved / wall / 1e9:.2f} GB/s of {moved / 1e9:.1f} GB; disk {rate / 1e9:.2f} GB/s"
    yield compare(f"{name}: peak RSS", peak / 2**20, cap / 2**20, "MiB", goal=1.0, note="peer: the cap")
    yield compare(f"{name}: wall", wall, None, "s", limit=moved / rate, note=note)
    yield compare(f"{name}: CPU", cpu, None, "s")
    if arguments.peer:
        theirs = merge(folder, method, arguments.max_memory, arguments.peer)
        goal = 3.0 if method == "ties" else None
        yield compare(f"{method}: wall against mergekit", wall, theirs[0], "s", goal=goal)
        yield compare(f"{method}: CPU against mergekit", cpu, theirs[2], "s", goal=goal)
        yield compare(f"{method}: peak RSS against mergekit", peak / 2**20, theirs[1] / 2**20, "MiB")


def share(text: str) -> float:
    """Return the scale, in (0, 1]."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be in (0, 1], found {text}")
    return value


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where the files are made")
    parser.add_argument("--scale", type=share, default=1.0, help="share of the layers and vocabulary, in (0, 1]")
    parser.add_argument("--quick", dest="scale", action="store_const", const=0.05, help="a twentieth of the size")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has mergekit, to run beside it")
    parser.add_argument("--max-memory", default="1GiB", help="the cap, default 1GiB")


if __name__ == "__main__":
    main("merging checkpoints larger than memory", measure, options=options)
