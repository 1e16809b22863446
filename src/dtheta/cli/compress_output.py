"""What ``dtheta compress`` of a delta says: what was kept, gained and lost, as a record and in words."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dtheta.cli.console import Console
from dtheta.cli.units import byte_size, count, percent

if TYPE_CHECKING:
    from dtheta.cli.compress import Options
    from dtheta.compress.report import Compression
    from dtheta.core.delta import Delta

# what neither shifts of singular values nor new vectors become: a file holds them as numbers, zeros and all
_UNSIGNED = "0 entries kept as signs, shifts of singular values and new vectors thinned but stored as numbers"
_NO_GAIN = "little or nothing is gained, and what nearness says is lost"


def tell(delta: Delta, packed: Delta, options: Options, keep: str, chosen: dict[str, Any], console: Console) -> None:
    """Print what was kept, gained and lost, and how it was chosen.

    Args:
        delta: What was compressed.
        packed: Its compressed form, saved.
        options: Of the verb.
        keep: Glob of what stayed exact; empty for nothing.
        chosen: What of low-rank changes was compressed and why, and what a search found.
        console: Where to.
    """
    from dtheta.compress.report import compression_report

    found, made = compression_report(*(_outside(d, keep) for d in (delta, packed))), packed.provenance.settings
    nbytes, before = options.out.stat().st_size, options.delta.stat().st_size
    measured = dataclasses.asdict(found)
    measured["nbytes_before"] = measured.pop("before")  # "before" and "after" are accuracies, where there was a search
    record = {
        "out": str(options.out),
        "digest": packed.digest,
        "parents": list(packed.provenance.parents),
        **{name: made[name] for name in ("density", "scale", "alpha", "per", "kept")},
        "keep": keep,
        **chosen,
        **measured,
        "file_bytes": nbytes,
        "file_bytes_before": before,
    }
    what = f"{count(found.kept)} of {count(found.entries)} entries kept as signs" if found.entries else _UNSIGNED
    lines = [
        f"{options.out}: {what}, {made['scale']} scale times {made['alpha']:g} per {made['per']}, {byte_size(nbytes)}",
        *_choices(packed, keep, chosen),
        *_sizes(found, nbytes, before),
        f"nearness  relative error {found.relative_error:.3f}, cosine {found.cosine:.3f}, of what was compressed",
    ]
    if found.vanished:
        lines.append(
            f"vanished  {len(found.vanished)} changes have become zero, {found.vanished[0]} among them; a larger "
            "--density or --per tensor keeps them"
        )
    console.result(record, ["\n".join([*lines, *_scores(chosen)])])


def _outside(delta: Delta, keep: str) -> Delta:
    """Return what was compressed, without what was left as it is."""
    from dtheta.core.tensors import matches

    if not keep:
        return delta
    return replace(delta, changes={n: change for n, change in delta.changes.items() if not matches(n, keep)})


def _choices(packed: Delta, keep: str, chosen: dict[str, Any]) -> list[str]:
    """Return what was compressed and what not, where that is not plain."""
    from dtheta.core.ternary_factors import TernaryFactors

    lines = []
    if any(isinstance(change, TernaryFactors) for change in packed.changes.values()):
        own = "as they are" if chosen["of"] == "factors" else "of the singular value decomposition"
        lines.append(f"of        {chosen['of']}: both factors of low-rank changes, {own}")
    if chosen["why"]:
        reason = chosen["why"] if chosen["why"].startswith("at ") else "its own factors mean nothing one by one"
        lines.append(f"          since {reason} (--of factors says more)")
    return [*lines, f"exact     {keep}, left as it is"] if keep else lines


def _sizes(found: Compression, nbytes: int, before: int) -> list[str]:
    if not found.entries:
        larger = nbytes >= 0.9 * before
        return [f"file      {byte_size(before)} -> {byte_size(nbytes)}" + (f"; {_NO_GAIN}" if larger else "")]
    over = found.bits / found.entropy - 1 if found.entropy else 0.0
    return [
        f"bits      {found.bits:.4f} an entry, entropy {found.entropy:.4f} ({100 * over:+.1f} %, scales included)",
        f"ratio     {found.against_float16:.1f}x against the same numbers as float16, "
        f"{found.against_full_float16:.0f}x against the whole parameters as float16",
        f"file      {byte_size(before)} -> {byte_size(nbytes)}",
    ]


def _scores(chosen: dict[str, Any]) -> list[str]:
    from dtheta.cli.results import clearness, difference, share
    from dtheta.score import Interval

    if "after" not in chosen:
        return []
    before, after, change = (Interval(**chosen[name]) for name in ("before", "after", "difference"))
    where = chosen["searched_on"]
    return [
        f"searched  {len(chosen['grid'])} points on {where['texts']} texts of {where['data']} that 'dtheta adapt' "
        f"did not train on; accuracy there {percent(chosen['validation_accuracy'])}",
        f"accuracy  {share(after)} on {chosen['test']} test texts, before {share(before)}",
        f"change    {difference(change)}: {clearness(change)}",
    ]
