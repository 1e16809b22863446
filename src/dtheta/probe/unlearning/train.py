"""Unlearning by training: any loss on any adapter, looked at as it goes, the best that was seen kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.full import Full
from dtheta.adapt.method import Method
from dtheta.core.apply import applied
from dtheta.core.arguments import positive, whole
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.fit.loop import fit
from dtheta.probe.ablation import ablation, silenced
from dtheta.probe.unlearning.objective import Unlearning
from dtheta.probe.unlearning.task import Task
from dtheta.probe.value_vector import ValueVector


@dataclass(frozen=True)
class Training:
    """How a loss is trained.

    Attributes:
        adapter: What trains.
        lr: Highest learning rate.
        steps: Optimizer steps at most; reaching the goal ends it earlier.
        every: Steps between looks.
    """

    adapter: Method = field(default_factory=Full)
    lr: float = 1e-4
    steps: int = 40
    every: int = 5

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: If the rate is not positive, or there is no step or none between looks.
        """
        positive(self.lr, "lr")
        for name in ("steps", "every"):
            whole(getattr(self, name), name, least=1)


def trained(
    task: Task,
    loss: Callable[[Any, Any], Tensor],
    training: Training,
    *,
    silent: Sequence[ValueVector] = (),
    quiet: bool = True,
) -> Delta:
    """Return the delta of a loss, from the best state that the task's watch saw.

    Args:
        task: The concept.
        loss: (adapter, batch of pairs) -> scalar.
        training: Adapter, rate and steps.
        silent: Value vectors that are out of the way during training and gone after it.
        quiet: No progress bar.

    Raises:
        NonFinite: If the loss leaves all bounds.
    """
    with ExitStack() as stack:
        stack.enter_context(silenced(task.model, silent))
        adapter = attach(task.model, training.adapter, task.select)
        stack.callback(adapter.detach)
        pairs = task.pairs(training.steps)
        running = stack.enter_context(loss.during(task)) if isinstance(loss, Unlearning) else loss
        holds: Callable[[], bool] = getattr(running, "holds", lambda: True)
        fit(
            adapter, pairs, steps=training.steps, loss=running, lr=training.lr, warmup=0.1,
            metric=task.watch, eval_every=training.every, callbacks=[lambda _: task.watch.reached() and holds()],
            allow_unused=True, quiet=quiet, seed=task.seed,
        )  # fmt: skip
        delta = adapter.delta()
    return without(task.model, delta, silent) if silent else delta


def without(model: nn.Module, delta: Delta, vectors: Sequence[ValueVector]) -> Delta:
    """Return a delta after which, in addition, value vectors are zero: those of the changed model are taken away."""
    with applied(model, delta):
        rest = ablation(model, vectors)
    return delta + replace(rest, base=fingerprint(model).restrict(rest))
