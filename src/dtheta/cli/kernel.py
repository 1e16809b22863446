"""Say what the tangent kernel of a method, or of a trained delta, tells of training on your texts.

The kernel of every pair of texts: how alike they pull on the weights that would train. From it follow, in closed form,
the accuracy to expect, the largest stable learning rate, when to stop, and how many directions are learned.

A method is written as in 'dtheta scout': a name of 'dtheta methods', fields in brackets, and where it trains.

  dtheta kernel --data bbc --method "LoRA(rank=8)" --report kernel.html
  dtheta kernel --data reviews.csv --label stars --method "Full on @mlp#3-5" --out kernel.safetensors
  dtheta kernel --data bbc --delta bbc.delta
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from dtheta.cli.bases import local_place, model_name
from dtheta.cli.console import Console, Part, Table
from dtheta.cli.options import CommonOptions, Flag
from dtheta.cli.places import require_input, require_outputs
from dtheta.cli.plan import Plan, size_of
from dtheta.cli.units import byte_size
from dtheta.errors import BaseMismatch, ConfigError

if TYPE_CHECKING:
    from dtheta.adapt.method import Method
    from dtheta.adapt.text_problem import Problem
    from dtheta.cli.labeled import Source
    from dtheta.core.header import Header
    from dtheta.data.text import TextTask
    from dtheta.scout.kernel_study import KernelStudy

#: What would train: a method with its selection, or a delta, by its header.
Trains: TypeAlias = "tuple[Method, str | None] | Header"


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta kernel``."""

    data: Annotated[str, Flag("a .csv, .tsv or .jsonl file, or the name of a packaged task", "FILE|TASK")]
    model: Annotated[str, Flag("a name of 'dtheta models', or a local Hugging Face folder", "NAME|DIR")] = "minilm"
    method: Annotated[str | None, Flag("what would train (default: LoRA)", "METHOD")] = None
    delta: Annotated[Path | None, Flag("a trained delta that would train on, in place of a method", "FILE")] = None
    text: Annotated[str, Flag("column of the texts", "COLUMN")] = "text"
    label: Annotated[str | None, Flag("column of the classes (default: 'label')", "COLUMN")] = None
    encoding: Annotated[str, Flag("encoding of the file: utf-8, latin-1, utf-16, ...", "NAME")] = "utf-8"
    examples: Annotated[int, Flag("how many training texts to look at, at most")] = 128
    outputs: Annotated[int, Flag("directions of the logits to differentiate, one backward pass each")] = 2
    max_length: Annotated[int, Flag("tokens kept of a text")] = 64
    pooling: Annotated[
        Literal["mean", "last"] | None, Flag("how a text's vector is pooled (default: by architecture)")
    ] = None
    out: Annotated[Path | None, Flag("write the kernel and the labels as a safetensors file", "FILE")] = None
    report: Annotated[Path | None, Flag("write a page with the spectrum and the classes", "FILE")] = None


def run(options: Options, console: Console) -> int:
    """Take the kernel, write it, and say what it tells."""
    from dtheta.cli.labeled import Source
    from dtheta.cli.posed import require_meant, task_of
    from dtheta.cli.written import written_method
    from dtheta.scout.candidates import label

    if options.method is not None and options.delta is not None:
        raise ConfigError("--method and --delta both say what would train; give one of them")
    source, delta = Source.of(options), options.delta
    reads = {"--config": options.config, "--model": local_place(options.model), "--data": source.path}
    if delta is not None:
        reads["--delta"] = require_input(delta)
    require_outputs({"--out": options.out, "--report": options.report}, reads)
    require_meant(options, source)
    trains = written_method(options.method or "LoRA") if delta is None else _header(delta, options.model)
    name = label(*trains) if isinstance(trains, tuple) else trains.path.name
    if options.dry_run:
        _plan(options, trains, source).show(console)
        return 0
    task = task_of(source, options.seed)
    study = _studied(options, trains, task, console)
    record: dict[str, Any] = {
        "model": model_name(options.model), "data": task.name, "trains": name, **study.figures.to_dict(),
        "settings": options.resolved(),
    }  # fmt: skip
    if options.out is not None:
        record["out"] = str(_saved(study, task.classes, options.out))
    if options.report is not None:
        from dtheta.report.kernel_page import kernel_report

        model = model_name(options.model)
        record["report"] = str(kernel_report(study, task.classes, name, model, task.name, options.report))
    console.result(record, _parts(study, record))
    return 0


