"""Keys: what a down-projection reads at one token of a prompt, and the second moments of all that it reads.

    m = W k                 k: input of the down-projection, key of the fact that the token calls up (Meng et al. 2022)
    C = mean over tokens of k k^T                              of sequences at hand: no corpus has to be fetched

The token of a fact is the last one of the concept's name in the prompt, the last of the prompt where it is not named.

Shape legend: F facts, B rows, T tokens, N neurons of a layer, D features of the stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dtheta.core.modes import kept_modes
from dtheta.data.concepts import Question
from dtheta.errors import NotConverged, UnsupportedLayer
from dtheta.probe.decoder import Decoder
from dtheta.probe.encoded import BATCH, Batch, Encoded, collate, encode, first_difference, tokenized
from dtheta.probe.unlearning.stream import caught, layer_module

_MISSED = 0.05  # of the stream: far above the rounding of bfloat16, far below what a norm does


class Prompt(NamedTuple):
    """The tokens of a prompt, and the place among them whose key counts."""

    ids: list[int]
    place: int


def prompts_of(tokenizer: Any, questions: Sequence[Question], name: str | None) -> list[Prompt]:
    """Return the prompts of questions with the place of a name in each; of their last token where it is not there.

    Raises:
        ConfigError: As ``encode``.
    """
    rows = encode(tokenizer, questions)
    return [
        Prompt(row.ids[: row.start], min(_place(tokenizer, question.prompt, row.ids, name), row.start - 1))
        for row, question in zip(rows, questions, strict=True)
    ]


def _place(tokenizer: Any, prompt: str, ids: Sequence[int], name: str | None) -> int:
    """Return the token that holds the last letter of the last mention, which may go on: "Japan" in "Japanese"."""
    found = list(re.finditer(rf"(?<!\w){re.escape(name)}", prompt, re.IGNORECASE)) if name else []
    if not found:
        return len(ids) - 1
    [before] = tokenized(tokenizer, [prompt[: found[-1].end()]])
    return min(first_difference(before, ids), len(before) - 1)


def padded(prompts: Sequence[Prompt]) -> tuple[Batch, Tensor, Tensor]:
    """Return prompts as a batch padded on the right, their places (B,) and the places of their last tokens (B,)."""
    batch = collate([Encoded(prompt.ids, len(prompt.ids)) for prompt in prompts])
    places, ends = ([p.place for p in prompts], [len(p.ids) - 1 for p in prompts])
    return batch, torch.tensor(places), torch.tensor(ends)


def read(
    model: nn.Module, decoder: Decoder, layers: Sequence[int], prompts: Sequence[Prompt]
) -> tuple[dict[int, Tensor], Tensor]:
    """Return by layer the keys of facts, float32 (F, N), and the stream after the last layer at their places (F, D)."""
    keys: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    streams: list[Tensor] = []
    block = layer_module(model, decoder, layers[-1], "keys")
    for start in range(0, len(prompts), BATCH):
        batch, places, _ = padded(prompts[start : start + BATCH])
        with _inputs(model, decoder, layers) as held, caught(block) as after:
            _run(model, batch)
        rows = torch.arange(len(places))
        for layer in layers:
            a = held[layer]
            keys[layer].append(a.reshape(len(places), -1, a.shape[-1])[rows, places].float())
        streams.append(after[0][rows, places].float())
    return {layer: torch.cat(parts) for layer, parts in keys.items()}, torch.cat(streams)


def check_residual(model: nn.Module, decoder: Decoder, layers: Sequence[int], prompt: Prompt) -> None:
    """Raise UnsupportedLayer unless a layer adds to the stream just what its down-projection writes."""
    batch, _, _ = padded([prompt])
    for layer in layers:
        block = layer_module(model, decoder, layer, "keys")
        with caught(block) as held:
            _run(model, batch)
            push_D = held[0].square().mean(dim=(0, 1)).sqrt()
            hook = _down(model, decoder, layer).register_forward_hook(lambda _, __, out, push_D=push_D: out + push_D)
            try:
                _run(model, batch)
            finally:
                hook.remove()
        missed = (held[1] - held[0] - push_D).float().norm() / (held[0].float().norm() + 1e-30)
        if float(missed) > _MISSED:
            raise UnsupportedLayer(
                f"layer {layer} adds something else to the stream than its down-projection writes, such as its norm or "
                "a multiple of it (Gemma 2, OLMo 2, Granite); MEMIT has to place what it writes exactly. Use another "
                "method, such as Repair"
            )


def second_moments(
    model: nn.Module, decoder: Decoder, layers: Sequence[int], rows: Sequence[Encoded]
) -> dict[int, Tensor]:
    """Return C by layer, float64 (N, N), over all tokens of sequences."""
    total = {layer: torch.zeros((decoder.matrices[layer].count,) * 2, dtype=torch.float64) for layer in layers}
    for start in range(0, len(rows), BATCH):
        batch = collate(rows[start : start + BATCH])
        with _inputs(model, decoder, layers) as held:
            _run(model, batch)
        counts = batch["attention_mask"].bool().flatten()
        for layer, a in held.items():
            k = a.reshape(-1, a.shape[-1])[counts].double().cpu()  # OPT runs all tokens of a batch as one list
            total[layer].addmm_(k.T, k)
    return {layer: C.div_(sum(len(row.ids) for row in rows)) for layer, C in total.items()}


def solved(C_NN: Tensor, keys_FN: Tensor, weight: float, ridge: float) -> Tensor:
    """Return (lambda C + K K^T)^-1 K, float64 (N, F), for keys K (N, F).

    lambda is ``weight`` times N, since k^T C^-1 k of an ordinary key is N: at 1 its value moves half way. C is that of
    few tokens, so its diagonal is raised by ``ridge`` times its mean.

    Raises:
        NotConverged: If the matrix is singular.
    """
    K_NF = keys_FN.T.double().cpu()
    A_NN = C_NN * (weight * len(C_NN))
    A_NN.diagonal().add_(ridge * A_NN.diagonal().mean())
    factor, info = torch.linalg.cholesky_ex(A_NN.addmm_(K_NF, K_NF.T))
    if int(info):
        raise NotConverged(
            f"the second moments of {len(C_NN)} neurons' activations are singular: some never act on the texts read; "
            "give more texts, or a larger ridge"
        )
    return torch.cholesky_solve(K_NF, factor)


def _run(model: nn.Module, batch: Batch) -> None:
    with torch.no_grad(), kept_modes(model):
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)


@contextmanager
def _inputs(model: nn.Module, decoder: Decoder, layers: Sequence[int]) -> Iterator[Mapping[int, Tensor]]:
    """Catch what goes into down-projections in one pass."""
    held: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:
            hook = _down(model, decoder, layer).register_forward_pre_hook(_keeper(held, layer))
            stack.callback(hook.remove)
        yield held


def _keeper(held: dict[int, Tensor], layer: int) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        held[layer] = inputs[0].detach()

    return hook


def _down(model: nn.Module, decoder: Decoder, layer: int) -> nn.Module:
    return model.get_submodule(decoder.matrices[layer].name.removesuffix(".weight"))
