"""Four bits: what QPiSSA, LoftQ and the best of both save of NF4's error, on synthetic spectra and on real weights.

    reduction  1 - ||W - (Q + L R)|| / ||W - NF4(W)||, mean over matrices, in the nuclear norm of the QPiSSA paper
               (arXiv 2404.02948, which reports 0.19 on LLaMA-2-7B) and in the Frobenius norm
    best       BestQ deciding by that norm; the peer is the better of QPiSSA and LoftQ, matrix by matrix
    output     relative error of MiniLM's token states, and of SmolLM2's logits, on a few sentences

SmolLM2's weights come from a 4-bit file, so they already lie on a grid, and another one than NF4's.

    python bench/quantize.py [--json] [--rank 16] [--layers N]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.qpissa import NF4, BestQ, Errors, LoftQ, QPiSSA, Quantization
from dtheta.adapt.quantized import Quantized, quantize
from dtheta.core.nf4 import LEVELS, quantize_nf4
from dtheta.core.seeds import generator
from dtheta.models.load import load_model, load_tokenizer

SENTENCES = (
    "The capital of France is Paris.",
    "Shares fell sharply after the company cut its forecast for the year.",
    "A new species of frog was found in the mountains of Ecuador.",
    "She scored twice in the second half to win the match.",
    "Once upon a time there was a small dog that lived near the harbour and waited for the boats.",
    "In 1969 the first human beings walked on the surface of the Moon.",
    "The committee will publish its report on inflation and interest rates on Thursday.",
    "Boil the potatoes for twenty minutes, then add butter and a little milk.",
    "I did not like the film: the plot was thin and the ending made no sense at all.",
    "Water freezes at zero degrees Celsius and boils at one hundred degrees.",
)
Row = dict[str, Any]


def row(name: str, ours: float, peer: float | None, unit: str, goal: str = "", holds: bool | None = None) -> Row:
    ratio = ours / peer if peer else None
    return {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "limit": None, "goal": goal,
            "holds": holds}  # fmt: skip


def synthetic(size: int = 768, rank: int = 64) -> list[Row]:
    """Matrices of known spectra: where the principal directions stand out QPiSSA wins, where none does LoftQ."""
    index = torch.arange(1, size + 1).float()

    def decay(power: float, factor: float = 1.0) -> Tensor:
        return index**-power * torch.where(index <= 8, factor, 1.0)

    spectra = {"flat": decay(0.0), "i^-0.4": decay(0.4), "i^-0.4, top 8 x3": decay(0.4, 3.0),
               "i^-0.8, top 8 x2": decay(0.8, 2.0)}  # fmt: skip
    U, V = (torch.linalg.qr(torch.randn(size, size, generator=generator(0, "bench/quantize", i))).Q for i in (0, 1))
    rows = []
    for name, S in spectra.items():
        weight = (U * S) @ V
        plain = Errors.of(NF4().split(weight, 0, name).error(weight)).nuclear
        found = {
            f"{method.name} T={method.iterations}": 1
            - Errors.of(method.split(weight, 0, name).error(weight)).nuclear / plain
            for method in (QPiSSA(rank, 1), QPiSSA(rank, 5), LoftQ(rank, 1), LoftQ(rank, 5))
        }
        best = 1 - Errors.of(BestQ(rank, by="nuclear").split(weight, 0, name).error(weight)).nuclear / plain
        rows += [
            row(f"{size}x{size}, {name}: {label}", value, None, "nuclear reduction") for label, value in found.items()
        ]
        peer = max(found["QPiSSA T=5"], found["LoftQ T=5"])
        rows.append(row(f"{size}x{size}, {name}: best", best, peer, "nuclear reduction", "ratio >= 1", best >= peer))
    return rows


def real(name: str, rank: int, layers: int | None) -> list[Row]:
    """The linear weights of the blocks of a pretrained model."""
    model = load_model(name, layers=layers)
    tokens = [torch.tensor([load_tokenizer(name)(text)["input_ids"]]) for text in SENTENCES]
    wanted = outputs(model, tokens)
    methods: dict[str, Quantization] = {
        "NF4": NF4(),
        "NF4, double": NF4(double=True),
        "QPiSSA": QPiSSA(rank),
        "LoftQ": LoftQ(rank),
        "best by nuclear": BestQ(rank, by="nuclear"),
        "best by Frobenius": BestQ(rank, by="frobenius"),
    }
    found, rows = {}, []
    for label, method in methods.items():
        before = time.process_time()
        found[label] = quantize(model, method)
        spent = time.process_time() - before
        rows.append(row(f"{name}: {label}, output error", output_error(found[label], tokens, wanted), None, "relative"))
        rows.append(row(f"{name}: {label}, time for {len(found[label].errors)} matrices", spent, None, "CPU s"))
    for norm, attribute in (("nuclear", "reduction"), ("Frobenius", "reduction_frobenius")):
        values = {label: [getattr(e, attribute) for e in q.errors] for label, q in found.items()}
        pairs = list(zip(values["QPiSSA"], values["LoftQ"], strict=True))
        rows += [row(f"{name}: {m}", mean(values[m]), None, f"{norm} reduction") for m in ("QPiSSA", "LoftQ")]
        best, peer = values[f"best by {norm}"], [max(pair) for pair in pairs]
        never = all(ours >= theirs for ours, theirs in zip(best, peer, strict=True))
        rows.append(row(f"{name}: best", mean(best), mean(peer), f"{norm} reduction", "no matrix below either", never))
        share = sum(p > l for p, l in pairs) / len(pairs)
        rows.append(row(f"{name}: matrices where QPiSSA is ahead of LoftQ", share, None, f"share, {norm}"))
    dense, packed = (weight_bytes(m) for m in (model, found["NF4"].model))
    rows.append(row(f"{name}: model", packed / 2**20, dense / 2**20, "MiB"))
    return rows


def outputs(model: nn.Module, tokens: Sequence[Tensor]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(t)[0].flatten() for t in tokens])


def output_error(q: Quantized, tokens: Sequence[Tensor], wanted: Tensor) -> float:
    """Relative error of the outputs of a quantized model with its delta."""
    if len(q.delta):
        adapter = attach(q.model, q.delta)
        found = outputs(adapter, tokens)
        adapter.detach()
    else:
        found = outputs(q.model, tokens)
    return float((found - wanted).norm() / wanted.norm())


def weight_bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def codec() -> list[Row]:
    """Packing and unpacking 4096 x 4096, against a search among the midpoints and a look-up of every level."""
    weight = torch.randn(4096, 4096, generator=generator(0, "bench/quantize"))
    levels = torch.tensor(LEVELS)
    midpoints = (levels[1:] + levels[:-1]) / 2

    def plain_pack() -> tuple[Tensor, Tensor]:
        blocks = weight.view(-1, 64)
        scale = blocks.abs().amax(1, keepdim=True)
        codes = torch.bucketize(blocks / scale, midpoints).to(torch.uint8).view(-1, 2)
        return (codes[:, 0] << 4) | codes[:, 1], scale

    packed, (codes, scale) = quantize_nf4(weight), plain_pack()
    assert torch.equal(packed.codes, codes)

    def plain_unpack() -> Tensor:
        pairs = torch.stack([codes >> 4, codes & 15], 1).flatten()
        return (levels[pairs.long()].view(-1, 64) * scale).view(4096, 4096)

    assert torch.equal(packed.dequantize(), plain_unpack())
    pack = median_times(lambda: quantize_nf4(weight), plain_pack)
    unpack = median_times(packed.dequantize, plain_unpack)
    return [
        row("pack 4096x4096", pack[0], pack[1], "CPU s", "faster", pack[0] < pack[1]),
        row("unpack 4096x4096", unpack[0], unpack[1], "CPU s", "faster", unpack[0] < unpack[1]),
    ]


def median_times(ours: Callable[[], object], peer: Callable[[], object], repetitions: int = 5) -> tuple[float, float]:
    """Median CPU seconds of two functions, run in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repetitions):
        for function, spent in zip((ours, peer), times, strict=True):
            before = time.process_time()
            function()
            spent.append(time.process_time() - before)
    return sorted(times[0])[repetitions // 2], sorted(times[1])[repetitions // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--layers", type=int, default=None, help="of each model; all by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = codec() + synthetic()
    for name in ("minilm", "smollm2"):
        rows += real(name, options.rank, options.layers)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for r in rows:
        peer = "" if r["peer"] is None else f"peer {r['peer']:.4g}, ratio {r['ratio']:.3g}"
        verdict = {None: "", True: "holds", False: "FAILS"}[r["holds"]]
        print(f"{r['name']:<72} {r['ours']:>9.4g} {r['unit']:<22} {peer:<30} {verdict}")


if __name__ == "__main__":
    main()
