"""Run a model with a delta on texts or pictures.

A classifier's delta gives a class and its probability for every text, or the likeliest classes of every picture; a
language model's continues the text. The base is never changed. The model is the one that the delta names, if
'dtheta models' knows it, else give --model. A folder that 'dtheta merge' wrote from a classifier runs too.

  dtheta apply news.delta --text "Shares fell after the bank cut its forecast"
  dtheta apply news.delta --data articles.csv --column body --out predictions.csv
  dtheta apply pictures.delta --image photo.png --image more-photos/
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from dtheta.cli.bases import local_place
from dtheta.cli.console import Console, Part, Table
from dtheta.cli.cost import Cost
from dtheta.cli.idle import refuse_idle
from dtheta.cli.networks import require_model
from dtheta.cli.options import CommonOptions, Flag, Place
from dtheta.cli.places import require_input, require_outputs
from dtheta.cli.plan import Plan, size_of
from dtheta.errors import ConfigError

_SHOWN = 60  # characters of a text in the table


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta apply``."""

    delta: Annotated[Path, Place("a .delta file, or a folder that 'dtheta merge' wrote")]
    model: Annotated[
        str | None, Flag("the base: a name of 'dtheta models', or a local Hugging Face folder", "NAME|DIR")
    ] = None
    text: Annotated[tuple[str, ...], Flag("a text; may be given several times")] = ()
    image: Annotated[
        tuple[Path, ...], Flag("a picture, or a folder of them; may be given several times", "FILE|DIR")
    ] = ()
    top: Annotated[int, Flag("classes to name for a picture (--json and --out have all)")] = 3
    data: Annotated[Path | None, Flag("a .csv, .tsv or .jsonl file of texts", "FILE")] = None
    column: Annotated[str, Flag("column of the texts", "COLUMN")] = "text"
    encoding: Annotated[str, Flag("encoding of the file: utf-8, latin-1, utf-16, ...", "NAME")] = "utf-8"
    label: Annotated[str | None, Flag("column of the true classes; the accuracy is then reported", "COLUMN")] = None
    weight: Annotated[float, Flag("factor of the delta; 0 runs the plain base")] = 1.0
    tokens: Annotated[int, Flag("tokens to continue a text by, for a language model")] = 40
    out: Annotated[Path | None, Flag("write the predictions to a .jsonl or .csv file", "FILE")] = None


def run(options: Options, console: Console) -> int:
    """Predict."""
    from dtheta.cli.apply_texts import classified, continued, is_classifier, network_of, require_classes, texts_of

    _require_meant(options)
    if options.image:
        return _pictures(options, console)
    texts, labels = texts_of(options)
    if options.dry_run:
        return _plan(options, console, labels)
    with ExitStack() as stack:
        net, tokenizer, task = network_of(options, stack)
        require_classes(labels, task, options)
        if is_classifier(task):
            rows = classified(net, tokenizer, task, texts)
        else:
            rows = continued(net, tokenizer, texts, options.tokens)
    record: dict[str, Any] = {"delta": options.delta.name, "predictions": rows}
    parts = [_table(rows)]
    if labels is not None:
        parts += _score(record, rows, labels)
    return _finish(options, record, rows, parts, console)


def _pictures(options: Options, console: Console) -> int:
    from dtheta.cli.apply_images import pictures, predictions, table

    if options.dry_run:
        pictures(options.image, console)
        return _plan(options, console)
    rows = predictions(options, console)
    record = {"delta": options.delta.name, "predictions": rows}
    return _finish(options, record, rows, [table(rows, options.top)], console)


def _finish(
    options: Options, record: dict[str, Any], rows: Sequence[dict[str, Any]], parts: list[Part], console: Console
) -> int:
    """Write the predictions where that is wanted, and show the result."""
    if options.out is not None:
        _write(options.out, rows)
        record["out"] = str(options.out)
        parts = [f"wrote {len(rows)} predictions to {options.out}", *parts[1:]]
    console.result(record, parts)
    return 0


