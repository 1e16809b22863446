r"""Run an ensemble from one or several starts into a zarr folder that xarray opens.

Networks come with dtheta (--model), or are your own (--step): a torch.nn.Module or function that takes states
(batch, channels, ...) and returns the states one step later. Its attributes channels, units and hours are heeded where
it has them; --parameters gives it several checkpoints or deltas, over which members are dealt.

Starts are simulated, a flow being the truth and synthetic analyses of it the starts; or they come from a file with
named channels and times (--analyses, --truth, --climate).

  --model          qg-sfno (all its checkpoints) qg-sfno-3 lorenz96(forcing=8) quasi-geostrophic shallow-water
  --perturbation   bred(cycles=3) spherical(length_km=500) white random lagged(lags=4) none
  --truth          lorenz96(forcing=8) ... , or with --analyses a file

An amplitude is 0.35 times the error of the network after two days, measured apart from the starts, in every channel;
bred(amplitude=9) or white(share=0.2) say otherwise. Members with --pairs are no independent ones: leave it out where
spread and CRPS are to be compared.

What is needed to score the run and to repeat any member is in the folder. A run that was interrupted waits beside it,
and goes on with --resume; under torchrun the members are shared out.

  dtheta ensemble run --model lorenz96 --members 16 --out run.zarr
  dtheta ensemble run --model qg-sfno --members 16 --perturbation bred --days 10 --starts 4 --out run.zarr
  dtheta ensemble run --step weather.py:net --parameters a.safetensors --parameters b.safetensors \
      --analyses era5.zarr --truth era5.zarr --channels z500,t850 --start 2020-01-31 --days 5 --out run.zarr
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dtheta.cli.console import Console, Part, Table
from dtheta.cli.ensemble_assembly import amplitude_of, assembled, ensemble_of, rows_of, threads
from dtheta.cli.ensemble_networks import Network, network_of, stepping
from dtheta.cli.ensemble_parts import members_of, part_of
from dtheta.cli.idle import refuse_idle
from dtheta.cli.options import CommonOptions, Flag
from dtheta.cli.places import require_outside
from dtheta.cli.units import byte_size, plural
from dtheta.cli.workspace import held
from dtheta.errors import ConfigError, MembersMissing, NonFinite, OutputError, ShapeMismatch

if TYPE_CHECKING:
    from dtheta.cli.ensemble_parts import Part as Perturbed
    from dtheta.cli.ensemble_source import Source
    from dtheta.ensemble.hindcast import Hindcast
    from dtheta.ensemble.members import Member


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta ensemble run``."""

    model: Annotated[str | None, Flag("checkpoints that come with dtheta, or a flow", "NAME|FLOW")] = None
    step: Annotated[str | None, Flag("a network of your own", "MODULE:NAME|FILE.py:NAME")] = None
    parameters: Annotated[
        tuple[Path, ...], Flag("a .safetensors or .delta file, or a checkpoint's folder, for --step; may be repeated")
    ] = ()
    members: Annotated[int | None, Flag("how many, dealt over the networks in turn (default: 16)")] = None
    perturbation: Annotated[str, Flag("of the starts", "PART")] = "bred"
    pairs: Annotated[bool, Flag("add every perturbation to one member and take it off another")] = False
    control: Annotated[bool, Flag("leave the first member unperturbed")] = False
    days: Annotated[float, Flag("how far to forecast")] = 10.0
    every: Annotated[int, Flag("steps from one stored lead to the next")] = 1
    starts: Annotated[int | None, Flag("how many starts, evenly spaced over those that can be (default: 4)")] = None
    start: Annotated[tuple[str, ...], Flag("a start of --analyses; may be repeated", "DATE")] = ()
    analyses: Annotated[Path | None, Flag("a zarr folder or NetCDF file of states to start from", "FILE")] = None
    truth: Annotated[str | None, Flag("what happens: a file, or a flow where starts are simulated", "FILE|FLOW")] = None
    climate: Annotated[
        Path | None, Flag("a file of states that tell what is usual: for anomalies and rare events", "FILE")
    ] = None
    channels: Annotated[
        str | None, Flag("variables of the files, in the order of the network (default: its, or all)", "A,B,...")
    ] = None
    hours: Annotated[float | None, Flag("length of a step (default: the network's, or 6)")] = None
    nonnegative: Annotated[str | None, Flag("channels that no perturbation makes negative", "A,B,...")] = None
    analysis_error: Annotated[
        float, Flag("error of simulated analyses, as a share of the climate's standard deviation")
    ] = 0.06
    rows: Annotated[
        int | None,
        Flag("states a network is called with, which moves the last bits (default: 16, or fewer if that will do)"),
    ] = None
    stack: Annotated[int, Flag("networks that are computed in one call")] = 1
    hold: Annotated[int | None, Flag("members in memory at a time (default: all)")] = None
    out: Annotated[Path, Flag("the zarr folder to write", "DIR")] = Path("run.zarr")
    resume: Annotated[bool, Flag("go on with an interrupted run")] = False


