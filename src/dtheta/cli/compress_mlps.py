"""``dtheta compress MODEL --method snnk``: replace a model's MLPs by narrower ones, and say what that gained and lost.

The texts are those of --data, or those that the delta of --judge was trained on.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.bases import base_path, has_image_tower, local_place, model_name
from dtheta.cli.columns import require_columns
from dtheta.cli.compress import OF_BOTH, OF_SNNK
from dtheta.cli.console import Console, Part, Table
from dtheta.cli.cost import Cost
from dtheta.cli.idle import refuse_idle
from dtheta.cli.labeled import Source, require_read
from dtheta.cli.networks import require_classifier_of, require_model
from dtheta.cli.places import require_input, require_outputs
from dtheta.cli.plan import Plan, size_of
from dtheta.cli.replaced_effect import BATCH, Given, batches_of, compared, effect, texts_of, told
from dtheta.cli.units import byte_size, count
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from dtheta.cli.compress import Options
    from dtheta.core.delta import Delta
    from dtheta.core.header import Header
    from dtheta.kernels.replacement import Replacement


def run(options: Options, console: Console) -> int:
    """Fit, measure and save."""
    header = _require_meant(options)
    if options.dry_run:
        _plan(options, header).show(console)
        return 0
    from dtheta.cli.replaceable import replaceable, require_inputs
    from dtheta.core.files import load
    from dtheta.models.load import load_model, load_tokenizer

    model, tokenizer = load_model(_name(options)), load_tokenizer(_name(options))
    mlps = replaceable(model, options, header)
    given = texts_of(options, header)
    require_inputs(mlps, batches_of(given.fit, tokenizer, options), options)
    judged = None if options.judge is None else load(options.judge)
    found, said = _replaced(model, tokenizer, given, judged, options, console)
    delta = _described(found.delta, options)
    delta.save(options.out)
    _tell(found, delta, said, given, options, console)
    return 0


def _name(options: Options) -> str:
    return str(options.delta)


def _require_meant(options: Options) -> Header | None:
    """Return the header of the delta to judge by, after what can be checked without a model.

    Raises:
        ConfigError, OutputError: Naming the option, or the file.
        BaseMismatch: If the delta to judge by was made on another model.
    """
    from dtheta.core.files import read_header

    name = _name(options)
    if name.endswith(".delta"):
        raise ConfigError(f"{name} is a delta, and --method snnk replaces the MLPs of a model; give its name or folder")
    if options.width is None:
        raise ConfigError("--width is missing: how many neurons (or random features, or what rank) an MLP keeps")
    for flag, value, least in (("--width", options.width, 1), ("--texts", options.texts, 8)):
        if value < least:
            raise ConfigError(f"{flag} {value} must be a whole number of at least {least}")
    place = base_path(name, fetch=False)
    if place is not None and has_image_tower(place):
        raise ConfigError(f"{name} reads images too, and texts alone do not run it; in Python: dt.replace_mlps")
    judge = None if options.judge is None else require_input(options.judge)
    source = Source.of(options)
    if options.data is None and judge is None:
        raise ConfigError("--data is missing: texts to fit to, a file or the name of a packaged task")
    require_read(options, [source])
    if judge is None:
        refuse_idle(options, ("label",), "is for classes, and without --judge none are looked at; leave it out")
        if source.path is not None:
            _require_column(source.path, options)
    reads = {"MODEL": local_place(name), "--config": options.config, "--data": source.path, "--judge": judge}
    require_outputs({"--out": options.out}, reads)
    if judge is None:
        return None
    header = read_header(judge)
    require_classifier_of(header)
    require_model(header, name)
    source.name(header.provenance)
    return header


def _require_column(path: Path, options: Options) -> None:
    from dtheta.data.corpus import columns

    path = require_input(path)
    require_columns(path, columns(path, options.encoding), {"--text": options.text})


def _replaced(
    model: nn.Module, tokenizer: Any, given: Given, judged: Delta | None, options: Options, console: Console
) -> tuple[Replacement, dict[str, Any]]:
    """Replace the MLPs, with the delta to judge by applied meanwhile, and measure the effect."""
    from dtheta.adapt.attach import attach
    from dtheta.adapt.tasks import task_model
    from dtheta.core.apply import applied
    from dtheta.core.mlps import find_mlps
    from dtheta.kernels.replace import replace_mlps

    net = model if judged is None else task_model(judged, model)
    fit, measure = (batches_of(texts, tokenizer, options) for texts in (given.fit, given.measure))
    assert options.width is not None, "it was checked"
    with applied(net, judged) if judged is not None else nullcontext():
        with console.progress("replace", len(find_mlps(model, options.select))) as begin:
            found = replace_mlps(
                model, fit, options.width, select=options.select, variant=options.variant, skip=options.skip,
                sequential=options.sequential, held_out=measure, seed=options.seed, begin=begin,
                run=lambda _, batch: net(**batch),
            )  # fmt: skip
        before = effect(model, net, tokenizer, given, judged, options)
        adapter = attach(model, found.delta)
        after = effect(model, net, tokenizer, given, judged, options)
        adapter.detach()
    return found, compared(before, after)


def _settings(options: Options) -> dict[str, Any]:
    data = None if options.data is None else Path(options.data).name
    own = {name: value for name, value in options.resolved().items() if name in (*OF_SNNK, *OF_BOTH)}
    return {**own, "delta": model_name(_name(options)), "data": data}


def _described(delta: Delta, options: Options) -> Delta:
    made = delta.provenance
    settings = {**made.settings, "command": {"verb": "compress", **_settings(options), "seed": options.seed}}
    task = {"kind": "replaced-mlps", "model": model_name(_name(options))}
    return replace(delta, provenance=replace(made, settings=settings, task=task))


def _plan(options: Options, header: Header | None) -> Plan:
    """Return what would be done, after every check that needs no weights."""
    name, source = _name(options), Source.of(options)
    cost, place = Cost.of_model(name), base_path(name, fetch=False)
    fetched = source.fetched(None if header is None else header.provenance)
    notes = [] if place is not None else [f"the model {name} is not in the cache yet and would be fetched first"]
    notes += [] if fetched else ["the data is not in the cache yet and would be fetched first"]
    memory = _memory(place, fetched, cost, options, header)
    reads = {f"model {name}": cost.nbytes}
    reads |= {} if options.data is None else {options.data: size_of(source.path)}
    reads |= {} if options.judge is None else {str(options.judge): size_of(options.judge)}
    tokens = (options.texts + options.texts // 4) * options.max_length
    # a pass for every MLP, half of the model, and as much for the sums
    seconds = cost.seconds(0, tokens * (max(1, cost.layers) + 3))
    return Plan(reads, {str(options.out): None}, memory, seconds, _settings(options), notes)


def _memory(place: Path | None, fetched: bool, cost: Cost, options: Options, header: Header | None) -> int | None:
    """Return about how many bytes are needed; of what is at hand everything is checked on the way."""
    from dtheta.cli.outline import outline
    from dtheta.cli.replaceable import fit_memory, replaceable, require_inputs
    from dtheta.models.load import load_tokenizer

    mlps = [] if place is None else replaceable(outline(place), options, header)
    if fetched:
        given = texts_of(options, header)
        if place is not None:
            require_inputs(mlps, batches_of(given.fit, load_tokenizer(place), options), options)
    running = cost.memory(BATCH * options.max_length)
    return None if running is None else running + fit_memory(mlps, options)


def _tell(
    found: Replacement, delta: Delta, said: dict[str, Any], given: Given, options: Options, console: Console
) -> None:
    record = {
        "out": str(options.out),
        "digest": delta.digest,
        **{name: getattr(options, name) for name in ("variant", "width", "skip", "sequential", "seed")},
        "texts": {"fit": len(given.fit), "measure": len(given.measure)},
        **found.to_dict(),
        **said,
        "file_bytes": options.out.stat().st_size,
    }
    before, after = found.parameters
    skip = ", a linear path beside" if options.skip and options.variant != "low-rank" else ""
    lines = [
        f"{options.out}: {len(found.mlps)} MLPs replaced by {options.variant} of width {options.width}{skip}, "
        f"{byte_size(options.out.stat().st_size)}",
        f"numbers   {count(after)} in place of {count(before)} ({after / before:.2f}x)",
        f"flops     {found.flops[1] / found.flops[0]:.2f}x those of the MLPs, an input",
        f"output    the model's own moves by a relative squared error of {found.output_error:.4f} on "
        f"{len(given.measure)} texts that nothing was fitted to",
        *told(said),
    ]
    console.result(record, ["\n".join(lines), *_tables(found), *_paying(found)])


def _tables(found: Replacement) -> list[Part]:
    errors = [(m.name, f"{m.error:.4f}", count(m.before.parameters), count(m.after.parameters)) for m in found.mlps]
    times = [
        (str(n), f"{1e3 * before:.3f}", f"{1e3 * after:.3f}", f"{before / after:.2f}x")
        for n, (before, after) in found.latency.items()
    ]
    return [
        Table(("MLP", "error>", "numbers before>", "after>"), errors),
        Table(
            ("inputs at once", "ms before>", "ms after>", "faster>"),
            times,
            "time of these MLPs alone; on a CPU that of all threads together",
        ),
    ]


def _paying(found: Replacement) -> list[Part]:
    verdict = found.verdict()
    pays = "pays in numbers, flops and time at every size measured; whether the error matters, the effect says"
    return [
        "\n".join(
            [*verdict, "python: dt.attach(model, dt.load(...)) runs it, dt.fit trains it on"] if verdict else [pays]
        )
    ]
