"""What a decoder answers: the probability it gives a known answer, and the text it writes by itself.

    log P(answer | prompt) = sum over the answer's tokens t of  log p(t | all before it)            teacher forcing
    exact                    each of those tokens is the likeliest one, and the next one does not go on with its word;
                             never where the tokenizer does not know one of them, since anything is such a token

"exact" is what greedy decoding would write, told by one pass over prompt and answer. Nothing depends on what else is in
a batch, beyond rounding: attention is causal, so what pads a row on its right is never seen; where rows are continued
they are padded on the left, hidden by the mask, and positions count from the first token of each row.

Shape legend: Q questions, B rows of a batch, T tokens, A tokens of an answer and the one after it, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.arguments import whole
from dtheta.core.modes import kept_modes
from dtheta.data.concepts import Question
from dtheta.errors import ConfigError, NonFinite
from dtheta.probe.encoded import BATCH, Encoded, by_length, collate, encode, tokenized
from dtheta.probe.predictions import device_of, logits_at
from dtheta.score.text import starts_with

_CACHES = ("cache", "past_key_values")  # the name changed in transformers 5


@dataclass(frozen=True, eq=False)
class AnswerScores:
    """How a model does on questions, in their order.

    Attributes:
        logprob: log P(answer | prompt) in nats, the sum over the answer's tokens, float64 ``(Q,)``.
        tokens: How many tokens the answer has.
        exact: Whether greedy decoding gives the answer.
    """

    logprob: Float64[Tensor, " Q"]
    tokens: Int64[Tensor, " Q"]
    exact: Bool[Tensor, " Q"]

    def __len__(self) -> int:
        return len(self.logprob)

    @property
    def per_token(self) -> Float64[Tensor, " Q"]:
        """Mean log-probability of an answer's tokens, in nats."""
        return self.logprob / self.tokens


def answer_scores(
    model: nn.Module, tokenizer: Any, questions: Sequence[Question], *, batch: int = BATCH
) -> AnswerScores:
    """Score the known answers of questions, in eval mode and without gradients.

    Args:
        model: A transformers decoder with its language modeling head.
        tokenizer: Its tokenizer.
        questions: Prompts with their answers; paraphrases are not asked.
        batch: Rows at a time.

    Raises:
        ConfigError: If there is no question, one has no answer, its tokens are none that the model has (another model's
            tokenizer), or it is longer than the model reads.
        NonFinite: If the model gives an answer no finite log-probability.
    """
    rows = encode(tokenizer, questions)
    logprob = torch.zeros(len(rows), dtype=torch.float64)
    exact = torch.zeros(len(rows), dtype=torch.bool)
    with torch.no_grad(), kept_modes(model):
        for places in by_length([len(row.ids) for row in rows], batch):
            chosen = [rows[i] for i in places]
            for i, row, logits_AV in zip(places, chosen, _answer_logits(model, chosen), strict=True):
                logprob[i], exact[i] = _scored(tokenizer, row, logits_AV)
    return AnswerScores(_finite(logprob), torch.tensor([len(row.ids) - row.start for row in rows]), exact)


def continuations(
    model: nn.Module, tokenizer: Any, prompts: Sequence[str], *, new_tokens: int = 32, batch: int = BATCH
) -> list[str]:
    """Return what greedy decoding writes after each prompt, without blanks around it.

    A text ends before the first end-of-text token, or after ``new_tokens`` tokens. Only the likeliest token counts:
    settings of the model's own ``generate``, such as sampling or a penalty on repetition, are not used.

    Raises:
        ConfigError, NonFinite: As ``answer_scores``.
    """
    new_tokens, rows = whole(new_tokens, "new_tokens", least=1), tokenized(tokenizer, prompts)
    ends, found = _end_tokens(model, tokenizer), [""] * len(rows)
    with torch.no_grad(), kept_modes(model):
        for places in by_length([len(row) for row in rows], batch):
            for i, ids in zip(places, _greedy(model, [rows[i] for i in places], new_tokens, ends), strict=True):
                found[i] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return found


