"""Run one member of an ensemble alone, and compare it with what was stored, bit for bit.

The network is made again as the run says, or as --step and --parameters say where files have moved; analyses,
perturbation and seed are those of the run. A network with other weights is refused with exit code 3. Bits are promised
on the same kind of machine with the same versions; where they differ, the largest difference is told, and the exit code
is 1.

  dtheta ensemble replay run.zarr --member 7 --start 0
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dtheta.cli.console import Console, Part, Table
from dtheta.cli.ensemble_assembly import threads
from dtheta.cli.ensemble_networks import Network, network_of, stepping
from dtheta.cli.options import CommonOptions, Flag, Place
from dtheta.cli.places import require_input
from dtheta.errors import BaseMismatch, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from dtheta.ensemble.hindcast import Hindcast


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta ensemble replay``."""

    run: Annotated[Path, Place("the folder that 'dtheta ensemble run' wrote", "RUN")]
    member: Annotated[int, Flag("which member, from 0")]
    start: Annotated[int, Flag("which start, from 0")] = 0
    step: Annotated[str | None, Flag("where the network is, if it moved", "MODULE:NAME|FILE.py:NAME")] = None
    parameters: Annotated[tuple[Path, ...], Flag("its parameter sets, if they moved; all, in the same order")] = ()


@dataclass(frozen=True)
class _Compared:
    """One lead: in hours, whether all bits are equal, how many values are not, and the largest difference."""

    hours: float
    equal: bool
    unequal: int
    difference: float


def run(options: Options, console: Console) -> int:
    """Run the member and compare."""
    from dtheta.ensemble.hindcast import Hindcast

    found = Hindcast(require_input(options.run))
    _require_there(options, found)
    settings = found.record["settings"]
    if options.dry_run:
        _plan(options, found).show(console)
        return 0
    step = options.step or settings["step"]
    network = network_of(None if step else settings["model"], step, options.parameters or _parameters(settings))
    with threads(int(found.record["threads"])), stepping(network):
        rows = list(_compared(options, found, network))
    record = {
        "run": str(options.run), "member": options.member, "start": found.times[options.start],
        "who": dict(zip(("parameters", "draw", "sign"), found.record["members"][options.member], strict=True)),
        "equal": all(row.equal for row in rows),
        "leads": [{"hours": r.hours, "equal": r.equal, "unequal": r.unequal, "difference": r.difference} for r in rows],
    }  # fmt: skip
    console.result(record, _parts(record, rows, found))
    return 0 if record["equal"] else 1


def _require_there(options: Options, found: Hindcast) -> None:
    for name, value, count in (
        ("--member", options.member, len(found.record["members"])), ("--start", options.start, len(found)),
    ):  # fmt: skip
        if not 0 <= value < count:
            raise ConfigError(f"{name} is {value}; this run has {count}, from 0 to {count - 1}")


def _parameters(settings: dict[str, Any]) -> tuple[Path, ...]:
    """Return the files of the parameter sets, which a run remembers by name alone."""
    found = tuple(Path(name) for name in settings["parameters"])
    lost = [str(path) for path in found if not path.exists()]
    if lost:
        raise ConfigError(
            f"the run's parameter set {lost[0]} is not in this folder; say where with --parameters, for all"
        )
    return found


def _compared(options: Options, found: Hindcast, network: Network) -> Iterator[_Compared]:
    from dtheta.cli.ensemble_assembly import ensemble_of

    ensemble, archive = ensemble_of(found, network), found.archive(options.start)
    _require_same(ensemble.to_dict(), archive.record["ensemble"], options)
    state, past = found.analyses(options.start)
    time = found.time(options.start)
    for lead, x in ensemble.replay(options.member, state, archive.leads, past=past, time=time):
        yield _difference(lead * found.record["hours"], x, archive.read(options.member, options.member + 1, lead)[0])


def _require_same(now: dict[str, Any], then: dict[str, Any], options: Options) -> None:
    """Raise unless the networks are those of the run.

    Raises:
        BaseMismatch: naming the first that is not.
    """
    pairs = zip(now["parameters"], then["parameters"], strict=False)
    differ = [i for i, (a, b) in enumerate(pairs) if a != b]
    if differ or len(now["parameters"]) != len(then["parameters"]):
        which = f"network {differ[0]}" if differ else f"the number of networks, {len(now['parameters'])},"
        raise BaseMismatch(
            f"{which} is not that of {options.run}: its weights have another digest; give --step and --parameters that "
            "the run was made with"
        )


def _difference(hours: float, x: Tensor, stored: Tensor) -> _Compared:
    import torch

    unequal = x.view(torch.uint8) != stored.contiguous().view(torch.uint8) if x.ndim else x != stored
    wrong = (x != stored) | (torch.signbit(x) != torch.signbit(stored))
    return _Compared(
        hours, not bool(unequal.any()), int(wrong.sum()), float((x.double() - stored.double()).abs().max())
    )


def _parts(record: dict[str, Any], rows: list[_Compared], found: Hindcast) -> list[Part]:
    shown = rows if len(rows) <= 12 else [rows[round(i * (len(rows) - 1) / 10)] for i in range(11)]
    cells = [(f"{r.hours / 24:g}", "equal" if r.equal else f"{r.unequal} differ", f"{r.difference:.3g}") for r in shown]
    who = record["who"]
    title = (
        f"member {record['member']} of start {record['start']}: network {who['parameters']}, draw {who['draw']}, "
        f"sign {who['sign']}"
    )
    verdict = (
        f"all {len(rows)} leads have the bits that were stored" if record["equal"]
        else f"{sum(not r.equal for r in rows)} of {len(rows)} leads differ; the run had {_versions(found)}"
    )  # fmt: skip
    return [Table(("day>", "bits", "largest difference>"), cells, title), verdict]


def _versions(found: Hindcast) -> str:
    held = found.record["versions"]
    return f"torch {held.get('torch')}, {found.record['threads']} threads"


def _plan(options: Options, found: Hindcast) -> Any:
    from dtheta.cli.plan import PROGRAM, Plan, size_within

    return Plan({str(options.run): size_within(found.place(options.start))}, {}, PROGRAM, None, options.resolved())
