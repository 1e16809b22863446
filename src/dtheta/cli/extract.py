"""Take the delta that leads from one checkpoint to another.

TUNED is a checkpoint of the same model (a safetensors file, a Hugging Face folder, shards with an index) or a peft LoRA
folder, which becomes a delta of the model in the folder BASE. Checkpoints are read one tensor at a time. Without --rank
the delta is exact; with a rank, or a share of the energy like 0.9, a matrix is stored as factors where that is less.

  dtheta extract base/ tuned/ --out tuned.delta
  dtheta extract base/ tuned/ --out small.delta --rank 0.95
  dtheta extract base/ peft-adapter/ --out adapter.delta
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dtheta.cli.bases import base_path, local_place, model_name
from dtheta.cli.console import Console
from dtheta.cli.idle import refuse_idle
from dtheta.cli.options import CommonOptions, Flag, Place
from dtheta.cli.places import require_input, require_outputs
from dtheta.cli.plan import PROGRAM, Plan, reading_time, size_of
from dtheta.cli.units import byte_size, count, part, plural

if TYPE_CHECKING:
    from dtheta.core.delta import Delta


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta extract``."""

    base: Annotated[str, Place("the checkpoint before; a name of 'dtheta models' will do")]
    tuned: Annotated[Path, Place("the checkpoint after, or a peft LoRA folder")]
    out: Annotated[Path, Flag("the file to write", "FILE")] = Path("extracted.delta")
    rank: Annotated[
        int | float | None, Flag("a rank, or the share of the energy to keep; exact without it", "N|SHARE")
    ] = None
    select: Annotated[str | None, Flag("only tensors that match this glob; alternatives are joined by |", "GLOB")] = (
        None
    )
    partial: Annotated[bool, Flag("compare the tensors that both have; without it, other names are an error")] = False


def run(options: Options, console: Console) -> int:
    """Extract and save."""
    tuned = require_input(options.tuned)
    reads = {"BASE": local_place(options.base), "TUNED": tuned, "--config": options.config}
    require_outputs({"--out": options.out}, reads)
    peft = (tuned / "adapter_config.json").exists()
    if peft:
        refuse_idle(options, ("partial",), "compares two checkpoints; a peft folder must fit its base: leave it out")
    if options.dry_run:
        _require_fitting(options, tuned, peft)
        sizes = {options.base: size_of(base_path(options.base, fetch=False)), str(tuned): size_of(tuned)}
        total = sum(size or 0 for size in sizes.values())
        writes, seconds = {str(options.out): size_of(tuned)}, reading_time(total)
        Plan(sizes, writes, PROGRAM + total, seconds, options.resolved()).show(console)
        return 0
    base = base_path(options.base)
    delta = _from_peft(options, base) if peft else _difference(options, base)
    left_out = len(delta.provenance.settings.get("left_out", ()))
    if not len(delta):
        console.note(f"the two are equal in every bit{' that was compared' * bool(left_out)}: the delta is empty")
    delta = _described(delta, options)
    delta.save(options.out)
    record = {
        "out": str(options.out),
        "digest": delta.digest,
        "tensors": len(delta),
        "weights": delta.numel,
        "norm": delta.norm(),
        "bytes": options.out.stat().st_size,
        "discarded_energy": dict(delta.provenance.settings.get("discarded", {})),
        "left_out": left_out,
    }
    lost = max(record["discarded_energy"].values(), default=0.0)
    text = (
        f"{options.out}: {len(delta)} tensors of {count(delta.numel)} weights, norm {record['norm']:.4g}, "
        f"{byte_size(record['bytes'])}"
    )
    if record["discarded_energy"]:
        text += f"; at most {part(lost)} of a tensor's energy was discarded"
    if left_out:
        text += f"; left out: {plural(left_out, 'tensor')} that only one of the two has"
    console.result(record, [text])
    return 0


def _require_fitting(options: Options, tuned: Path, peft: bool) -> None:
    """Raise what the run would raise, as far as headers tell."""
    from dtheta.core.arguments import require_rank_or_energy
    from dtheta.core.extract import require_extractable

    base = base_path(options.base, fetch=False)
    if options.rank is not None:
        require_rank_or_energy(options.rank)
    if base is not None and not peft:
        require_extractable(base, tuned, options.rank, options.select, strict=not options.partial)


def _described(delta: Delta, options: Options) -> Delta:
    """Return the delta with the resolved command and its seed in its provenance."""
    command = {"verb": "extract", **options.resolved(), "base": model_name(options.base)}
    made = delta.provenance
    return replace(delta, provenance=replace(made, settings={**made.settings, "command": command}, seed=options.seed))


def _difference(options: Options, base: Path) -> Delta:
    from dtheta.core.extract import extract

    return extract(base, options.tuned, options.rank, options.select, strict=not options.partial)


def _from_peft(options: Options, base: Path) -> Delta:
    from dtheta.core.interop import from_peft
    from dtheta.core.recompress import recompress
    from dtheta.models.load import load_model

    delta = from_peft(options.tuned, load_model(base), modules_to_save=True)
    delta = delta if options.select is None else delta.restrict(options.select)
    return delta if options.rank is None else recompress(delta, options.rank)
