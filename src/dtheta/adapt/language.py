"""Causal language models on one's own texts: the next-token loss, and how much lower it is than the unadapted model's.

    loss(text)  = -(1 / (T - 1)) sum_t log p(token t | tokens before t)        in nats a token
    score       = sum over texts of the summed losses / number of predicted tokens, on texts held out
    gain        = the same of the unadapted model, minus the adapted one's: paired, bootstrapped over whole texts

Texts are the unit of the interval, since tokens of one text depend on each other. Shape legend: B texts, T tokens,
V vocabulary, N texts in all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from dtheta.adapt.attach import attach
from dtheta.adapt.recipe import Recipe
from dtheta.adapt.requirements import require_sites
from dtheta.adapt.tasks import LANGUAGE
from dtheta.adapt.training import dropout_as, orthogonality, traced, trained, watch
from dtheta.core.delta import Delta
from dtheta.core.modes import kept_modes
from dtheta.data.corpus import Corpus
from dtheta.errors import ConfigError, FormatError
from dtheta.fit.record import Record
from dtheta.fit.run import Callback
from dtheta.score import Interval, bootstrap

_IGNORED = -100
_EVALUATION_BATCH = 4  # logits of a large vocabulary are the largest tensors of all


class TokenTexts(Dataset[list[int]]):
    """Texts as token ids, cut at ``max_length``; its batches carry their own ids as labels."""

    def __init__(self, texts: Sequence[str], tokenizer: Any, max_length: int) -> None:
        """Tokenize; a text of fewer than two tokens has nothing to predict and is refused.

        Raises:
            ConfigError: If ``max_length`` is below two, or more than the model takes.
            FormatError: If a text has fewer than two tokens.
        """
        limit = min(tokenizer.model_max_length, 10**6)
        if not 2 <= max_length <= limit:
            raise ConfigError(f"max_length={max_length} must lie between 2 and {limit}, the model's")
        self.ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
        self.padding = tokenizer.pad_token_id or 0  # where there is none any id will do: mask and labels hide it
        for text, ids in zip(texts, self.ids, strict=True):
            if len(ids) < 2:
                raise FormatError(
                    f"the text {text[:40]!r} has {len(ids)} tokens; predicting one from another takes two"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> list[int]:
        return self.ids[index]

    def collate(self, items: Sequence[list[int]]) -> dict[str, Tensor]:
        """Return input_ids, attention_mask and labels (B, T), padded on the right."""
        shape = (len(items), max(map(len, items)))
        input_ids, labels = torch.full(shape, self.padding), torch.full(shape, _IGNORED)
        mask = torch.zeros(shape, dtype=torch.int64)
        for row, ids in enumerate(items):
            input_ids[row, : len(ids)] = labels[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


@torch.no_grad()
def text_losses(model: nn.Module, texts: TokenTexts) -> tuple[Tensor, Tensor]:
    """Return, by text, the summed next-token loss in nats (N,) and the number of predicted tokens (N,), float64."""
    device = next(model.parameters()).device
    sums, counts = torch.zeros(len(texts), dtype=torch.float64), torch.zeros(len(texts), dtype=torch.float64)
    order = sorted(range(len(texts)), key=lambda i: len(texts.ids[i]))
    with kept_modes(model):
        for start in range(0, len(order), _EVALUATION_BATCH):
            indices = order[start : start + _EVALUATION_BATCH]
            batch = {k: v.to(device) for k, v in texts.collate([texts[i] for i in indices]).items()}
            logits_BTV = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            target_BT = batch["labels"][:, 1:]
            loss_BT = F.cross_entropy(logits_BTV[:, :-1].float().mT, target_BT, ignore_index=_IGNORED, reduction="none")
            sums[indices] = loss_BT.sum(1).double().cpu()
            counts[indices] = (target_BT != _IGNORED).sum(1).double().cpu()
    return sums, counts


@dataclass(frozen=True)
class AdaptedLanguage:
    """What an adaptation made.

    Attributes:
        delta: Relative to the model; its provenance holds recipe, task and scores.
        record: History of the training.
        score: Loss on the test texts, nats a token.
        baseline: That of the unadapted model.
        gain: By how much ours is lower, paired over the test texts.
        parameters: Weights that trained.
        orthogonality: As in ``Adapted``.
    """

    delta: Delta
    record: Record
    score: Interval
    baseline: Interval
    gain: Interval
    parameters: int
    orthogonality: tuple[tuple[int, float], ...] = ()


def require_language(model: nn.Module, recipe: Recipe) -> None:
    """Raise what training a language model by a recipe would raise, as far as shapes tell; weights are not looked at.

    Raises:
        ConfigError: If the model has no language-modeling head, ``recipe.validate`` is set, the selection takes nothing
            or the rank does not fit.
        UnknownParameter: If the selection names a parameter that the model does not have.
    """
    head: Any = getattr(model, "get_output_embeddings", None)
    if not callable(head) or head() is None:
        raise ConfigError(
            f"texts without labels train a language model, and {type(model).__name__} has no head for one; give the "
            "column of the classes with --label, or take a decoder such as smollm2"
        )
    if recipe.validate:
        raise ConfigError("validate holds out labeled texts; a language model is trained without")
    require_sites(model, recipe.method, recipe.select)


def adapt_language(
    model: nn.Module,
    tokenizer: Any,
    corpus: Corpus,
    recipe: Recipe,
    *,
    model_name: str = "",
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> AdaptedLanguage:
    """Train a causal language model's delta on texts and score it on texts held out.

    Arguments are those of ``adapt_classifier``.

    Raises:
        ConfigError: If the model has no language-modeling head, or ``recipe.validate`` is set.
        NonFinite, UnsupportedLayer, OutputError, FormatError: As ``attach`` and ``fit``.
    """
    require_language(model, recipe)
    train, test = (TokenTexts(texts, tokenizer, recipe.max_length) for texts in (corpus.train, corpus.test))
    before, tokens = text_losses(model, test)
    adapter = attach(model, recipe.method, recipe.select, seed=recipe.seed)
    try:
        parameters = sum(p.numel() for p in adapter.trainable().values())
        distances = orthogonality(adapter)
        with dropout_as(model, recipe.dropout):
            record = trained(
                adapter,
                recipe,
                train,
                batch_size=recipe.batch_size,
                checkpoint=checkpoint,
                resume=resume,
                callbacks=[watch(distances, recipe.steps), *callbacks],
                quiet=quiet,
            )
        after, _ = text_losses(model, test)
        delta = adapter.delta()
    finally:
        adapter.detach()
    loss, base_loss, gain = (_per_token(values, tokens) for values in (after, before, before - after))
    task = {
        "kind": LANGUAGE,
        "model": model_name,
        "data": corpus.name,
        "max_length": recipe.max_length,
        "train": len(train),
        "test": len(test),
        "loss": dataclasses.asdict(loss),
        "baseline": dataclasses.asdict(base_loss),
        "gain": dataclasses.asdict(gain),
    }
    delta = traced(delta, recipe, task)
    return AdaptedLanguage(delta, record, loss, base_loss, gain, parameters, tuple(distances))


def _per_token(sums: Tensor, tokens: Tensor) -> Interval:
    if len(sums) < 2:  # one text has no spread
        value = float(sums.sum() / tokens.sum())
        return Interval(value, value, value, method="one text, no interval")
    return bootstrap([sums, tokens], lambda s, t: s / t, kind="percentile", name="loss")