def _scored(tokenizer: Any, row: Encoded, logits_AV: Tensor) -> tuple[float, bool]:
    """Return the log-probability of a row's answer and whether it is the greedy one."""
    answer = row.ids[row.start :]
    loss_A = F.cross_entropy(logits_AV[:-1], torch.tensor(answer, device=logits_AV.device), reduction="none")
    best = logits_AV.argmax(dim=1).tolist()
    written = best[:-1] == answer and getattr(tokenizer, "unk_token_id", None) not in answer
    ends = written and starts_with(tokenizer.decode(best), reference=tokenizer.decode(answer))
    return -float(loss_A.double().sum()), ends


def _answer_logits(model: nn.Module, rows: Sequence[Encoded]) -> tuple[Tensor, ...]:
    """Return the logits of each row (A, V) before every token of its answer, and after the last one."""
    batch = collate(rows)
    check_fits(model, batch["input_ids"])
    place_T = torch.arange(batch["input_ids"].shape[1])
    chosen_BT = torch.stack([(place_T >= row.start - 1) & (place_T < len(row.ids)) for row in rows])
    return logits_at(model, batch, chosen_BT).split([len(row.ids) - row.start + 1 for row in rows])


def _greedy(model: nn.Module, prompts: Sequence[list[int]], new_tokens: int, ends: set[int]) -> list[list[int]]:
    """Continue each prompt by the likeliest tokens, until an end, which is left out, or ``new_tokens``."""
    width, device, step = max(map(len, prompts)), device_of(model), _step(model)
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    check_fits(model, ids, new_tokens)
    written: list[list[int]] = [[] for _ in prompts]
    open_rows, cache = set(range(len(prompts))), None
    for _ in range(new_tokens):
        best, cache = step(ids, mask, cache)
        tokens: list[int] = best.tolist()
        open_rows -= {i for i in open_rows if tokens[i] in ends}
        for i in open_rows:
            written[i].append(tokens[i])
        if not open_rows:
            break
        ids, mask = best[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return written


def _step(model: nn.Module) -> Callable[[Tensor, Tensor, Any], tuple[Tensor, Any]]:
    """Return ``(new ids, mask of all, cache) -> (the likeliest next token of each row, cache)``."""
    accepted = inspect.signature(model.forward).parameters
    name = next((name for name in _CACHES if name in accepted), _CACHES[-1])

    def step(ids: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        wanted = {"position_ids": positions, "logits_to_keep": 1, "use_cache": True}
        more = {key: value for key, value in wanted.items() if key in accepted}
        output = model(input_ids=ids, attention_mask=mask, **{name: cache}, **more)
        best = output.logits[:, -1].max(dim=1)
        _finite(best.values)
        return best.indices, getattr(output, name)

    return step


def _finite(values: Tensor) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise NonFinite("the model gives NaN or infinity; its weights are damaged, or its training had diverged")
    return values


def _end_tokens(model: nn.Module, tokenizer: Any) -> set[int]:
    found: set[int] = set()
    for holder in (getattr(model, "generation_config", None), getattr(model, "config", None), tokenizer):
        ends = getattr(holder, "eos_token_id", None)
        found.update([ends] if isinstance(ends, int) else ends or [])
    return found


def check_fits(model: nn.Module, ids: Tensor, more: int = 0) -> None:
    """Raise unless the model has these tokens (B, T), and positions for them and ``more``.

    Raises:
        ConfigError: They are another model's, or too many.
    """
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    if embedding is not None and int(ids.max()) >= len(embedding.weight):
        raise ConfigError(
            f"the tokenizer gives token {int(ids.max())}, the model has {len(embedding.weight):,}: they do not belong "
            "together; load the tokenizer from the model's own folder"
        )
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if limit is not None and ids.shape[1] + more > limit:
        raise ConfigError(f"a text has {ids.shape[1] + more} tokens, the model reads {limit}: give shorter texts")
