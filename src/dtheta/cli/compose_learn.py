"""The learning half of ``dtheta compose``: what it takes, the experts with their texts, and what came out.

The deltas with a head are the experts: each has a task, texts of its own, and its own head wherever it is looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dtheta.cli.console import Part, Table
from dtheta.cli.cost import Cost
from dtheta.cli.family import ENCODER, require_some
from dtheta.cli.judge import max_length
from dtheta.cli.labeled import Source, described, labeled, require_read
from dtheta.cli.multitask import Descent, Expert, judged, own_head
from dtheta.cli.networks import base_name, require_classifier_of, require_model
from dtheta.cli.plan import size_of
from dtheta.cli.units import percent
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.cli.compose import Given, Options
    from dtheta.compose.coefficients import Coefficients
    from dtheta.core.delta import Delta


def require_learnable(options: Options, given: Given) -> None:
    """Raise what learning would raise, as far as options and headers tell."""
    from dtheta.compose.recipe import Recipe

    Recipe(epochs=options.epochs, lr=options.lr)
    if options.batch_size < 1 or options.lr == 0:
        name, least = ("--batch-size", "1 or more") if options.batch_size < 1 else ("--lr", "a positive number")
        raise ConfigError(f"{name} must be {least}")
    if not given.heads:
        raise ConfigError("--learn needs a classifier's delta, with its head: there is none among these")
    for header in given.headers:
        require_some(header, ENCODER)
    for header in given.heads:
        require_classifier_of(header)
    if options.data and len(options.data) != len(given.heads):
        raise ConfigError(
            f"{len(given.heads)} of the deltas bring a head, and --data was given {len(options.data)} times; give it "
            "once for each, in order"
        )
    names = {require_model(header, model_of(options, given)) for header in given.headers}
    assert len(names) == 1, "one name for all"
    sources = sources_of(options, given)
    require_read(options, sources)
    for header, source in zip(given.heads, sources, strict=True):
        source.name(header.provenance)


def model_of(options: Options, given: Given) -> str:
    """Return the name of the base: as given, or what the first classifier's delta says."""
    return base_name(given.heads[0].provenance.task, options.model)


def sources_of(options: Options, given: Given) -> list[Source]:
    """Return where the texts of each expert are: as given, or those of its own task."""
    names: Sequence[str | None] = options.data or (None,) * len(given.heads)
    return [Source(name, options.text, options.label, options.encoding) for name in names]


def descent_of(options: Options) -> Descent:
    """Return how coefficients are to be learned."""
    return Descent(options.epochs, options.lr, options.batch_size, options.isotropic, options.seed)


def learning_plan(options: Options, given: Given) -> tuple[dict[str, int | None], int, float | None, list[str]]:
    """Return what learning reads, its bytes of memory and its seconds, and what there is to say of them."""
    name, notes, tokens, run = model_of(options, given), [], 0, 0
    cost = Cost.of_model(name)
    reads = {f"model {name}": cost.nbytes}
    for header, source in zip(given.heads, sources_of(options, given), strict=True):
        made, length = header.provenance, max_length(header.provenance.task)
        reads[source.name(made)] = size_of(source.path)
        if not source.fetched(made):
            notes.append(f"{source.name(made)} is not in the cache yet and would be fetched first")
            continue
        texts = labeled(made, source, options.seed)
        texts.to_learn(options.texts, options.validate)
        tokens += options.epochs * options.texts * length
        run += (options.epochs * options.validate + 3 * len(texts.test)) * length
    return reads, cost.memory(options.batch_size * 128) or 0, cost.seconds(tokens, run), notes


def experts_of(
    options: Options, given: Given, deltas: Sequence[Delta], record: dict[str, Any]
) -> tuple[list[Expert], Any]:
    """Return the classifiers' deltas with their texts, and the tokenizer."""
    from dtheta.models.load import load_model, load_tokenizer

    name = model_of(options, given)
    model, tokenizer = load_model(name), load_tokenizer(name)
    paired = [(d, path) for d, path, h in zip(deltas, options.deltas, given.headers, strict=True) if h in given.heads]
    stems = [path.stem for _, path in paired]
    experts, record["learned_on"] = [], []
    for i, ((delta, _), source) in enumerate(zip(paired, sources_of(options, given), strict=True)):
        texts = labeled(delta.provenance, source, options.seed)
        learn, validate = texts.to_learn(options.texts, options.validate)
        called = stems[i] if stems.count(stems[i]) == 1 else f"{i + 1}: {stems[i]}"
        experts.append(Expert(called, own_head(delta, model), delta, learn, validate, texts.test))
        record["learned_on"].append({"delta": called, **described(texts, learn)})
    return experts, tokenizer


def learning_record(coefficients: Coefficients) -> dict[str, Any]:
    """Return how the learning went, and the mean coefficient of each delta."""
    report = coefficients.report
    assert report is not None, "learned coefficients have a report"
    present = coefficients.values.any(2).any(1)
    means = [float(row.mean()) if bool(there) else 0.0 for row, there in zip(coefficients.values, present, strict=True)]
    return {
        "epochs": [{"epoch": e.number, "loss": e.loss, **e.scores} for e in report.epochs],
        "best_epoch": report.best,
        "mean_coefficients": means,
        "coefficients": coefficients.to_settings(),
    }


def judge(experts: Sequence[Expert], made: Delta, tokenizer: Any, record: dict[str, Any]) -> list[Part]:
    """Judge every task on its test texts, and return the table."""
    from dtheta.cli.judge import accuracy
    from dtheta.cli.results import difference, share
    from dtheta.score import paired_shares

    rows, record["tasks"] = [], []
    for expert in experts:
        found = judged(expert, made, tokenizer)
        loss = paired_shares(found.composed, found.own)
        scores = {name: accuracy(getattr(found, name)) for name in ("own", "composed", "base")}
        record["tasks"].append(
            {
                "delta": expert.name,
                "test": len(expert.test),
                **{name: dataclasses.asdict(score) for name, score in scores.items()},
                "difference": dataclasses.asdict(loss),
            }
        )
        cells = (share(scores["own"]), share(scores["composed"]), difference(loss), percent(scores["base"].estimate))
        rows.append((expert.name, *cells))
    headings = ("task of", "own delta [95 %]", "composed [95 %]", "composed - own", "encoder unmoved>")
    return ["", Table(headings, rows, "accuracy on test texts, each with the head of its own delta")]


def learning_told(record: dict[str, Any]) -> list[str]:
    """Return in words how coefficients were learned."""
    last, best = record["epochs"][-1], record["epochs"][record["best_epoch"]]
    score = f", mean accuracy {percent(best['score'])} on validation texts" if "score" in best else ""
    means = ", ".join(f"{value:+.2f}" for value in record["mean_coefficients"])
    seen = sum(each["seen_in_training"] for each in record["learned_on"])
    texts = sum(each["texts"] for each in record["learned_on"])
    values = record["coefficients"]["values"]
    return [
        f"learned   {len(values)} x {len(values[0])} coefficients on {texts} texts ({seen} of them seen in training); "
        f"epoch {record['best_epoch']} of {last['epoch']} is kept{score}",
        f"means     {means}, delta by delta",
    ]
