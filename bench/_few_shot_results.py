"""Rows of a few-shot table as the record that ``dtheta report FILE`` draws as curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dtheta.report import FewShotMethod, FewShotResults, FewShotTask, ShotScore
from dtheta.score import Interval, wilson

Row = Mapping[str, Any]


def few_shot_results(
    model: str, rows: Sequence[Row], size: Callable[[str], tuple[int, int]], provenance: Mapping[str, str], zero: str
) -> FewShotResults:
    """Return the record of rows with part, task, shots, method, points, low, high, draws, in percent.

    Args:
        model: Its name.
        rows: Of every part; those of the part "few-shot" on single tasks are taken.
        size: Returns how many classes and test images a task has.
        provenance: What else to say on the page.
        zero: Name of the method that trains nothing.
    """
    own = [row for row in rows if row["part"] == "few-shot" and row["task"] != "all"]
    tasks = []
    for name in dict.fromkeys(row["task"] for row in own):
        classes, test = size(name)
        found = [row for row in own if row["task"] == name]
        base = next(row["points"] for row in found if row["method"] == zero) / 100
        methods = dict.fromkeys(row["method"] for row in found if row["method"] != zero)
        curves = tuple(_curve(method, [row for row in found if row["method"] == method]) for method in methods)
        tasks.append(FewShotTask(name, classes, test, wilson(base * test, test), curves))
    return FewShotResults(model, tuple(tasks), provenance)


def _curve(method: str, rows: Sequence[Row]) -> FewShotMethod:
    points = []
    for row in sorted(rows, key=lambda row: row["shots"]):
        score = Interval(*(row[name] / 100 for name in ("points", "low", "high")), method="t")
        points.append(ShotScore(row["shots"], score, tuple(draw / 100 for draw in row["draws"]), row["seconds"]))
    return FewShotMethod(method, tuple(points), round(rows[0]["parameters"]))
