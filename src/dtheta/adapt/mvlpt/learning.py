"""Learning a prompt: the source stage and the target stage of MVLPT are one operation on different networks.

    source            learn_prompt(MultiTaskImages(all sources), CoOp(), mixture)
    target            learn_prompt(classifier of the target, source prompt, its few images)
    several targets   learn_prompt(MultiTaskImages(targets), source prompt, their mixture)

A source prompt is a Delta, so seeds are averaged before use as ``(a + b + c) / 3`` (the released code averages
checkpoints of three seeds). The released CoOp script for one target never passes the source prompt on; here the start
is an argument that has no default.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.method import Method
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError
from dtheta.fit.loop import fit
from dtheta.fit.record import Record
from dtheta.models.multitask_images import MultiTaskImages


def learn_prompt(
    net: nn.Module,
    start: Method | Delta,
    train: Any,
    *,
    choose: str | None = None,
    seed: int = 0,
    **options: Any,
) -> tuple[Delta, Record]:
    """Train a prompt on one image task or on several at once, and take it off the network again.

    Args:
        net: An ``ImageTextClassifier`` for one task, a ``MultiTaskImages`` for one prompt shared by several.
        start: A method, whose own start is trained, or a delta to go on from: a source prompt, or a mean of some.
        train: Batches, as ``dt.fit`` takes them.
        choose: With several tasks and ``eval``: the task whose accuracy chooses among evaluations; None for the mean
            over tasks.
        seed: Of the method's start and of the order of training.
        **options: Those of ``dt.fit``: steps, lr, eval, and so on.

    Returns:
        The trained prompt relative to the model, and the record of the training.

    Raises:
        ConfigError: ``choose`` without several tasks and ``eval``, or beside a metric; and what ``dt.attach`` and
            ``dt.fit`` raise.
    """
    several = isinstance(net, MultiTaskImages) and options.get("eval") is not None
    if choose is not None and (not several or options.get("metric") is not None):
        raise ConfigError("choose names the task whose accuracy counts: it needs several tasks, eval=... and no metric")
    if isinstance(net, MultiTaskImages) and several and options.get("metric") is None:
        options["metric"] = net.accuracy(choose)
    adapter = attach(net, start, seed=seed)
    try:
        record = fit(adapter, train, seed=seed, **options)
        return adapter.delta(), record
    finally:
        adapter.detach()
