"""A text classifier: an encoder, a pooled vector a text, and a linear head that starts at zero.

    h_BTE = encoder(input_ids, attention_mask)
    pooled_BE = sum_t mask_BT h_BTE / sum_t mask_BT       "mean", for encoders
              = h_BE at the last real token               "last", for decoders, where only it has seen the whole text
    logits_BC = pooled_BE W_CE^T + b_C,   W = 0, b = 0

The zero head makes the untrained classifier a function of the encoder alone: no random draw is in the base, so its
fingerprint depends on nothing but the pretrained weights and the number of classes.

Shape legend: B texts, T tokens, E hidden features, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dtheta.errors import ConfigError

Pooling = Literal["mean", "last"]


class Prediction(NamedTuple):
    """What a classifier returns: ``loss``, a scalar or None where no labels were given, and ``logits`` (B, C)."""

    loss: Tensor | None
    logits: Tensor


class Classifier(nn.Module):
    """Encoder, pooling and a zero-initialized linear head; parameters are named ``encoder.*`` and ``head.*``."""

    def __init__(self, encoder: nn.Module, classes: Sequence[str], pooling: Pooling) -> None:
        """Build on ``encoder``, a model that returns ``last_hidden_state`` and has ``config.hidden_size``."""
        super().__init__()
        self.encoder = encoder
        self.classes = tuple(classes)
        self.pooling = pooling
        self.head = _zero_head(_hidden_size(encoder), len(self.classes), next(encoder.parameters()))

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Int[Tensor, "B T"] | None = None,
        labels: Int[Tensor, " B"] | None = None,
        inputs_embeds: Float[Tensor, "B T E"] | None = None,
    ) -> Prediction:
        """Return the logits, and the mean cross-entropy where ``labels`` (class ids) are given.

        Args:
            input_ids: token ids; or give ``inputs_embeds`` instead.
            attention_mask: 1 at real tokens, 0 at padding; None means no padding.
            labels: class ids in ``range(len(classes))``.
            inputs_embeds: token embeddings in place of ids, as prompt methods make them.
        """
        given = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        hidden_BTE = self.encoder(**given, attention_mask=attention_mask).last_hidden_state
        mask_BT = hidden_BTE.new_ones(hidden_BTE.shape[:2]) if attention_mask is None else attention_mask
        logits_BC = self.head(_POOL[self.pooling](hidden_BTE, mask_BT).to(self.head.weight.dtype))
        return Prediction(None if labels is None else class_loss(logits_BC, labels), logits_BC)


def classifier(model: nn.Module, classes: int | Sequence[str], pooling: Pooling | None = None) -> Classifier:
    """Return a text classifier on a pretrained model; the model's own modules are used, not copied.

    Args:
        model: a transformers encoder or decoder; of a model with a head of its own (a causal language model, say) the
            part below that head is used.
        classes: how many, or their names.
        pooling: "mean" over real tokens, "last" real token, or None: "last" for decoders, "mean" for all others.

    Raises:
        ConfigError: fewer than two classes, names given twice, an unknown pooling, or a model without hidden size.
    """
    names = class_names(range(classes) if isinstance(classes, int) else classes)
    if pooling is not None and pooling not in _POOL:
        raise ConfigError(f"pooling must be one of {', '.join(_POOL)} or None, got {pooling!r}")
    encoder = getattr(model, "base_model", model)  # transformers: the part below the head, or the model itself
    return Classifier(encoder, names, pooling or _natural_pooling(encoder)).train(model.training)


def class_loss(logits_BC: Float[Tensor, "B C"], labels: Tensor) -> Float[Tensor, ""]:
    """Return the mean cross-entropy against class ids (B,); -100 leaves a row out.

    Raises:
        ConfigError: labels that are no tensor of class ids, or a class that the logits have not; an accelerator is not
            waited for, so there the last ends as torch ends it.
    """
    if not isinstance(labels, Tensor) or labels.dtype == torch.bool:
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise ConfigError(f"labels must be a tensor of class ids, whole numbers from 0 on, found {kind}")
    try:
        return nn.functional.cross_entropy(logits_BC.float(), labels)
    except IndexError as error:
        raise ConfigError(
            f"labels go from {int(labels.min())} to {int(labels.max())}, and there are {logits_BC.shape[-1]} classes, "
            f"0 to {logits_BC.shape[-1] - 1}; name every class where the classifier is made, and count labels from 0"
        ) from error


def class_names(classes: Iterable[Any]) -> tuple[str, ...]:
    """Return classes as strings.

    Raises:
        ConfigError: fewer than two, or two that are called the same.
    """
    names = tuple(map(str, classes))
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"classes must be at least two different ones, got {list(names)}")
    return names


def masked_mean(hidden_BTE: Float[Tensor, "B T E"], mask_BT: Tensor) -> Float[Tensor, "B E"]:
    """Return the mean over real tokens, in float32 or wider: a narrow dtype loses the mean of a long text."""
    wide = torch.promote_types(hidden_BTE.dtype, torch.float32)
    weight_BT1 = mask_BT.unsqueeze(-1).to(wide)
    return (hidden_BTE.to(wide) * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1)


def _last(hidden_BTE: Tensor, mask_BT: Tensor) -> Tensor:
    position_T = torch.arange(hidden_BTE.shape[1], device=hidden_BTE.device)
    last_B = (position_T * mask_BT.long()).argmax(1)  # whichever side the padding is on
    return hidden_BTE[torch.arange(len(hidden_BTE), device=hidden_BTE.device), last_B]


_POOL = {"mean": masked_mean, "last": _last}


def _zero_head(hidden: int, classes: int, like: Tensor) -> nn.Linear:
    """A linear layer of zeros on ``like``'s device and dtype; made on meta, where no random draw is made."""
    head = nn.Linear(hidden, classes, device="meta", dtype=like.dtype).to_empty(device=like.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _hidden_size(encoder: nn.Module) -> int:
    size: Any = getattr(getattr(encoder, "config", None), "hidden_size", None)
    if not isinstance(size, int):
        raise ConfigError(f"{type(encoder).__name__} has no config.hidden_size, so a classifier cannot size its head")
    return size


def _natural_pooling(encoder: nn.Module) -> Pooling:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = getattr(getattr(encoder, "config", None), "model_type", None)
    return (
        "last"
        if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        else "mean"
    )
