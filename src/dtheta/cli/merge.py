"""Write the model with deltas in it, a delta as a peft adapter, or several whole models merged into one.

The weights of the folder BASE are read, moved and written one tensor at a time: float64 sums, rounded once. Several
deltas add up exactly, each with its --weight; all must be of BASE. A classifier's head goes into the folder beside the
encoder (classifier.safetensors), and 'dtheta apply FOLDER' runs both; dtheta.json says what it was made of. With
--format peft the deltas' sum becomes an adapter folder that peft loads on the untouched base.

With --plan, checkpoints (and deltas) larger than memory are merged as a YAML file in mergekit's form says: linear,
task_arithmetic, ties, dare_linear, dare_ties, breadcrumbs, breadcrumbs_ties, slerp, passthrough. All that is wrong with
it is said at once, before a tensor is read.

  dtheta merge minilm news.delta --out merged/ --check
  dtheta merge base/ a.delta b.delta --weight 1 --weight 0.5 --out merged/
  dtheta merge minilm news.delta --format peft --out adapter/
  dtheta merge --plan ties.yaml --out merged/ --max-memory 4GiB
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dtheta.cli.bases import base_path, local_place, model_name
from dtheta.cli.console import Console
from dtheta.cli.family import common_task, has_head, part_of, require_one_task, require_some
from dtheta.cli.idle import refuse_idle
from dtheta.cli.options import CommonOptions, Flag, Place
from dtheta.cli.places import require_input, require_outputs
from dtheta.cli.plan import Plan, reading_time, size_of
from dtheta.cli.units import byte_size
from dtheta.errors import ConfigError, OutputError, UnsupportedLayer

if TYPE_CHECKING:
    from dtheta.core.delta import Delta
    from dtheta.core.header import Header

RECORD = "dtheta.json"


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta merge``."""

    base: Annotated[
        str | None, Place("a name of 'dtheta models', a Hugging Face folder, or a safetensors file; not with --plan")
    ] = None
    deltas: Annotated[tuple[Path, ...], Place("one or several .delta files of that base", "DELTA")] = ()
    out: Annotated[Path, Flag("the folder to write, which must not exist; a file where BASE is one", "DIR")]
    weight: Annotated[tuple[float, ...], Flag("factor of each delta, in order; ones by default")] = ()
    select: Annotated[str | None, Flag("only changes that match this glob; alternatives are joined by |", "GLOB")] = (
        None
    )
    format: Annotated[Literal["full", "peft"], Flag("the whole model, or a peft LoRA adapter")] = "full"
    dtype: Annotated[
        Literal["float32", "float64", "bfloat16", "float16"] | None, Flag("store the weights so (default: as they are)")
    ] = None
    check: Annotated[bool, Flag("compare the outputs of what was written with those of base and delta")] = False
    plan: Annotated[Path | None, Flag("merge whole models as this file says, in mergekit's form", "FILE")] = None
    max_memory: Annotated[
        str | None, Flag("memory that the process may take with --plan, as 800MB or 4GiB (default: 2GiB)", "SIZE")
    ] = None

    @property
    def model(self) -> str:
        """BASE, which only --plan can stand for.

        Raises:
            ConfigError: If it was not given.
        """
        if self.base is None:
            raise ConfigError("BASE is missing; 'dtheta merge --help' shows how to call it")
        return self.base


def run(options: Options, console: Console) -> int:
    """Merge and, if asked, check."""
    if options.plan is not None:
        from dtheta.cli.merge_plan import run_plan

        return run_plan(options, options.plan, console)
    weights = _require_meant(options)
    headers = _require_fitting(options)
    if options.dry_run:
        return _plan(options, console)
    base = base_path(options.model)
    if options.check:
        from dtheta.cli.merge_check import check_merge, require_texts

        require_texts(base)
    delta = _sum(options, weights)
    if options.format == "peft":
        record = _write_peft(options, base, delta, headers)
    else:
        record = _write_full(options, base, delta, headers, console)
    lines = [f"{options.out}: {record['tensors']} tensors moved, {byte_size(record['bytes'])} written"]
    if record.get("worst") is not None:  # the rounding of the tensors that moved, if any did
        lines.append(f"rounding  lost at most {record['rounding']:.1e} of a tensor's change ({record['worst']})")
    if options.check:
        record["check"] = check = check_merge(options, base, delta)
        size = f"by at most {check['difference']:.1e}, where the largest is {check['largest']:.3g}"
        lines.append(
            f"check     outputs differ from base and delta {size}; the delta moves them by {check['moved']:.1e}"
        )
        if 0 < check["moved"] <= check["difference"]:
            lines.append("          so that rounding outweighs the delta: a wider --dtype keeps more of it")
    console.result(record, ["\n".join(lines)])
    return 0


