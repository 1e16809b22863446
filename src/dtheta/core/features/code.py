"""Random features as a part of a name in a delta: the function, and every field that is not as it mostly is.

    relu,count=128     gelu,count=64,seed=3,projection=orthogonal

The number of inputs is that of the place where they stand.
"""

from __future__ import annotations

import ast
from dataclasses import fields

from dtheta.core.features.random_features import RandomFeatures
from dtheta.errors import ConfigError, FormatError

_TOLD = ("function", "inputs")


def code_of(features: RandomFeatures) -> str:
    """Return the code of random features."""
    usual = RandomFeatures(features.function, features.inputs, 1)
    told = [f.name for f in fields(features) if f.name not in _TOLD]
    values = {name: getattr(features, name) for name in told if getattr(features, name) != getattr(usual, name)}
    return ",".join([features.function, *(f"{name}={value}" for name, value in values.items())])


def features_from(code: str, inputs: int) -> RandomFeatures:
    """Return the random features of a code.

    Raises:
        FormatError: If it is none.
    """
    function, *told = code.split(",")
    known = {f.name: f.type for f in fields(RandomFeatures) if f.name not in _TOLD}
    values = {}
    try:
        for text in told:
            name, _, value = text.partition("=")
            values[name] = value if str(known[name]) == "str" else ast.literal_eval(value)
        return RandomFeatures(function, inputs, **{"count": 1, **values})
    except (KeyError, ValueError, SyntaxError, TypeError, ConfigError):
        raise FormatError(
            f"{code!r} names no random features; expected a function and fields, as in 'relu,count=16,seed=3'"
        ) from None
