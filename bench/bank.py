"""A bank of 100 experts on MiniLM, against peft's adapters on the same weights: files, loading, switching, memory.

The experts are random deltas of the shape that LoRA of rank 16 leaves on the 36 weights of the blocks, and the same
numbers in every form:

    signs      5 % of the entries of the factors, their signs and one scale, as ComPEFT compresses adapters (ours)
    factors    the factors, float32 (ours)
    peft       the factors, in peft's folders: float16 for the size of files, float32 for the time of loading
    full       5 % of the entries of the product, as signs: what full fine-tuning leaves, all entries free (ours)
    dense      the product, float32 (ours): what a checkpoint holds of the change

file       bytes on disk an expert: what a transfer has to carry, so the ratio is that of transfer times on any link;
           the paper measures 25x from host to device and 32x over a network, against 16 bits. ``limit`` is the entropy
           of signs at one density; what is above it is mostly the header, which names the digest of every tensor. So
           also an adapter as the paper's: rank 64 on all linear weights of LLaMA-7B (160 million random entries)
load       an expert from its file (in the system's cache) into memory, verified
ready      transfer over a link, computed as bytes / bandwidth, then load and switch, measured; the peers' transfer is
           that of 16 bits
switch     from one expert in memory to another, merged into the weights; or unmerged: factors are added behind the
           layers, as peft does. ``limit`` copies the weights that change
memory     bytes of tensors of all experts, and what the process grew by when they were loaded (a process of its own)
batch      8 texts of 8 experts in one pass, against peft's ``adapter_names``, and against each text alone

    python bench/bank.py [--json] [--repeat 5] [--experts 100] [--folder DIR]
"""

from __future__ import annotations

import argparse
import copy
import gc
import hashlib
import itertools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _measure import Row, compare, cpu_seconds, interleaved, main
from torch import nn

from dtheta.compose.bank import Bank
from dtheta.compress.compeft import compress
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.fingerprint import Fingerprint, fingerprint, merkle_root
from dtheta.core.interop import to_peft
from dtheta.core.lowrank import LowRank
from dtheta.core.seeds import generator
from dtheta.core.selection import select
from dtheta.models.load import load_model

RANK, DENSITY, FEW = 16, 0.05, 10  # FEW: experts in the forms that are as large as the model
LINKS = {"100 Mbit/s": 12.5e6, "1 Gbit/s": 125e6}  # bytes a second
ENTROPY = DENSITY - DENSITY * math.log2(DENSITY) - (1 - DENSITY) * math.log2(1 - DENSITY)  # bits an entry
LLAMA = {
    f"model.layers.{i}.{name}.weight": shape
    for i in range(32)
    for name, shape in (
        *((f"self_attn.{x}_proj", (4096, 4096)) for x in "qkvo"),
        *((f"mlp.{x}_proj", (11008, 4096)) for x in ("gate", "up")),
        ("mlp.down_proj", (4096, 11008)),
    )
}
KINDS = ("signs", "factors", "full", "dense")


def expert(model: nn.Module, i: int) -> Delta:
    """Return a random delta as LoRA leaves it."""
    changes = {}
    for site in select(model):
        (m, n), draw = site.shape, generator(i, f"bank/{site.name}")
        left = 0.02 * torch.randn(m, RANK, generator=draw)
        changes[site.name] = LowRank(left, torch.randn(RANK, n, generator=draw) / n**0.5)
    return Delta(changes, fingerprint(model).restrict(changes))


def write(model: nn.Module, folder: Path, count: int) -> None:
    """Write all files; those that are there already stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        one: Delta | None = None
        for kind in (*KINDS, "float16", "peft"):
            path = place(folder, kind, i)
            if path.exists() or (kind in ("full", "dense") and i >= FEW):
                continue
            one = one or expert(model, i)
            if kind in ("float16", "peft"):
                path.parent.mkdir(exist_ok=True)
                to_peft(one, path, dtype=torch.float16 if kind == "float16" else None, model=model)
            else:
                made(one, kind).save(path)


def made(one: Delta, kind: str) -> Delta:
    """Return an expert in one of our forms."""
    dense = one.map(lambda _, change: Dense(change.dense())) if kind in ("full", "dense") else one
    return compress(dense, DENSITY) if kind in ("signs", "full") else dense


def place(folder: Path, kind: str, i: int) -> Path:
    """Return where an expert is."""
    return folder / kind / str(i) if kind in ("float16", "peft") else folder / f"{kind}-{i}.delta"


def size(path: Path) -> int:
    """Return the bytes of a file, or of a folder's tensors."""
    return (path / "adapter_model.safetensors" if path.is_dir() else path).stat().st_size


