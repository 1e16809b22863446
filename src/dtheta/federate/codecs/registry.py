"""The codecs by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dtheta.errors import ConfigError, did_you_mean
from dtheta.federate.codecs.amplitude import Amplitude
from dtheta.federate.codecs.codec import Codec
from dtheta.federate.codecs.dense import Dense
from dtheta.federate.codecs.exact import Exact
from dtheta.federate.codecs.low_rank import LowRank
from dtheta.federate.codecs.sign import Sign
from dtheta.federate.codecs.ternary import Ternary
from dtheta.federate.codecs.top_k import TopK

CODECS: dict[str, type[Codec]] = {
    codec.name: codec for codec in (Dense, Exact, Ternary, TopK, Sign, LowRank, Amplitude)
}


def codec_of(value: str | Mapping[str, Any] | Codec) -> Codec:
    """Return a codec.

    Args:
        value: A codec, a name such as "ternary", or a table such as ``{"name": "ternary", "density": 0.02}``.

    Raises:
        ConfigError: For an unknown name or field, or a value that a field cannot have.
    """
    if isinstance(value, Codec):
        return value
    fields = {"name": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str):
        raise ConfigError(f"{value!r:.80} is no codec; expected a name such as 'ternary', or a table with a name")
    name = fields["name"]
    if name not in CODECS:
        raise ConfigError(f"no codec is called {name!r}{did_you_mean(name, CODECS)}; there are {', '.join(CODECS)}")
    known = [field.name for field in dataclasses.fields(CODECS[name])]  # type: ignore[arg-type]  # all are dataclasses
    settings = {key: setting for key, setting in fields.items() if key != "name"}
    for key in settings:
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"the codec {name!r} has no field {key!r}{did_you_mean(str(key), known)}; {has}")
    return CODECS[name](**settings)
