"""fit: the one training loop.

    g      <- sum_i (n_i / N) grad loss_i        over the micro-batches and processes of a step, N = sum_i n_i
    g      <- g min(1, clip / ||g||)
    g      <- g + the method's own gradient      once a step, after clipping (SORSA's order)
    theta  <- AdamW(theta, g, lr(t)), or SGD

theta are the terms of an adapter; the base gets no gradient and is not written to. With evaluation data, or a metric
that brings its own, the adapter ends with the best terms it had at any evaluation, the untrained ones included; of
equal scores the lower loss wins, else the earlier one.

A run is a pure function of adapter, data, configuration and seed on one kind of machine: killed at any step and
resumed, it ends with the same bits (under DDP of more than two processes the order of a reduction may differ).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn

from dtheta.core.modes import kept_modes
from dtheta.core.paths import expanded
from dtheta.errors import ConfigError
from dtheta.fit.batch import item_counter
from dtheta.fit.checks import check_attached, check_callable
from dtheta.fit.evaluate import Evaluator, Scorer, brings_data, is_function
from dtheta.fit.randomness import kept_generators
from dtheta.fit.record import Record
from dtheta.fit.run import Callback, Run
from dtheta.fit.settings import Optimizer, Precision, Schedule, Settings
from dtheta.fit.stream import Stream, as_batches
from dtheta.fit.trainable import Batch, Loss
from dtheta.fit.world import world
from dtheta.score.metric import Metric


def fit(
    adapter: Any,
    train: Any,
    *,
    steps: int,
    eval: Any = None,
    loss: Loss | None = None,
    metric: Metric | Scorer | None = None,
    lr: float = 1e-3,
    full_lr: float | None = None,
    schedule: Schedule = "cosine",
    warmup: float = 0.03,
    weight_decay: float = 0.0,
    optimizer: Optimizer = "adamw",
    momentum: float = 0.0,
    accumulation: int = 1,
    clip: float | None = 1.0,
    precision: Precision | None = None,
    batch_size: int | None = None,
    collate: Callable[[list[Any]], Batch] | None = None,
    count: Callable[[Batch], int] | None = None,
    eval_every: int | None = None,
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    log: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callback] = (),
    allow_unused: bool = False,
    quiet: bool = False,
    seed: int = 0,
) -> Record:
    """Train an adapter's terms.

    Start the script with ``accelerate launch`` for DDP or FSDP2: a batch is then split over the processes, so that the
    result is that of one process. The caller's random generators, and every module's train or eval mode, are given
    back. Modules that write to their own buffers while they train (batch norm) stay in eval mode: the base is not
    written to.

    Args:
        adapter: what ``attach`` returned, or anything that is ``Trainable``.
        train: a DataLoader, a Dataset, or an iterable of batches; gone through as often as needed. Random augmentation
            of a Dataset's items depends on seed, epoch and index alone; in a DataLoader of your own also on its batch
            size and number of workers (``dtheta.fit.items.KeyedItems`` around its dataset lifts that).
        steps: optimizer steps.
        eval: the same for evaluation; None trains without, unless ``metric`` needs no batches.
        loss: (model, batch) -> scalar mean loss; None for ``model(**batch).loss``.
        metric: what decides which evaluation is best: a ``dtheta.score`` metric of logits and labels, or a function
            (model, batches) -> number, or (model) -> number that brings its own data, higher is better. None: accuracy
            for classifiers, else the loss.
        lr: highest learning rate.
        full_lr: that of parameters that train in full (``attach(..., also=...)``, ``Full``); None for ``lr``.
        schedule: "cosine" or "linear" to zero, or "constant".
        warmup: rising part of the schedule: a share of the steps below 1, else a number of steps.
        weight_decay: AdamW's, or added to the gradient by SGD; it pulls the trained factors, not the weights, to zero.
        optimizer: "adamw" or "sgd".
        momentum: of SGD, in [0, 1).
        accumulation: batches a step.
        clip: largest norm of the gradient; None leaves it.
        precision: "fp32", "bf16" or "fp16" (autocast); None for what ``accelerate launch`` was told, else fp32.
        batch_size: rows a batch, where ``train`` is a Dataset; 32 if None.
        collate: how a Dataset's items become a batch; its ``collate`` method, or torch's way, if None.
        count: batch -> number of items that the loss is a mean over. None: counted labels with the model's own loss,
            rows with yours.
        eval_every: steps between evaluations; None for ten a run. Step 0 and the last one are always evaluated.
        patience: end after so many evaluations without improvement; None never.
        checkpoint: folder for the checkpoint; None writes none.
        checkpoint_every: steps between checkpoints; None for ten a run. The last step always writes one.
        resume: go on from the checkpoint in the folder, if there is one; a finished run returns its record. The data of
            the interrupted epoch is read again up to where the run was, and each batch must be the one it was; earlier
            epochs, and what comes after, are not compared.
        log: JSONL file with a line for every step and evaluation.
        callbacks: called after every step; one that returns True ends the run.
        allow_unused: whether trainable parameters may stay without gradient (experts that no token went to).
        quiet: no progress bar; there is none without a terminal anyway.
        seed: key of data order and dropout.

    Returns:
        The record: losses, evaluations, rates, the best one, time, reason of the end, configuration.

    Raises:
        ConfigError: an argument that cannot be meant, a detached adapter, empty data, no scalar loss, a parameter that
            no gradient reaches, a resume with another configuration or other data.
        NonFinite: the loss, its gradient or an updated term is NaN or infinite; the last checkpoint stays.
        UnsupportedLayer: the model wrote to its own weights or buffers while it ran.
        OutputError: checkpoint or log cannot be written.
        FormatError: the checkpoint is damaged.
    """
    settings = Settings(
        steps=steps, lr=lr, full_lr=full_lr, schedule=schedule, warmup=warmup, weight_decay=weight_decay,
        optimizer=optimizer, momentum=momentum, accumulation=accumulation, clip=clip,
        precision=precision or launched_precision(), batch_size=batch_size, eval_every=eval_every,
        patience=patience, checkpoint_every=checkpoint_every, allow_unused=allow_unused, seed=seed,
    )  # fmt: skip
    evaluates = eval is not None or brings_data(metric)
    if not evaluates and (metric is not None or patience is not None or eval_every is not None):
        raise ConfigError(
            "metric, patience and eval_every need evaluation data: give eval=..., or a metric (model) -> number that "
            "brings its own"
        )
    if checkpoint is None and (resume or checkpoint_every is not None):
        raise ConfigError("resume and checkpoint_every need a folder: give checkpoint=...")
    callbacks = _checked(loss, metric, count, collate, callbacks)
    check_attached(adapter)
    if not adapter.trainable():
        raise ConfigError("nothing trains in this adapter: all its parameters are frozen, or there are none")
    counter = count or item_counter(adapter, own_loss=loss is None)
    with ExitStack() as stack:
        around = stack.enter_context(world(allow_unused))
        stack.enter_context(kept_generators(around.device))
        stack.enter_context(kept_modes(adapter))
        stream = Stream(as_batches(train, "train", batch_size, collate, seed), seed, trailed=checkpoint is not None)
        stack.callback(stream.close)
        evaluator = None
        if evaluates:
            batches = None if eval is None else as_batches(eval, "eval", batch_size, collate, None)
            evaluator = Evaluator(batches, metric, loss, counter, around)
        folder, log_file = (None if path is None else expanded(path) for path in (checkpoint, log))
        run = Run(adapter, stream, evaluator, loss, counter, settings, around, folder)
        stack.callback(run.close)
        run.open(resume, log_file, quiet)
        return run.train(callbacks)


def _checked(loss: Any, metric: Any, count: Any, collate: Any, callbacks: Any) -> tuple[Callback, ...]:
    """Return the callbacks, after a look at all functions of the user's: one that is none fails only in mid-run.

    Raises:
        ConfigError: naming the first that cannot be called.
    """
    table = (
        ("loss", loss, "a function (model, batch) -> scalar tensor"),
        ("count", count, "a function (batch) -> number of items"),
        ("collate", collate, "a function (items) -> batch"),
    )
    if type(loss).__module__ == nn.CrossEntropyLoss.__module__:  # a subclass may take (model, batch)
        raise ConfigError(
            f"loss must be {table[0][2]}, and {type(loss).__name__} takes outputs and targets; for pairs of inputs and "
            "targets: loss=lambda model, batch: that(model(batch[0]), batch[1])"
        )
    for name, value, what in table:
        if value is not None:
            check_callable(name, value, what)
    if is_function(metric):
        check_callable("metric", metric, "a dtheta.score metric or a function (model, batches) -> number")
    if isinstance(callbacks, (str, bytes)) or not isinstance(callbacks, Iterable):
        raise ConfigError(f"callbacks must be a list of functions (step) -> bool or None, got {callbacks!r:.80}")
    found = tuple(callbacks)
    for index, value in enumerate(found):
        check_callable(f"callbacks[{index}]", value, "a function (step) -> bool or None")
    return found


def launched_precision() -> Precision:
    """Return the precision that ``accelerate launch`` was told, fp32 without it.

    Raises:
        ConfigError: one that fit does not have.
    """
    told = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    table: dict[str, Precision] = {"no": "fp32", "fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
    if told not in table:
        raise ConfigError(f"Accelerate was launched with mixed precision {told}; fit has fp32, bf16 and fp16")
    return table[told]
