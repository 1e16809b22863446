"""The scan of all MLP value vectors through the unembedding, beside the bare matrix products in the same run.

smollm2   46,080 vectors of SmolLM2-135M against 49,152 tokens, both sides, 50 tokens a side. The peer is what must be
          computed at least: the same products in the same blocks, looked at by nobody. Layers alternate.
large     a decoder of the shape of a 7B Llama (32 layers of 11,008 vectors of 4096, 32,000 tokens, bfloat16), random
          shards made by this script and removed after, 3.2 GB: peak memory of the scan of ``--layers`` of its layers.
          What is kept of the other layers (0.3 GB at 50 tokens a side) is added in the note.

    python bench/concept_scan.py [--json] [--parts smollm2 large] [--layers 1] [--top 50]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from _measure import Row, compare, cpu_seconds, main, resident
from safetensors.torch import save_file

import dtheta as dt
from dtheta.probe.decoder import Decoder, open_decoder
from dtheta.probe.scan import _BLOCK, scan

PARTS = ("large", "smollm2")  # the large one first: the peak memory is that of the process
VECTORS, FEATURES, TOKENS, LAYERS = 11_008, 4096, 32_000, 32


def measure(arguments: argparse.Namespace) -> Iterable[Row]:
    """Yield the rows of the parts asked for."""
    if "large" in arguments.parts:
        yield large(arguments.layers, arguments.top)
    if "smollm2" in arguments.parts:
        yield smollm2(arguments.top)


def smollm2(top: int) -> Row:
    """Time the scan of all layers against their products, layer by layer in turn."""
    decoder = open_decoder(dt.load_model("smollm2"))
    readout_VD = decoder.readout()
    scan(decoder, layers=[0], top=top)  # compiles
    ours = peer = 0.0
    preparing = cpu_seconds(lambda: scan(decoder, layers=[], top=top))
    for layer in decoder.layers:
        ours += cpu_seconds(lambda layer=layer: scan(decoder, layers=[layer], top=top)) - preparing
        peer += cpu_seconds(lambda layer=layer: products(decoder, readout_VD, layer))
    ours += preparing  # once a scan: folding the norm, moments of the unembedding
    count = sum(matrix.count for matrix in decoder.matrices.values())
    note = f"{count:,} vectors x {len(readout_VD):,} tokens, {top} a side; {preparing:.2f} s of it once"
    return compare("SmolLM2, all vectors", ours, peer, "CPU s", goal=1 / 1.4, limit=peer, note=note)


def products(decoder: Decoder, readout_VD: torch.Tensor, layer: int) -> None:
    """Compute the products of a layer and look at none."""
    buffer = torch.empty(_BLOCK // len(readout_VD), len(readout_VD))
    for part in decoder.values(layer).split(len(buffer)):
        torch.mm(part, readout_VD.T, out=buffer[: len(part)])


def large(layers: int, top: int) -> Row:
    """Scan some layers of a 7B-shaped checkpoint on disk and return the peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        before = resident("VmRSS")
        write_checkpoint(Path(folder))
        found = scan(folder, layers=range(layers), top=top)
        kept = (LAYERS - layers) * VECTORS * 2 * top * 8
        peak = (resident() + kept) / 1e9
    note = f"{len(found):,} of {LAYERS * VECTORS:,} vectors scanned; {before / 1e9:.2f} GB before it began"
    return compare("7B shape from shards, peak", peak, 2.0, "GB", goal=1.0, note=note)


def write_checkpoint(folder: Path) -> None:
    """Write random shards, one layer each, with what a scan reads of them."""
    weight_map = {}
    for number, tensors in enumerate(shards()):
        name = f"model-{number:05d}.safetensors"
        save_file(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": False}))


def shards() -> Iterator[dict[str, torch.Tensor]]:
    """Yield the tensors of each shard: the head and the norm, then a down-projection each."""
    half = torch.bfloat16
    yield {
        "lm_head.weight": torch.randn(TOKENS, FEATURES, dtype=half),
        "model.norm.weight": torch.ones(FEATURES).to(half),
    }
    for layer in range(LAYERS):
        yield {f"model.layers.{layer}.mlp.down_proj.weight": torch.randn(FEATURES, VECTORS, dtype=half)}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--layers", type=int, default=1, help="layers of the large model to scan (about 30 s each)")
    parser.add_argument("--top", type=int, default=50, help="tokens kept on each side")


if __name__ == "__main__":
    main("Concept scan: every value vector through the unembedding", measure, options=options)
