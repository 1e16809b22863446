"""Probabilistic verification of ensembles: what each score is stands in its module, and in docs/verification.md.

    crps       CRPS, fair and biased, with thresholds          moments    bias, RMSE, spread, spread-error, ACC
    ranks      rank histogram, outliers                        brier      Brier score, its parts, reliability
    decisions  ROC, AUC, EDI, economic value                   efi        extreme forecast index
    energy     energy score                                    spectra    power by degree

`Verification` counts forecasts as they come and scores them at the end.
"""

from __future__ import annotations

from dtheta.score.ensemble.brier import Brier, BrierParts, BrierSkill, Reliability
from dtheta.score.ensemble.crps import CRPS, crps
from dtheta.score.ensemble.decisions import AUC, EDI, ROC, EconomicValue
from dtheta.score.ensemble.efi import EFITable, efi
from dtheta.score.ensemble.energy import EnergyScore, energy_score
from dtheta.score.ensemble.members import MemberSums
from dtheta.score.ensemble.moments import ACC, RMSE, Bias, Spread, SpreadError
from dtheta.score.ensemble.ranks import Outliers, RankHistogram
from dtheta.score.ensemble.regions import Box
from dtheta.score.ensemble.results import Score, VerificationResult
from dtheta.score.ensemble.spectra import SpectrumRatio
from dtheta.score.ensemble.standard import standard_metrics
from dtheta.score.ensemble.statistic import AdditiveStatistic, Case, EnsembleMetric, EnsembleStatistic, area_totals
from dtheta.score.ensemble.tables import Event, EventTable
from dtheta.score.ensemble.verification import Verification

__all__ = [
    "ACC",
    "AUC",
    "CRPS",
    "EDI",
    "RMSE",
    "ROC",
    "AdditiveStatistic",
    "Bias",
    "Box",
    "Brier",
    "BrierParts",
    "BrierSkill",
    "Case",
    "EFITable",
    "EconomicValue",
    "EnergyScore",
    "EnsembleMetric",
    "EnsembleStatistic",
    "Event",
    "EventTable",
    "MemberSums",
    "Outliers",
    "RankHistogram",
    "Reliability",
    "Score",
    "SpectrumRatio",
    "Spread",
    "SpreadError",
    "Verification",
    "VerificationResult",
    "area_totals",
    "crps",
    "efi",
    "energy_score",
    "standard_metrics",
]
