"""Channels that payloads travel through: what is lost, how long it takes, and whether someone was listening."""

from __future__ import annotations

from dtheta.federate.channels.channel import Channel, Delivery, Verdict
from dtheta.federate.channels.classical import Classical
from dtheta.federate.channels.eavesdropper import InterceptResend, PhotonNumberSplitting
from dtheta.federate.channels.pulses import Pulses
from dtheta.federate.channels.quantum import Quantum
from dtheta.federate.channels.registry import channel_of

__all__ = [
    "Channel",
    "Classical",
    "Delivery",
    "InterceptResend",
    "PhotonNumberSplitting",
    "Pulses",
    "Quantum",
    "Verdict",
    "channel_of",
]
