"""Names of inserted networks: read back as they were written, and nothing else is taken for one."""

from __future__ import annotations

import pytest

from dtheta.adapt.inserted.names import Address, address, is_inserted
from dtheta.adapt.inserted.random_features import FeatureMap
from dtheta.errors import FormatError


@pytest.mark.parametrize("place", ["", "0", "encoder.layer.3.output.dropout", "a.snnk.b", "houlsby"])
@pytest.mark.parametrize(
    ("kind", "code", "part"),
    [("snnk", "relu,m16,seed0", "psi"), ("snnk", "relu,m16,seed-3,threshold-0.5", "bias"),
     ("houlsby", "gelu", "down_bias")],
)  # fmt: skip
def test_names_are_read_back(place: str, kind: str, code: str, part: str) -> None:
    where = Address(place, kind, code)
    assert address(where.name(part)) == (where, part)


@pytest.mark.parametrize(
    "name", ["encoder.weight", "snnk.psi", "a.snnk.relu.up", "a.houlsby.gelu.psi", "prompt.input", "prefix.0.key"]
)
def test_other_names_are_not_of_networks(name: str) -> None:
    assert not is_inserted(name)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (FeatureMap("relu", 16, 0), "relu,m16,seed0"),
        (FeatureMap("gelu", 4, -7, "gaussian"), "gelu,m4,seed-7,gaussian"),
        (FeatureMap("relu", 4, 7, "sobol", -0.5, 1e-05), "relu,m4,seed7,sobol,threshold-0.5,scale1e-05"),
    ],
)
def test_features_are_in_the_name(found: FeatureMap, code: str) -> None:
    assert found.code == code
    assert FeatureMap.read(code) == found


@pytest.mark.parametrize("code", ["relu", "relu,mx,seed0", "relu,m4", "relu,m4,seed0,scale1e", "relu,m4,seed0,lattice"])
def test_a_name_that_tells_of_no_features_is_refused(code: str) -> None:
    with pytest.raises(FormatError, match="names no random features"):
        FeatureMap.read(code)
