"""``dtheta compress`` of a delta: signs and scales (ComPEFT), and their choice on labeled texts."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.bases import local_place, remembered
from dtheta.cli.compress_output import tell
from dtheta.cli.console import Console
from dtheta.cli.cost import Cost
from dtheta.cli.family import HEAD, SCORES, has_head
from dtheta.cli.idle import refuse_idle
from dtheta.cli.judge import max_length
from dtheta.cli.labeled import FILE_OPTIONS, Source, described, labeled, require_read
from dtheta.cli.networks import bases_read, bound, require_classifier_of, require_model, require_models
from dtheta.cli.places import require_input, require_outputs
from dtheta.cli.plan import PROGRAM, Plan, reading_time, size_of
from dtheta.errors import ConfigError, UnknownParameter, UnsupportedLayer

if TYPE_CHECKING:
    from dtheta.cli.compress import Options
    from dtheta.compress.plan import Of
    from dtheta.compress.scales import Scale
    from dtheta.core.delta import Delta
    from dtheta.core.header import Header


def run(options: Options, console: Console) -> int:
    """Compress, measure and save."""
    from dtheta.core.files import load

    header = _require_meant(options)
    keep = _kept(options, header)
    if options.dry_run:
        return _plan(options, header, keep, console)
    delta = bound(load(options.delta), options.model, options.delta)
    packed, chosen = _searched(delta, options, keep, console) if options.search else _compressed(delta, options, keep)
    packed = _described(packed, options, chosen)
    packed.save(options.out)
    tell(delta, packed, options, keep, chosen, console)
    return 0


def _require_meant(options: Options) -> Header:
    """Return the delta's header, after what can be checked without reading a tensor.

    Raises:
        ConfigError, OutputError, BaseMismatch: Naming the option, or the file.
    """
    from dtheta.compress.compeft import check_scale
    from dtheta.compress.signs import check
    from dtheta.core.files import read_header

    path = require_input(options.delta)
    source = Source(options.data)
    reads = {"DELTA": path, "--config": options.config, "--model": local_place(options.model), "--data": source.path}
    require_outputs({"--out": options.out}, reads)
    if not options.search:
        for name, values in (("--density", options.density), ("--alpha", options.alpha)):
            if len(values) > 1:
                raise ConfigError(f"{name} was given {len(values)} times; without --search there is one")
        searching = ("data", *FILE_OPTIONS, "validate")
        refuse_idle(options, searching, "goes with --search; add that, or leave it out")
    for density in options.density:
        check(density, options.per, "factors")
    for alpha in options.alpha:
        check_scale(options.scale or "mean-abs", alpha)
    header = read_header(path)
    if options.search:
        require_classifier_of(header)
        require_model(header, options.model)
        source.name(header.provenance)
        require_read(options, [source])
    else:
        require_models([header], options.model)
    return header


def _kept(options: Options, header: Header) -> str:
    """Return the glob of what stays exact, empty for nothing.

    Raises:
        UnknownParameter: If it names nothing.
        ConfigError: If it leaves nothing to compress.
    """
    from dtheta.core.tensors import matches

    if options.keep in ("none", ""):
        return ""
    if options.keep == "auto":
        only_head = all(name.startswith("head.") for name in header.changes)
        return HEAD if has_head(header.changes) and not only_head else ""
    for glob in options.keep.split("|"):
        if not any(matches(name, glob) for name in header.changes):
            raise UnknownParameter(f"--keep {glob!r} matches no change of {options.delta}; 'dtheta show' lists them")
    if all(matches(name, options.keep) for name in header.changes):
        raise ConfigError(f"--keep {options.keep!r} leaves nothing of {options.delta} to compress")
    return options.keep


def _plan(options: Options, header: Header, keep: str, console: Console) -> int:
    _require_compressible(options, header, keep)
    source = Source.of(options)
    base = bases_read([header], options.model)
    reads, notes, cost = {str(options.delta): header.nbytes, **base}, [], Cost()
    seconds: float | None = 5 * reading_time(header.nbytes) + (1 if not base else 5)
    if options.search:
        name = require_model(header, options.model)
        cost, made = Cost.of_model(name), header.provenance
        reads |= {f"model {name}": cost.nbytes, source.name(made): size_of(source.path)}
        if source.fetched(made):
            labeled(made, source, options.seed).held_out(options.validate)
        else:
            notes.append("the data is not in the cache yet and would be fetched first")
        grid = len(_densities(options)) * len(_alphas(options))
        seconds = cost.seconds(0, (grid * options.validate + 2 * 600) * max_length(made.task))
    memory = 4 * header.nbytes + (cost.memory(64 * 64) or PROGRAM + 3 * sum(size or 0 for size in base.values()))
    Plan(reads, {str(options.out): None}, memory, seconds, _settings(options), notes).show(console)
    return 0


def _require_compressible(options: Options, header: Header, keep: str) -> None:
    """Raise what compressing would raise, reading only changes whose header leaves that open."""
    from dtheta.compress.plan import plan
    from dtheta.core.header import open_delta
    from dtheta.core.kinds import NEW_KINDS, kinds_in
    from dtheta.core.naming import naming
    from dtheta.core.tensors import matches

    of: Of = "balanced" if options.of == "auto" else options.of
    doubtful = NEW_KINDS if of != "factors" else {*NEW_KINDS, "low-rank", "sum", "scaled", "block"}
    opened = open_delta(options.delta)
    for name, meta in sorted(header.changes.items()):
        stacked = of != "product" and "stacked" in kinds_in(meta)
        if (stacked or meta["kind"] in doubtful) and not (keep and matches(name, keep)):
            naming(name, lambda name=name: plan(opened.change(name), of, options.new))


def _densities(options: Options) -> tuple[float, ...]:
    from dtheta.compress.search import DENSITIES

    return options.density or (DENSITIES if options.search else (0.1,))


def _alphas(options: Options) -> tuple[float, ...]:
    from dtheta.compress.search import ALPHAS

    return options.alpha or (ALPHAS if options.search else (1.0,))


def _scale(options: Options) -> Scale:
    return options.scale or ("alpha-sigma" if options.search else "mean-abs")


def _compressed(delta: Delta, options: Options, keep: str) -> tuple[Delta, dict[str, Any]]:
    from dtheta.compress.compeft import compress

    (density,), (alpha,) = _densities(options), _alphas(options)
    of, why = choose_of(delta, density, options.per, keep, options.new) if options.of == "auto" else (options.of, "")
    packed = compress(delta, density, _scale(options), per=options.per, alpha=alpha, of=of, keep=keep, new=options.new)
    return packed, {"of": of, "why": why}


def choose_of(delta: Delta, density: float, per: Any, keep: str = "", new: bool = False) -> tuple[Of, str]:
    """Return "factors" where compressing a delta's factors one by one leaves all of its changes, else "balanced".

    Args:
        delta: The delta.
        density: Share of entries to keep.
        per: Of what.
        keep: Glob of what stays exact.
        new: Whether new vectors are compressed.

    Returns:
        What to compress, and why not the factors.
    """
    from dtheta.compress.compeft import compressed
    from dtheta.compress.signs import signs
    from dtheta.core.spectral import Spectral

    try:
        packed = compressed(signs(delta, density, per=per, keep=keep, new=new), "mean-abs", 1.0)
    except UnsupportedLayer as error:
        return "balanced", str(error)
    # entries and shifts are the same whatever is taken of low-rank changes
    products = (
        n for n, change in delta.changes.items() if change.rank is not None and not isinstance(change, Spectral)
    )
    if lost := [name for name in products if packed[name].norm() == 0.0 < delta[name].norm()]:
        return "balanced", f"at density {density:g} {len(lost)} products of its own factors would become zero"
    return "factors", ""


def _searched(delta: Delta, options: Options, keep: str, console: Console) -> tuple[Delta, dict[str, Any]]:
    """Compress at every point of the grid, keep what scores best, and measure before and after on test texts."""
    from dtheta.adapt.tasks import task_model
    from dtheta.cli.judge import accuracy, batches, encoded, right
    from dtheta.cli.networks import base_name
    from dtheta.compress.search import on_batches, search_compression
    from dtheta.models.load import load_model, load_tokenizer
    from dtheta.score import paired_shares

    task = delta.provenance.task
    name = base_name(task, options.model)
    net, tokenizer = task_model(delta, load_model(name)), load_tokenizer(name)
    texts = labeled(delta.provenance, Source.of(options), options.seed)
    choose, test = texts.held_out(options.validate)
    score = on_batches(net, batches(encoded(choose, tokenizer, task)))
    settings: Any = {"scale": _scale(options), "per": options.per, "keep": keep, "new": options.new}
    grid = (_densities(options), _alphas(options))
    of, why = options.of, ""
    if of == "auto":
        of, why = choose_of(delta, min(grid[0]), options.per, keep, options.new)
    with console.progress("search", len(grid[0]) * len(grid[1])) as begin:

        def scored(packed: Delta) -> float:
            made = packed.provenance.settings
            begin(f"density {made['density']:g}, alpha {made['alpha']:g}")
            return score(packed)

        found = search_compression(delta, scored, *grid, of=of, **settings)
    left = encoded(test, tokenizer, task)
    before, after = right(net, left, delta), right(net, left, found.best)
    return found.best, {
        "of": of,
        "why": why,
        "searched_on": described(texts, choose),
        "validation_accuracy": found.trial.score,
        "grid": [dataclasses.asdict(trial) for trial in found.table],
        "test": len(test),
        "before": dataclasses.asdict(accuracy(before)),
        "after": dataclasses.asdict(accuracy(after)),
        "difference": dataclasses.asdict(paired_shares(after, before)),
    }


def _settings(options: Options) -> dict[str, Any]:
    return {**remembered(options, options.model), "data": None if options.data is None else Path(options.data).name}


def _described(packed: Delta, options: Options, chosen: dict[str, Any]) -> Delta:
    """Return the delta with the command in its provenance, and no score that is not its own."""
    made = packed.provenance
    task = {name: value for name, value in made.task.items() if name not in SCORES}
    if "after" in chosen:
        task["accuracy"] = chosen["after"]
    command = {"verb": "compress", **_settings(options), "seed": options.seed}
    return replace(packed, provenance=replace(made, settings={**made.settings, "command": command}, task=task))
