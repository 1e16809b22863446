"""What ``dtheta adapt`` leaves, whatever it trained on: a delta with its command, a page with its data, a record."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.bases import model_flag, model_name
from dtheta.cli.units import byte_size, count, duration

if TYPE_CHECKING:
    from dtheta.adapt.classify import Adapted
    from dtheta.adapt.few_shot import AdaptedImages
    from dtheta.adapt.language import AdaptedLanguage
    from dtheta.adapt.method import Method
    from dtheta.cli.adapt import Options
    from dtheta.core.delta import Delta
    from dtheta.report import AdaptResults, NextStep


@dataclass(frozen=True)
class Job:
    """What is to be done, every default settled.

    Attributes:
        options: The command, with these settled values.
        method: What trains.
        model: The base: a name or a folder.
        steps: Optimizer steps.
        batch_size: Examples a step.
        given: The flag by which ``dtheta apply`` gets an example of this kind.
    """

    options: Options
    method: Method
    model: str
    steps: int
    batch_size: int
    given: str


def writes(options: Options) -> dict[str, Path | None]:
    """Return the files that are written, by what the user calls them."""
    report = options.report
    data = None if report is None else report.with_suffix(".json")
    return {"--out": options.out, "--report": report, "the data of --report": data}


def remembered(job: Job) -> dict[str, Any]:
    """Return the options that a result remembers; of model and data the names, and not their places."""
    return {**job.options.resolved(), "model": model_name(job.model), "data": Path(job.options.data).name}


def save(delta: Delta, job: Job, **task: str) -> Delta:
    """Save the delta with the resolved command, and what else there is to say of its task, in its provenance."""
    command = {"verb": "adapt", **remembered(job)}
    settings = {**delta.provenance.settings, "command": command}
    made = replace(delta.provenance, settings=settings, task={**delta.provenance.task, **task})
    delta = replace(delta, provenance=made)
    delta.save(job.options.out)
    return delta


def next_steps(job: Job) -> list[NextStep]:
    """Return what to do with the delta."""
    from dtheta.report import NextStep

    name = shlex.quote(job.options.out.name)
    return [
        NextStep("Run the adapted model", f"dtheta apply {name}{model_flag(job.model, private=True)} {job.given}"),
        NextStep("Look at the delta", f"dtheta show {name}"),
    ]


def draw(results: AdaptResults, report: Path) -> list[str]:
    """Draw the page and save its data beside it; return what was written."""
    from dtheta.report import adapt_report

    data = results.save(report.with_suffix(".json"))
    return [str(adapt_report(results, report)), str(data)]


def record_of(
    job: Job, delta: Delta, adapted: Adapted | AdaptedLanguage | AdaptedImages, wrote: Sequence[str], **scores: Any
) -> dict[str, Any]:
    """Return the result as JSON keeps it."""
    return {
        "out": str(job.options.out),
        "wrote": list(wrote),
        "digest": delta.digest,
        "base": delta.base.root,
        "method": dict(delta.provenance.method),
        "task": dict(delta.provenance.task),
        **scores,
        "parameters": adapted.parameters,
        "bytes": job.options.out.stat().st_size,
        "steps": adapted.record.steps,
        "seconds": adapted.record.seconds,
        "final_loss": adapted.record.losses[-1][1],
    }


def told(job: Job, record: dict[str, Any], found: Sequence[tuple[str, str]]) -> str:
    """Return the result in words: what was trained, ``found`` (name and text), and written, and what to try."""
    out, method = job.options.out, record["method"]
    fields = ", ".join(f"{k}={v}" for k, v in method.items() if k != "name" and v is not None)
    first = (
        f"{out}: {method['name']}({fields}), {count(record['parameters'])} weights trained in "
        f"{duration(record['seconds'])}, {byte_size(record['bytes'])}"
    )
    rows = [*found, *(("wrote", path) for path in record["wrote"][1:])]
    rows.append(("try", f"dtheta apply {shlex.quote(str(out))}{model_flag(job.model)} {job.given}"))
    return "\n".join([first, *(f"{name:<9} {text}" for name, text in rows)])
