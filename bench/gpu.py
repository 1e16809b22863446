"""Device times of one CUDA device beside its limit: bytes over the copy bandwidth, or flops over the product rate.

    pissa     fast PiSSA (rank 16) attached to all 224 linear weights of a 7B-shaped Llama in bfloat16, cache off.
              Limit: nine float32 readings of each weight: four blocks of the Krylov space and the last projection
    ternary   a ternary delta of 5 % on the same weights, from planes in device memory, summed in float32 and rounded.
              Limit: weight read and written, planes read. A file's entropy code is decoded on the host; not timed here
    scan      every value vector of the 7B shape (32 x 11,008 of width 4096) through 32,000 tokens, top 50 of both
              sides; with float32 products, and with products in TF32. Limit: the bare products
    tangent   mean tangent kernel of a transformer of width 512, 4 blocks, 64 examples of 64 tokens, 4 outputs. The peer
              is vmap(jacrev) and one product; no limit
    sfno      7,424 members of 8 small SFNO emulators, 60 steps of six hours. Limit: its products
    bf16      4 layers of the 7B shape in bfloat16, 4 x 512 tokens: attaching LoRA and PiSSA of rank 16 to every linear
              weight, and a training step; the peer is the same step without an adapter. Limit: its products

Wall seconds from idle to idle, medians, after one call that does not count. Where less memory is free than the 7B shape
takes (13 GB, and twice that for work), fewer of its layers are resident and visited in turn, and the row says so.
Without a CUDA device the script says so and ends with 0. ``--smoke`` runs every part on the CPU in tiny shapes: a test
of this file, no measurement.

    python bench/gpu.py [--json] [--repeat 5] [--parts pissa scan ...] [--smoke]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from _measure import Row, compare, device_seconds, main
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.adapt.pissa import PiSSA
from dtheta.core.ternary import Ternary

HALF = torch.bfloat16


@dataclass(frozen=True)
class Scale:
    """The shapes of a run, and where it is.

    Attributes:
        device: Where.
        layers, width, inner, tokens: Of the 7B shape.
        top: Tokens kept on each side of a scan.
        members, steps: Of the ensemble.
        batch: Texts and their tokens in a training step.
        repeat: Repetitions.
    """

    device: torch.device
    layers: int = 32
    width: int = 4096
    inner: int = 11_008
    tokens: int = 32_000
    top: int = 50
    members: int = 7_424
    steps: int = 60
    batch: tuple[int, int] = (4, 512)
    repeat: int = 5

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The linear weights (m, n) of a layer."""
        return [(self.width, self.width)] * 4 + [(self.inner, self.width)] * 2 + [(self.width, self.inner)]

    @property
    def entries(self) -> int:
        """Entries of the linear weights of a layer."""
        return sum(m * n for m, n in self.shapes)

    def random(self, *shape: int, dtype: torch.dtype = HALF) -> Tensor:
        """Return normal numbers of the size that weights have."""
        return torch.randn(shape, device=self.device, dtype=dtype).mul_(0.02)

    def seconds(self, run: Callable[[], Any], repeat: int | None = None) -> float:
        """Return the median seconds of a call."""
        run()
        return statistics.median(self.once(run) for _ in range(repeat or self.repeat))

    def once(self, run: Callable[[], Any]) -> float:
        """Return the seconds of one call."""
        if self.device.type != "cpu":
            return device_seconds(run)
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def resident_layers(self) -> int:
        """Return how many layers of the 7B shape fit into a third of the free memory, 1 at least."""
        if self.device.type == "cpu":
            return self.layers
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(1, min(self.layers, free // (3 * 2 * self.entries)))


class Limits:
    """What the device can do at best, measured once."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self._product: dict[torch.dtype, float] = {}
        source = torch.zeros(scale.entries, device=scale.device, dtype=HALF)
        target = torch.empty_like(source)
        self.bandwidth = 2.0 * source.nbytes / scale.seconds(lambda: target.copy_(source))

    def product(self, dtype: torch.dtype) -> float:
        """Return flops a second of square products of the width of the model."""
        if dtype not in self._product:
            square = self.scale.random(self.scale.width, self.scale.width, dtype=dtype)
            self._product[dtype] = 2.0 * self.scale.width**3 / self.scale.seconds(lambda: square @ square)
        return self._product[dtype]


class Linears(nn.Module):
    """Layers of linear weights, without biases."""

    def __init__(self, scale: Scale, layers: int) -> None:
        super().__init__()
        with torch.device("meta"):
            made = [nn.ModuleList(nn.Linear(n, m, bias=False) for m, n in scale.shapes) for _ in range(layers)]
        self.layers = nn.ModuleList(made)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                module.weight = nn.Parameter(scale.random(*module.weight.shape))


def share(scale: Scale, layers: int) -> str:
    """Say how many layers were resident, where not all were."""
    return "" if layers == scale.layers else f"; only {layers} of {scale.layers} layers fit, visited in turn"


def pissa(scale: Scale, limits: Limits) -> Iterator[Row]:
    """Factor every linear weight."""
    layers = scale.resident_layers()
    model = Linears(scale, layers)

    def run() -> None:
        for _ in range(scale.layers // layers):
            attach(model, PiSSA(rank=16, accuracy=None)).detach()

    taken = scale.seconds(run)
    weights = scale.layers // layers * layers * len(scale.shapes)
    limit = 9 * 4 * scale.entries * scale.layers / limits.bandwidth
    yield compare(f"fast PiSSA of {weights} weights", taken, 1.0, "s", goal=1.0, limit=limit,
                  note="the peer is the goal" + share(scale, layers))  # fmt: skip


def signs(scale: Scale, m: int, n: int, density: float = 0.05) -> Ternary:
    """Return a random ternary change with its planes on the device."""
    kept = torch.rand(m * n, device=scale.device) < density
    positive = kept & (torch.rand(m * n, device=scale.device) < 0.5)
    bits = 2 ** torch.arange(8, device=scale.device, dtype=torch.uint8)
    planes = [(part.view(-1, 8) * bits).sum(1, dtype=torch.uint8) for part in (positive, kept & ~positive)]
    return Ternary(planes[0], planes[1], torch.tensor(1e-3, device=scale.device), (m, n))


def ternary(scale: Scale, limits: Limits) -> Iterator[Row]:
    """Add a ternary delta to every linear weight."""
    layers = scale.resident_layers()
    weights = [[scale.random(m, n) for m, n in scale.shapes] for _ in range(layers)]
    changes = {shape: signs(scale, *shape) for shape in scale.shapes}  # planes are an eighth of a weight; shared

    def run() -> None:
        for i in range(scale.layers):
            for weight in weights[i % layers]:
                total = weight.float()  # a delta lands in float32 and is rounded once
                changes[weight.shape[0], weight.shape[1]].add_to(total)
                weight.copy_(total)

    limit = 4.25 * scale.entries * scale.layers / limits.bandwidth
    note = f"{scale.entries * scale.layers / 1e9:.3g} G entries{share(scale, layers)}"
    yield compare("ternary delta into bfloat16 weights", scale.seconds(run), None, "s", limit=limit, note=note)


def scan(scale: Scale, limits: Limits) -> Iterator[Row]:
    """Read every value vector through the unembedding."""
    from dtheta.probe.decoder import Decoder, ValueMatrix
    from dtheta.probe.scan import scan as read

    name = "layers.{}.mlp.down_proj.weight"
    one = scale.random(scale.width, scale.inner)  # of all layers: no cache holds it, and nobody looks at the words
    tensors = {"lm_head.weight": scale.random(scale.tokens, scale.width), "norm.weight": scale.random(scale.width) + 1}
    tensors |= {name.format(layer): one for layer in range(scale.layers)}
    matrices = {layer: ValueMatrix(layer, name.format(layer), False, scale.inner) for layer in range(scale.layers)}
    decoder = Decoder(tensors, matrices, "lm_head.weight", False, "norm.weight", 0.0, False, scale.device)
    flops = 2.0 * scale.layers * scale.inner * scale.tokens * scale.width
    first, before = None, torch.get_float32_matmul_precision()
    for kind, precision in (("float32", "highest"), ("TF32", "high")):
        torch.set_float32_matmul_precision(precision)
        try:
            taken = scale.seconds(lambda: read(decoder, top=scale.top), 3)
            limit = flops / Limits(scale).product(torch.float32)
            found = read(decoder, layers=[0], top=scale.top).layers[0].tokens_SNK
        finally:
            torch.set_float32_matmul_precision(before)
        first = found if first is None else first
        note = f"{float((found == first).mean()):.2%} of the words in the places of float32; the peer is the goal"
        yield compare(f"concept scan, {kind} products", taken, 0.5, "s", goal=1.0, limit=limit, note=note)


class Reader(nn.Module):
    """A transformer that classifies token ids; its embedding is frozen."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, width).requires_grad_(False)
        block = nn.TransformerEncoderLayer(width, 4, 4 * width, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, blocks, enable_nested_tensor=False)
        self.head = nn.Linear(width, 4)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (N, 4)."""
        return self.head(self.blocks(self.embedding(ids)).mean(1))


def tangent(scale: Scale, limits: Limits) -> Iterator[Row]:
    """Take the mean tangent kernel, structured, beside the kernel by per-example derivatives."""
    from dtheta.kernels.tangent import tangent_kernel

    small = scale.width < 1024
    model = Reader(16 if small else 512, 1 if small else 4).eval().to(scale.device)
    ids = torch.randint(1000, (4, 8) if small else (64, 64), device=scale.device)
    found: dict[str, Tensor] = {}

    def take(method: str) -> None:
        found[method] = tangent_kernel(model, ids, method=method, memory=2**33)  # type: ignore[arg-type]

    ours, peer = (scale.seconds(lambda m=m: take(m), 3) for m in ("structured", "jacobian"))
    K, J = found["structured"], found["jacobian"]
    note = f"relative difference {float((K - J).norm() / J.norm()):.1e}"
    yield compare("structured tangent kernel, against per-example derivatives", ours, peer, "s", note=note)


def sfno(scale: Scale, limits: Limits) -> Iterator[Row]:
    """Run the ensemble; its bred starts are made before the clock."""
    from ensemble_engine import emulator

    from dtheta.ensemble import BredVectors, Ensemble, SphericalNoise, cross

    network, states = emulator()
    networks = [network, *(emulator(s)[0] for s in range(1, 8))]
    noise, count = SphericalNoise([10.0, 0.0], network.flow.grid), scale.members // 8
    networks, states = [one.to(scale.device) for one in networks], states.to(scale.device)
    rows = min(count, 464)
    bred = BredVectors(10.0, noise, cycles=3)
    ensemble = Ensemble(networks[0], cross(8, count), parameters=networks, perturbation=bred, rows=rows)
    run = ensemble.run(states[-1], scale.steps, past=states[:-1])
    start = scale.once(lambda: next(run))
    next(run)  # the first step loads kernels
    taken = scale.once(lambda: [None for _ in run]) * scale.steps / (scale.steps - 1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        networks[0](states[-1].expand(rows, *states.shape[1:]).contiguous())
    flops = counter.get_total_flops() / rows * 8 * count * scale.steps
    note = f"{8 * count:,} members; bred starts {start:.3g} s more; {flops / 1e12:.3g} Tflop; the peer is the goal"
    title = f"small SFNO, {scale.steps} steps"
    yield compare(title, taken, 60.0, "s", goal=1.0, limit=flops / limits.product(torch.float32), note=note)


def bf16(scale: Scale, limits: Limits) -> Iterator[Row]:
    """Attach to a language model in bfloat16, and take training steps with and without an adapter."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=scale.tokens, hidden_size=scale.width, intermediate_size=scale.inner, num_hidden_layers=4,
        num_attention_heads=max(2, scale.width // 128), num_key_value_heads=max(2, scale.width // 128),
    )  # fmt: skip
    with scale.device:
        model = LlamaForCausalLM(config).bfloat16().requires_grad_(False)
        ids = torch.randint(scale.tokens, scale.batch)
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()

    def step() -> None:
        model(inputs_embeds=embedded, labels=ids).loss.backward()

    bare = scale.seconds(step)
    with FlopCounterMode(display=False) as counter:
        step()
    limit = counter.get_total_flops() / limits.product(HALF)
    for method in (LoRA(rank=16), PiSSA(rank=16, accuracy=None)):
        taken = scale.seconds(lambda m=method: attach(model, m).detach(), 3)
        title = f"attach {method.name} to {4 * len(scale.shapes)} weights"
        yield compare(f"{title}, bfloat16", taken, None, "s")
        adapter = attach(model, method)
        ours = scale.seconds(step)
        adapter.detach()
        note = f"{ours / bare - 1:.1%} more than without an adapter; without optimizer"
        yield compare(f"training step, {method.name} r = 16", ours, bare, "s", limit=limit, note=note)


PARTS = {"pissa": pissa, "ternary": ternary, "scan": scan, "tangent": tangent, "sfno": sfno, "bf16": bf16}


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of the parts asked for."""
    if arguments.smoke:
        scale = Scale(torch.device("cpu"), 1, 64, 128, 200, 5, 8, 3, (2, 8), 1)
    else:
        scale = Scale(torch.device("cuda"), repeat=arguments.repeat)
    limits = Limits(scale)
    os.environ["DTHETA_FACTOR_CACHE_BYTES"] = "0"  # what is measured is the work
    for name in arguments.parts:
        for row in PARTS[name](scale, limits):
            yield replace(row, goal=None, holds=None) if arguments.smoke else row


def options(parser: argparse.ArgumentParser) -> None:
    """Add our own options."""
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--smoke", action="store_true", help="tiny shapes on the CPU: nothing is measured by it")


if __name__ == "__main__":
    if not torch.cuda.is_available() and not {"--smoke", "--help", "-h"} & set(sys.argv):
        print("bench/gpu.py needs a CUDA device and found none: nothing was measured", file=sys.stderr)
        sys.exit(0)
    main("One CUDA device beside its limits", measure, packages=("torch", "transformers"), options=options)
