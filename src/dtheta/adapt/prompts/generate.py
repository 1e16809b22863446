"""``generate`` with a prompt: the text is widened once, and transformers does the rest.

So caches of a fixed size have the right size, beams are copies of the widened text, and what comes back is what the
plain model's ``generate`` gives back: the ids that went in, and the new ones.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.adapt.prompts.decoder import DecoderForward, cache_length
from dtheta.adapt.prompts.forward import CACHES
from dtheta.errors import ConfigError


class PromptGenerate:
    """The ``generate`` of a decoder with prompts, set on the instance."""

    is_dtheta_term = True

    def __init__(self, model: nn.Module, forward: DecoderForward, inner: Callable[..., Any] | None) -> None:
        self.model = model
        self.forward = forward
        self.inner = inner
        self.__signature__ = inspect.signature(type(model).generate.__get__(model))  # type: ignore[union-attr]

    def __call__(self, inputs: Tensor | None = None, generation_config: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return what the plain model would, its prompts at work."""
        bundle = self.forward.bundle
        if bundle.prefixed and any(cache_length(kwargs.get(name)) for name in CACHES):
            raise ConfigError(
                "generate with a prefix starts from an empty cache: transformers counts its entries as tokens of the "
                "text; give the whole text without a cache"
            )
        if not any(name.startswith("prompt.") for _, name, _ in bundle.active()):
            return self._plain(inputs, generation_config, *args, **kwargs)
        ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
        config = generation_config if generation_config is not None else self.model.generation_config
        text = {"input_ids": ids, "inputs_embeds": kwargs.pop("inputs_embeds", None)}
        if text["inputs_embeds"] is not None:
            text["input_ids"] = None  # as transformers has it: the embeddings are read, the ids are given back
        if all(value is None for value in text.values()):
            raise ConfigError("generate with a prompt needs a text: input_ids or inputs_embeds")
        _require_embeddings(self.model)
        _require_possible(config, kwargs)
        mask = kwargs.pop("attention_mask", None)
        text["attention_mask"] = _mask(ids, config, kwargs) if mask is None and ids is not None else mask
        columns = next(value for value in text.values() if value is not None).shape[1]
        lengths = _lengths(columns, config, kwargs)
        with torch.no_grad():
            embeds, mask = self.forward.enlarged(text)
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        given = {"inputs_embeds": embeds, "attention_mask": mask, **kwargs, **lengths}
        with self.forward.widening_outside():
            if ids is not None:
                given["input_ids"] = ids
            return self._plain(None, _unbounded(generation_config, lengths), *args, **given)

    def _plain(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs) if self.inner else type(self.model).generate(self.model, *args, **kwargs)  # type: ignore[operator]


#: Options of ``generate`` that read ids alone, or count tokens of the cache by them: virtual tokens have no ids.
_BY_IDS = ("assistant_model", "prompt_lookup_num_tokens", "prefill_chunk_size", "assistant_early_exit")


def _require_embeddings(model: nn.Module) -> None:
    """Raise for a model whose ``generate`` goes by ids alone."""
    prepare: Any = model.prepare_inputs_for_generation
    if "inputs_embeds" not in inspect.signature(prepare).parameters:
        raise ConfigError(
            f"generate of {type(model).__name__} takes no embeddings, by which virtual tokens enter; take tokens by "
            "model(ids).logits[:, -1] in a loop of your own"
        )


def _require_possible(config: Any, given: dict[str, Any]) -> None:
    """Raise for options under which a prompt would be left out or miscounted."""
    if given.get("position_ids") is not None:
        raise ConfigError("generate with a prompt finds positions by attention_mask; leave position_ids out")
    for name in _BY_IDS:
        if given.get(name, getattr(config, name, None)) is not None:
            raise ConfigError(f"generate with a prompt cannot have {name}, which goes by ids; virtual tokens have none")


def _mask(ids: Tensor, config: Any, given: dict[str, Any]) -> Tensor | None:
    """Return the mask that transformers would infer: padding where it can be told from the end of a text."""
    pad = given.get("pad_token_id", getattr(config, "pad_token_id", None))
    end = given.get("eos_token_id", getattr(config, "eos_token_id", None))
    ends = [] if end is None else end if isinstance(end, (list, tuple)) else [end]
    if pad is None or pad in ends or not bool((ids == pad).any()):
        return None
    return (ids != pad).long()


def _lengths(columns: int, config: Any, given: dict[str, Any]) -> dict[str, int]:
    """Take bounds of the whole length, which count a text's ids and no virtual tokens, as bounds of what is new."""
    found: dict[str, int] = {}
    for kind in ("max", "min"):
        whole = given.pop(f"{kind}_length", getattr(config, f"{kind}_length", None))
        fresh = given.get(f"{kind}_new_tokens", getattr(config, f"{kind}_new_tokens", None))
        if fresh is not None or not whole or (kind == "max" and whole == 20 and config is None):
            continue
        if kind == "max" and whole <= columns:
            raise ConfigError(f"max_length={whole} leaves nothing to generate after a text of {columns} tokens")
        if whole > columns:
            found[f"{kind}_new_tokens"] = whole - columns
    return found


def _unbounded(config: Any, lengths: dict[str, int]) -> Any:
    """Return a configuration whose bounds of the whole length are those of what is new."""
    if config is None or not lengths:
        return config
    config = copy.deepcopy(config)
    for name in lengths:
        setattr(config, name.replace("new_tokens", "length"), None if name.startswith("max") else 0)
    return config
