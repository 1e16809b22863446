"""Run the claims of the twelve papers again, on real models and data: which of them hold here.

SYSTEM is all, or some of: pissa, sorsa, clip-svd, dept, mvlpt, snnk, compeft, atlas, ntk, concept-vectors,
huge-ensembles, quantum-federated. Each claim is a row: what the paper says, what was run, the figure with its 95 %
interval, and whether the claim holds. Outcomes are computed from the intervals.

--fast runs all twelve within a quarter of an hour on two cores; without it they take hours. Runs are kept in --out as
they end: the same command goes on where it was interrupted.

  dtheta reproduce pissa --fast
  dtheta reproduce all --fast --out reproduced
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dtheta.cli.console import Console, Part, Table
from dtheta.cli.options import CommonOptions, Flag, Place
from dtheta.cli.places import require_output
from dtheta.cli.plan import PROGRAM, Plan
from dtheta.cli.units import duration
from dtheta.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from dtheta.reproduce.claim import Row
    from dtheta.reproduce.reproduce import Reproduced, Reproduction

_FAST, _FULL = 70, 2400  # CPU seconds of a system, about
_PAGE, _RESULTS, _TABLES = "claims.html", "claims.json", "claims.md"


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta reproduce``."""

    systems: Annotated[tuple[str, ...], Place("all (also where nothing is given), or names of systems", "SYSTEM")] = ()
    fast: Annotated[bool, Flag("the small size: about a minute a system")] = False
    seeds: Annotated[int | None, Flag("seeds of every experiment (default: as many as each is set to)")] = None
    out: Annotated[Path | None, Flag("folder for the page, its figures as JSON and Markdown, and the runs", "DIR")] = (
        None
    )


def run(options: Options, console: Console) -> int:
    """Run the claims."""
    from dtheta.core.arguments import whole
    from dtheta.reproduce.reproduce import reproduce

    names = _names(options.systems)
    if options.seeds is not None:
        whole(options.seeds, "seeds", least=1)
    if options.seed:
        raise ConfigError("--seed: a reproduction takes seeds 0, 1, ...; --seeds says how many")
    _require_folder(options.out)
    if options.dry_run:
        _plan(options, names).show(console)
        return 0
    if options.out is not None:
        options.out.mkdir(exist_ok=True)
    done = reproduce(
        names, fast=options.fast, seeds=options.seeds, folder=options.out, note=console.note,
        found=lambda one: console.note(f"{one.name}: {len(one.rows)} claims in {duration(one.seconds)}"),
    )  # fmt: skip
    written = [] if options.out is None else _written(done, options.out)
    console.result(done.to_dict(), [*_parts(done), *(f"wrote {path}" for path in written)])
    return 0


def _names(given: tuple[str, ...]) -> list[str]:
    from dtheta.reproduce.systems import SYSTEMS, require_system

    if not given or "all" in given:
        if len(given) > 1:
            raise ConfigError("SYSTEM: give all, or names of systems")
        return list(SYSTEMS)
    return [require_system(name) for name in given]


def _require_folder(path: Path | None) -> None:
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise OutputError(f"cannot write into {path} (--out): it is a file; give the name of a folder")
    if not path.exists() and not path.absolute().parent.is_dir():
        raise OutputError(f"cannot make {path} (--out): there is no folder {path.absolute().parent}; create it first")
    if path.is_dir():
        for name in (_PAGE, _RESULTS, _TABLES):
            require_output(path / name)


def _plan(options: Options, names: list[str]) -> Plan:
    writes = {} if options.out is None else {str(options.out / name): 200_000 for name in (_PAGE, _RESULTS, _TABLES)}
    seconds = (_FAST if options.fast else _FULL) * len(names)
    notes = ["models and data that are not in the cache yet are fetched: dtheta models"]
    return Plan(dict.fromkeys(names), writes, PROGRAM + (2 << 30), seconds, notes=notes)


def _written(done: Reproduction, folder: Path) -> list[Path]:
    from dtheta.core.output import write_file
    from dtheta.report.reproduced import reproduction_report
    from dtheta.reproduce.markdown import markdown

    record = json.dumps(done.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for name, text in ((_RESULTS, record), (_TABLES, markdown(done))):
        with write_file(folder / name) as stream:
            stream.write(text.encode(errors="backslashreplace"))
    return [reproduction_report(done, folder / _PAGE), folder / _RESULTS, folder / _TABLES]


def _parts(done: Reproduction) -> list[Part]:
    from dtheta.reproduce.reproduce import counted

    parts: list[Part] = []
    for one in done.systems:
        parts += [*_system(one), ""]
    size = "small size (--fast)" if done.fast else "full size"
    return [*parts, f"claims: {counted(done)}", f"{size}, {done.place}"]


def _system(one: Reproduced) -> list[Part]:
    rows = [(row.claim.says, _found(row), _claimed(row), row.outcome) for row in one.rows]
    notes = [f"note: {row.claim.name}: {row.note}" for row in one.rows if row.note]
    head = f"{one.system.title} ({one.system.paper})"
    return [Table(("claim", "here>", "claimed", "outcome"), rows, head), *notes]


def _found(row: Row) -> str:
    from dtheta.reproduce.markdown import measured

    return "-" if row.found is None else measured(row)


def _claimed(row: Row) -> str:
    return "" if row.found is None else f"{row.side} {row.bound:.4g}"
