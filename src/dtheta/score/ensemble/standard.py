"""The metrics that one looks at first, from what is known of the truth."""

from __future__ import annotations

from collections.abc import Collection

from dtheta.errors import ConfigError
from dtheta.score.ensemble.brier import Brier, BrierParts, BrierSkill, Reliability
from dtheta.score.ensemble.crps import CRPS
from dtheta.score.ensemble.decisions import AUC, EDI, ROC, EconomicValue
from dtheta.score.ensemble.efi import EFITable
from dtheta.score.ensemble.energy import EnergyScore
from dtheta.score.ensemble.moments import ACC, RMSE, Bias, Spread, SpreadError
from dtheta.score.ensemble.ranks import Outliers, RankHistogram
from dtheta.score.ensemble.spectra import SpectrumRatio
from dtheta.score.ensemble.statistic import EnsembleMetric
from dtheta.score.ensemble.tables import Event, EventTable


def standard_metrics(
    *,
    climatology: str | None = None,
    thresholds: Collection[str | float] = (),
    climate: str | None = None,
    spectra: bool = False,
    energy: bool = False,
    whole_ensemble: bool = True,
    pairs: bool = False,
) -> tuple[EnsembleMetric, ...]:
    """Return metrics in the order of reports.

    Args:
        climatology: Name of its reference: adds ACC, and takes it off before spectra.
        thresholds: Names of references, or numbers: adds the scores of the event above each, and CRPS above it.
        climate: Name of the quantiles of the model climate: adds ROC and AUC of the EFI for each threshold.
        spectra: Adds power by degree of members and of the mean; the verification needs a transform.
        energy: Adds the energy score, which takes M^2 distances.
        pairs: Members 2 k and 2 k + 1 are pairs of opposite sign: adds spread and fair CRPS that allow for it.
        whole_ensemble: False leaves out what cannot take members in parts: CRPS and energy score.

    Raises:
        ConfigError: For a climate without an event of which it should warn.
    """
    if climate is not None and not thresholds:
        raise ConfigError("the EFI is scored as a warning of an event: give thresholds, too")
    found: list[EnsembleMetric] = [Bias(), RMSE(), Spread(), SpreadError(), RankHistogram(), Outliers(), Outliers(True)]
    found += [ACC(climatology)] if climatology else []
    found += [Spread(pairs=True), SpreadError(pairs=True)] if pairs else []
    found += [CRPS(), CRPS(fair=False)] if whole_ensemble else []
    found += [CRPS(pairs=True)] if whole_ensemble and pairs else []
    found += [EnergyScore()] if energy and whole_ensemble else []
    found += [SpectrumRatio(of, climatology) for of in ("members", "mean")] if spectra else []
    for threshold in thresholds:
        event = Event(above=threshold)
        found += [CRPS(above=threshold)] if whole_ensemble else []
        found += [Brier(event), Brier(event, fair=True), BrierSkill(event), BrierParts(event), Reliability(event)]
        found += [ROC(EventTable(event)), AUC(EventTable(event)), EDI(event), EconomicValue(event)]
        found += [ROC(EFITable(event, climate)), AUC(EFITable(event, climate))] if climate else []
    return tuple(found)
