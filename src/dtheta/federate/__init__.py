"""Federated learning: parties that keep their data train one delta, over classical and quantum channels.

``dtheta.federate`` is the public function (``federate.federate``); so is this package, when it is called. The parts
that one chooses from stand here too, loaded on first use: ``from dtheta.federate import Krum, Ternary, dirichlet``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dtheta._callable import make_callable

if TYPE_CHECKING:
    from dtheta.federate.attack import Noise as Noise
    from dtheta.federate.attack import Scaling as Scaling
    from dtheta.federate.attack import SignFlip as SignFlip
    from dtheta.federate.attack import attacked as attacked
    from dtheta.federate.baselines import alone as alone
    from dtheta.federate.baselines import centralized as centralized
    from dtheta.federate.channels import Classical as Classical
    from dtheta.federate.channels import InterceptResend as InterceptResend
    from dtheta.federate.channels import PhotonNumberSplitting as PhotonNumberSplitting
    from dtheta.federate.channels import Pulses as Pulses
    from dtheta.federate.channels import Quantum as Quantum
    from dtheta.federate.codecs import Amplitude as Amplitude
    from dtheta.federate.codecs import Dense as Dense
    from dtheta.federate.codecs import Exact as Exact
    from dtheta.federate.codecs import LowRank as LowRank
    from dtheta.federate.codecs import Sign as Sign
    from dtheta.federate.codecs import Ternary as Ternary
    from dtheta.federate.codecs import TopK as TopK
    from dtheta.federate.partition import dirichlet as dirichlet
    from dtheta.federate.partition import iid as iid
    from dtheta.federate.partition import shards as shards
    from dtheta.federate.server.adaptive import FedAdagrad as FedAdagrad
    from dtheta.federate.server.adaptive import FedAdam as FedAdam
    from dtheta.federate.server.adaptive import FedYogi as FedYogi
    from dtheta.federate.server.aggregate import Mean as Mean
    from dtheta.federate.server.aggregate import NormClip as NormClip
    from dtheta.federate.server.coordinatewise import Median as Median
    from dtheta.federate.server.coordinatewise import TrimmedMean as TrimmedMean
    from dtheta.federate.server.krum import Krum as Krum
    from dtheta.federate.server.optimizer import FedAvg as FedAvg
    from dtheta.federate.server.optimizer import FedAvgM as FedAvgM

make_callable(__name__, "federate")

_LAZY = {
    "Amplitude": "codecs",
    "Classical": "channels",
    "Dense": "codecs",
    "Exact": "codecs",
    "FedAdagrad": "server.adaptive",
    "FedAdam": "server.adaptive",
    "FedAvg": "server.optimizer",
    "FedAvgM": "server.optimizer",
    "FedYogi": "server.adaptive",
    "InterceptResend": "channels",
    "Krum": "server.krum",
    "LowRank": "codecs",
    "Mean": "server.aggregate",
    "Median": "server.coordinatewise",
    "Noise": "attack",
    "NormClip": "server.aggregate",
    "PhotonNumberSplitting": "channels",
    "Pulses": "channels",
    "Quantum": "channels",
    "Scaling": "attack",
    "Sign": "codecs",
    "SignFlip": "attack",
    "Ternary": "codecs",
    "TopK": "codecs",
    "TrimmedMean": "server.coordinatewise",
    "alone": "baselines",
    "attacked": "attack",
    "centralized": "baselines",
    "dirichlet": "partition",
    "iid": "partition",
    "shards": "partition",
}
__all__ = [
    "Amplitude",
    "Classical",
    "Dense",
    "Exact",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "InterceptResend",
    "Krum",
    "LowRank",
    "Mean",
    "Median",
    "Noise",
    "NormClip",
    "PhotonNumberSplitting",
    "Pulses",
    "Quantum",
    "Scaling",
    "Sign",
    "SignFlip",
    "Ternary",
    "TopK",
    "TrimmedMean",
    "alone",
    "attacked",
    "centralized",
    "dirichlet",
    "iid",
    "shards",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
