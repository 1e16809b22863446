"""PromptBank: many prompts on one model, of which each row of a batch has its own.

    y_i = f([P_e(i) ; x_i + offsets of e(i)])

Prompts may differ in length and in method; they are gathered at every call and never trained here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn

from dtheta.adapt.prompts.bundle import Bundle, Prompt
from dtheta.adapt.prompts.family import family
from dtheta.adapt.prompts.forward import PromptForward
from dtheta.adapt.prompts.names import INPUT, is_offset
from dtheta.adapt.prompts.rows import RowBundle, always
from dtheta.adapt.prompts.sources import restored
from dtheta.adapt.prompts.wiring import put_on, require_entry, require_fit, take_off
from dtheta.adapt.term import Term
from dtheta.core.apply import bind, originals
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.tensors import all_finite
from dtheta.errors import ConfigError, NonFinite, UnknownParameter, UnsupportedLayer, did_you_mean


class PromptBank:
    """Prompts by name, and a model whose rows may each have one.

        bank = PromptBank(model, {"news": news, "tweets": "tweets.delta"})
        with bank.batched(["news", "tweets", None]):
            model(**batch)

    Every row comes out as if its prompt were attached and it ran alone, in ``generate`` too; a row without one, as the
    base runs it without padding. Nothing is on the model outside of a block.

    Attributes:
        model: The base of all prompts.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Mapping[str, Delta | str | os.PathLike[str]] | None = None,
        *,
        strict: bool = True,
    ) -> None:
        """Make a bank.

        Args:
            model: A text model of transformers, or a module that holds one.
            prompts: To begin with; see ``add``.
            strict: Whether prompts must have been made on this very base.

        Raises:
            UnsupportedLayer: If the model is no text model that a prompt can enter.
            DthetaError: Otherwise as ``add``.
        """
        self.model = model
        self._family = family(model)
        require_entry(self._family)
        self._strict = strict
        self._deltas: dict[str, Delta] = {}
        self._terms: dict[str, dict[str, Term]] = {}
        for name, source in (prompts or {}).items():
            self.add(name, source)

    def add(self, name: str, source: Delta | str | os.PathLike[str]) -> None:
        """Add a prompt.

        Args:
            name: By which rows ask for it.
            source: Its delta, or the ``.delta`` file that holds it.

        Raises:
            ConfigError: If the name is taken or empty.
            BaseMismatch: If it was made on another base.
            ShapeMismatch: If it does not fit the model.
            UnsupportedLayer: If it is more than virtual tokens and offsets of the input.
            NonFinite: If it holds NaN or infinity.
            FormatError: If the file is damaged.
        """
        if not isinstance(name, str) or not name or name in self._deltas:
            raise ConfigError(f"a prompt needs a name of its own in the bank, found {name!r}; it has {list(self)}")
        delta = source if isinstance(source, Delta) else load(source)
        _require_input(name, delta)
        if self._strict:
            delta.base.check(originals(self.model))
        terms = {key: restored(change) for key, change in bind(delta, self.model, strict=self._strict).new.items()}
        if not all(all_finite(p) for term in terms.values() for p in term.parameters()):
            raise NonFinite(f"prompt {name!r} holds NaN or infinity, from a training that diverged or a damaged file")
        require_fit(self._family, terms)
        for term in terms.values():
            term.requires_grad_(False)
        self._deltas[name], self._terms[name] = delta, terms

    def remove(self, name: str) -> None:
        """Forget a prompt; its file stays.

        Raises:
            UnknownParameter: If there is none.
        """
        self._require([name])
        del self._deltas[name], self._terms[name]

    def __getitem__(self, name: str) -> Delta:
        """Return a prompt's delta."""
        self._require([name])
        return self._deltas[name]

    def __contains__(self, name: object) -> bool:
        return name in self._deltas

    def __iter__(self) -> Iterator[str]:
        return iter(self._deltas)

    def __len__(self) -> int:
        return len(self._deltas)

    @contextmanager
    def batched(self, prompts: Sequence[str | None] | str) -> Iterator[nn.Module]:
        """Run a block in which row i of every batch has its own prompt.

        Args:
            prompts: One name a row; None for no prompt. One name alone stands for all rows of any batch.

        Raises:
            UnknownParameter: If there is no such prompt.
            ConfigError: If no row is named, or a prompt is attached to the model already; in the block, for a batch of
                another number of rows, and for a prompt that is attached.
        """
        names = [prompts] if isinstance(prompts, str) else list(prompts)
        self._require(names)
        if isinstance(self._family.core.__dict__.get("forward"), PromptForward):
            raise ConfigError("a prompt is on this model already: detach it, or leave the block that put it there")
        for name in {name for name in names if name is not None}:
            for term in self._terms[name].values():
                term.to(self._family.embedding.weight.device)  # type: ignore[arg-type]
        one = isinstance(prompts, str)
        bundle = Bundle([Prompt(self._terms[prompts], always)], shut=True) if one else RowBundle(names, self._terms)
        put_on(self._family, bundle)
        try:
            yield self.model
        finally:
            take_off(self._family)

    def _require(self, names: Sequence[str | None]) -> None:
        if not names:
            raise ConfigError("no row is named; expected the name of a prompt, or None, for each row of the batch")
        for name in names:
            if name is not None and name not in self._deltas:
                raise UnknownParameter(f"the bank has no prompt {name!r}{did_you_mean(str(name), list(self))}")

    def __repr__(self) -> str:
        return f"PromptBank({type(self.model).__name__}, {len(self)} prompts)"


def _require_input(name: str, delta: Delta) -> None:
    """Raise unless a delta is a prompt at the input of a model, and nothing else."""
    other = next((key for key in delta if not (key == INPUT or is_offset(key))), None)
    if other is not None or not len(delta):
        raise UnsupportedLayer(
            f"prompt {name!r} holds {other or 'nothing'}, and rows have their own virtual tokens and offsets only; "
            "take delta.restrict('prompt.*'), or attach the delta to the whole model"
        )