def bank_of(model: nn.Module, folder: Path, kind: str, count: int) -> Bank:
    """Return a bank with the experts of one form, none read."""
    bank = Bank(model)
    for i in range(count if kind in ("signs", "factors") else min(count, FEW)):
        bank.add(str(i), place(folder, kind, i))
    return bank


def in_peft(model: nn.Module, folder: Path) -> Any:
    """Return peft's model with the first adapter."""
    import peft

    return peft.PeftModel.from_pretrained(model, place(folder, "peft", 0), adapter_name="0").eval()


def files(folder: Path) -> Iterator[Row]:
    """Yield the rows on size."""
    sizes = {kind: size(place(folder, kind, 0)) / 1024 for kind in (*KINDS, "float16")}
    limits = {kind: entropy(folder, dense) / 1024 for kind, dense in (("signs", "factors"), ("full", "dense"))}
    for kind, title, peer in (
        ("signs", "file of an adapter: signs, against peft in 16 bits", sizes["float16"]),
        ("full", "file of all weights: signs, against 16 bits dense", sizes["dense"] / 2),
    ):
        note = f"paper: 25 to 32; header {header(place(folder, kind, 0)) / 1024:.1f} KiB"
        yield compare(title, sizes[kind], peer, "KiB", goal=25.0, limit=limits[kind], note=note)
    yield large(folder)


def large(folder: Path) -> Row:
    """Return the row on an adapter as large as the paper's; the peer is 16 bits an entry, without any header."""
    path = folder / "large.delta"
    if not path.exists():
        compress(adapter_of(LLAMA, 64), DENSITY).save(path)
    entries = 64 * sum(m + n for m, n in LLAMA.values())
    note = f"paper: 25 to 32; {entries / 1e6:.0f} M entries; header {header(path) / 2**20:.2f} MiB"
    title = "file of an adapter of LLaMA-7B: signs, against 16 bits"
    limit = entries * ENTROPY / 8 / 2**20
    return compare(title, size(path) / 2**20, 2 * entries / 2**20, "MiB", goal=25.0, limit=limit, note=note)


def adapter_of(shapes: Mapping[str, tuple[int, int]], rank: int) -> Delta:
    """Return a random adapter of weights that are not there; their digests are those of their names."""
    changes = {}
    for name, (m, n) in shapes.items():
        draw = generator(0, f"bank/{name}")
        changes[name] = LowRank(torch.randn(m, rank, generator=draw), torch.randn(rank, n, generator=draw))
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in shapes}
    return Delta(changes, Fingerprint(digests, merkle_root(digests)))


def header(path: Path) -> int:
    """Return the bytes of a file's header, which its first eight bytes tell."""
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def entropy(folder: Path, kind: str) -> float:
    """Return the bytes that signs of independent entries at this density need."""
    one = load(place(folder, kind, 0))
    entries = sum(tensor.numel() for change in one.changes.values() for tensor in change.tensors().values())
    return entries * ENTROPY / 8


def loading(banks: dict[str, Bank], theirs: Any, folder: Path, count: int) -> Iterator[Row]:
    """Yield the rows on loading; every expert is read once, all forms in turn, and stays."""
    loads: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "peft")}
    switches: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "peft")}
    for i in range(1, count):
        gc.freeze()  # a hundred adapters are many objects, which every measurement would collect anew
        path = str(place(folder, "peft", i))
        for kind, bank in banks.items():
            if str(i) in bank:
                loads[kind].append(1000 * cpu_seconds(partial(bank.__getitem__, str(i))))
                switches[kind].append(1000 * cpu_seconds(partial(bank.switch, str(i))))
        loads["peft"].append(1000 * cpu_seconds(partial(theirs.load_adapter, path, str(i))))
        switches["peft"].append(1000 * cpu_seconds(partial(theirs.set_adapter, str(i))))
    for bank in banks.values():
        bank.switch(None)
    load_ms = {kind: statistics.median(values) for kind, values in loads.items()}
    ready_ms = {kind: load_ms[kind] + statistics.median(values) for kind, values in switches.items()}
    yield compare("load an adapter: signs", load_ms["signs"], load_ms["peft"], "CPU ms", goal=1.0)
    yield compare("load an adapter: factors", load_ms["factors"], load_ms["peft"], "CPU ms", goal=1.0)
    yield compare("load and switch: signs", ready_ms["signs"], ready_ms["peft"], "CPU ms", goal=1.0)
    title, note = "load all weights: signs, against dense float32", "no transfer: files are in the system's cache"
    yield compare(title, load_ms["full"], load_ms["dense"], "CPU ms", goal=3.0, note=note)
    yield from ready(ready_ms, folder)


