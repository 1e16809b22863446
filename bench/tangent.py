"""The empirical tangent kernel against vmap(jacrev) and one product, in the same run.

    mlp          784-512-512-10, N = 48, all pairs of outputs (48, 48, 10, 10)
    transformer  d = 128, 2 blocks, T = 32, embeddings frozen, N = 64, O = 4: mean over outputs, all pairs, pseudo
    sketch       the same transformer: count-sketch against a dense projection of the same width
    minilm       MiniLM with a head of 4 classes, N texts of up to 64 tokens: peak resident memory of a fresh process

The peer is torch.func.vmap(torch.func.jacrev(...)), its Jacobian as one matrix, and one product (for the mean, one
product over outputs and parameters together). Agreement is max |K - K'| / max |K'|.

    python bench/tangent.py [--json] [--repeat 5] [--only NAME] [--examples 2000] [--outputs pseudo] [--select GLOB]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _measure import Row, compare, cpu_seconds, interleaved, main, resident
from torch import Tensor, nn

from dtheta.core.seeds import generator
from dtheta.kernels.tangent import tangent_kernel


def mlp() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers), torch.randn(48, 784)


class Transformer(nn.Module):
    """Two blocks of width 128 over 32 tokens, mean pooling, a head of 4; 401 thousand parameters train."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 128).requires_grad_(False)
        block = nn.TransformerEncoderLayer(128, 4, 512, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(128, 4)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (N, 4)."""
        return self.head(self.blocks(self.embedding(ids)).mean(1))


def transformer(examples: int = 64) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Transformer().eval(), torch.randint(1000, (examples, 32))


def jacobian(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return the peer's derivatives (N, O, ...) by parameter."""
    moving = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def one(parameters: dict[str, Tensor], example: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (example[None],))[0]

    return torch.func.vmap(torch.func.jacrev(one), (None, 0))(moving, x)  # type: ignore[return-value]


def peer_full(model: nn.Module, x: Tensor) -> Tensor:
    J = torch.cat([j.flatten(2) for j in jacobian(model, x).values()], 2)
    n, o, _ = J.shape
    flat = J.flatten(0, 1)
    return (flat @ flat.mT).view(n, o, n, o).transpose(1, 2)


def peer_mean(model: nn.Module, x: Tensor) -> Tensor:
    K: Any = 0
    for j in jacobian(model, x).values():
        flat = j.flatten(1)
        K = K + flat @ flat.mT / j.shape[1]
    return K


Peer = Callable[[nn.Module, Tensor], Tensor]


def agreement(K: Tensor, wanted: Tensor) -> float:
    return float((K - wanted).abs().max() / wanted.abs().max())


def case(
    title: str, problem: tuple[nn.Module, Tensor], outputs: Any, peers: dict[str, Peer], goal: float, repeat: int
) -> Iterator[Row]:
    """Compare one kernel with peers in time, the first of which the goal is for, and with the first in value."""
    found: dict[str, Tensor] = {}

    def ours() -> None:
        found["ours"] = tangent_kernel(*problem, outputs=outputs)

    def theirs(name: str) -> None:
        found[name] = peers[name](*problem)

    first = next(iter(peers))
    cold = cpu_seconds(lambda: theirs(first))
    seconds = interleaved({"ours": ours} | {n: lambda n=n: theirs(n) for n in peers}, repeat)
    for name in peers:
        note = f"the peer's first call: {cold:.3g}" if name == first else ""
        yield compare(f"{title}, {name}", seconds["ours"], seconds[name], "CPU s", goal=goal, note=note)
    error = agreement(found["ours"], found[first])
    yield compare(f"{title}: agreement", error, 1e-6, "relative", goal=1.0)


def transformers(repeat: int) -> Iterator[Row]:
    model, x = transformer()
    both: dict[str, Peer] = {"peer: mean": peer_mean, "peer: all pairs": peer_full}
    yield from case("transformer, mean kernel", (model, x), "mean", both, 3.0, repeat)
    yield from case("transformer, all pairs", (model, x), "full", {"peer: all pairs": peer_full}, 1.0, repeat)
    seconds = interleaved(
        {"pseudo": lambda: tangent_kernel(model, x, outputs="pseudo"), "peer": lambda: peer_mean(model, x)}, repeat
    )
    exact, pseudo = (tangent_kernel(model, x, outputs=kind) for kind in ("mean", "pseudo"))  # type: ignore[arg-type]
    error = float((pseudo - exact).norm() / exact.norm())
    yield compare(
        "transformer, pseudo kernel", seconds["pseudo"], seconds["peer"], "CPU s", note=f"{error:.1%} from mean"
    )


def sketches(repeat: int) -> Iterator[Row]:
    model, x = transformer()
    exact = tangent_kernel(model, x, outputs="pseudo")
    J = torch.cat([j.sum(1).flatten(1) / 2 for j in jacobian(model, x).values()], 1)
    for width in (512, 2048):
        kept: dict[str, Tensor] = {}

        def ours(width: int = width, kept: dict[str, Tensor] = kept) -> None:
            kept["ours"] = tangent_kernel(model, x, outputs="pseudo", method="sketch", width=width)

        def dense(width: int = width, kept: dict[str, Tensor] = kept) -> None:
            draw, Z = generator(0, "dense sketch"), torch.zeros(len(J), width)
            for start in range(0, J.shape[1], 8192):  # 8192 entries of what is projected at a time
                part = J[:, start : start + 8192]
                Z += part @ (torch.randint(2, (part.shape[1], width), generator=draw).float() * 2 - 1)
            kept["dense"] = Z @ Z.mT / width

        seconds = interleaved({"ours": ours, "dense": dense}, repeat)
        errors = [float((kept[name].double() - exact).norm() / exact.norm()) for name in ("ours", "dense")]
        note = f"passes included in ours, not in the peer's; errors {errors[0]:.3f} and {errors[1]:.3f}"
        yield compare(f"sketch of width {width}", seconds["ours"], seconds["dense"], "CPU s", note=note)


_CHILD = "--child"


def minilm(examples: int, outputs: str, select: str | None) -> Iterator[Row]:
    """Measure a fresh process; the kernel is written nowhere."""
    command = [sys.executable, __file__, _CHILD, str(examples), outputs, select or ""]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    gib, base, seconds = (float(word) for word in found[-3:])
    note = f"{seconds:.0f} CPU s; {base:.2f} GiB before the first kernel"
    title = f"minilm, N = {examples}, {outputs}, {select or 'every parameter'}: peak resident memory against 4 GB"
    yield compare(title, gib, 4e9 / 2**30, "GiB", goal=1.0, note=note)


def child(examples: int, outputs: Any, select: str | None) -> None:
    """Take the kernel of random texts of 5 to 64 tokens in 2 GiB; print peak GiB, GiB before it, CPU seconds."""
    from dtheta.models.classifier import classifier
    from dtheta.models.load import load_model

    torch.set_num_threads(1)
    model, draw = classifier(load_model("minilm"), 4), generator(0, "texts")
    nn.init.normal_(model.head.weight, std=0.02, generator=draw)  # a head of zeros has no gradient below it
    ids = torch.randint(1000, 20000, (examples, 64), generator=draw)
    lengths = torch.randint(5, 65, (examples, 1), generator=draw)
    mask = (torch.arange(64) < lengths).long()
    tangent_kernel(model, {"input_ids": ids[:3], "attention_mask": mask[:3]}, outputs=outputs, select="@bias")
    before = resident()
    batch = {"input_ids": ids * mask, "attention_mask": mask}
    seconds = cpu_seconds(lambda: tangent_kernel(model, batch, outputs=outputs, select=select, memory=2**31))
    print(resident() / 2**30, before / 2**30, seconds)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    if arguments.only in (None, "mlp"):
        yield from case("mlp", mlp(), "full", {"peer: all pairs": peer_full}, 300.0, arguments.repeat)
    if arguments.only in (None, "transformer"):
        yield from transformers(arguments.repeat)
    if arguments.only in (None, "sketch"):
        yield from sketches(arguments.repeat)
    if arguments.only in (None, "minilm"):
        yield from minilm(arguments.examples, arguments.outputs, arguments.select)


def options(parser: argparse.ArgumentParser) -> None:
    """Add our own options."""
    parser.add_argument("--only", choices=("mlp", "transformer", "sketch", "minilm"), help="one part only")
    parser.add_argument("--examples", type=int, default=2000, help="texts of the minilm part")
    parser.add_argument("--outputs", choices=("mean", "pseudo"), default="pseudo", help="kernel of the minilm part")
    parser.add_argument("--select", help="parameters of the minilm part; default: all that train")


if __name__ == "__main__":
    if _CHILD in sys.argv:
        child(int(sys.argv[2]), sys.argv[3], sys.argv[4] or None)
    else:
        main("Empirical tangent kernel", measure, options=options)
