"""Unlearning by training: any loss on any adapter, looked at as it goes, the best that was seen kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.full import Full
from dtheta.adapt.method import Method
from dtheta.core.apply import applied
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.fit.loop import fit
from dtheta.probe.ablation import ablation
from dtheta.probe.decoder import open_decoder
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
        fit(
            adapter, pairs, steps=training.steps, loss=loss, lr=training.lr, warmup=0.1,
            eval=pairs[:1], metric=task.watch, eval_every=training.every, callbacks=[lambda _: task.watch.reached()],
            allow_unused=True, quiet=quiet, seed=task.seed,
        )  # fmt: skip
        delta = adapter.delta()
    return without(task.model, delta, silent) if silent else delta


@contextmanager
def silenced(model: nn.Module, vectors: Sequence[ValueVector]) -> Iterator[None]:
    """Run a block in which neurons write nothing, whatever is attached to their layer; no weight is touched."""
    decoder = open_decoder(model)
    handles = []
    for layer in sorted({vector.layer for vector in vectors}):
        columns = sorted({vector.column for vector in vectors if vector.layer == layer})
        module = model.get_submodule(decoder.matrices[layer].name.removesuffix(".weight"))
        handles.append(module.register_forward_pre_hook(_silencer(columns)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _silencer(columns: list[int]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        mask = inputs[0].new_ones(inputs[0].shape[-1])
        mask[columns] = 0.0
        return (inputs[0] * mask, *inputs[1:])

    return hook


def without(model: nn.Module, delta: Delta, vectors: Sequence[ValueVector]) -> Delta:
    """Return a delta after which, in addition, value vectors are zero: those of the changed model are taken away."""
    with applied(model, delta):
        rest = ablation(model, vectors)
    return delta + replace(rest, base=fingerprint(model).restrict(rest))
