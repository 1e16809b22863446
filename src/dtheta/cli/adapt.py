"""Train a delta on your own texts, or on a packaged task.

With a column of classes a text classifier is trained: encoder, pooling and a head. Its accuracy on test texts that
nothing else has seen is compared with that of the frozen encoder under logistic regression. Without a column of classes
and with a decoder, the model's own next-token loss is trained instead.

An interrupted run leaves a folder beside the output, from which --resume goes on, bit for bit.

  dtheta adapt --data reviews.csv --text body --label stars --method PiSSA --out reviews.delta --report reviews.html
  dtheta adapt --data bbc --n-train 500 --n-test 400 --method SORSA --set gamma=1e-4
  dtheta adapt --model smollm2 --data notes.jsonl --steps 20 --out notes.delta
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from dtheta.cli.bases import local_place, model_flag, model_name
from dtheta.cli.columns import require_columns
from dtheta.cli.console import Console
from dtheta.cli.options import CommonOptions, Flag
from dtheta.cli.places import require_outputs
from dtheta.cli.plan import Plan, size_of
from dtheta.cli.units import byte_size, count, duration
from dtheta.cli.values import read_value
from dtheta.cli.workspace import clear, kept_for_later, require_workspace, workspace
from dtheta.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from dtheta.adapt.language import AdaptedLanguage
    from dtheta.adapt.method import Method
    from dtheta.adapt.recipe import Adapted, Recipe
    from dtheta.core.delta import Delta
    from dtheta.data.corpus import Corpus
    from dtheta.data.text import TextTask
    from dtheta.report import MethodResult, TaskResult


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta adapt``."""

    data: Annotated[str, Flag("a .csv, .tsv or .jsonl file, or the name of a packaged task", "FILE|TASK")]
    model: Annotated[str, Flag("a name of 'dtheta models', or a local Hugging Face folder", "NAME|DIR")] = "minilm"
    text: Annotated[str, Flag("column of the texts", "COLUMN")] = "text"
    label: Annotated[
        str | None,
        Flag("column of the classes ('label' if there is one); without it a language model is trained", "COLUMN"),
    ] = None
    test: Annotated[Path | None, Flag("a second file to test on; else a fifth of the texts is held out", "FILE")] = None
    encoding: Annotated[str, Flag("encoding of the files: utf-8, latin-1, utf-16, ...", "NAME")] = "utf-8"
    n_train: Annotated[int | None, Flag("how many texts to train on; all without it")] = None
    n_test: Annotated[int | None, Flag("how many texts to test on")] = None
    method: Annotated[str, Flag("a name of 'dtheta methods'", "NAME")] = "PiSSA"
    rank: Annotated[int | None, Flag("rank of the method (16 unless it says otherwise)")] = None
    alpha: Annotated[float | None, Flag("scaling of the method")] = None
    set: Annotated[
        tuple[str, ...], Flag("any other field of the method; may be given several times", "FIELD=VALUE")
    ] = ()
    select: Annotated[
        str | None, Flag("which parameters: '*.query|*.value', '@mlp#3-5', ... (default: the method's)", "GLOB")
    ] = None
    steps: Annotated[int, Flag("optimizer steps")] = 100
    batch_size: Annotated[int, Flag("texts a step")] = 16
    lr: Annotated[float | None, Flag("highest learning rate of the method's terms (default: by method)")] = None
    head_lr: Annotated[float, Flag("highest learning rate of the classifier's head")] = 1e-3
    max_length: Annotated[int, Flag("tokens kept of a text")] = 64
    pooling: Annotated[
        Literal["mean", "last"] | None, Flag("how a text's vector is pooled (default: by architecture)")
    ] = None
    validate: Annotated[int, Flag("training texts to hold out; the best of ten evaluations on them is kept")] = 0
    out: Annotated[Path, Flag("the file to write", "FILE")] = Path("adapted.delta")
    report: Annotated[
        Path | None, Flag("write a page with curves and figures, and its data as .json beside it", "FILE")
    ] = None
    resume: Annotated[bool, Flag("go on with the interrupted run beside the output")] = False


def run(options: Options, console: Console) -> int:
    """Train, score, save, and report."""
    from dtheta.adapt.recipe import Recipe
    from dtheta.data.corpus import Corpus

    method = build_method(options.method, options.rank, options.alpha, options.set)
    recipe = Recipe(
        method, options.select, options.steps, options.batch_size, options.lr, head_lr=options.head_lr,
        max_length=options.max_length, validate=options.validate, seed=options.seed,
    )  # fmt: skip
    _require_places(options)
    work = workspace(options.out)
    require_workspace(work, options.resume)
    if options.dry_run:
        _plan(options, recipe).show(console)
        return 0
    source = _source(options)
    with kept_for_later(work):
        if isinstance(source, Corpus):
            return _language(options, recipe, source, work, console)
        return _classifier(options, recipe, source, work, console)


