"""The frozen-encoder baseline: logistic regression on the pooled features of a model that nobody trains.

The features are the vectors that a classifier pools from the texts; the regression is core/logistic.py's. Whatever an
adaptation is worth, it must be worth it above this, which costs one pass over the texts and no gradient through the
model.

Shape legend: N texts, E hidden features, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dtheta.core.modes import kept_modes
from dtheta.data.batches import EncodedTexts
from dtheta.models.classifier import Classifier


def by_length(encoded: EncodedTexts, batch_size: int) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
    """Yield (indices, batch) with texts of like length together: little padding, and the same result."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded.ids[i]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        yield indices, encoded.collate([encoded[i] for i in indices])


@torch.no_grad()
def pooled_features(net: Classifier, encoded: EncodedTexts, batch_size: int = 64) -> Float[Tensor, "N E"]:
    """Return what the classifier pools from each text, the input of its head, float32 on the CPU."""
    seen: list[Tensor] = []
    hook = net.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    features_NE = torch.empty(len(encoded), net.head.in_features, dtype=torch.float32)
    try:
        for indices, _ in _outputs(net, encoded, batch_size):
            features_NE[indices] = seen.pop()
    finally:
        hook.remove()
    return features_NE


@torch.no_grad()
def predicted_logits(net: nn.Module, encoded: EncodedTexts, batch_size: int = 64) -> Float[Tensor, "N C"]:
    """Return a classifier's logits of each text, float32 on the CPU."""
    found: list[tuple[Sequence[int], Tensor]] = list(_outputs(net, encoded, batch_size))
    logits_NC = torch.empty(len(encoded), found[0][1].shape[1], dtype=torch.float32)
    for indices, logits in found:
        logits_NC[indices] = logits
    return logits_NC


def _outputs(net: nn.Module, encoded: EncodedTexts, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
    """Yield (indices, logits) in evaluation mode; every module's mode is given back."""
    device = next(net.parameters()).device
    with kept_modes(net):
        for indices, batch in by_length(encoded, batch_size):
            logits = net(batch["input_ids"].to(device), batch["attention_mask"].to(device)).logits
            yield list(indices), logits.float().cpu()
