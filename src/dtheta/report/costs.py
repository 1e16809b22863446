"""Costs: what one adaptation takes to keep and to make."""

from __future__ import annotations

from dtheta.report.blocks import Column, Panels, Table, number, word
from dtheta.report.charts import Bar, Style, bar_chart
from dtheta.report.page import Section
from dtheta.report.quantity import byte_size, count, duration, part
from dtheta.report.results import AdaptResults


def cost_section(results: AdaptResults, look: dict[str, Style]) -> Section:
    """File sizes against the whole model's, training times, and the settings that led to them."""
    by_name = {name: [m for m in results.runs if m.name == name] for name in results.methods}
    mean_bytes = {name: sum(m.file_bytes for m in found) / len(found) for name, found in by_name.items()}
    mean_seconds = {name: sum(m.seconds for m in found) / len(found) for name, found in by_name.items()}
    files = [Bar("whole model", results.model_bytes)]
    files += [
        Bar(name, size, look[name], f"{part(size / results.model_bytes)} of the model")
        for name, size in mean_bytes.items()
    ]
    times = [Bar(name, seconds, look[name]) for name, seconds in mean_seconds.items()]
    charts = [
        bar_chart("File size", files, x_name="bytes on disk, mean over tasks", text=byte_size),
        bar_chart("Training time", times, x_name="wall time of one run, mean over tasks", text=duration),
    ]
    return Section(
        "Size and time", [Panels(charts), _size_table(results)], "What one adaptation costs to keep and to make."
    )


def _size_table(results: AdaptResults) -> Table:
    settings = list(dict.fromkeys(key for method in results.runs for key in method.settings))
    columns = [Column("Task"), Column("Method"), *(Column(key.capitalize(), True) for key in settings)]
    columns += [Column(name, True) for name in ("Trained weights", "Of the model", "File", "Time of a run")]
    rows = [
        [
            word(task.name),
            word(method.name),
            *(number(_order(method.settings.get(key, "")), method.settings.get(key, "")) for key in settings),
            number(method.parameters, count(method.parameters)),
            number(method.parameters, part(method.parameters / results.model_parameters)),
            number(method.file_bytes, byte_size(method.file_bytes)),
            number(method.seconds, duration(method.seconds)),
        ]
        for task in results.tasks
        for method in task.methods
    ]
    return Table("Settings, sizes and times", columns, rows, folded=len(rows) > 12)


def _order(text: str) -> float:
    """A setting's place when its column is sorted: its number, or last."""
    try:
        return float(text)
    except ValueError:
        return float("inf")
