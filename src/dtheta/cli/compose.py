"""Compose deltas of one base into one: by given weights (task arithmetic), entry by entry, or by learned coefficients.

The sum is exact: low-rank stays low-rank, signs stay signs. A weight of -1 takes a delta away. With --recompress the
rank is brought down again. Heads of one set of classes are added too; where they are of different tasks the encoder's
part is composed, and each task keeps the head in its own delta: --head takes one into the result, which 'dtheta apply'
then runs.

With --by the entries are looked at: ties trims and elects signs, dare drops entries at random and rescales the rest,
breadcrumbs drops the largest too; mean takes the mean, slerp goes along the arc from one delta to another.

With --learn (aTLAS) every tensor of every delta has a coefficient of its own, learned from zero on labeled texts: the
loss is the sum over the tasks, each with its own head. Deltas name their packaged tasks; for others give --data once
for each classifier's delta, in order. Texts that no training has seen come first; the test texts are only tested on.

  dtheta compose a.delta b.delta --weight 1 --weight -0.5 --out c.delta
  dtheta compose a.delta b.delta --by ties --density 0.2 --out c.delta
  dtheta compose bbc.delta r8.delta sentiment.delta --learn --out multi.delta
  dtheta compose multi.delta --head bbc.delta --out bbc-multi.delta
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dtheta.cli.bases import local_place, remembered
from dtheta.cli.compose_learn import (
    descent_of,
    experts_of,
    judge,
    learning_plan,
    learning_record,
    learning_told,
    require_learnable,
)
from dtheta.cli.console import Console, Part
from dtheta.cli.family import ENCODER, HEAD, common_task, has_head, part_of, require_family, require_head
from dtheta.cli.idle import refuse_idle
from dtheta.cli.labeled import FILE_OPTIONS, Source
from dtheta.cli.merging import ENTRYWISE, By, merged, require_by
from dtheta.cli.multitask import Descent, learned
from dtheta.cli.networks import bases_read, bound, require_models
from dtheta.cli.options import CommonOptions, Flag, Place
from dtheta.cli.places import require_input, require_outputs
from dtheta.cli.plan import PROGRAM, Plan, reading_time
from dtheta.cli.units import byte_size, count, part
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.compose.coefficients import Coefficients
    from dtheta.core.delta import Delta
    from dtheta.core.header import Header


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta compose``."""

    deltas: Annotated[tuple[Path, ...], Place("one or several .delta files of one base", "DELTA")] = ()
    out: Annotated[Path, Flag("the file to write", "FILE")] = Path("composed.delta")
    weight: Annotated[tuple[float, ...], Flag("factor of each delta, in order; ones by default")] = ()
    by: Annotated[By, Flag("how: sum, mean, or a method that looks at the entries")] = "sum"
    density: Annotated[
        float | None, Flag("share of the entries kept (ties 0.2, dare 0.1, breadcrumbs 0.9)", "SHARE")
    ] = None
    at: Annotated[float | None, Flag("place on slerp's arc, from 0 to 1 (default: halfway)")] = None
    select: Annotated[
        str | None, Flag("only changes that match this glob (default: all, or encoder.* of different tasks)", "GLOB")
    ] = None
    head: Annotated[Path | None, Flag("take the head of this classifier's delta into the result", "DELTA")] = None
    recompress: Annotated[
        int | float | None, Flag("bring the rank of the sum down: a rank, or the share of the energy", "N|SHARE")
    ] = None
    learn: Annotated[bool, Flag("learn a coefficient for every tensor of every delta, on labeled texts")] = False
    isotropic: Annotated[bool, Flag("learn one coefficient a delta")] = False
    data: Annotated[
        tuple[str, ...], Flag("labeled texts of each classifier's delta, in order (default: its task)", "FILE|TASK")
    ] = ()
    text: Annotated[str, Flag("column of the texts", "COLUMN")] = "text"
    label: Annotated[str | None, Flag("column of the classes ('label' without it)", "COLUMN")] = None
    encoding: Annotated[str, Flag("encoding of the files: utf-8, latin-1, utf-16, ...", "NAME")] = "utf-8"
    texts: Annotated[int, Flag("texts of each task to learn on")] = 200
    validate: Annotated[int, Flag("other texts of each task; the best epoch on them is kept, 0 keeps the last")] = 100
    epochs: Annotated[int, Flag("passes over the texts")] = 10
    lr: Annotated[float, Flag("highest learning rate; it falls as a cosine")] = Descent.lr
    batch_size: Annotated[int, Flag("texts of each task a step")] = 16
    model: Annotated[
        str | None, Flag("the base, where texts or singular values need it (default: the one it names)", "NAME|DIR")
    ] = None


