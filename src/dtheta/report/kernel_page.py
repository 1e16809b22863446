"""The report of a tangent kernel: its spectrum, when to stop, and how classes look to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dtheta.report.blocks import Column, Panels, Table, Tile, Tiles, number, word
from dtheta.report.charts import Chart, heat_map
from dtheta.report.charts.dots import Dot, dot_chart
from dtheta.report.charts.line import Line, line_chart
from dtheta.report.charts.palette import NEUTRAL, styles
from dtheta.report.page import Page, Section
from dtheta.report.quantity import count, fixed, percent, significant
from dtheta.scout.kernel_study import KernelFigures, KernelStudy


def kernel_report(
    study: KernelStudy, classes: Sequence[str], name: str, model: str, data: str, path: str | os.PathLike[str]
) -> Path:
    """Write the report of a tangent kernel to ``path`` and return it; ``name`` says what would train.

    Raises:
        OutputError: If the page cannot be written; nothing half-written is left.
    """
    return kernel_page(study, classes, name, model, data).render(path)


def kernel_page(study: KernelStudy, classes: Sequence[str], name: str, model: str, data: str) -> Page:
    """The page, before it is written."""
    found = study.figures
    verdict = (
        f"Of {found.examples} examples the others predict {percent(found.accuracy.estimate)} right by the kernel of "
        f"{name} beside the head, and {percent(found.head_accuracy.estimate)} by the head alone."
    )
    sections = [_training(found, name), _spectrum(found), _classes(study, classes)]
    return Page(f"The tangent kernel of {name}", verdict, sections, "dtheta kernel", f"{model} on {data}")


def _training(found: KernelFigures, name: str) -> Section:
    tiles = Tiles([
        Tile("largest learning rate", significant(found.learning_rate, 3), "of gradient descent on the squared error"),
        Tile("stop at", significant(found.stopping_time, 3), "steps times learning rate"),
        Tile("effective dimension", fixed(found.effective_dimension, 1), f"of {count(found.examples)} examples"),
        Tile("alignment", fixed(found.alignment, 3), "of the kernel with the classes"),
    ])  # fmt: skip
    style = styles([name, "leave-one-out error"])
    dots = [Dot(name, found.accuracy, style[name]), Dot("head alone", found.head_accuracy, NEUTRAL)]
    accuracy = dot_chart("Predicted accuracy", dots, x_name="accuracy, %", percent=True, reference="head alone")
    lead = (
        "What gradient descent would do if the network were its linear model at the parameters as they are: each "
        "example is predicted by the others, in closed form."
    )
    return Section("Training", [tiles, Panels([accuracy, _stopping(found)], tables=[_times(found)])], lead)


def _stopping(found: KernelFigures) -> Chart:
    name = "leave-one-out error"
    points = [(float(torch.tensor(time).log10()), error) for time, error in found.error_by_time]
    return line_chart(
        "When to stop", [Line(name, points)], styles([name]), x_name="log10 of steps times learning rate",
        y_name="mean squared error", logarithmic=False,
    )  # fmt: skip


def _times(found: KernelFigures) -> Table:
    columns = [Column("Steps times learning rate", True), Column("Leave-one-out error", True)]
    rows = [[number(t, significant(t)), number(e, significant(e))] for t, e in found.error_by_time]
    return Table("Error over time as a table", columns, rows, folded=True)


def _spectrum(found: KernelFigures) -> Section:
    share = [100 * value / found.trace if found.trace else 0.0 for value in found.spectrum]
    columns = [Column("Direction", True), Column("Eigenvalue of K / N", True), Column("Of the trace, %", True)]
    rows = [
        [number(i, str(i)), number(value, significant(value)), number(part, fixed(part, 2))]
        for i, (value, part) in enumerate(zip(found.spectrum, share, strict=True), 1)
    ]
    lead = (
        "A direction of function space is learned at a rate in proportion to its eigenvalue: the first ones at once, "
        f"the last ones hardly. The rank is {count(found.rank)}."
    )
    return Section("Spectrum", [Table("Leading directions", columns, rows)], lead)


def _classes(study: KernelStudy, classes: Sequence[str]) -> Section:
    cells = _likeness(study.kernel, study.labels, len(classes))
    chart = heat_map("Cosines between classes", classes, classes, cells, value_name="mean cosine", top=1.0, signed=True)
    columns = [Column("Class"), *(Column(name, True) for name in classes)]
    rows = [
        [word(name), *(number(v if v is not None else float("inf"), "" if v is None else fixed(v, 3)) for v in line)]
        for name, line in zip(classes, cells, strict=True)
    ]
    lead = (
        "Mean cosine between the derivatives of examples of two classes, an example with itself left out. Where the "
        "diagonal stands out, a step for one example helps its class."
    )
    table = Table("Cosines as a table", columns, rows, folded=True)
    return Section("How classes look to it", [Panels([chart], tables=[table])], lead)


def _likeness(kernel: Tensor, labels: Tensor, classes: int) -> list[list[float | None]]:
    """Return mean cosines by pair of classes; None where there is no pair of examples."""
    length = kernel.diagonal().clamp_min(0).sqrt().clamp_min(torch.finfo(kernel.dtype).tiny)
    cosines = (kernel / length[:, None] / length).fill_diagonal_(0.0)
    one_hot = torch.nn.functional.one_hot(labels, classes).to(kernel)
    pairs = one_hot.mT @ (1 - torch.eye(len(labels), dtype=kernel.dtype)) @ one_hot
    sums = one_hot.mT @ cosines @ one_hot
    return [
        [float(sums[i, j] / pairs[i, j]) if pairs[i, j] > 0 else None for j in range(classes)] for i in range(classes)
    ]