def _require_meant(options: Options) -> None:
    """Raise for options that cannot be meant, before anything is read.

    Raises:
        ConfigError, OutputError: Naming the option.
    """
    if not options.text and options.data is None and not options.image:
        raise ConfigError('there is nothing to run on: give --text "...", --data FILE or --image FILE')
    if options.image and (options.text or options.data is not None):
        raise ConfigError(
            "--image is for a delta of pictures, and --text and --data are for one of texts; give one kind"
        )
    _require_heeded(options)
    if options.top < 1:
        raise ConfigError(f"--top must be at least 1, found {options.top}")
    if empty := next((i for i, text in enumerate(options.text, 1) if not text.strip()), None):
        raise ConfigError(f"--text number {empty} is empty; give it some words")
    if options.label is not None and options.text:
        raise ConfigError("--label goes with --data alone: a --text has no class")
    if options.tokens < 1:
        raise ConfigError(f"--tokens must be at least 1, found {options.tokens}")
    if require_input(options.delta).is_dir():
        _require_merged(options.delta)
        merged = f"does nothing with the folder {options.delta}: the delta is merged into it"
        refuse_idle(options, ("weight", "model"), merged)
    reads = {"DELTA": options.delta, "--data": options.data, "--config": options.config}
    reads |= {f"--image {path}": path for path in options.image}
    require_outputs({"--out": options.out}, {**reads, "--model": local_place(options.model)})
    if options.out is not None and options.out.suffix not in _WRITERS:
        raise ConfigError(f"--out must end in {' or '.join(_WRITERS)}, found {options.out.name!r}")


def _require_merged(folder: Path) -> None:
    """Raise for an adapter folder of peft, which holds no model to run."""
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise ConfigError(
            f"{folder} is a peft adapter: 'dtheta extract BASE {folder} --out FILE.delta' makes a delta of it"
        )


def _require_heeded(options: Options) -> None:
    """Raise for an option of the other kind of input, or of a file or a table that there is none of: it is not heeded.

    Raises:
        ConfigError: Naming it.
    """
    if options.image:
        refuse_idle(options, ("tokens",), "goes on with a text, and --image gives pictures; leave it out")
    else:
        refuse_idle(options, ("top",), "is how many classes of a picture are shown, and no --image is given")
    if options.out is not None:
        refuse_idle(options, ("top",), "is of the table that is shown, and --out writes every class; leave it out")
    if options.data is None:
        refuse_idle(options, ("label", "column"), "names a column of --data, which is not given")
        refuse_idle(options, ("encoding",), "is that of --data, which is not given; leave it out")


def _plan(options: Options, console: Console, labels: Sequence[str] | None = None) -> int:
    """Show what would be done, after the checks of the real run that need no weights in memory."""
    from dtheta.cli.apply_images import require_image_task
    from dtheta.cli.apply_texts import require_classes, require_text_task
    from dtheta.cli.head import task_in
    from dtheta.core.files import read_header

    name = str(options.delta)
    if options.delta.is_dir():
        if not options.image:
            require_text_task(options, task_in(options.delta))
            require_classes(labels, task_in(options.delta), options)
    else:
        header = read_header(options.delta)
        if options.image:
            require_image_task(header.provenance.task, options.delta)
        else:
            require_text_task(options, header.provenance.task)
            require_classes(labels, header.provenance.task, options)
        name = require_model(header, options.model)
    cost = Cost.of_model(name)
    reads = {str(options.delta): size_of(options.delta), f"model {name}": cost.nbytes}
    if options.data is not None:
        reads[str(options.data)] = size_of(options.data)
    writes = {} if options.out is None else {str(options.out): None}
    Plan(reads, writes, cost.memory(64 * 64), settings=options.resolved()).show(console)
    return 0


def _table(rows: Sequence[dict[str, Any]]) -> Part:
    if rows and "label" in rows[0]:
        cells = [(r["label"], f"{100 * r['probability']:.1f} %", _short(r["text"])) for r in rows]
        return Table(("class", "probability>", "text"), cells)
    return "\n\n".join(f"{row['text']}|{row['continuation']}" for row in rows)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."


def _score(record: dict[str, Any], rows: list[dict[str, Any]], labels: list[str]) -> list[Part]:
    from dtheta.cli.results import share
    from dtheta.score import wilson

    right = sum(row["label"] == label for row, label in zip(rows, labels, strict=True))
    accuracy = wilson(right, len(rows))
    record["accuracy"] = dataclasses.asdict(accuracy)
    return ["", f"accuracy {share(accuracy)}: {right} of {len(rows)}"]


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    from dtheta.core.output import write_file

    with write_file(path) as handle:
        handle.write(_WRITERS[path.suffix](rows).encode(errors="backslashreplace"))  # half a surrogate pair


def _jsonl(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    flat = [{k: v for k, v in row.items() if k != "probabilities"} | _spread(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]) if flat else ["text"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _spread(row: dict[str, Any]) -> dict[str, float]:
    return {f"probability of {name}": value for name, value in row.get("probabilities", {}).items()}


_WRITERS = {".jsonl": _jsonl, ".csv": _csv}