_ASIDE = ("out", "resume", "hold")  # what does not change the result


def run(options: Options, console: Console) -> int:
    """Run, or go on."""
    from dtheta.ensemble.sharded import launched

    work = _require_places(options)
    if options.resume and not work.exists():
        console.note(f"{work} is not there, so this run begins anew")
    if options.hold is not None and options.hold < 1:
        raise ConfigError(f"--hold is {options.hold}; expected a whole number, 1 or more")
    part = part_of(options.perturbation)
    if part is None:
        refuse_idle(options, ("nonnegative",), "bounds perturbations, and --perturbation none has none; leave it out")
    network = network_of(options.model, options.step, options.parameters)
    members = members_of(options.members, len(network.parameters or [None]), part, options.pairs, options.control)
    from dtheta.cli.ensemble_source import leads_of, source_of

    source = source_of(options, network)
    leads = leads_of(options.days, options.every, source.hours)
    if options.dry_run:
        from dtheta.cli.ensemble_plan import plan

        plan(options, network, source, part, members, leads).show(console)
        return 0
    with launched() as here:
        first = here.rank == 0
        quiet = console if first else Console(console.json, quiet=True)
        if first and not work.exists():
            _begin(options, network, source, part, members, leads, work, quiet)
        with held(work) if first else nullcontext():
            _together(here.size)
            found = _opened(work, options)
            with threads(int(found.record["threads"])):
                _forecasts(found, network, options, quiet)
            _together(here.size)
            if first:
                os.replace(work, options.out)
        if first:
            _tell(options, network, leads, source.hours, console)
    return 0


def workspace(out: Path) -> Path:
    """Return where a run waits until it is complete."""
    return out.with_name(f"{out.name}.part")


def _require_places(options: Options) -> Path:
    """Return where the run waits until it is complete, after a look at all places.

    Raises:
        OutputError: If something is there, or in the way; or if another process works there.
    """
    out = options.out
    if out.exists():
        raise OutputError(f"cannot write {out}: it is there already; remove it, or choose another --out")
    if not out.absolute().parent.is_dir():
        raise OutputError(f"cannot write {out}: there is no folder {out.absolute().parent}; create it first")
    work = workspace(out)
    if work.is_dir():
        with held(work):
            pass
    if work.exists() and not options.resume:
        raise OutputError(f"{work} holds an interrupted run: go on with --resume, or remove it to start anew")
    truth = None if options.truth is None or options.analyses is None else Path(options.truth)
    reads = {"--analyses": options.analyses, "--truth": truth, "--climate": options.climate}
    for name, path in (reads | {"--config": options.config}).items():
        if path is not None:
            require_outside("--out", out, name, path)
    return work


def settings_of(options: Options) -> dict[str, Any]:
    """Return the options that make the result."""
    found = {name: value for name, value in options.resolved().items() if name not in _ASIDE}
    if options.analyses is not None and options.truth is not None:
        found["truth"] = Path(options.truth).name  # as of every file: where it lay is its owner's business
    return found | {"seed": options.seed}


def _begin(
    options: Options, network: Network, source: Source, part: Perturbed | None, members: Sequence[Member],
    leads: Sequence[int], work: Path, console: Console,
) -> None:  # fmt: skip
    """Make the folder with all that the forecasts begin from."""
    import torch

    from dtheta.cli.ensemble_plan import starts_in, stored
    from dtheta.cli.ensemble_scene import scene_of
    from dtheta.core.output import require_space
    from dtheta.core.provenance import versions
    from dtheta.ensemble.hindcast import create_hindcast
    from dtheta.ensemble.layout import layout

    require_space(work, stored(source, part, members, leads, starts_in(options, source, part, leads)))
    console.note("simulating the truth ..." if source.analyses is None else "reading the starts ...")
    scene = scene_of(options, source, part, leads)
    with stepping(network):
        amplitude = amplitude_of(network, source, scene, part)
    if amplitude and part is not None and part.amplitude is None:
        names = [f.name for f in source.fields or []] or [""]
        said = ", ".join(f"{name} {size:.3g}".strip() for name, size in zip(names, amplitude, strict=True))
        console.note(f"amplitude: {said}; {part.share:g} times the error of the network after {source.horizon} steps")
    settings = settings_of(options)
    record = {
        "settings": settings, "amplitude": amplitude, "rows": rows_of(options.rows, members),
        "members": [[m.parameters, m.draw, m.sign] for m in members], "hours": source.hours, "degree": source.degree,
        "truth": settings["truth"] or ("" if source.flow is None else _called(source.flow)),
        "threads": torch.get_num_threads(), "versions": versions(),
    }  # fmt: skip
    names = [field.name for field in source.fields or []]
    assembled(network, record, source.shape, source.grid, names, scene.begin.states)  # which checks it
    shaped = layout(source.shape, source.fields, source.grid)  # type: ignore[arg-type]
    create_hindcast(work, shaped, scene.begin, leads, source.hours, record)