def _require_places(options: Options) -> None:
    """Raise if an output has no place, or is an input or another output."""
    from dtheta.data.tasks import TASKS

    writes = {"--out": options.out, "--report": options.report}
    if options.report is not None:
        writes["the data of --report"] = options.report.with_suffix(".json")
    reads = {"--test": options.test, "--config": options.config, "--model": local_place(options.model)}
    if options.data not in TASKS:
        reads["--data"] = Path(options.data).expanduser()
    require_outputs(writes, reads)


def build_method(name: str, rank: int | None, alpha: float | None, fields: tuple[str, ...]) -> Method:
    """Return the method that the options describe.

    Raises:
        ConfigError: For an unknown method or field, or a value that cannot be meant.
    """
    from dtheta.adapt.registry import method_class

    kind = method_class(name)
    hints = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    given: dict[str, Any] = {n: v for n, v in (("rank", rank), ("alpha", alpha)) if v is not None}
    for text in fields:
        field, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set must be FIELD=VALUE, found {text!r}")
        given[field.strip()] = value.strip()
    for field in given:
        if field not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"{kind.__name__} has no field {field!r} ({has}){did_you_mean(field, known)}")
    return kind(**{n: read_value(v, hints[n], f"{kind.__name__}'s {n}") for n, v in given.items()})


def _source(options: Options) -> TextTask | Corpus:
    """Return the texts that the options name: a task where they have classes, else a corpus."""
    from dtheta.data.corpus import columns, load_corpus
    from dtheta.data.table import load_table
    from dtheta.data.tasks import TASKS, load_task

    path = Path(options.data).expanduser()
    if options.data in TASKS:
        return load_task(options.data, options.n_train, options.n_test, options.seed)
    if path.is_dir():
        raise ConfigError(f"--data {options.data} is a folder; give a .csv, .tsv or .jsonl file, or a packaged task")
    if not path.suffix and not path.exists():
        raise ConfigError(
            f"there is no task {options.data!r} and no such file; packaged tasks: {', '.join(TASKS)}"
            f"{did_you_mean(options.data, TASKS)}"
        )
    there = columns(path, options.encoding)
    label = options.label or ("label" if "label" in there else None)
    for file in (path, options.test):
        if file is not None:
            names = there if file is path else columns(file, options.encoding)
            require_columns(file, names, {"--text": options.text, "--label": label})
    counts = options.test, options.n_train, options.n_test, options.seed, options.encoding
    if label is None:
        return load_corpus(path, options.text, *counts)
    return load_table(path, options.text, label, *counts)


def _classifier(options: Options, recipe: Recipe, task: TextTask, work: Path, console: Console) -> int:
    from dtheta.adapt.recipe import adapt_classifier, frozen_baseline, problem, require_classifier
    from dtheta.models.load import load_model, load_tokenizer
    from dtheta.report import TaskResult

    posed = problem(load_model(options.model), load_tokenizer(options.model), task, recipe.max_length, options.pooling)
    console.note(
        f"{task.name}: {len(task.classes)} classes, {len(posed.train)} training and {len(posed.test)} test texts"
    )
    require_classifier(posed.net, posed.task, recipe)
    frozen = frozen_baseline(posed)
    console.note(f"frozen encoder: {100 * frozen.accuracy.estimate:.1f} % in {duration(frozen.seconds)}; training ...")
    adapted = adapt_classifier(
        posed, recipe, frozen, model_name=model_name(options.model), checkpoint=work, resume=options.resume,
        quiet=not console.animated,
    )  # fmt: skip
    delta = _save(adapted.delta, options)
    drawn = _report(
        options, recipe, posed.net, adapted,
        lambda result: TaskResult(
            task.name, len(posed.train), len(posed.test), frozen.accuracy, (result,), len(task.classes)
        ),
    )  # fmt: skip
    wrote = [str(options.out), *drawn]
    clear(work)
    _tell_classifier(options, delta, adapted, wrote, console)
    return 0


def _save(delta: Delta, options: Options) -> Delta:
    """Save the delta with the resolved command in its provenance, and return it."""
    names = {"model": model_name(options.model), "data": Path(options.data).name}
    command = {"verb": "adapt", **options.resolved(), **names}
    made = replace(delta.provenance, settings={**delta.provenance.settings, "command": command})
    delta = replace(delta, provenance=made)
    delta.save(options.out)
    return delta


def _report(
    options: Options,
    recipe: Recipe,
    net: nn.Module,
    adapted: Adapted | AdaptedLanguage,
    task_of: Callable[[MethodResult], TaskResult],
) -> list[str]:
    """Draw the page and save its data; return what was written."""
    from dtheta.cli.results import adapt_results, method_result
    from dtheta.report import ACCURACY, TOKEN_LOSS, NextStep, adapt_report

    if options.report is None:
        return []
    task = task_of(method_result(adapted, recipe, net, options.out.stat().st_size))
    model = model_flag(options.model, private=True)
    steps = [
        NextStep("Run the adapted model", f'dtheta apply {shlex.quote(options.out.name)}{model} --text "..."'),
        NextStep("Look at the delta", f"dtheta show {options.out.name}"),
    ]
    measure = TOKEN_LOSS if task.classes is None else ACCURACY
    pretrained = getattr(net, "encoder", net)
    results = adapt_results(model_name(options.model), pretrained, [task], measure, recipe, steps)
    data = results.save(options.report.with_suffix(".json"))
    return [str(adapt_report(results, options.report)), str(data)]


