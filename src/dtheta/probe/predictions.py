"""What a decoder predicts where it counts: logits at chosen tokens only, and the losses of labelled ones.

The unembedding is the largest matrix of a small decoder, a fifth of all products in SmolLM2-135M, and of a question
with its answer only the answer's few tokens are read. So the stream is cut down to these before it is unembedded, by a
hook on the unembedding; what a model does to logits afterwards (a scale, a soft cap) is done to each by itself. Where a
model does not call its unembedding as a module, or its stream has other places than the text (prompts before it), all
logits are computed and the chosen ones taken: the same numbers, up to rounding.

Shape legend: B rows, T tokens (padded on the right), A chosen tokens of all rows, D features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dtheta.fit.batch import IGNORED


class Predictions(NamedTuple):
    """What a model makes of the labelled tokens of a batch, row by row.

    Attributes:
        logits_AV: Logits before each of them.
        target_A: The tokens.
        row_A: The rows that they are in.
        rows: B.
    """

    logits_AV: Tensor
    target_A: Tensor
    row_A: Tensor
    rows: int

    def losses_A(self) -> Tensor:
        """Return the cross entropy of each token in nats."""
        return cross_entropy(self.logits_AV, self.target_A, reduction="none")

    def sums_B(self, values_A: Tensor) -> Tensor:
        """Return the sum of tokens' values over each row."""
        return values_A.new_zeros(self.rows).index_add(0, self.row_A, values_A)


def predictions(model: Any, batch: Mapping[str, Tensor]) -> Predictions:
    """Return what a model makes of a batch's labels (B, T), which stand at the tokens' own places."""
    target_BT = batch["labels"].to(device_of(model))[:, 1:]
    counts_BT = target_BT != IGNORED
    before_BT = nn.functional.pad(counts_BT, (0, 1))  # a token is predicted from the one before it
    row_A, place_A = counts_BT.nonzero(as_tuple=True)
    logits_AV = logits_at(model, batch, before_BT, use_cache=False)
    target_A, row_A = (part.to(logits_AV.device) for part in (target_BT[row_A, place_A], row_A))
    return Predictions(logits_AV, target_A, row_A, len(target_BT))


def logits_at(model: Any, batch: Mapping[str, Tensor], chosen_BT: Tensor, **options: Any) -> Tensor:
    """Return the logits at the chosen tokens of a batch, row by row, float32 or wider (A, V).

    Args:
        model: A transformers decoder, or an adapter on one.
        batch: ``input_ids`` and ``attention_mask`` (B, T), on any device.
        chosen_BT: Which tokens, on any device.
        options: Further arguments of the model.
    """
    device = device_of(model)
    ids_BT, mask_BT, chosen_BT = (part.to(device) for part in (batch["input_ids"], batch["attention_mask"], chosen_BT))
    with _unembedding_only(model, chosen_BT):
        output = model(input_ids=ids_BT, attention_mask=mask_BT, **options)
    return _wide(_chosen(output.logits, chosen_BT))


def _chosen(logits: Tensor, chosen_BT: Tensor) -> Tensor:
    """Return the logits at the chosen tokens, of those of all places or, as one row (1, A, V), of the chosen alone."""
    rows, tokens = chosen_BT.shape
    if len(logits) != rows or logits.shape[1] < tokens:
        return logits[0]
    return logits[:, -tokens:][chosen_BT.to(logits.device)]  # what stands before the text are prompts


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def device_of(model: Any) -> torch.device:
    """Return where a model takes its input: where its first parameter is."""
    return next(model.parameters()).device


@contextmanager
def _unembedding_only(model: Any, chosen_BT: Tensor) -> Iterator[None]:
    """Let the unembedding see only the chosen tokens, as one row (1, A, D)."""

    def cut(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not inputs or inputs[0].ndim != 3 or inputs[0].shape[:2] != chosen_BT.shape:
            return None
        return (inputs[0][chosen_BT.to(inputs[0].device)][None], *inputs[1:])

    head = getattr(model, "get_output_embeddings", lambda: None)()
    handle = head.register_forward_pre_hook(cut) if isinstance(head, nn.Module) else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
