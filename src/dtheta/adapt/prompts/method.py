"""What the methods of prompts share: their vectors are named, and none of the model's parameters is moved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dtheta.adapt.method import Method, working_dtype
from dtheta.adapt.prompts.family import Family, family, require_room
from dtheta.adapt.prompts.names import is_offset
from dtheta.adapt.prompts.wiring import require_fit
from dtheta.adapt.term import Term
from dtheta.core.seeds import generator, normal, permutation
from dtheta.errors import ConfigError, UnsupportedLayer

if TYPE_CHECKING:
    from dtheta.adapt.adapter import Adapter

Init = Literal["vocabulary", "text", "normal"]


class PromptMethod(Method):
    """A method whose vectors stand beside the input of a text model."""

    new_vectors: ClassVar[bool] = True

    def require(self, model: nn.Module, select: str | None = None) -> None:
        """Raise unless a prompt of this method can enter a model.

        Raises:
            UnsupportedLayer: If the model is no text model that it can enter.
            ShapeMismatch: If it leaves no position for a text.
        """
        self.check(family(model))

    def check(self, found: Family) -> None:
        """Raise unless the method has a place in a family, and virtual tokens leave positions for a text."""
        length: Any = getattr(self, "length", 0)
        require_room(found, length)

    def grafts(self, model: nn.Module, seed: int, select: str | None = None) -> dict[str, Term]:
        """Return the vectors at their start, by name.

        Raises:
            UnsupportedLayer: If the model is no text model that a prompt can enter.
            ShapeMismatch: If they leave no position for a text.
        """
        found = family(model)
        self.check(found)
        if found.embedding.weight.is_meta:  # type: ignore[union-attr]
            raise UnsupportedLayer("the input embedding is on the meta device and has no data; load it first")
        with torch.no_grad():
            made = self.vectors(found, seed)
        require_fit(found, made)
        return made

    def vectors(self, found: Family, seed: int) -> dict[str, Term]:
        """Return the vectors of one family at their start, by name."""
        raise NotImplementedError


def check_counts(method: Method, **least: int) -> None:
    """Raise unless fields of a method are at least these numbers.

    Raises:
        ConfigError: Naming the field.
    """
    for name, smallest in least.items():
        value: Any = getattr(method, name)
        if value is not None and value < smallest:
            raise ConfigError(f"{method.name}: {name}={value} must be at least {smallest}")


def check_rates(method: Method, *names: str) -> None:
    """Raise unless fields of a method are None or positive numbers.

    Raises:
        ConfigError: Naming the field.
    """
    for name in names:
        value: Any = getattr(method, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{method.name}: {name} must be a positive number, found {value}")


def two_rates(adapter: Adapter, lr: float, offset_lr: float | None) -> list[dict[str, Any]]:
    """Return optimizer groups: what displaces embeddings at ``offset_lr`` (``lr`` if None), all else at ``lr``."""
    offsets = [adapter.term(name) for name in adapter.grafts if is_offset(name)]
    mine = [p for term in offsets for p in term.parameters()]
    own = {id(p) for p in mine}
    rest = [p for p in adapter.trainable().values() if id(p) not in own]
    rate = lr if offset_lr is None else offset_lr
    groups = [{"params": rest, "lr": lr, "name": "prompt"}, {"params": mine, "lr": rate, "name": "offset"}]
    return [group for group in groups if group["params"]]


def start(found: Family, length: int, init: Init, ids: tuple[int, ...] | None, seed: int, key: str) -> Tensor:
    """Return virtual tokens (m, d) to start from.

    Args:
        found: The model's family.
        length: m.
        init: Embeddings of tokens drawn without repetition ("vocabulary"), of ``ids`` over and over ("text"), or normal
            numbers as large as embeddings are ("normal").
        ids: Token ids of a text.
        seed: Of the draw.
        key: Name of the draw.

    Raises:
        ConfigError: If ids are missing, not wanted, or not in the vocabulary.
    """
    weight: Tensor = found.embedding.weight  # type: ignore[assignment]
    rows, drawn = weight.shape[0], generator(seed, f"{key}/prompt.input")
    if (init == "text") != (ids is not None):
        raise ConfigError("ids are the token ids of a text, tokenizer(text)['input_ids'], and go with init='text'")
    if init == "normal":
        values = normal((length, weight.shape[1]), 1.0, drawn) * rms(weight)
    else:
        if ids is None:
            picks = permutation(rows, drawn)
            chosen = picks[torch.arange(length, device="cpu") % rows]
        else:
            chosen = torch.tensor(ids)[torch.arange(length) % len(ids)] if ids else torch.empty(0, dtype=torch.long)
        if length and (not chosen.numel() or int(chosen.min()) < 0 or int(chosen.max()) >= rows):
            raise ConfigError(f"ids must be token ids below {rows}, at least one; found {ids!r:.80}")
        values = found.embedding(chosen.to(weight.device)).detach().cpu()
    return values.to(working_dtype(weight)).contiguous()


def rms(weight: Tensor) -> float:
    """Return the root of the mean square of an embedding's entries, over at most 4096 rows."""
    step = max(1, weight.shape[0] // 4096)
    return float(weight[::step].float().square().mean().sqrt())
