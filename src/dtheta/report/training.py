"""Training: the loss curves of every method, side by side at equal steps."""

from __future__ import annotations

from dtheta.report.blocks import Column, Panels, Table, number, word
from dtheta.report.charts import Style, line_chart
from dtheta.report.charts.scale import spread
from dtheta.report.curves import reading_window, seed_line
from dtheta.report.page import Section
from dtheta.report.quantity import count, significant
from dtheta.report.results import AdaptResults


def training_section(results: AdaptResults, look: dict[str, Style]) -> Section:
    """A panel per task; seeds as bands, all panels on one kind of scale."""
    window = reading_window([curve for method in results.runs for curve in method.losses])
    seeds = max(len(method.losses) for method in results.runs)
    drawn = {task.name: [seed_line(m.name, m.losses, window) for m in task.methods] for task in results.tasks}
    log = any(spread(value for line in lines for _, value in line.points) for lines in drawn.values())
    charts = [
        line_chart(
            name,
            lines,
            look,
            x_name="step",
            y_name="training loss, nats",
            logarithmic=log,
        )
        for name, lines in drawn.items()
    ]
    caption = f"Lines: mean over {seeds} seeds; bands: lowest to highest seed." if seeds > 1 else "One seed."
    if window > 1:
        caption += f" Running mean over {window} points; faint lines are the points themselves."
    panels = Panels(charts, caption, styles=look, lines=True, tables=[_loss_table(results, window)])
    return Section("Training loss", [panels], "How fast each method learns, at equal steps.")


def _loss_table(results: AdaptResults, window: int) -> Table:
    columns = [Column("Task"), Column("Method"), Column("Step", True), Column("Training loss, nats", True)]
    rows = []
    for task in results.tasks:
        for method in task.methods:
            points_ = seed_line(method.name, method.losses, window).points
            for step, value in points_[:: max(1, len(points_) // 10)]:
                rows.append(
                    [
                        word(task.name),
                        word(method.name),
                        number(step, count(step)),
                        number(value, significant(value, pad=True)),
                    ]
                )
    return Table("Training loss as a table", columns, rows, folded=True)