def _require_meant(options: Options) -> tuple[float, ...]:
    """Return the factor of each delta, after what can be checked without reading anything.

    Raises:
        ConfigError, OutputError: If the options contradict each other, or the output has no place.
    """
    refuse_idle(options, ("max_memory",), "goes with --plan; deltas are added one tensor at a time anyway")
    base = local_place(options.model)
    if not options.deltas:
        raise ConfigError("there is no delta to merge: dtheta merge BASE DELTA --out DIR")
    weights = options.weight or (1.0,) * len(options.deltas)
    if len(weights) != len(options.deltas):
        raise ConfigError(
            f"{len(options.deltas)} deltas but {len(weights)} weights; give --weight once for each, in order"
        )
    if options.format == "peft" and options.dtype not in (None, "float32"):
        raise ConfigError("--dtype goes with --format full; a peft adapter's factors are float32")
    if options.check and base is not None and base.is_file():
        raise ConfigError("--check runs the model, so BASE must be a folder with its configuration")
    if not options.out.is_dir():
        reads = {"BASE": base, "--config": options.config}
        require_outputs({"--out": options.out}, {**reads, **{f"DELTA {path}": path for path in options.deltas}})
    elif any(options.out.iterdir()):
        raise OutputError(f"cannot write the folder {options.out}: it exists; remove it or choose another name")
    return weights


def _require_fitting(options: Options) -> list[Header]:
    """Return the headers of the deltas, all of which were made on the base.

    Raises:
        BaseMismatch: If one was not: before a tensor of any is read.
        UnsupportedLayer: If one brings a prompt.
        UnknownParameter: If the selection takes nothing of one.
    """
    from dtheta.cli.fits import require_base, require_one_base
    from dtheta.core.checkpoints import open_checkpoint
    from dtheta.core.files import read_header

    headers = [read_header(require_input(path)) for path in options.deltas]
    for header in headers:
        require_some(header, options.select)
    _require_no_new(headers, options.select)
    require_one_task(headers, options.select)
    require_one_base(headers, options.select)
    base = base_path(options.model, fetch=not options.dry_run)
    if base is not None:
        checkpoint = open_checkpoint(base)
        for header in headers:
            require_base(header, checkpoint, whole=not options.dry_run, select=options.select)
    return headers


def _require_no_new(headers: Sequence[Header], select: str | None) -> None:
    """Raise where a selection takes a prompt: no checkpoint has a place for one, nor has a LoRA adapter.

    Raises:
        UnsupportedLayer: Naming it.
    """
    from dtheta.core.kinds import NEW_KINDS
    from dtheta.core.tensors import matches

    for header in headers:
        for name, change in header.changes.items():
            new = change["kind"] in NEW_KINDS and not has_head([name])  # a head has its place beside the weights
            if new and (select is None or matches(name, select)):
                raise UnsupportedLayer(
                    f"{header.path}: {name} is a new vector, for which a merged model has no place; 'dtheta apply' "
                    "runs it beside the base, and --select 'PATTERN' merges weights that move beside it, without it"
                )


def _plan(options: Options, console: Console) -> int:
    whole = size_of(base_path(options.model, fetch=False))
    reads = {options.model: whole, **{str(path): size_of(path) for path in options.deltas}}
    size = whole if options.format == "full" else sum(size_of(p) or 0 for p in options.deltas)
    seconds = reading_time(2 * (whole or 0))
    Plan(reads, {str(options.out): size}, int(5e8), seconds, options.resolved()).show(console)
    return 0