_LEARNING = ("data", "isotropic", *FILE_OPTIONS, "texts", "validate", "epochs", "lr", "batch_size")


@dataclass(frozen=True)
class Given:
    """What was asked for, checked: the headers, and the glob of what is composed (None for all)."""

    headers: tuple[Header, ...]
    head: Header | None
    select: str | None

    @property
    def heads(self) -> list[Header]:
        """The deltas that bring a head, and so a task to learn for."""
        return [header for header in self.headers if has_head(header.changes)]


def run(options: Options, console: Console) -> int:
    """Compose, and save."""
    from dtheta.core.files import load

    given = _require_meant(options)
    if options.dry_run:
        return _plan(options, given, console)
    deltas = [load(path) for path in options.deltas]
    parts = [part_of(delta, given.select) for delta in deltas]
    record: dict[str, Any] = {}
    coefficients = None
    if options.learn:
        experts, tokenizer = experts_of(options, given, deltas, record)
        console.note(f"learning coefficients of {len(parts)} deltas for {len(experts)} task(s) ...")
        coefficients = learned(experts, parts, tokenizer, descent_of(options))
        record |= learning_record(coefficients)
    made = _made(options, given, deltas, parts, coefficients)
    made.save(options.out)
    shown: list[Part] = []
    if options.learn:
        shown = judge(experts, part_of(made, ENCODER), tokenizer, record)
    _tell(options, given, made, record, shown, console)
    return 0


def _require_meant(options: Options) -> Given:
    """Return the headers and what is composed, after what can be checked without reading a tensor.

    Raises:
        ConfigError, OutputError, UnknownParameter: Naming the option.
        BaseMismatch: If the deltas are of different bases.
    """
    from dtheta.core.delta import Delta
    from dtheta.core.files import read_header
    from dtheta.core.recompress import recompress

    _require_options(options)
    if options.recompress is not None:
        recompress(Delta({}), options.recompress)
    headers = tuple(read_header(require_input(path)) for path in options.deltas)
    head = None if options.head is None else read_header(require_input(options.head))
    if head is None:
        select = require_family(headers, options.select)
    else:
        if options.select is not None:
            raise ConfigError("--head takes the encoder of the deltas and one head; --select goes without it")
        require_head(head)
        select = require_family((*headers, head), ENCODER)
    given = Given(headers, head, ENCODER if options.learn else select)
    if options.learn:
        require_learnable(options, given)
    else:
        require_models(headers, options.model)
    return given


def _require_options(options: Options) -> None:
    if not options.deltas:
        raise ConfigError("there is no delta to compose: dtheta compose DELTA ... --out FILE")
    if options.weight and len(options.weight) != len(options.deltas):
        raise ConfigError(
            f"{len(options.deltas)} deltas but {len(options.weight)} weights; give --weight once for each, in order"
        )
    require_by(options)
    if not options.learn:
        refuse_idle(options, _LEARNING, "goes with --learn; add that, or leave it out")
    if options.learn and options.by != "sum":
        raise ConfigError(f"--learn finds the weights of a sum; --by {options.by} goes without it")
    if options.learn and (options.weight or options.select):
        raise ConfigError("--learn finds the weights, of encoder.*; --weight and --select go without it")
    files = {f"--data {name}": Source(name).path for name in options.data}
    reads = {"--head": options.head, "--config": options.config, "--model": local_place(options.model), **files}
    require_outputs({"--out": options.out}, {**reads, **{f"DELTA {path}": path for path in options.deltas}})


def _plan(options: Options, given: Given, console: Console) -> int:
    headers = [*given.headers, *([given.head] if given.head else [])]
    reads: dict[str, int | None] = {str(header.path): header.nbytes for header in headers}
    total = made = sum(header.nbytes for header in headers)
    if options.by in ENTRYWISE:  # whatever came in, what comes out is an entry a weight
        shapes = {name: change["shape"] for header in given.headers for name, change in header.changes.items()}
        made = 4 * sum(map(math.prod, shapes.values()))
    base = bases_read(given.headers, options.model) if _looks_inside(options) else {}
    memory, seconds, notes = PROGRAM + 3 * total + 4 * made, 2 * reading_time(total + made) + 1, list[str]()
    reads, memory = reads | base, memory + 3 * sum(size or 0 for size in base.values())
    if options.learn:
        more, working, seconds, notes = learning_plan(options, given)
        reads, memory = reads | more, memory + working
    size = None if options.recompress is not None else made
    Plan(reads, {str(options.out): size}, memory, seconds, _settings(options), notes).show(console)
    return 0


