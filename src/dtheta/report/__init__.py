"""Reports: self-contained HTML pages, readable by eye first; functions of plain records."""

from __future__ import annotations

from dtheta.report.adapt import adapt_page, adapt_report
from dtheta.report.compared import comparison_page, comparison_report
from dtheta.report.comparison import Comparison, compare
from dtheta.report.deltas import delta_page, delta_report
from dtheta.report.few_shot import few_shot_page, few_shot_report
from dtheta.report.few_shot_results import (
    FewShotMethod,
    FewShotResults,
    FewShotTask,
    ShotScore,
    few_shot_of,
    is_few_shot,
)
from dtheta.report.measure import ACCURACY, IMAGE_ACCURACY, TOKEN_LOSS, Measure
from dtheta.report.page import Page, Section
from dtheta.report.pictures import PictureExample, PictureSample, picture_sample
from dtheta.report.results import (
    AdaptResults,
    LayerChange,
    MethodResult,
    NextStep,
    Packed,
    PackedTask,
    Reference,
    TaskResult,
)
from dtheta.report.survey import Survey, survey, survey_of

__all__ = [
    "ACCURACY",
    "IMAGE_ACCURACY",
    "TOKEN_LOSS",
    "AdaptResults",
    "Comparison",
    "FewShotMethod",
    "FewShotResults",
    "FewShotTask",
    "LayerChange",
    "Measure",
    "MethodResult",
    "NextStep",
    "Packed",
    "PackedTask",
    "Page",
    "PictureExample",
    "PictureSample",
    "Reference",
    "Section",
    "ShotScore",
    "Survey",
    "TaskResult",
    "adapt_page",
    "adapt_report",
    "compare",
    "comparison_page",
    "comparison_report",
    "delta_page",
    "delta_report",
    "few_shot_of",
    "few_shot_page",
    "few_shot_report",
    "is_few_shot",
    "picture_sample",
    "survey",
    "survey_of",
]
