"""Federated learning: parties that keep their data train one delta, over classical and quantum channels.

``dtheta.federate`` is the public function (``federate.federate``); so is this package, when it is called. The parts
that one chooses from stand here too, loaded on first use: ``from dtheta.federate import Krum, Ternary, dirichlet``.
"""

from typing import TYPE_CHECKING

from dtheta._callable import lazy, make_callable

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
    "Amplitude": "dtheta.federate.codecs",
    "Classical": "dtheta.federate.channels",
    "Dense": "dtheta.federate.codecs",
    "Exact": "dtheta.federate.codecs",
    "FedAdagrad": "dtheta.federate.server.adaptive",
    "FedAdam": "dtheta.federate.server.adaptive",
    "FedAvg": "dtheta.federate.server.optimizer",
    "FedAvgM": "dtheta.federate.server.optimizer",
    "FedYogi": "dtheta.federate.server.adaptive",
    "InterceptResend": "dtheta.federate.channels",
    "Krum": "dtheta.federate.server.krum",
    "LowRank": "dtheta.federate.codecs",
    "Mean": "dtheta.federate.server.aggregate",
    "Median": "dtheta.federate.server.coordinatewise",
    "Noise": "dtheta.federate.attack",
    "NormClip": "dtheta.federate.server.aggregate",
    "PhotonNumberSplitting": "dtheta.federate.channels",
    "Pulses": "dtheta.federate.channels",
    "Quantum": "dtheta.federate.channels",
    "Scaling": "dtheta.federate.attack",
    "Sign": "dtheta.federate.codecs",
    "SignFlip": "dtheta.federate.attack",
    "Ternary": "dtheta.federate.codecs",
    "TopK": "dtheta.federate.codecs",
    "TrimmedMean": "dtheta.federate.server.coordinatewise",
    "alone": "dtheta.federate.baselines",
    "attacked": "dtheta.federate.attack",
    "centralized": "dtheta.federate.baselines",
    "dirichlet": "dtheta.federate.partition",
    "iid": "dtheta.federate.partition",
    "shards": "dtheta.federate.partition",
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

__getattr__ = lazy(__name__, _LAZY)