def _tell_classifier(options: Options, delta: Delta, adapted: Adapted, wrote: list[str], console: Console) -> None:
    from dtheta.cli.results import clearness, difference, share

    task = delta.provenance.task
    record = {
        "out": str(options.out),
        "wrote": wrote,
        "digest": delta.digest,
        "base": delta.base.root,
        "method": dict(delta.provenance.method),
        "task": dict(task),
        "accuracy": dataclasses.asdict(adapted.score),
        "baseline": task["baseline"],
        "gain": dataclasses.asdict(adapted.gain),
        "parameters": adapted.parameters,
        "bytes": options.out.stat().st_size,
        "steps": adapted.record.steps,
        "seconds": adapted.record.seconds,
        "final_loss": adapted.record.losses[-1][1],
    }
    baseline = task["baseline"]
    lines = [
        f"{options.out}: {_fields(delta)}, {count(adapted.parameters)} weights trained in "
        f"{duration(adapted.record.seconds)}, {byte_size(record['bytes'])}",
        f"accuracy  {share(adapted.score)} on {task['test']} test texts",
        f"frozen    {100 * baseline['estimate']:.1f} % [{100 * baseline['low']:.1f}, {100 * baseline['high']:.1f}] "
        "by logistic regression on the unadapted encoder",
        f"gain      {difference(adapted.gain)}: {clearness(adapted.gain)}",
        *(f"wrote     {path}" for path in wrote[1:]),
        f'try       dtheta apply {shlex.quote(str(options.out))}{model_flag(options.model)} --text "..."',
    ]
    console.result(record, ["\n".join(lines)])


def _fields(delta: Delta) -> str:
    method = delta.provenance.method
    inside = ", ".join(f"{k}={v}" for k, v in method.items() if k != "name" and v is not None)
    return f"{method['name']}({inside})"


def _language(options: Options, recipe: Recipe, corpus: Corpus, work: Path, console: Console) -> int:
    from dtheta.adapt.language import adapt_language
    from dtheta.models.load import load_model, load_tokenizer
    from dtheta.report import TaskResult

    model, tokenizer = load_model(options.model), load_tokenizer(options.model)
    console.note(
        f"{corpus.name}: {len(corpus.train)} training and {len(corpus.test)} test texts without classes; training ..."
    )
    adapted = adapt_language(
        model, tokenizer, corpus, recipe, model_name=model_name(options.model), checkpoint=work, resume=options.resume,
        quiet=not console.animated,
    )  # fmt: skip
    delta = _save(adapted.delta, options)
    drawn = _report(
        options, recipe, model, adapted,
        lambda result: TaskResult(corpus.name, len(corpus.train), len(corpus.test), adapted.baseline, (result,)),
    )  # fmt: skip
    wrote = [str(options.out), *drawn]
    clear(work)
    _tell_language(options, delta, adapted, wrote, console)
    return 0


def _tell_language(
    options: Options, delta: Delta, adapted: AdaptedLanguage, wrote: list[str], console: Console
) -> None:
    record = {
        "out": str(options.out),
        "wrote": wrote,
        "digest": delta.digest,
        "base": delta.base.root,
        "method": dict(delta.provenance.method),
        "task": dict(delta.provenance.task),
        "loss": dataclasses.asdict(adapted.score),
        "baseline": dataclasses.asdict(adapted.baseline),
        "gain": dataclasses.asdict(adapted.gain),
        "parameters": adapted.parameters,
        "bytes": options.out.stat().st_size,
        "steps": adapted.record.steps,
        "seconds": adapted.record.seconds,
        "final_loss": adapted.record.losses[-1][1],
    }
    lines = [
        f"{options.out}: {_fields(delta)}, {count(adapted.parameters)} weights trained in "
        f"{duration(adapted.record.seconds)}, {byte_size(record['bytes'])}",
        f"loss      {adapted.score} nats a token on {delta.provenance.task['test']} test texts",
        f"before    {adapted.baseline}",
        f"lower by  {adapted.gain}",
        *(f"wrote     {path}" for path in wrote[1:]),
        f'try       dtheta apply {shlex.quote(str(options.out))}{model_flag(options.model)} --text "..."',
    ]
    console.result(record, ["\n".join(lines)])


def _plan(options: Options, recipe: Recipe) -> Plan:
    """Return what would be read, written, and how long it would take; nothing is fetched for it."""
    from dtheta.cli.rehearsal import rehearse
    from dtheta.data.sources import is_fetched
    from dtheta.data.tasks import TASKS

    path = Path(options.data).expanduser()
    absent = options.data in TASKS and not is_fetched(TASKS[options.data].package.name)
    writes = [options.out, *([options.report, options.report.with_suffix(".json")] if options.report else [])]
    settings = {**options.resolved(), "lr": recipe.rate, "model": model_name(options.model), "data": path.name}
    source = None if absent else _source(options)
    reads = {options.data: size_of(path)}
    return rehearse(source, options.model, recipe, options.pooling, reads, writes, settings)
