"""The codecs by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dtheta.federate.codecs.amplitude import Amplitude
from dtheta.federate.codecs.codec import Codec
from dtheta.federate.codecs.dense import Dense
from dtheta.federate.codecs.exact import Exact
from dtheta.federate.codecs.low_rank import LowRank
from dtheta.federate.codecs.sign import Sign
from dtheta.federate.codecs.ternary import Ternary
from dtheta.federate.codecs.top_k import TopK
from dtheta.federate.named import built, table_of

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
    return built(table_of(value, "codec"), CODECS, "codec")
