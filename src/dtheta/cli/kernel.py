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
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dtheta.cli.bases import local_place, model_name
from dtheta.cli.console import Console, Part, Table
from dtheta.cli.options import CommonOptions, Flag
from dtheta.cli.places import require_input, require_outputs
from dtheta.cli.plan import Plan, size_of
from dtheta.cli.units import byte_size
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.adapt.method import Method
    from dtheta.cli.labeled import Source
    from dtheta.data.text import TextTask
    from dtheta.scout.kernel_study import KernelStudy


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
    from dtheta.cli.labeled import Source, labeled_task, require_counts, require_labeled
    from dtheta.cli.networks import require_classifier_of
    from dtheta.cli.scout import written
    from dtheta.core.files import read_header
    from dtheta.scout.candidates import label

    if options.method is not None and options.delta is not None:
        raise ConfigError("--method and --delta both say what would train; give one of them")
    source = Source(options.data, options.text, options.label, options.encoding)
    reads = {"--config": options.config, "--model": local_place(options.model), "--data": source.path}
    if options.delta is not None:
        reads["--delta"] = require_input(options.delta)
    require_outputs({"--out": options.out, "--report": options.report}, reads)
    require_labeled(source)
    require_counts(options.examples, options.outputs, options.max_length)
    method = None
    if options.delta is not None:
        require_classifier_of(read_header(options.delta))
        name = options.delta.name
    else:
        method = written(options.method or "LoRA")
        name = label(*method)
    if options.dry_run:
        _plan(options, source).show(console)
        return 0
    task = labeled_task(source, options.seed)
    study = _studied(options, method, task, console)
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


def _studied(
    options: Options, method: tuple[Method, str | None] | None, task: TextTask, console: Console
) -> KernelStudy:
    from dtheta.cli.labeled import posed
    from dtheta.core.files import load
    from dtheta.scout.kernel_study import study_kernel

    found = posed(options, task, console)
    what, select = (load(str(options.delta)), None) if method is None else method
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


def _plan(options: Options, source: Source) -> Plan:
    from dtheta.cli.cost import Cost

    cost, tokens = Cost.of_model(options.model), options.examples * options.max_length
    reads = {f"model {options.model}": cost.nbytes}
    if source.path is not None:
        reads[options.data] = size_of(source.path)
    if options.delta is not None:
        reads[str(options.delta)] = size_of(options.delta)
    writes = {} if options.out is None else {str(options.out): 16 * options.examples**2}
    if options.report is not None:
        writes[str(options.report)] = 100_000
    memory = cost.memory(tokens)
    return Plan(reads, writes, memory, cost.seconds(tokens * options.outputs, 2 * tokens), options.resolved())
