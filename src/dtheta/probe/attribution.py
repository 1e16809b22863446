"""Which value vectors hold up an answer, all of them by one backward pass: activation times gradient.

    drop_q(l, j) = sum over tokens t of  a_lj(t) d M_q / d a_lj(t),     M = sum over answer tokens of log( p / (1 - p) )

with a_lj the activation of neuron j of layer l. To first order this is by how much the log-odds of the answer to q fall
when the neuron's value vector is set to zero, the same as <d M / d v, v>, gradient times weight, and costs no gradient
of a weight. Log-odds, since log p itself has no slope left where the model is sure: there it would find nothing.
A large drop says that the neuron helps this answer, not that it is about the concept: so it is contrasted

    contrast(l, j) = mean over the concept's questions - mean over the other concepts' questions of drop

It is a screen. What a set of vectors does is measured by taking them out (ablation.py).

Shape legend: Q questions, C concepts, N neurons of a layer, M of the model, B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dtheta.core.arguments import whole
from dtheta.core.modes import kept_modes
from dtheta.core.seeds import generator, permutation
from dtheta.data.concepts import Question
from dtheta.errors import ConfigError, NonFinite
from dtheta.probe.answers import check_fits
from dtheta.probe.decoder import Decoder
from dtheta.probe.encoded import BATCH, Batch, collate, encode
from dtheta.probe.predictions import predictions


def drops(
    model: nn.Module, decoder: Decoder, tokenizer: Any, questions: Sequence[Question], *, batch: int = BATCH
) -> dict[int, NDArray[np.float32]]:
    """Return by layer the first-order drop of each answer's log-odds without each neuron, (Q, N), in nats.

    Args:
        model: The decoder; its parameters and their gradients stay as they are.
        decoder: How it is laid out, of ``open_decoder(model)``.
        tokenizer: Its tokenizer.
        questions: With answers.
        batch: Questions at a time.

    Raises:
        ConfigError: For questions without answers, or another model's tokenizer.
        NonFinite: If the model's logits are not finite.
    """
    found: dict[int, list[Tensor]] = {layer: [] for layer in decoder.layers}
    rows, batch = encode(tokenizer, questions), whole(batch, "batch", least=1)
    with kept_modes(model), torch.enable_grad():
        for start in range(0, len(rows), batch):
            chosen = rows[start : start + batch]
            check_fits(model, (asked := collate(chosen))["input_ids"])
            with _activations(model, decoder) as held:
                total = log_odds(model, asked).sum()
            gradients = torch.autograd.grad(total, list(held.values()))
            for layer, gradient in zip(held, gradients, strict=True):
                drop = (held[layer] * gradient).detach().float()
                by_row = drop.reshape(len(chosen), -1, drop.shape[-1])  # OPT runs all tokens of a batch as one list
                found[layer].append(by_row.sum(dim=1))
    return {layer: torch.cat(parts).cpu().numpy() for layer, parts in found.items()}


def log_odds(model: Any, batch: Batch) -> Tensor:
    """Return M of each row of a batch (B,), in nats, with gradients where they are recorded.

    Raises:
        NonFinite: If the model's logits are not finite.
    """
    found = predictions(model, batch)
    if not bool(torch.isfinite(found.logits_AV.detach().sum())):
        raise NonFinite(
            "the model's logits hold NaN or infinity; its weights are damaged, or its training had diverged"
        )
    target_A1 = found.target_A[:, None]
    others_A = found.logits_AV.scatter(1, target_A1, -torch.inf).logsumexp(dim=1)
    return found.sums_B(found.logits_AV.gather(1, target_A1)[:, 0] - others_A)


@contextmanager
def _activations(model: nn.Module, decoder: Decoder) -> Iterator[dict[int, Tensor]]:
    """Catch what goes into each down-projection, (B, T, N) or (B T, N), in the graph of what follows."""
    held: dict[int, Tensor] = {}

    def catch(layer: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            a = inputs[0] if inputs[0].requires_grad else inputs[0].detach().requires_grad_()
            held[layer] = a
            return (a, *inputs[1:])

        return hook

    modules = {layer: model.get_submodule(m.name.removesuffix(".weight")) for layer, m in decoder.matrices.items()}
    handles = [module.register_forward_pre_hook(catch(layer)) for layer, module in modules.items()]
    try:
        yield held
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, eq=False)
class Attribution:
    """Mean drops by concept, of every value vector.

    Attributes:
        concepts: Their names, C.
        drops: By layer, mean over a concept's questions (C, N), in nats.
    """

    concepts: tuple[str, ...]
    drops: Mapping[int, NDArray[np.float32]]

    def contrast(self, concept: str) -> dict[int, NDArray[np.float32]]:
        """Return by layer the drop of one concept minus the mean of the others', (N,).

        Raises:
            ConfigError: For a concept that is not among them, or the only one.
        """
        if concept not in self.concepts or len(self.concepts) < 2:
            raise ConfigError(f"{concept!r}: expected one of two or more concepts, {', '.join(self.concepts[:5])}")
        c = self.concepts.index(concept)
        return {layer: _apart(drop)[c] for layer, drop in self.drops.items()}


def attribution(
    model: nn.Module, decoder: Decoder, tokenizer: Any, questions: Mapping[str, Sequence[Question]]
) -> Attribution:
    """Return the mean drops of concepts, from the questions about each.

    Raises:
        ConfigError, NonFinite: As ``drops``.
    """
    by_layer: dict[int, list[NDArray[np.float32]]] = {layer: [] for layer in decoder.layers}
    for asked in questions.values():
        for layer, drop in drops(model, decoder, tokenizer, asked).items():
            by_layer[layer].append(drop.mean(axis=0))
    return Attribution(tuple(questions), {layer: np.stack(rows) for layer, rows in by_layer.items()})


def contrasts(
    drops_QM: NDArray[np.floating], concept_Q: NDArray[np.integer], permutations: int = 999, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean drop of each concept's answers less the mean of the other concepts', and its p, (C, M) each.

    Args:
        drops_QM: Drop of each answer without each vector.
        concept_Q: Whose answer it is, 0 to C - 1, each at least once, C 2 or more.
        permutations: Draws of whose answers are whose; p counts the given order as one more.
        seed: Of the draws.
    """
    groups_CQ = (np.arange(concept_Q.max() + 1)[:, None] == concept_Q) / np.bincount(concept_Q)[:, None]
    wide_QM = drops_QM.astype(np.float64)
    values_CM = _apart(groups_CQ @ wide_QM)
    least_CM = values_CM - 1e-9 * np.abs(values_CM)  # the same groups in another order are as high, but for rounding
    as_high_CM = np.ones_like(values_CM)
    for draw in range(whole(permutations, "permutations", least=1)):
        order = permutation(len(wide_QM), generator(seed, "probe/labels", draw)).numpy()
        as_high_CM += _apart(groups_CQ @ wide_QM[order]) >= least_CM
    return values_CM, as_high_CM / (permutations + 1)


def _apart(means: NDArray[Any]) -> NDArray[Any]:
    """Return the means of each concept less the mean of the other concepts' (C, ...), in their dtype."""
    return means - (means.sum(axis=0) - means) / (len(means) - 1)