def _sum(options: Options, weights: Sequence[float]) -> Delta:
    """Return the weighted sum of the deltas."""
    from dtheta.core.delta import total
    from dtheta.core.files import load

    # selected first: what is left out may be of different bases, as heads of different tasks are
    loaded = [(weight, load(path)) for weight, path in zip(weights, options.deltas, strict=True)]
    deltas = [weight * part_of(delta, options.select) for weight, delta in loaded]
    delta = deltas[0]
    if len(deltas) > 1:
        delta = total(deltas)
        # what the deltas say of their own scores is not one, and says nothing of the sum
        task = common_task([each.provenance.task for each in deltas], has_head(delta))
        delta = replace(delta, provenance=replace(delta.provenance, task=task))
    return delta


def parts(delta: Delta, names: Collection[str]) -> tuple[Delta, bool]:
    """Return the delta under the names that a checkpoint of the pretrained model has, and whether there is a head.

    Raises:
        BaseMismatch: If the checkpoint lacks them.
    """
    from dtheta.cli.fits import prefix_in

    prefix = prefix_in(delta, names)
    if prefix is None:
        return delta, False
    renamed = delta.restrict("encoder.*").rename(lambda name: prefix + name.removeprefix("encoder."))
    return renamed, has_head(delta)


def _write_full(
    options: Options, base: Path, delta: Delta, headers: Sequence[Header], console: Console
) -> dict[str, Any]:
    import torch

    from dtheta.core.checkpoint_merge import merge_checkpoint
    from dtheta.core.checkpoints import open_checkpoint
    from dtheta.core.output import write_folder

    inner, with_head = parts(delta, open_checkpoint(base))
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    if base.is_file() and with_head:
        raise ConfigError(
            "the delta has a head, which needs a folder; give the model's folder as BASE, or --select 'encoder.*'"
        )
    if base.is_file():
        merged = merge_checkpoint(base, inner, options.out, dtype=dtype)
    else:
        with write_folder(options.out) as folder:
            merged = merge_checkpoint(base, inner, folder / "merged", dtype=dtype)
            _complete(folder, "merged", delta if with_head else None, _made(options, delta, headers))
    for name in merged.left_out:
        console.note(f"left out: {name} (it would not fit the merged weights)")
    return {
        "out": str(options.out),
        "format": "full",
        "parents": list(delta.provenance.parents) or [delta.digest],
        "delta": delta.digest,
        "tensors": len(merged.changed),
        "head": with_head,
        "bytes": merged.nbytes,
        "rounding": merged.rounding.max_relative,
        "worst": merged.rounding.worst,
        "left_out": list(merged.left_out),
    }


def _write_peft(options: Options, base: Path, delta: Delta, headers: Sequence[Header]) -> dict[str, Any]:
    from dtheta.core.interop import to_peft
    from dtheta.core.output import write_folder
    from dtheta.core.tensors import base_tensors
    from dtheta.models.load import load_model

    model = load_model(base)
    inner, with_head = parts(delta, set(base_tensors(model)))
    with write_folder(options.out) as folder:
        to_peft(inner, folder / "adapter", base_name=options.model, model=model)
        _complete(folder, "adapter", delta if with_head else None, _made(options, delta, headers))
    return {
        "out": str(options.out),
        "format": "peft",
        "parents": list(delta.provenance.parents) or [delta.digest],
        "delta": delta.digest,
        "tensors": len(inner),
        "head": with_head,
        "bytes": size_of(options.out) or 0,
    }


def _complete(folder: Path, part: str, head: Delta | None, record: dict[str, Any]) -> None:
    """Move what lies in a part of a folder up into it, and add the head, if there is one, and the provenance."""
    from dtheta.cli.head import write_head
    from dtheta.core.jsonfile import write_json

    for file in (folder / part).iterdir():
        shutil.move(str(file), folder / file.name)
    (folder / part).rmdir()
    if head is not None:
        write_head(folder, head)
    write_json(record, folder / RECORD, indent=2)


def _made(options: Options, delta: Delta, headers: Sequence[Header]) -> dict[str, Any]:
    """Return how the folder was made: the parents' digests, their weights, options, seed and versions."""
    from dtheta.core.provenance import Provenance

    settings = {
        "command": {"verb": "merge", **options.resolved(), "base": model_name(options.model)},
        "weights": list(options.weight or (1.0,) * len(options.deltas)),
        "base": headers[0].base.root,
        "delta": delta.digest,
    }
    parents = [header.digest for header in headers]
    return Provenance("merge", {}, parents, settings, options.seed, dict(delta.provenance.task)).to_dict()
