"""``dtheta adapt`` on texts: a classifier where they have classes, else a language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.adapt_output import Job, draw, next_steps, record_of, remembered, save, told, writes
from dtheta.cli.bases import model_name
from dtheta.cli.columns import require_columns
from dtheta.cli.console import Console
from dtheta.cli.idle import refuse_idle
from dtheta.cli.plan import Plan, size_of
from dtheta.cli.units import duration
from dtheta.cli.workspace import clear, kept_for_later, workspace
from dtheta.core.paths import expanded

if TYPE_CHECKING:
    from torch import nn

    from dtheta.adapt.classify import Adapted
    from dtheta.adapt.language import AdaptedLanguage
    from dtheta.adapt.recipe import Recipe
    from dtheta.cli.adapt import Options
    from dtheta.data.corpus import Corpus
    from dtheta.data.text import TextTask
    from dtheta.report import MethodResult, TaskResult
    from dtheta.score import Interval


def run(job: Job, console: Console) -> int:
    """Train, score, save, and report."""
    from dtheta.adapt.recipe import Recipe
    from dtheta.data.corpus import Corpus

    options = job.options
    recipe = Recipe(
        job.method, options.select, job.steps, job.batch_size, options.lr, head_lr=options.head_lr,
        max_length=options.max_length, validate=options.validate, seed=options.seed,
    )  # fmt: skip
    if options.dry_run:
        _plan(job, recipe).show(console)
        return 0
    source, work = _source(options), workspace(options.out)
    with kept_for_later(work):
        train = _language if isinstance(source, Corpus) else _classifier
        train(job, recipe, source, work, console)  # type: ignore[arg-type]  # chosen by its kind
    return 0


def _source(options: Options) -> TextTask | Corpus:
    """Return the texts that the options name: a task where they have classes, else a corpus."""
    from dtheta.data.corpus import columns, load_corpus
    from dtheta.data.table import load_table
    from dtheta.data.tasks import TASKS, load_task

    path = expanded(options.data)
    if options.data in TASKS:
        return load_task(options.data, options.n_train, options.n_test, options.seed)
    there = columns(path, options.encoding)
    label = options.label or ("label" if "label" in there else None)
    for file in (path, options.test):
        if file is not None:
            names = there if file is path else columns(file, options.encoding)
            require_columns(file, names, {"--text": options.text, "--label": label})
    counts = options.test, options.n_train, options.n_test, options.seed, options.encoding
    if label is None:
        of_classes = "is for classifiers, and without --label a language model is trained; leave it out"
        refuse_idle(options, ("pooling", "head_lr"), of_classes)
        return load_corpus(path, options.text, *counts)
    return load_table(path, options.text, label, *counts)


def _classifier(job: Job, recipe: Recipe, task: TextTask, work: Path, console: Console) -> None:
    from dtheta.adapt.classify import adapt_classifier, require_classifier
    from dtheta.adapt.text_problem import frozen_baseline, problem
    from dtheta.cli.labeled import DIGEST, texts_digest
    from dtheta.models.load import load_model, load_tokenizer
    from dtheta.report import TaskResult

    posed = problem(load_model(job.model), load_tokenizer(job.model), task, recipe.max_length, job.options.pooling)
    console.note(
        f"{task.name}: {len(task.classes)} classes, {len(posed.train)} training and {len(posed.test)} test texts"
    )
    require_classifier(posed.net, posed.task, recipe)
    frozen = frozen_baseline(posed)
    console.note(f"frozen encoder: {100 * frozen.accuracy.estimate:.1f} % in {duration(frozen.seconds)}; training ...")
    adapted = adapt_classifier(
        posed, recipe, frozen, model_name=model_name(job.model), checkpoint=work, resume=job.options.resume,
        quiet=not console.animated,
    )  # fmt: skip
    delta = save(adapted.delta, job, **{DIGEST: texts_digest(task.train, task.test, task.classes)})
    drawn = _report(
        job, recipe, posed.net, adapted,
        lambda result: TaskResult(
            task.name, len(posed.train), len(posed.test), frozen.accuracy, (result,), len(task.classes)
        ),
    )  # fmt: skip
    clear(work)
    record = record_of(
        job, delta, adapted, [str(job.options.out), *drawn],
        accuracy=dataclasses.asdict(adapted.score), baseline=delta.provenance.task["baseline"],
        gain=dataclasses.asdict(adapted.gain),
    )  # fmt: skip
    _tell_classifier(job, adapted, frozen.accuracy, record, console)


def _tell_classifier(job: Job, adapted: Adapted, frozen: Interval, record: dict[str, Any], console: Console) -> None:
    from dtheta.cli.results import clearness, difference, share

    found = [
        ("accuracy", f"{share(adapted.score)} on {record['task']['test']} test texts"),
        ("frozen", f"{share(frozen)} by logistic regression on the unadapted encoder"),
        ("gain", f"{difference(adapted.gain)}: {clearness(adapted.gain)}"),
    ]
    console.result(record, [told(job, record, found)])


def _language(job: Job, recipe: Recipe, corpus: Corpus, work: Path, console: Console) -> None:
    from dtheta.adapt.language import adapt_language
    from dtheta.models.load import load_model, load_tokenizer
    from dtheta.report import TaskResult

    net, tokenizer = load_model(job.model), load_tokenizer(job.model)
    console.note(
        f"{corpus.name}: {len(corpus.train)} training and {len(corpus.test)} test texts without classes; training ..."
    )
    adapted = adapt_language(
        net, tokenizer, corpus, recipe, model_name=model_name(job.model), checkpoint=work, resume=job.options.resume,
        quiet=not console.animated,
    )  # fmt: skip
    delta = save(adapted.delta, job)
    drawn = _report(
        job, recipe, net, adapted,
        lambda result: TaskResult(corpus.name, len(corpus.train), len(corpus.test), adapted.baseline, (result,)),
    )  # fmt: skip
    clear(work)
    record = record_of(
        job, delta, adapted, [str(job.options.out), *drawn],
        loss=dataclasses.asdict(adapted.score), baseline=dataclasses.asdict(adapted.baseline),
        gain=dataclasses.asdict(adapted.gain),
    )  # fmt: skip
    found = [
        ("loss", f"{adapted.score} nats a token on {record['task']['test']} test texts"),
        ("before", str(adapted.baseline)),
        ("lower by", str(adapted.gain)),
    ]
    console.result(record, [told(job, record, found)])


def _report(
    job: Job,
    recipe: Recipe,
    net: nn.Module,
    adapted: Adapted | AdaptedLanguage,
    task_of: Callable[[MethodResult], TaskResult],
) -> list[str]:
    """Draw the page where one is wanted; return what was written."""
    from dtheta.cli.results import adapt_results, method_result
    from dtheta.report import ACCURACY, TOKEN_LOSS

    options = job.options
    if options.report is None:
        return []
    task = task_of(method_result(adapted, recipe, net, options.out.stat().st_size))
    measure = TOKEN_LOSS if task.classes is None else ACCURACY
    pretrained = getattr(net, "encoder", net)
    results = adapt_results(model_name(job.model), pretrained, [task], measure, recipe, next_steps(job))
    return draw(results, options.report)


def _plan(job: Job, recipe: Recipe) -> Plan:
    """Return what would be read, written, and how long it would take; nothing is fetched for it."""
    from dtheta.cli.rehearsal import rehearse
    from dtheta.data.sources import is_fetched
    from dtheta.data.tasks import TASKS

    options = job.options
    absent = options.data in TASKS and not is_fetched(TASKS[options.data].package.name)
    settings = {**remembered(job), "lr": recipe.rate}
    source = None if absent else _source(options)
    reads = {options.data: size_of(expanded(options.data))}
    written = [path for path in writes(options).values() if path is not None]
    return rehearse(source, job.model, recipe, options.pooling, reads, written, settings)
