"""Ensembles: many forecasts of one start, by bred vectors and perturbed parameters.

``dtheta.Ensemble`` is the engine; the parts that one chooses from stand here, loaded on first use:
``from dtheta.ensemble import HemisphericRescaling, SingularValueShifts, cross``.
"""

from typing import TYPE_CHECKING

from dtheta._callable import lazy

if TYPE_CHECKING:
    from dtheta.ensemble.archiving import archive as archive
    from dtheta.ensemble.bands import banded as banded
    from dtheta.ensemble.bands import summed as summed
    from dtheta.ensemble.bred import BredVectors as BredVectors
    from dtheta.ensemble.ensemble import Ensemble as Ensemble
    from dtheta.ensemble.hindcast import Beginnings as Beginnings
    from dtheta.ensemble.hindcast import Climate as Climate
    from dtheta.ensemble.hindcast import Hindcast as Hindcast
    from dtheta.ensemble.hindcast import create_hindcast as create_hindcast
    from dtheta.ensemble.lagged import Lagged as Lagged
    from dtheta.ensemble.laplace import LastLayerLaplace as LastLayerLaplace
    from dtheta.ensemble.layout import Field as Field
    from dtheta.ensemble.members import Member as Member
    from dtheta.ensemble.members import cross as cross
    from dtheta.ensemble.noise import RandomFields as RandomFields
    from dtheta.ensemble.noise import SphericalNoise as SphericalNoise
    from dtheta.ensemble.noise import WhiteNoise as WhiteNoise
    from dtheta.ensemble.parameters import ParameterPerturbation as ParameterPerturbation
    from dtheta.ensemble.parameters import SingularValueShifts as SingularValueShifts
    from dtheta.ensemble.parameters import TaskVectorCoefficients as TaskVectorCoefficients
    from dtheta.ensemble.perturbation import Perturbation as Perturbation
    from dtheta.ensemble.rescaling import GlobalRescaling as GlobalRescaling
    from dtheta.ensemble.rescaling import GroupRescaling as GroupRescaling
    from dtheta.ensemble.rescaling import HemisphericRescaling as HemisphericRescaling
    from dtheta.ensemble.rescaling import VariableRescaling as VariableRescaling
    from dtheta.ensemble.sharded import gathered as gathered
    from dtheta.ensemble.sharded import launched as launched
    from dtheta.ensemble.sharded import part as part
    from dtheta.ensemble.store import Archive as Archive
    from dtheta.ensemble.store import open_archive as open_archive

_LAZY = {
    "create_hindcast": "dtheta.ensemble.hindcast",
    "Hindcast": "dtheta.ensemble.hindcast",
    "Climate": "dtheta.ensemble.hindcast",
    "Beginnings": "dtheta.ensemble.hindcast",
    "Archive": "dtheta.ensemble.store",
    "BredVectors": "dtheta.ensemble.bred",
    "Ensemble": "dtheta.ensemble.ensemble",
    "Field": "dtheta.ensemble.layout",
    "GlobalRescaling": "dtheta.ensemble.rescaling",
    "GroupRescaling": "dtheta.ensemble.rescaling",
    "HemisphericRescaling": "dtheta.ensemble.rescaling",
    "Lagged": "dtheta.ensemble.lagged",
    "LastLayerLaplace": "dtheta.ensemble.laplace",
    "Member": "dtheta.ensemble.members",
    "ParameterPerturbation": "dtheta.ensemble.parameters",
    "Perturbation": "dtheta.ensemble.perturbation",
    "RandomFields": "dtheta.ensemble.noise",
    "SingularValueShifts": "dtheta.ensemble.parameters",
    "SphericalNoise": "dtheta.ensemble.noise",
    "TaskVectorCoefficients": "dtheta.ensemble.parameters",
    "VariableRescaling": "dtheta.ensemble.rescaling",
    "WhiteNoise": "dtheta.ensemble.noise",
    "archive": "dtheta.ensemble.archiving",
    "banded": "dtheta.ensemble.bands",
    "cross": "dtheta.ensemble.members",
    "gathered": "dtheta.ensemble.sharded",
    "launched": "dtheta.ensemble.sharded",
    "open_archive": "dtheta.ensemble.store",
    "part": "dtheta.ensemble.sharded",
    "summed": "dtheta.ensemble.bands",
}
__all__ = [
    "Archive",
    "Beginnings",
    "BredVectors",
    "Climate",
    "Ensemble",
    "Field",
    "GlobalRescaling",
    "GroupRescaling",
    "HemisphericRescaling",
    "Hindcast",
    "Lagged",
    "LastLayerLaplace",
    "Member",
    "ParameterPerturbation",
    "Perturbation",
    "RandomFields",
    "SingularValueShifts",
    "SphericalNoise",
    "TaskVectorCoefficients",
    "VariableRescaling",
    "WhiteNoise",
    "archive",
    "banded",
    "create_hindcast",
    "cross",
    "gathered",
    "launched",
    "open_archive",
    "part",
    "summed",
]

__getattr__ = lazy(__name__, _LAZY)
