"""Reports: self-contained HTML pages, readable by eye first; functions of plain records."""

from __future__ import annotations

from dtheta.report.adapt import adapt_page, adapt_report
from dtheta.report.compared import comparison_page, comparison_report
from dtheta.report.comparison import Comparison, compare
from dtheta.report.deltas import delta_page, delta_report
from dtheta.report.measure import ACCURACY, TOKEN_LOSS, Measure
from dtheta.report.page import Page, Section
from dtheta.report.results import AdaptResults, LayerChange, MethodResult, NextStep, Packed, PackedTask, TaskResult
from dtheta.report.survey import Survey, survey, survey_of

__all__ = [
    "ACCURACY",
    "TOKEN_LOSS",
    "AdaptResults",
    "Comparison",
    "LayerChange",
    "Measure",
    "MethodResult",
    "NextStep",
    "Packed",
    "PackedTask",
    "Page",
    "Section",
    "Survey",
    "TaskResult",
    "adapt_page",
    "adapt_report",
    "compare",
    "comparison_page",
    "comparison_report",
    "delta_page",
    "delta_report",
    "survey",
    "survey_of",
]