def _called(flow: Any) -> str:
    from dtheta.cli.ensemble_networks import flows

    return next((name for name, kind in flows().items() if isinstance(flow, kind)), type(flow).__name__)


def _together(size: int) -> None:
    """Wait for the other processes.

    Raises:
        MembersMissing: if one of them has ended.
    """
    if size > 1:
        import torch.distributed as dist

        try:
            dist.barrier()
        except RuntimeError as error:
            raise MembersMissing(
                "another process of this run has ended; it says why itself. What was written is kept: go on with "
                "--resume, on any number of processes"
            ) from error


def _opened(work: Path, options: Options) -> Hindcast:
    """Return the run in a folder, which must be of these options.

    Raises:
        ConfigError: naming those that differ.
    """
    from dtheta.ensemble.hindcast import Hindcast

    found, now = Hindcast(work), settings_of(options)
    before = found.record["settings"]
    differ = [name for name in now if before.get(name) != now[name]]
    if differ:
        name = differ[0]
        raise ConfigError(
            f"{work} is of another run: {', '.join(differ)} differ, {name} there is {before.get(name)!r}, here "
            f"{now[name]!r}; give the options that it was begun with, or remove it to start anew"
        )
    return found


def _forecasts(found: Hindcast, network: Network, options: Options, console: Console) -> None:
    """Run what is not there yet."""
    from dtheta.ensemble.archiving import archive

    ensemble = ensemble_of(found, network)
    grid: Any = found.grid  # latitudes and longitudes, whatever grid they are of, are all that an archive asks for
    waves = 1 if options.hold is None else -(-len(ensemble) // max(1, options.hold))
    progress = console.progress("leads", len(found) * len(found.leads) * waves)
    kept = f". {found.path} holds what was done before; remove it to start anew"
    try:
        with stepping(network, kept), progress as begin:
            for start in range(len(found)):
                state, past = found.analyses(start)

                def step(first: int, stop: int, lead: int, start: int = start) -> None:
                    begin(f"start {found.times[start]}, members {first} to {stop - 1}, lead {lead}")

                archive(
                    ensemble, found.place(start), state, found.leads, past=past, time=found.time(start),
                    fields=found.fields, grid=grid, hold=options.hold, progress=step,
                )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; {found.path} holds what was done: go on with --resume") from None
    except (NonFinite, ShapeMismatch) as error:  # which going on would meet again
        raise type(error)(f"{error}{kept}") from None


def _tell(options: Options, network: Network, leads: Sequence[int], hours: float, console: Console) -> None:
    from dtheta.cli.plan import size_within
    from dtheta.ensemble.hindcast import Hindcast

    found = Hindcast(options.out)
    size = size_within(options.out)
    members = len(found.record["members"])
    record = {
        "out": str(options.out), "members": members, "starts": found.times, "network": network.name,
        "networks": len(network.parameters or [None]), "leads": list(leads), "hours": hours,
        "amplitude": found.record["amplitude"], "bytes": size, "settings": found.record["settings"],
    }  # fmt: skip
    rows = [
        ("members", f"{members}, of {plural(len(network.parameters or [None]), 'network')}"),
        ("starts", f"{len(found)}: {found.times[0]} to {found.times[-1]}" if len(found) > 1 else found.times[0]),
        ("leads", f"{len(leads)}, to {leads[-1] * hours / 24:g} days"),
        ("wrote", f"{options.out}, {byte_size(size)}"),
    ]
    parts: list[Part] = [Table(("ensemble", network.name), rows)]
    parts.append(f"score it:  dtheta ensemble verify {options.out} --report page.html")
    console.result(record, parts)
