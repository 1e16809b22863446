"""Reports: self-contained HTML pages, readable by eye first; functions of plain records."""

from __future__ import annotations

from dtheta.report.adapt import adapt_page, adapt_report
from dtheta.report.deltas import delta_page, delta_report
from dtheta.report.measure import ACCURACY, TOKEN_LOSS, Measure
from dtheta.report.page import Page, Section
from dtheta.report.results import AdaptResults, LayerChange, MethodResult, NextStep, TaskResult
from dtheta.report.survey import Survey, survey, survey_of

__all__ = [
    "ACCURACY",
    "TOKEN_LOSS",
    "AdaptResults",
    "LayerChange",
    "Measure",
    "MethodResult",
    "NextStep",
    "Page",
    "Section",
    "Survey",
    "TaskResult",
    "adapt_page",
    "adapt_report",
    "delta_page",
    "delta_report",
    "survey",
    "survey_of",
]
