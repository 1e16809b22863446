"""The error tree: every failure that dtheta raises on purpose.

    DthetaError                     exit code 1
    |-- BaseMismatch                exit code 3   the delta belongs to another base
    |-- ShapeMismatch                             two tensors that must agree do not
    |-- UnknownParameter                          a name that the model does not have
    |-- UnsupportedLayer                          a layer or dtype that a method cannot move
    |-- FormatError                               a file is damaged, edited, or not ours
    |-- ConfigError                 exit code 2   an option or argument that cannot be meant
    |-- MissingExtra                              an optional dependency is not installed
    |-- NotConverged                              an iteration stopped short of its accuracy
    |-- FederationFailed                          too few clients answered, round after round
    |-- MembersMissing                            members of an ensemble were not computed: a worker was lost
    |-- NonFinite                                 NaN or infinity where a number is needed
    `-- OutputError                               a result could not be written

A message says what is wrong, where, what was expected and found, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DthetaError(Exception):
    """Root of every error that dtheta raises on purpose."""

    exit_code: int = 1


class BaseMismatch(DthetaError):
    """A delta meets a base other than the one it was made for."""

    exit_code = 3


class ShapeMismatch(DthetaError):
    """Two tensors that must have the same shape do not."""


class UnknownParameter(DthetaError):
    """A parameter name that the model, or the delta, does not have."""


class UnsupportedLayer(DthetaError):
    """A layer, parameter or dtype that the method cannot move."""


class FormatError(DthetaError):
    """A file is damaged, was edited, or is not in a format that dtheta reads."""


class ConfigError(DthetaError):
    """An option or argument that cannot be meant."""

    exit_code = 2


class MissingExtra(DthetaError):
    """An optional dependency is needed and not installed."""


class NotConverged(DthetaError):
    """An iteration ended before it reached the accuracy that was asked for."""


class FederationFailed(DthetaError):
    """Rounds of a federation had too few answers, one after the other."""


class MembersMissing(DthetaError):
    """Some members of an ensemble were not computed, because the process that had them was lost."""


class NonFinite(DthetaError):
    """A tensor holds NaN or infinity where numbers are needed."""


class OutputError(DthetaError):
    """A result could not be written; nothing half-written is left behind."""


class DthetaWarning(UserWarning):
    """A warning of ours: something the user may want to know that changes no result."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``'; did you mean ...?'`` for the nearest known names, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
