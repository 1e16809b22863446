"""Reference fields of a verification: climatology, thresholds, quantiles of the model climate.

    tensor                     (C, *cells), or (C,) for one number a channel; (C, Q, *cells) for Q quantiles
    {channel: tensor}          (*cells), a number or (Q, *cells), for some channels; others are not scored by it
    (start, lead) -> tensor    for what changes with the season or the hour

Where there are no channels, C is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch, did_you_mean
from dtheta.score.ensemble.entries import Lead, Start, place
from dtheta.score.ensemble.source import tensor_of

Reference = Tensor | Mapping[str, Tensor] | Callable[[Start, Lead], Tensor]
ONLY = "field"  # the name of the channel where there are none


class References:
    """Reference fields by name, and which channels have them."""

    def __init__(
        self, references: Mapping[str, Reference], channels: tuple[str, ...] | None, shape: tuple[int, ...]
    ) -> None:
        """Check and keep what does not change with start and lead.

        Raises:
            ConfigError: If a channel is unknown.
            ShapeMismatch: If a field has other cells.
            NonFinite: If a value is NaN or infinite.
        """
        self.channels, self.shape, self.names = channels or (ONLY,), shape, tuple(references)
        self._plain = channels is None
        self._changing = {name: r for name, r in references.items() if callable(r)}
        self._fixed = {name: self._read(name, r) for name, r in references.items() if not callable(r)}

    def at(self, start: Start, lead: Lead) -> dict[str, dict[str, Tensor]]:
        """Return fields by name and channel, (*cells) or (Q, *cells)."""
        where = place(start, lead)
        changing = {name: self._read(name, give(start, lead), where) for name, give in self._changing.items()}
        return {**self._fixed, **changing}

    def channels_with(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """Return the indices of the channels that have all references of these names.

        Raises:
            ConfigError: If a name is unknown.
        """
        for name in names:
            if name not in self.names:
                known = ", ".join(self.names) or "none were given"
                raise ConfigError(f"no reference {name!r}; references: {known}{did_you_mean(name, self.names)}")
        with_all = [c for c in self.channels if all(c in self._fixed.get(name, self.channels) for name in names)]
        return tuple(self.channels.index(c) for c in with_all)

    def digests(self) -> dict[str, Any]:
        """Return what tells references apart, by name; of functions, only that they are."""
        found: dict[str, Any] = dict.fromkeys(self._changing, "changing")
        return found | {name: {c: digest(t) for c, t in fields.items()} for name, fields in self._fixed.items()}

    def _read(self, name: str, reference: Any, where: str = "") -> dict[str, Tensor]:
        what = f"reference {name!r}" + (f" at {where}" if where else "")
        if isinstance(reference, Mapping):
            for channel in reference:
                if channel not in self.channels:
                    raise ConfigError(
                        f"{what}: no channel {channel!r}; channels: {', '.join(self.channels)}"
                        + did_you_mean(channel, self.channels)
                    )
            by_channel = dict(reference)
        elif self._plain:
            by_channel = {ONLY: reference}
        else:
            by_channel = dict(zip(self.channels, self._split(tensor_of(reference), what), strict=True))
        return {c: self._field(tensor_of(t), f"{what}, channel {c!r}") for c, t in by_channel.items()}

    def _split(self, reference: Tensor, what: str) -> list[Tensor]:
        if not reference.ndim or len(reference) != len(self.channels):
            raise ShapeMismatch(
                f"{what} has the shape {tuple(reference.shape)}; expected ({len(self.channels)}, ...), one a channel"
            )
        return list(reference)

    def _field(self, field: Tensor, what: str) -> Tensor:
        if not field.ndim:
            field = field.expand(self.shape)
        count = len(self.shape)
        if field.ndim not in (count, count + 1) or tuple(field.shape[field.ndim - count :]) != self.shape:
            raise ShapeMismatch(
                f"{what} has the shape {tuple(field.shape)}; expected {self.shape}, or quantiles first and then these"
            )
        if not bool(torch.isfinite(field).all()):
            raise NonFinite(f"{what}: {int((~torch.isfinite(field)).sum())} of {field.numel()} are NaN or infinite")
        return field


def digest(tensor: Tensor) -> str:
    """Return a short name of a tensor's content, shape and dtype."""
    found = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)} ".encode(), digest_size=8)
    found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
