"""Class names as token ids: put into templates, tokenized, padded on the right, checked against the text tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.models.image_text import ImageText

SLOT = "{}"  # where the name goes in a template


def class_prompts(
    tower: ImageText, tokenizer: Any, classes: Sequence[str], templates: Sequence[str]
) -> tuple[Int[Tensor, "P T"], Int[Tensor, "P T"]]:
    """Return ids and mask of every class in every template, all templates of the first class first.

    Args:
        tower: says how long a text may be and how it must be padded.
        tokenizer: a transformers tokenizer, or a function from texts to ids as open_clip's are.
        classes: names, used as they are.
        templates: texts that hold ``{}`` once.

    Raises:
        ConfigError: an empty name, a template without ``{}``, a text that is too long or lacks the token at which the
            tower pools, two classes whose texts have the same tokens, or a tokenizer without padding.
    """
    _check(classes, templates)
    texts = [template.replace(SLOT, name) for name in classes for template in templates]
    ids_PT, mask_PT = _tokenized(tower, tokenizer, texts)
    _check_length(tower, texts, mask_PT)
    _check_pooled(tower, texts, ids_PT)
    _check_apart(classes, ids_PT)
    return ids_PT, mask_PT


def _check(classes: Sequence[str], templates: Sequence[str]) -> None:
    if empty := [i for i, name in enumerate(classes) if not name.strip()]:
        raise ConfigError(f"the name of class {empty[0]} is empty; a class needs a name that says what is in the image")
    if not templates:
        raise ConfigError(f"expected at least one template, such as 'a photo of a {SLOT}.'")
    for template in templates:
        if template.count(SLOT) != 1:
            raise ConfigError(f"a template must hold {SLOT!r} once, where the class name goes, got {template!r}")


def _tokenized(tower: ImageText, tokenizer: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    if not hasattr(tokenizer, "convert_tokens_to_ids"):  # open_clip's: a tensor of ids, padded with 0, cut to length
        ids_PT = torch.as_tensor(tokenizer(texts))
        return ids_PT, (ids_PT != 0).long()
    if tokenizer.pad_token is None:
        raise ConfigError("the tokenizer has no padding token; set tokenizer.pad_token, for CLIP to its end token")
    fixed = {"padding": "max_length", "max_length": tower.positions} if tower.fixed_length else {"padding": True}
    batch = tokenizer(
        texts, truncation=False, padding_side="right", return_attention_mask=True, return_tensors="pt", verbose=False,
        **fixed,
    )  # fmt: skip
    return batch["input_ids"], batch["attention_mask"]


def _check_length(tower: ImageText, texts: list[str], mask_PT: Tensor) -> None:
    longest = int(mask_PT.sum(1).argmax())
    if tower.positions is not None and mask_PT.shape[1] > tower.positions:
        raise ConfigError(
            f"the text {texts[longest]!r} has {int(mask_PT[longest].sum())} tokens, more than the "
            f"{tower.positions} that the model's text tower takes; shorten the class name or the template"
        )


def _check_pooled(tower: ImageText, texts: list[str], ids_PT: Tensor) -> None:
    """A text without the end token would be pooled at its start, where all texts are the same."""
    if tower.pooled_token is None:
        return
    without = (ids_PT != tower.pooled_token).all(1).nonzero()
    if len(without):
        raise ConfigError(
            f"the text {texts[int(without[0, 0])]!r} was tokenized without the end token {tower.pooled_token} at which "
            "the model's text tower pools; is it the tokenizer of this model?"
        )


def _check_apart(classes: Sequence[str], ids_PT: Tensor) -> None:
    """Two names that differ only in case, spaces or unknown characters can be the same text to a tokenizer."""
    first: dict[tuple[int, ...], str] = {}
    for name, ids in zip(classes, ids_PT.reshape(len(classes), -1).tolist(), strict=True):
        if (known := first.setdefault(tuple(ids), name)) != name:
            raise ConfigError(
                f"the classes {known!r} and {name!r} are the same text to the model's tokenizer, so it could never "
                "tell them apart; give them names in words that it knows"
            )