def _header(delta: Path, model: str) -> Header:
    """Return the header of a delta that would train on.

    Raises:
        ConfigError: If it is of no classifier.
        BaseMismatch: If it was made on another model.
    """
    from dtheta.cli.networks import require_classifier_of, require_model
    from dtheta.core.files import read_header

    header = read_header(delta)
    require_classifier_of(header)
    require_model(header, model)
    return header


def _require_classes(header: Header, task: TextTask) -> None:
    """Raise BaseMismatch unless the head of a delta is one for as many classes, and ConfigError unless for these."""
    its = header.provenance.task.get("classes", ())
    if len(its) != len(task.classes):
        raise BaseMismatch(
            f"{header.path} was made for another base: it tells {len(its)} classes apart, and {task.name} has "
            f"{len(task.classes)}; give labeled texts of its own classes with --data"
        )
    if set(its) != set(task.classes):
        known, there = (", ".join(map(str, classes)) for classes in (its, task.classes))
        raise ConfigError(
            f"{header.path} tells {known} apart, and {task.name} has {there}; give labeled texts of its own classes "
            "with --data"
        )


def _studied(options: Options, trains: Trains, task: TextTask, console: Console) -> KernelStudy:
    from dtheta.cli.posed import posed
    from dtheta.core.files import load
    from dtheta.scout.kernel_study import study_kernel

    if not isinstance(trains, tuple):
        _require_classes(trains, task)
    found = posed(options, task, console)
    what, select = trains if isinstance(trains, tuple) else (load(trains.path), None)
    return study_kernel(
        found.net, found.train, what, select, examples=options.examples, outputs=options.outputs, seed=options.seed
    )


def _saved(study: KernelStudy, classes: tuple[str, ...], out: Path) -> Path:
    import json

    from safetensors.torch import save

    from dtheta.core.output import write_file

    tensors = {"kernel": study.kernel, "head": study.head_kernel, "labels": study.labels}
    with write_file(out) as stream:
        stream.write(save({k: t.contiguous() for k, t in tensors.items()}, {"classes": json.dumps(list(classes))}))
    return out


def _parts(study: KernelStudy, record: dict[str, Any]) -> list[Part]:
    from dtheta.cli.results import share

    found = study.figures
    rows = [
        ("accuracy to expect", f"{share(found.accuracy)}, each text predicted by the others"),
        ("head alone", share(found.head_accuracy)),
        ("largest learning rate", f"{found.learning_rate:.3g}, of gradient descent on the squared error"),
        ("best stopped at", f"{found.stopping_time:.3g} steps times learning rate"),
        ("effective dimension", f"{found.effective_dimension:.1f} of {found.examples}"),
        ("alignment", f"{found.alignment:.3f} with the classes"),
        ("trace, rank", f"{found.trace:.3g} an example, {found.rank}"),
        ("spectrum", " ".join(f"{value:.2g}" for value in found.spectrum)),
    ]
    parts: list[Part] = [Table((record["trains"], "in the linear model of the network"), rows)]
    for key in ("out", "report"):
        if key in record:
            parts.append(f"wrote {record[key]}, {byte_size(Path(record[key]).stat().st_size)}")
    return parts


def _plan(options: Options, trains: Trains, source: Source) -> Plan:
    """Return what would be done, after every check that needs no weights."""
    from dtheta.cli.cost import Cost
    from dtheta.cli.posed import rehearsed

    found, notes = rehearsed(options, source)
    if found is not None:
        _require_trains(found, trains)
    cost, tokens = Cost.of_model(options.model), options.examples * options.max_length
    reads = {f"model {options.model}": cost.nbytes}
    if source.path is not None:
        reads[options.data] = size_of(source.path)
    if options.delta is not None:
        reads[str(options.delta)] = size_of(options.delta)
    writes = {} if options.out is None else {str(options.out): 16 * options.examples**2}
    if options.report is not None:
        writes[str(options.report)] = 100_000
    seconds = cost.seconds(tokens * options.outputs, 2 * tokens)
    return Plan(reads, writes, cost.memory(tokens), seconds, options.resolved(), notes)


def _require_trains(found: Problem, trains: Trains) -> None:
    """Raise what attaching would raise, as far as names and shapes tell."""
    from dtheta.adapt.requirements import require_sites

    if isinstance(trains, tuple):
        method, select = trains
        require_sites(found.net, method, select)
    else:
        _require_classes(trains, found.task)
