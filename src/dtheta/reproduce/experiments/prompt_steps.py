"""A training step with a prompt on texts of drawn tokens: what it takes in time, and what it keeps for the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.method import Method
from dtheta.adapt.prompts.adept import ADePT
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.tuning import PromptTuning

TOKENS, SHORT = 100, 40  # l virtual tokens of a plain prompt, m of the short one


def methods(width: int, positions: int) -> dict[str, Method]:
    """Return what is compared; every one has at most the parameters of l tokens."""
    return {
        "PromptTuning": PromptTuning(TOKENS),
        "DePT": DePT.of_budget(TOKENS, SHORT, positions, width),
        "ADePT": ADePT.of_budget(TOKENS, SHORT, width),
    }


def batch_of(columns: int, size: int, labels: bool = False) -> dict[str, Tensor]:
    """Return full texts of drawn tokens, with themselves as labels for a decoder."""
    ids = torch.randint(1000, 20000, (size, columns), generator=torch.Generator().manual_seed(columns))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return batch | ({"labels": ids} if labels else {})


def loss_of(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the model's own loss, or the mean square of the states of the text where it has none."""
    output = model(**batch)
    return output.loss if "labels" in batch else output[0][:, -batch["input_ids"].shape[1] :].square().mean()


def step(model: Any, parameters: Iterable[nn.Parameter], batch: Mapping[str, Tensor]) -> Callable[[], None]:
    """Return a training step: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(list(parameters), lr=1e-3)

    def run() -> None:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()

    return run


def kept_bytes(model: nn.Module, method: Method, batch: Mapping[str, Tensor]) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, every tensor once, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    adapter = attach(model, method)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = loss_of(adapter, batch)  # held while counted, so that no address is used twice
        del loss
    finally:
        adapter.detach()
    return sum(held.values())
