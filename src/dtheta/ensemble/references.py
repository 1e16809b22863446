"""References that are labeled data: brought into the order of a forecast by their labels, or refused.

    DataArray             (..., latitude, longitude), in any order, with a dimension of channels or without
    Dataset, or mapping   one such array a channel

What has no labels, or none of the cells, is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dtheta.ensemble.coordinates import common, require_same_labels
from dtheta.ensemble.labeled import NAMES, Fields, is_labeled


def lined_up(references: Mapping[str, Any] | None, forecast: Fields) -> dict[str, Any]:
    """Return references by name, those with labels in the order of the channels and cells of a forecast.

    Raises:
        ShapeMismatch: if they are on other cells, or in another order.
    """
    return {name: _lined_up(one, forecast, f"reference {name!r}") for name, one in (references or {}).items()}


def _lined_up(reference: Any, forecast: Fields, what: str) -> Any:
    if hasattr(reference, "data_vars"):
        reference = {str(name): reference[name] for name in reference.data_vars}
    if isinstance(reference, Mapping):
        return {channel: _lined_up(one, forecast, what) for channel, one in reference.items()}
    if not is_labeled(reference):
        return reference
    known = {common(str(dim)): str(dim) for dim in reference.dims}
    cells = [known[common(dim)] for dim in forecast.cells if common(dim) in known]
    if len(cells) < len(forecast.cells):
        return reference
    for ours, theirs in zip(forecast.cells, cells, strict=True):
        if ours in forecast.data.coords and theirs in reference.coords:
            require_same_labels(common(ours), forecast.data[ours].values, reference[theirs].values, what)
    stacked = [dim for dim in NAMES["channel"] if dim in reference.dims]
    return _selected(reference, stacked, forecast).transpose(*stacked, ..., *cells)


def _selected(reference: Any, stacked: list[str], forecast: Fields) -> Any:
    """Return the channels of the forecast, in its order, where a dimension of channels names them all."""
    if not stacked or stacked[0] not in reference.coords:
        return reference
    names = [str(name) for name in reference[stacked[0]].values]
    wanted = list(forecast.variables)
    if not set(wanted) <= set(names):
        return reference
    return reference.isel({stacked[0]: [names.index(name) for name in wanted]})
