"""Channels by name, as a configuration file has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dtheta.errors import ConfigError, did_you_mean
from dtheta.federate.channels.channel import Channel
from dtheta.federate.channels.classical import Classical
from dtheta.federate.channels.eavesdropper import InterceptResend, PhotonNumberSplitting
from dtheta.federate.channels.pulses import Pulses
from dtheta.federate.channels.quantum import Quantum

_CHANNELS: dict[str, type] = {cls.name: cls for cls in (Classical, Quantum)}
_EAVESDROPPERS: dict[str, type] = {cls.name: cls for cls in (InterceptResend, PhotonNumberSplitting)}


def channel_of(value: str | Mapping[str, Any] | Channel) -> Channel:
    """Return a channel: itself, by its name, or by a mapping of its name and fields.

    ``{"name": "quantum", "kilometers": 20, "eavesdropper": {"name": "intercept-resend", "share": 0.2}}``

    Raises:
        ConfigError: For an unknown name or field, or a value of another type.
    """
    if isinstance(value, Channel):
        return value
    record = _record(value, "channel")
    if isinstance(record.get("eavesdropper"), (str, Mapping)):
        record["eavesdropper"] = _build(_record(record["eavesdropper"], "eavesdropper"), _EAVESDROPPERS, "eavesdropper")
    if isinstance(record.get("pulses"), Mapping):
        record["pulses"] = _build({"name": "pulses", **record["pulses"]}, {"pulses": Pulses}, "source")
    return _build(record, _CHANNELS, "channel")


def _record(value: Any, what: str) -> dict[str, Any]:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ConfigError(f"{value!r} is no {what}; expected its name, or a mapping with its name and fields")
    return dict(value)


def _build(record: dict[str, Any], known: Mapping[str, type], what: str) -> Any:
    name = record.pop("name")
    if name not in known:
        raise ConfigError(f"unknown {what} {name!r}{did_you_mean(name, known)}; expected {', '.join(known)}")
    cls = known[name]
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for given in record:
        if given not in fields:
            raise ConfigError(f"the {what} {name!r} has no field {given!r}{did_you_mean(given, fields)}")
    for field in fields.values():
        if field.name not in record and field.default is dataclasses.MISSING:
            raise ConfigError(f"the {what} {name!r} needs {field.name!r}")
    return cls(**record)
