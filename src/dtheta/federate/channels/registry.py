"""Channels by name, as a configuration file has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dtheta.federate.channels.channel import Channel
from dtheta.federate.channels.classical import Classical
from dtheta.federate.channels.eavesdropper import Eavesdropper, InterceptResend, PhotonNumberSplitting
from dtheta.federate.channels.pulses import Pulses
from dtheta.federate.channels.quantum import Quantum
from dtheta.federate.named import built, table_of

_CHANNELS: dict[str, type[Channel]] = {cls.name: cls for cls in (Classical, Quantum)}
_EAVESDROPPERS: dict[str, type[Eavesdropper]] = {cls.name: cls for cls in (InterceptResend, PhotonNumberSplitting)}


def channel_of(value: str | Mapping[str, Any] | Channel) -> Channel:
    """Return a channel: itself, by its name, or by a mapping of its name and fields.

    ``{"name": "quantum", "kilometers": 20, "eavesdropper": {"name": "intercept-resend", "share": 0.2}}``

    Raises:
        ConfigError: For an unknown name or field, or a value of another type.
    """
    if isinstance(value, Channel):
        return value
    table = table_of(value, "channel")
    if isinstance(table.get("eavesdropper"), (str, Mapping)):
        table["eavesdropper"] = built(table_of(table["eavesdropper"], "eavesdropper"), _EAVESDROPPERS, "eavesdropper")
    if isinstance(table.get("pulses"), Mapping):
        table["pulses"] = built({"name": "pulses", **table["pulses"]}, {"pulses": Pulses}, "source")
    return built(table, _CHANNELS, "channel")
