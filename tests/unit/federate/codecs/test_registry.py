"""Codecs by name."""

from __future__ import annotations

import numpy as np
import pytest

from dtheta.errors import ConfigError
from dtheta.federate.codecs import Dense, LowRank, Ternary, codec_of
from dtheta.federate.codecs.registry import CODECS as KNOWN
from tests.unit.federate.codecs.examples import CODECS


def test_names_tables_and_codecs():
    assert codec_of("ternary") == Ternary() and codec_of({"name": "ternary", "density": 0.02}) == Ternary(0.02)
    assert codec_of({"name": "low-rank", "rank": np.int64(3)}) == LowRank(3)
    codec = Dense("float16")
    assert codec_of(codec) is codec


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_codec_is_its_table(codec):
    assert codec_of(codec.to_dict()) == codec and codec.to_dict()["name"] in KNOWN


def test_codes_are_apart():
    codes = {codec.code for codec in KNOWN.values()}
    assert len(codes) == len(KNOWN) and all(code % 16 == 0 and 0 < code < 256 for code in codes)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ternery", "no codec is called 'ternery'; did you mean 'ternary'"),
        ({"density": 0.1}, "is no codec"),
        ({"name": 3}, "is no codec"),
        (7, "is no codec"),
        ({"name": "ternary", "densty": 0.1}, "no field 'densty'; did you mean 'density'"),
        ({"name": "sign", "scale": 1}, "no field 'scale'; it has none"),
        ({"name": "ternary", "density": "all"}, "density must be float"),
    ],
)
def test_what_is_no_codec_is_refused(value, message):
    with pytest.raises(ConfigError, match=message):
        codec_of(value)
