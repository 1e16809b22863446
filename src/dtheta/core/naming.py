"""Errors that say what they are about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dtheta.errors import DthetaError

T = TypeVar("T")


def naming(what: str, function: Callable[[], T]) -> T:
    """Return ``function()``; errors of ours say what they are about, such as a parameter's name, before the rest."""
    try:
        return function()
    except DthetaError as error:
        raise type(error)(f"{what}: {error}") from None