def _made(
    options: Options, given: Given, deltas: Sequence[Delta], parts: Sequence[Delta], coefficients: Coefficients | None
) -> Delta:
    """Return the composed delta, at the rank and with the head that were asked for, and how it was made."""
    from dtheta.compose.compose import compose
    from dtheta.core.delta import total
    from dtheta.core.files import load
    from dtheta.core.recompress import recompress

    if _looks_inside(options) or _mixed(parts):
        parts = [bound(part, options.model, path) for part, path in zip(parts, options.deltas, strict=True)]
    made = merged(parts, options) if coefficients is None else compose(parts, coefficients)
    operation, settings, seed = made.provenance.operation, dict(made.provenance.settings), made.provenance.seed
    parents, tasks = [delta.digest for delta in deltas], [delta.provenance.task for delta in deltas]
    whole = any(name.startswith("head.") for name in made)
    if options.recompress is not None:
        made = recompress(made, options.recompress)
        settings["discarded"] = made.provenance.settings["discarded"]
    if options.head is not None:
        owner = load(options.head)
        made, whole = total([made, owner.restrict(HEAD)]), True
        parents, tasks, seed = [*parents, owner.digest], [owner.provenance.task], owner.provenance.seed
    command = {"verb": "compose", **_settings(options), "select": given.select, "seed": options.seed}
    provenance = replace(
        made.provenance, operation=operation, parents=parents, settings={**settings, "command": command}, seed=seed,
        task=common_task(tasks, whole),
    )  # fmt: skip
    return replace(made, provenance=provenance)


def _looks_inside(options: Options) -> bool:
    """Tell whether every change has to become a matrix; sums and means take changes as they are."""
    return options.recompress is not None or options.by not in ("sum", "mean")


def _mixed(parts: Sequence[Delta]) -> bool:
    """Tell whether shifts of singular values meet other changes of the same parameter: such a sum needs the vectors."""
    from dtheta.core.spectral import Spectral

    shifts: dict[str, set[bool]] = {}
    for name, change in (pair for delta in parts for pair in delta.changes.items()):
        shifts.setdefault(name, set()).update(isinstance(leaf, Spectral) for leaf in change.leaves())
    return any(len(found) > 1 for found in shifts.values())


def _settings(options: Options) -> dict[str, Any]:
    return {**remembered(options, options.model), "data": [Path(name).name for name in options.data]}


def _weights(options: Options) -> list[float] | None:
    """Return the weights that were given, or meant; None where there are none."""
    if options.learn or options.by == "slerp":
        return None
    each = 1.0 / len(options.deltas) if options.by == "mean" else 1.0
    return list(options.weight or (each,) * len(options.deltas))


def _tell(
    options: Options, given: Given, made: Delta, record: dict[str, Any], shown: list[Part], console: Console
) -> None:
    ranks = [change.rank for change in made.changes.values() if change.rank is not None]
    left = [str(h.path) for h in given.heads] if given.select is not None and not has_head(made) else []
    record = {
        "out": str(options.out),
        "digest": made.digest,
        "parents": list(made.provenance.parents),
        "composed": given.select or "all",
        "heads_left_in": left,
        "by": options.by,
        "weights": _weights(options),
        "tensors": len(made),
        "norm": made.norm(),
        "bytes": options.out.stat().st_size,
        "rank": max(ranks, default=None),
        "discarded_energy": dict(made.provenance.settings.get("discarded", {})),
        **record,
    }
    rank = f", rank {record['rank']}" if ranks else ""
    lines = [
        f"{options.out}: {len(options.deltas)} delta(s) composed, {len(made)} tensors of {count(made.numel)} weights, "
        f"norm {record['norm']:.4g}{rank}, {byte_size(record['bytes'])}"
    ]
    if record["discarded_energy"]:
        lost = max(record["discarded_energy"].values())
        lines.append(f"recompressed: at most {part(lost)} of a tensor's energy was discarded")
    if options.learn:
        lines += learning_told(record)
    if not len(made):
        some = any(header.changes for header in given.headers)
        why = "every coefficient is zero" if some else "no delta changes any tensor"
        lines.append(f"nothing is left: {why}, so that this is the base itself")
    elif left:
        headed = f"{Path(left[0]).stem}-composed.delta"
        lines += [
            f"composed is {given.select}; the heads stay in the deltas they came with, and one of them runs by",
            "  " + shlex.join(["dtheta", "compose", str(options.out), "--head", left[0], "--out", headed]),
        ]
    console.result(record, ["\n".join(lines), *shown])