def ready(ready_ms: dict[str, float], folder: Path) -> Iterator[Row]:
    """Yield the rows on how long it takes from asking for an expert elsewhere to showing it."""
    carried = {kind: size(place(folder, kind, 0)) for kind in ("signs", "full")}
    carried |= {"peft": size(place(folder, "float16", 0)), "dense": size(place(folder, "dense", 0)) // 2}
    for link, bandwidth in LINKS.items():
        sent = {kind: 1000 * nbytes / bandwidth for kind, nbytes in carried.items()}
        for what, kind, peer in (("an adapter", "signs", "peft"), ("all weights", "full", "dense")):
            title = f"{what} ready over {link}: signs, against {peer}"
            ours, theirs = (sent[k] + ready_ms[k] for k in (kind, peer))
            note = f"of it transfer, computed: {sent[kind]:.3g} against {sent[peer]:.3g}"
            yield compare(title, ours, theirs, "ms", goal=1.0, note=note)


def switching(banks: dict[str, Bank], theirs: Any, repeat: int) -> Iterator[Row]:
    """Yield the rows on switching between experts that are in memory."""
    names = itertools.cycle([str(i) for i in range(1, FEW)])
    bank = banks["signs"]
    touched = [p.detach() for name, p in bank.model.named_parameters() if name in bank["1"]]
    room = [torch.empty_like(p) for p in touched]

    def unmerged() -> None:
        with bank.batched(next(names)):
            pass

    def merged_by_peft() -> None:
        theirs.merge_adapter([next(names)])
        theirs.unmerge_adapter()

    runs: dict[str, Callable[[], Any]] = {k: lambda b=b: b.switch(next(names)) for k, b in banks.items()}
    runs["base"] = lambda: bank.switch(None)
    runs["unmerged"] = unmerged
    runs["limit"] = lambda: [r.copy_(p) for r, p in zip(room, touched, strict=True)]
    runs["peft"] = lambda: theirs.set_adapter(next(names))
    runs["peft merged"] = merged_by_peft
    ms = {name: 1000 * taken for name, taken in interleaved(runs, 3 * repeat).items()}
    for kind, what in (("signs", "an adapter: signs"), ("factors", "an adapter: factors")):
        title = f"switch {what}, merged, against peft's merge and unmerge"
        yield compare(title, ms[kind], ms["peft merged"], "CPU ms", goal=1.0, limit=ms["limit"])
    note = f"unmerged; ours entered and left, a sum of experts a call; merged {ms['signs']:.1f}"
    yield compare("switch an adapter: signs, against set_adapter", ms["unmerged"], ms["peft"], "CPU ms", note=note)
    title = "switch all weights: signs, against dense float32"
    yield compare(title, ms["full"], ms["dense"], "CPU ms", goal=1.0, limit=ms["limit"])
    yield compare("back to the base", ms["base"], ms["peft"], "CPU ms", goal=1.0, note="peer: set_adapter")
    bank.switch(None)


def batches(bank: Bank, theirs: Any, repeat: int) -> Iterator[Row]:
    """Yield the rows on a batch of eight texts of eight experts."""
    ids = torch.randint(1000, 20_000, (8, 32), generator=generator(0, "ids"))
    names: list[Any] = [str(i) for i in range(1, 9)]
    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: bank.run(ids, experts=names),
        "grouped": lambda: bank.run(ids, experts=names, grouped=True),
        "peft": lambda: theirs(ids, adapter_names=names),
        "limit": lambda: bank.model(ids),
    }
    with torch.no_grad():
        ms = {name: 1000 * taken for name, taken in interleaved(runs, repeat).items()}
        found = bank.run(ids, experts=names).last_hidden_state
        wanted = torch.cat([alone(bank, name, ids[i : i + 1]) for i, name in enumerate(names)])
        peft_found = theirs(ids, adapter_names=names).last_hidden_state
    note = f"8 texts of 32 tokens; limit: the base alone; grouped {ms['grouped']:.0f}"
    yield compare(
        "batch of 8 experts: factors", ms["ours"], ms["peft"], "CPU ms", goal=1.0, limit=ms["limit"], note=note
    )
    largest = wanted.abs().max()
    error, theirs_error = (float((x - wanted).abs().max() / largest) for x in (found, peft_found))
    title = "batch of 8 experts: error against each alone, 1e-5"
    yield compare(title, error, 1e-5, "relative", goal=1.0, note=f"peft: {theirs_error:.1e}")


