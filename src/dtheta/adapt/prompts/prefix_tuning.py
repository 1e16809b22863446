"""Prefix tuning: keys and values before the text, in the cache of every layer of a decoder.

    attention(q, [K_P ; K], [V_P ; V])      K_P, V_P (n, H * D) by layer

Li and Liang 2021, arXiv 2101.00190, without the reparametrization. The entries start as the keys and values that the
model itself makes of n tokens of its vocabulary, so that they are as large as those beside which they stand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dtheta.adapt.method import working_dtype
from dtheta.adapt.prompts.family import Family
from dtheta.adapt.prompts.forward import CACHES, parameters
from dtheta.adapt.prompts.method import PromptMethod, check_counts
from dtheta.adapt.prompts.names import prefix_name
from dtheta.adapt.prompts.prefix import shape_of
from dtheta.adapt.prompts.sources import Vectors
from dtheta.adapt.term import Term
from dtheta.core.modes import kept_modes
from dtheta.core.seeds import generator, permutation
from dtheta.errors import UnsupportedLayer


@dataclass(frozen=True)
class PrefixTuning(PromptMethod):
    """Prefix tuning, for decoders and caches that grow.

    Attributes:
        length: n, entries in every layer.
    """

    length: int = 20

    summary: ClassVar[str] = "keys and values before the text in every layer (decoders)"
    paper: ClassVar[str] = "2101.00190"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, length=1)

    def check(self, found: Family) -> None:
        """Raise unless the model is a decoder that keeps all keys and values."""
        shape_of(found)
        super().check(found)

    def vectors(self, found: Family, seed: int) -> dict[str, Term]:
        """Return a key and a value for every layer.

        Raises:
            UnsupportedLayer: If the model keeps others than its configuration says.
        """
        layers, heads, width = shape_of(found)
        weight: Tensor = found.embedding.weight  # type: ignore[assignment]
        ids = permutation(weight.shape[0], generator(seed, "PrefixTuning/tokens"))
        made = _entries(found, ids[torch.arange(self.length, device="cpu") % len(ids)].to(weight.device))
        if any(tuple(entry.shape) != (1, heads, self.length, width) for pair in made for entry in pair):
            raise UnsupportedLayer(
                f"{type(found.outer).__name__} keeps keys and values {tuple(made[0][0].shape)} of {self.length} "
                f"tokens, and its configuration says {heads} heads of {width}; use PromptTuning"
            )
        terms: dict[str, Term] = {}
        for layer, pair in enumerate(made):
            for part, entry in zip(("key", "value"), pair, strict=True):
                values = entry[0].transpose(0, 1).reshape(self.length, heads * width)
                terms[prefix_name(layer, part)] = Vectors(values.to("cpu", working_dtype(weight)).contiguous())
        assert len(made) == layers
        return terms


def _entries(found: Family, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the keys and values (1, H, n, D) that a model makes of tokens, by layer."""
    from transformers import DynamicCache

    cache, plain = DynamicCache(config=found.config), type(found.core).forward  # past prompts that are attached already
    name = next(name for name in CACHES if name in parameters(type(found.core)))
    with kept_modes(found.core):
        plain(found.core, inputs_embeds=found.embedding(ids[None]), use_cache=True, **{name: cache})
    layers: list[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]
