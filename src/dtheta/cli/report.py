"""Draw one page from the results of earlier runs.

FILES are either .delta files (what each is, its layers, and how alike they are) or the .json results that 'dtheta demo'
and 'dtheta adapt --report' write; several of the latter on one model become one page. Of runs with --shots, it shows
the accuracy over the number of shots; runs that differ in their --seed alone become one point with an interval.

With --serve the browser of this machine is shown the page of a folder of deltas, and one of each of them, made when
asked for; nothing is written. Ctrl-C ends it.

  dtheta report dtheta-demo/deltas/*.delta --out deltas.html
  dtheta report dtheta-demo/deltas --serve
  dtheta report lora.json pissa.json --out compared.html
  dtheta report shots-1.json shots-4.json shots-16.json --out shots.html
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dtheta.cli.console import Console
from dtheta.cli.idle import refuse_idle
from dtheta.cli.options import CommonOptions, Flag, Place
from dtheta.cli.places import require_input, require_outputs
from dtheta.cli.plan import PROGRAM, Plan, reading_time, size_of
from dtheta.cli.units import byte_size
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.report import AdaptResults, FewShotResults, TaskResult

_PORTS = 65535


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta report``."""

    files: Annotated[tuple[Path, ...], Place(".delta files, or .json results", "FILE")] = ()
    out: Annotated[Path, Flag("the page to write", "FILE")] = Path("report.html")
    serve: Annotated[bool, Flag("serve the pages of one folder to the browser of this machine, and write none")] = False
    port: Annotated[int, Flag("where --serve listens; 0 takes a free port")] = 0


def run(options: Options, console: Console) -> int:
    """Draw the page."""
    if options.serve:
        return _serve(options, console)
    refuse_idle(options, ("port",), "says where --serve listens, which is not given; add that, or leave it out")
    files = [require_input(path) for path in options.files]
    kinds = {path.suffix for path in files}
    if kinds not in ({".delta"}, {".json"}):
        raise ConfigError("give .delta files, or .json results of earlier runs, and only one of the two kinds")
    require_outputs({"--out": options.out}, {"--config": options.config, **{f"FILE {path}": path for path in files}})
    if options.dry_run:
        _require_readable(files, kinds)
        reads = {str(path): size_of(path) for path in files}
        total = sum(size or 0 for size in reads.values())
        Plan(reads, {str(options.out): 200_000}, PROGRAM + 2 * total, reading_time(total) + 2).show(console)
        return 0
    page = _deltas(files, options.out) if kinds == {".delta"} else _results(files, options.out)
    record = {"out": str(page), "kind": "deltas" if kinds == {".delta"} else "results", "bytes": page.stat().st_size}
    console.result(record, [f"{page}: {byte_size(record['bytes'])}, one self-contained page of {len(files)} file(s)"])
    return 0


def _serve(options: Options, console: Console) -> int:
    """Serve a folder until Ctrl-C."""
    from dtheta.report.serve import HOST, Folder, server

    refuse_idle(options, ("out",), "names a page to write, and --serve writes none; leave one of the two out")
    if len(options.files) != 1:
        raise ConfigError(f"--serve takes one folder, found {len(options.files)} places")
    if not 0 <= options.port <= _PORTS:
        raise ConfigError(f"--port must be a number from 1 to {_PORTS}, or 0 for a free port, found {options.port}")
    folder = Folder(require_input(options.files[0]))
    if options.dry_run:
        Plan({str(folder.path): size_of(folder.path)}, {}, PROGRAM).show(console)
        return 0
    with server(folder, options.port) as listening:
        address = f"http://{HOST}:{listening.server_address[1]}/"
        console.result({"url": address}, [f"{folder.path} is at {address} until Ctrl-C"])
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            listening.serve_forever()
    return 0


def _require_readable(files: Sequence[Path], kinds: set[str]) -> None:
    """Raise what drawing the page would raise on these files, as far as their headers and records tell."""
    from dtheta.core.files import read_header

    if kinds == {".delta"}:
        for path in files:
            read_header(path)
    else:
        gathered(files)


def _deltas(files: Sequence[Path], out: Path) -> Path:
    from dtheta.report import delta_report

    return delta_report(files, out)


def _results(files: Sequence[Path], out: Path) -> Path:
    from dtheta.report import AdaptResults, adapt_report, few_shot_report

    found = gathered(files)
    return adapt_report(found, out) if isinstance(found, AdaptResults) else few_shot_report(found, out)


def gathered(files: Sequence[Path]) -> AdaptResults | FewShotResults:
    """Return the results in some files as those of one page: few-shot curves where runs differ in shots or draws.

    Raises:
        ConfigError: If they cannot be on one page.
        FormatError: If a file holds no results.
    """
    from dtheta.report import AdaptResults, FewShotResults, few_shot_of, is_few_shot

    curves = [path for path in files if is_few_shot(path)]
    if curves and len(files) > 1:
        raise ConfigError(f"{curves[0]} holds curves over shots already, which have a page of their own; give it alone")
    if curves:
        return FewShotResults.load(curves[0])
    found = [AdaptResults.load(path) for path in files]
    runs = [
        (task.name, task.shots, method.name) for results in found for task in results.tasks for method in task.methods
    ]
    few = all(shots is not None for _, shots, _ in runs)
    curve = len({shots for _, shots, _ in runs}) > 1 or len(set(runs)) < len(runs)
    return few_shot_of(found) if few and curve else joined(found)


def joined(found: Sequence[AdaptResults]) -> AdaptResults:
    """Return the results of several runs on one base as those of one.

    Raises:
        ConfigError: If they are of different bases or measure different things, or two of them hold one method on one
            task.
    """
    from dtheta.report.results import common_provenance

    first = found[0]
    bases = {results.provenance.get("base") for results in found}
    if len(found) > 1 and len(bases) > 1:
        raise ConfigError(f"these runs are of {len(bases)} different bases; one page compares runs on one base")
    if len(kinds := {f"{one.measure.name} on {one.measure.examples}" for one in found}) > 1:
        raise ConfigError(f"these runs measure {' and '.join(sorted(kinds))}, which is not to be read on one page")
    tasks: dict[str, TaskResult] = {}
    for task in (task for results in found for task in results.tasks):
        tasks[task.name] = _both(tasks[task.name], task) if task.name in tasks else task
    pictures = tuple(sample for results in found for sample in results.pictures)
    provenance = common_provenance([results.provenance for results in found])
    return replace(first, tasks=tuple(tasks.values()), pictures=pictures, provenance=provenance)


def _both(a: TaskResult, b: TaskResult) -> TaskResult:
    """Return one task's results from two runs, which must have been tested on the same texts."""
    if (a.train, a.test, a.baseline) != (b.train, b.test, b.baseline):
        raise ConfigError(f"the runs on {a.name} differ in their texts, so their accuracies cannot be compared")
    twice = {method.name for method in a.methods} & {method.name for method in b.methods}
    if twice:
        raise ConfigError(f"two of the runs hold {sorted(twice)[0]} on {a.name}; give each method once")
    return replace(a, methods=(*a.methods, *b.methods))
