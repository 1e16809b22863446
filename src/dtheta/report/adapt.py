"""The report of the main job: what adapting a model to several tasks by several methods gained, and at what price."""

from __future__ import annotations

import os
from pathlib import Path

from dtheta.report.blocks import Findings, KeyValues, Step, Steps, Tile, Tiles
from dtheta.report.charts import styles
from dtheta.report.costs import cost_section
from dtheta.report.geometry import geometry_section
from dtheta.report.packed import packed_section
from dtheta.report.page import Page, Section
from dtheta.report.pictures import picture_section
from dtheta.report.quantity import byte_size, count, duration, listed, part, plural
from dtheta.report.results import AdaptResults
from dtheta.report.scores import score_section
from dtheta.report.training import training_section
from dtheta.report.verdict import best_gains, findings, verdict


def adapt_report(results: AdaptResults, path: str | os.PathLike[str]) -> Path:
    """Write the report of the main job to ``path`` as one self-contained HTML file and return the path.

    Raises:
        OutputError: If the file cannot be written; nothing half-written is left.
        NonFinite: If a curve or an interval holds NaN or infinity.
    """
    return adapt_page(results).render(path)


def adapt_page(results: AdaptResults) -> Page:
    """The page, before it is written."""
    look = styles(results.methods)
    sections = [
        Section("In short", [_tiles(results), Findings(findings(results))]),
        score_section(results, look),
        *picture_section(results.pictures),
        training_section(results, look),
        *geometry_section(results, look),
        cost_section(results, look),
        *packed_section(results),
    ]
    if results.next_steps:
        sections.append(Section("Try next", [Steps([Step(s.text, s.command) for s in results.next_steps])]))
    if results.provenance:
        sections.append(Section("Provenance", [KeyValues(list(results.provenance.items()))]))
    tasks = listed([task.name for task in results.tasks])
    kicker = f"dtheta adapt \u00b7 {plural(len(results.methods), 'method')} \u00b7 {plural(len(results.tasks), 'task')}"
    lead = " ".join(filter(None, (results.note, verdict(results))))
    return Page(f"{results.model} adapted to {tasks}", lead, sections, kicker)


def _tiles(results: AdaptResults) -> Tiles:
    most = max(best_gains(results), key=lambda gain: gain.interval.estimate)
    measure = results.measure
    every = results.runs
    smallest = min(every, key=lambda m: m.parameters)
    largest = max(m.file_bytes for m in every)
    runs = sum(max(1, len(m.losses)) for m in every)
    return Tiles(
        [
            Tile(
                "Largest gain",
                measure.gain(most.interval.estimate),
                f"{measure.gain_unit} of {measure.name}, {most.task.name} with {most.method.name}",
            ),
            Tile(
                "Trained",
                part(smallest.parameters / results.model_parameters),
                f"of {count(results.model_parameters)} weights ({smallest.name})",
            ),
            Tile("Largest file", byte_size(largest), f"the model itself is {byte_size(results.model_bytes)}"),
            Tile(
                "Training time",
                duration(sum(m.seconds * max(1, len(m.losses)) for m in every)),
                f"for {plural(runs, 'run')}",
            ),
        ]
    )
