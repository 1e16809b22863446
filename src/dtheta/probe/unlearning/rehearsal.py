"""Rehearsed unlearning: the concept has to stay away also when some of its facts are learned again.

    now and then   an adapter beside the one that trains, the drift, learns a few of the facts anew, as an attacker does
    every step     loss(theta) + weight F(theta + drift)

F is the forgetting term of the loss, on facts that the drift was not taught. The drift is a constant in the gradient of
a step (first order) and no part of what comes out. A loss alone stops pulling as soon as an answer is not the likeliest
any more, and leaves it just below, where any training brings it back; this one goes on until it is out of reach.

Training against a rehearsed attack: Tamirisa et al. 2024 (TAR, arXiv 2408.00761). A drift that is kept for some steps,
as an adapter of its own on another one, is ours: the attack then costs no second copy of the model and no gradients of
gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.core.arguments import number, positive, whole
from dtheta.core.seeds import generator, key, permutation
from dtheta.errors import ConfigError
from dtheta.probe.encoded import collate
from dtheta.probe.unlearning.ascent import WGA
from dtheta.probe.unlearning.objective import Retaining, Side, Unlearning
from dtheta.probe.unlearning.task import Task

_TRIALS = 3  # relearnings that the goal has to outlast for a training to end there


@dataclass(frozen=True)
class Rehearsed(Unlearning):
    """A loss that has to hold also after a relearning.

    Attributes:
        plain: What forgets and keeps.
        share: Part of the facts that a rehearsal relearns; at least one.
        relearn: Optimizer steps of a rehearsal.
        lr: Its learning rate, which falls to zero.
        rank: Of the adapter that it trains, on attention and MLPs.
        begin: Steps before the first one.
        every: Steps for which a drift is kept.
        weight: Of the forgetting term after it.
    """

    plain: Retaining = field(default_factory=lambda: WGA(retain=1.0, kl=1.0))
    share: float = 0.2
    relearn: int = 20
    lr: float = 1e-3
    rank: int = 8
    begin: int = 6
    every: int = 3
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: For a loss without a forgetting term, a share outside of (0, 0.5], or a number that cannot be
                meant.
        """
        super().__post_init__()
        if not isinstance(self.plain, Retaining):
            raise ConfigError(f"Rehearsed: plain is {self.plain!r}; expected a loss such as WGA(retain=1.0, kl=1.0)")
        if not 0.0 < number(self.share, "share") <= 0.5:
            raise ConfigError(f"Rehearsed: share is {self.share}; expected more than 0 and at most 0.5")
        positive(self.lr, "lr")
        for name, least in (("relearn", 1), ("rank", 1), ("every", 1), ("begin", 0)):
            whole(getattr(self, name), name, least=least)

    def loss(self, forget: Side, retain: Side) -> Tensor:
        """Return the plain loss."""
        return self.plain.loss(forget, retain)

    @contextmanager
    def during(self, task: Task) -> Iterator[Rehearsal]:
        """Yield the loss with its drift, which is taken off again."""
        running = Rehearsal(self, task)
        try:
            yield running
        finally:
            running.end()


class Rehearsal:
    """A training with a rehearsed loss: what is called at every step, and the drift of just now.

    Attributes:
        drift: The adapter that learned some facts anew, switched off but while it is asked for; None before the first.
        asked: Places of the facts, among those to forget, that it was not taught.
    """

    def __init__(self, settings: Rehearsed, task: Task) -> None:
        self.settings, self.task = settings, task
        self.drift: Adapter | None = None
        self.asked: list[int] = []
        self._steps = 0
        self._held = (0, False)  # looks so far, and whether the goal held after the last of them

    def __call__(self, adapter: Adapter, batch: Mapping[str, dict[str, Tensor]]) -> Tensor:
        """Return the loss of a step."""
        plain = self.settings.plain(adapter, batch)
        since = self._steps - self.settings.begin
        self._steps += 1
        if since < 0:
            return plain
        if since % self.settings.every == 0:
            self.rehearse()
        asked = collate([self.task.forget[i] for i in self.asked[: self.task.batch]])
        beside = {name: rows[: len(asked["input_ids"])] for name, rows in batch["retain"].items()}  # pairs, as in DPO
        with self._drifted():
            forgetting = self.settings.plain.forgetting(Side(adapter, asked), Side(adapter, beside))
        return plain + self.settings.weight * forgetting

    def rehearse(self, trial: int = 0) -> None:
        """Learn some of the facts anew, on the model as it is now; each trial of a step learns others."""
        self.end()
        taught, self.asked = self._drawn(trial)
        seed = key(self.task.seed, f"probe/rehearsal/{self.task.concept}/{trial}", self._steps)
        self.drift = attach(self.task.model, LoRA(rank=self.settings.rank), seed=seed)
        self._learn(self.drift, collate([self.task.forget[i] for i in taught]))
        self.drift.enabled = False

    def holds(self) -> bool:
        """Tell whether the goal is reached also after relearnings, each asked about what it does not teach.

        It is found out once after each look.
        """
        looks = len(self.task.watch.seen)
        if self._held[0] != looks:
            goal = self.task.watch.goal
            self._held = (looks, all(self._left(trial) <= goal for trial in range(1, _TRIALS + 1)))
        return self._held[1]

    def _left(self, trial: int) -> float:
        self.rehearse(trial)
        with self._drifted():
            return self.task.watch.left(self.task.model, self.asked)

    def end(self) -> None:
        """Take the drift off the model."""
        if self.drift is not None:
            self.drift.detach()
            self.drift = None

    def _drawn(self, trial: int) -> tuple[list[int], list[int]]:
        """Return the facts to relearn and the others, in a keyed order; all are both where there is one alone."""
        facts = len(self.task.forget)
        draw = generator(self.task.seed, f"probe/rehearsal/{self.task.concept}/facts/{trial}", self._steps)
        order = permutation(facts, draw).tolist()
        count = max(1, round(self.settings.share * facts))
        return order[:count], order[count:] or order

    def _learn(self, drift: Adapter, batch: dict[str, Tensor]) -> None:
        """Train the drift alone; nothing else gets a gradient."""
        trained: Sequence[Tensor] = list(drift.trainable().values())
        optimizer = torch.optim.AdamW(trained, lr=self.settings.lr, weight_decay=0.0)
        falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, self.settings.relearn)
        for _ in range(self.settings.relearn):
            with torch.enable_grad():
                gradients = torch.autograd.grad(Side(drift, batch).ce, trained, allow_unused=True)
            for tensor, gradient in zip(trained, gradients, strict=True):
                tensor.grad = gradient
            optimizer.step()
            falling.step()
        drift.terms.requires_grad_(False).zero_grad()

    @contextmanager
    def _drifted(self) -> Iterator[None]:
        """Run a block with the drift on the model."""
        assert self.drift is not None
        self.drift.enabled = True
        try:
            yield
        finally:
            self.drift.enabled = False