def alone(bank: Bank, name: str, ids: torch.Tensor) -> torch.Tensor:
    """Return what one text gives with its expert merged."""
    with bank.using(name):
        return bank.model(ids).last_hidden_state


def memory(banks: dict[str, Bank], theirs: Any, folder: Path, count: int) -> Iterator[Row]:
    """Yield the rows on memory; the growth of a process that loads all experts of one form."""
    mib = 2.0**20
    held = {kind: bank.nbytes * count / len(bank.loaded) / mib for kind, bank in banks.items()}
    held["peft"] = sum(p.nbytes for name, p in theirs.named_parameters() if "lora_" in name) / mib
    grown = {kind: growth(folder, kind, count) / mib for kind in ("signs", "factors", "peft")}
    title = f"{count} adapters in memory: signs, against peft"
    yield compare(title, held["signs"], held["peft"], "MiB", goal=12.0)
    title, note = f"{count} adapters, growth of the process: signs, against peft", f"factors {grown['factors']:.0f}"
    yield compare(title, grown["signs"], grown["peft"], "MiB", goal=2.0, note=note)
    title, note = (
        f"{count} times all weights: signs, against dense float32",
        f"buffers {banks['full'].buffer_nbytes / mib:.0f}; from {len(banks['dense'].loaded)} experts, times the rest",
    )
    yield compare(title, held["full"], held["dense"], "MiB", goal=12.0, note=note)


def growth(folder: Path, kind: str, count: int) -> int:
    """Return by how many bytes a process grows that loads all experts of one form."""
    command = [sys.executable, __file__, "--folder", str(folder), "--experts", str(count), "--child", kind]
    found = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return int(found.stdout.split()[-1])


def child(folder: Path, kind: str, count: int) -> None:
    """Load all experts of one form and print by how much that made this process grow; the first two do not count."""
    model = load_model("minilm")
    if kind == "peft":
        theirs = in_peft(model, folder)
        load = lambda i: theirs.load_adapter(str(place(folder, kind, i)), str(i))  # noqa: E731
    else:
        bank = bank_of(model, folder, kind, count)
        load = lambda i: bank[str(i)]  # noqa: E731
    load(1)
    before = grown = _resident()
    for i in range(2, count):
        load(i)
    grown = _resident()
    print((grown - before) * count // (count - 2))


def _resident() -> int:
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    warnings.filterwarnings("ignore", module="peft")
    folder, count, model = Path(arguments.folder), arguments.experts, load_model("minilm")
    if arguments.child:
        child(folder, arguments.child, count)
        sys.exit()
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder if arguments.folder else Path(temporary)
        write(model, folder, count)
        yield from files(folder)
        banks = {kind: bank_of(copy.deepcopy(model), folder, kind, count) for kind in KINDS}
        theirs = in_peft(copy.deepcopy(model), folder)
        yield from loading(banks, theirs, folder, count)
        yield from switching(banks, theirs, arguments.repeat)
        yield from batches(banks["factors"], theirs, arguments.repeat)
        yield from memory(banks, theirs, folder, count)


def options(parser: argparse.ArgumentParser) -> None:
    """Add our own options."""
    parser.add_argument("--experts", type=int, default=100, help="adapters, default 100; at least 10")
    parser.add_argument("--folder", default="", help="where the files are, and stay; a temporary one by default")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)


if __name__ == "__main__":
    main("A bank of experts on MiniLM", measure, packages=("torch", "peft", "numba"), options=options)
