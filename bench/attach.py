"""Attaching and training: against peft on the same weights, one thread, CPU time, interleaved.

first attach    PiSSA r=64 on every linear weight of MiniLM (36) and SmolLM2-135M (210), with an empty cache of
                factors, against get_peft_model with pissa_niter_16; copying the model is not timed on either side
errors          of the singular values that training starts from: max_i |s_i - sigma_i| / sigma_i, where sigma is
                the float64 SVD
second attach   the same with the factors on disk, against the first: no SVD, only digests of the weights
training step   forward, backward and AdamW on 16 x 64 tokens of MiniLM, against LoRA of the same rank in peft
experts         the same on 2 x 64 tokens of two layers of 32 experts (256 wide, four a token, drawn weights), against
                peft's target_parameters

python bench/attach.py [--json] [--repeat 5] [--models minilm smollm2]
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from _measure import Row, compare, cpu_seconds, interleaved, main
from torch import Tensor, nn

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.attach import attach
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.lora import LoRA
from dtheta.adapt.method import Method
from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.sorsa import SORSA
from dtheta.core.seeds import generator
from dtheta.models.load import load_model

RANK = 64
TARGETS = r".*\.(layer|layers)\.\d+\..*(query|key|value|dense|q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@contextmanager
def cache_at(folder: str) -> Iterator[None]:
    """Have the factors in another folder for the length of a block."""
    before = os.environ.get("DTHETA_CACHE")
    os.environ["DTHETA_CACHE"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["DTHETA_CACHE"]
        else:
            os.environ["DTHETA_CACHE"] = before


def in_peft(model: nn.Module, rank: int, init: Any, **targets: Any) -> nn.Module:
    import peft

    targets = targets or {"target_modules": TARGETS}
    config = peft.LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=init, **targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(model, config)


def attaching(name: str, repeat: int) -> Iterator[Row]:
    """First and second attach, and the accuracy of what training starts from."""
    model = load_model(name)
    first, second, peer = [], [], []
    ours: Adapter | None = None
    theirs: nn.Module | None = None
    for round_ in range(repeat + 1):  # the first round warms up and does not count
        with tempfile.TemporaryDirectory() as folder, cache_at(folder):
            kept: list[Any] = []
            seconds = cpu_seconds(lambda kept=kept: kept.append(attach(model, PiSSA(RANK))))
            kept.pop().detach()
            again = cpu_seconds(lambda kept=kept: kept.append(attach(model, PiSSA(RANK))))
            ours = kept.pop()
            ours.detach()
        twin = copy.deepcopy(model)
        theirs_seconds = cpu_seconds(lambda twin=twin, kept=kept: kept.append(in_peft(twin, RANK, "pissa_niter_16")))
        theirs = kept.pop()
        if round_:
            first.append(seconds)
            second.append(again)
            peer.append(theirs_seconds)
    assert ours is not None
    assert theirs is not None
    a, b, p = (statistics.median(times) for times in (first, second, peer))
    title = f"{name}, {len(ours.sites)} weights, r={RANK}"
    yield compare(f"attach PiSSA: {title}", a, p, "CPU s", goal=2.5, note="against pissa_niter_16")
    own, other = errors(ours, theirs)
    yield compare(f"singular values: {title}", own, 1e-5, "relative", goal=1.0, note=f"pissa_niter_16: {other:.0e}")
    yield compare(f"second attach: {title}", b, a, "CPU s", goal=50.0, note="against our first")


def errors(ours: Adapter, theirs: nn.Module) -> tuple[float, float]:
    """Largest relative errors of the singular values in the factors, ours and peft's."""
    own = other = 0.0
    for key, site in ours.sites.items():
        sigma = torch.linalg.svdvals(site.matrix().double())[:RANK]
        layer: Any = theirs.get_submodule(f"base_model.model.{key.removesuffix('.weight')}")
        own = max(own, relative(ours.term(key).left, sigma))  # type: ignore[arg-type]
        other = max(other, relative(layer.lora_B["default"].weight, sigma))
    return own, other


def relative(left: Tensor, sigma: Tensor) -> float:
    """Error of the squared column norms of B = U sqrt(S), which are the singular values."""
    found = left.detach().double().square().sum(0).sort(descending=True).values
    return float(((found - sigma).abs() / sigma).max())


def stepping(repeat: int) -> Iterator[Row]:
    """One training step at equal rank."""
    base = load_model("minilm")
    ids = torch.randint(5, 30000, (16, 64), generator=generator(0, "bench/attach"))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for rank in (16, 64):
        theirs = in_peft(copy.deepcopy(base), rank, True)
        methods = [LoRA(rank), PiSSA(rank), SORSA(rank), CLIPSVD(ratio=rank / 384)]
        yield from against_peft(f"minilm, r={rank}", base, theirs, methods, batch, None, repeat)


def expert_steps(repeat: int) -> Iterator[Row]:
    """One training step of a mixture's experts at equal rank."""
    base = mixture()
    batch = {"input_ids": torch.randint(0, 1000, (2, 64), generator=generator(0, "bench/attach"))}
    experts = ["experts.gate_up_proj", "experts.down_proj"]
    for rank in (8, 32):
        theirs = in_peft(copy.deepcopy(base), rank, True, target_modules=[], target_parameters=experts)
        methods = [LoRA(rank), PiSSA(rank), SORSA(rank)]
        yield from against_peft(f"2 x 32 experts, r={rank}", base, theirs, methods, batch, "*.experts.*", repeat)


def against_peft(
    title: str,
    base: nn.Module,
    theirs: nn.Module,
    methods: Sequence[Method],
    batch: dict[str, Tensor],
    select: str | None,
    repeat: int,
) -> Iterator[Row]:
    """A row for a step of each method on copies of the base, beside a step of peft's model."""
    steps = {"peft": training_step(theirs, batch)}
    for method in methods:
        steps[method.name] = training_step(attach(copy.deepcopy(base), method, select), batch)
    seconds = interleaved(steps, repeat)
    for method in methods:
        name = f"training step: {method.name}, {title}"
        yield compare(name, seconds[method.name], seconds["peft"], "CPU s", goal=1.0, note="against LoRA in peft")


def mixture() -> nn.Module:
    """Return a decoder of experts with drawn weights, without its head."""
    from transformers import Qwen3MoeConfig, Qwen3MoeModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 1000, "hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
    sizes |= {"moe_intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
    return Qwen3MoeModel(Qwen3MoeConfig(**sizes, num_experts=32, num_experts_per_tok=4))


def training_step(model: nn.Module, batch: dict[str, Tensor]) -> Callable[[], None]:
    """Return forward, backward and optimizer step in training mode."""
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> None:
        model(**batch).last_hidden_state.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    for name in arguments.models:
        yield from attaching(name, arguments.repeat)
    yield from stepping(arguments.repeat)
    yield from expert_steps(arguments.repeat)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=["minilm", "smollm2"], choices=["minilm", "smollm2"])


if __name__ == "__main__":
    main("attaching and training", measure, packages=("torch", "peft", "transformers"), options=options)
