"""Relearning: a short training on a few of the facts, and whether the others come back with them.

    relearned  an adapter on top of the delta learns a share of the facts that the original knew
    measured   the facts that were NOT among them, and whose answers none of them gives away
    control    the same training on as many unrelated facts; what it brings back has nothing to do with the concept

What was cut out has to be learned anew, fact by fact; what was only hidden comes back as a whole. The original under
the same attack is trained in the same way, so that what the training itself does to other facts can be told.
Recovery: attack.py. Sources: relearning as an attack, Hu et al. 2024 (arXiv 2406.13356); the control is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.adapt.method import Method
from dtheta.core.arguments import number, whole
from dtheta.core.delta import Delta
from dtheta.data.concepts import Question
from dtheta.data.text import keyed_order
from dtheta.errors import ConfigError
from dtheta.fit.loop import fit
from dtheta.probe.encoded import collate, encode
from dtheta.probe.erasure.attack import Attack, Outcome
from dtheta.probe.erasure.subject import Subject, tells


@dataclass(frozen=True)
class Relearning(Attack):
    """Train on some of the facts and ask the others.

    Attributes:
        share: Part of the facts known to the original that is relearned, 0.05 to 0.2 as a rule; at least one fact.
        steps: Optimizer steps.
        lr: Highest learning rate.
        adapter: What trains on top of the delta.
        select: Where, as for ``attach``.
        batch: Facts a step.
    """

    share: float = 0.2
    steps: int = 20
    lr: float = 1e-3
    adapter: Method = field(default_factory=lambda: LoRA(rank=8))
    select: str | None = None
    batch: int = 8
    unasked: ClassVar[str] = "fewer than two facts are left to ask when some are relearned, or none was known"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: For a share outside of (0, 0.5], or fewer than one step or fact a step.
        """
        if not 0.0 < number(self.share, "share") <= 0.5:
            raise ConfigError(f"Relearning: share is {self.share}; expected more than 0 and at most 0.5")
        if number(self.lr, "lr") <= 0.0:
            raise ConfigError(f"Relearning: lr is {self.lr}; expected more than 0")
        whole(self.steps, "steps", least=1)
        whole(self.batch, "batch", least=1)

    def relearned(self, subject: Subject) -> list[Question]:
        """Return the facts that are trained on, drawn by seed among those the original knows."""
        known = _known(subject.target, subject.target_scores.exact)
        order = keyed_order(len(known), subject.seed, f"probe/relearning/{subject.concept.name}")
        return [known[i] for i in order[: max(1, round(self.share * len(known)))]]

    def unrelated(self, subject: Subject) -> list[Question]:
        """Return as many unrelated facts that the original knows and that give none of the asked answers away."""
        answers = [question.answer for variants in self.asked(subject) for question in variants]
        known = _known(subject.unrelated, subject.unrelated_scores.exact)
        free = [fact for fact in known if not any(tells(fact, answer) for answer in answers)]
        order = keyed_order(len(free), subject.seed, f"probe/relearning/control/{subject.concept.name}")
        return [free[i] for i in order[: len(self.relearned(subject))]]

    def asked(self, subject: Subject) -> list[tuple[Question, ...]]:
        """Return the facts that are not relearned and not given away by those that are."""
        taken = self.relearned(subject)

        def held_out(question: Question) -> bool:
            return bool(taken) and not any(fact is question or tells(fact, question.answer) for fact in taken)

        return [(question,) if held_out(question) else () for question in subject.target]

    @contextmanager
    def state(self, subject: Subject, delta: Delta, present: bool) -> Iterator[None]:
        """Run a block on the model after the training."""
        with subject.changed(delta, present), self._trained(subject, self.relearned(subject)):
            yield

    def control(self, subject: Subject, delta: Delta) -> Outcome | None:
        """Train as long on unrelated facts; None where the original knows fewer of them than are relearned."""
        facts = self.unrelated(subject)
        if len(facts) < len(self.relearned(subject)):
            return None

        @contextmanager
        def trained() -> Iterator[None]:
            with subject.changed(delta), self._trained(subject, facts):
                yield

        return self._ask(subject, trained)

    def remark(self, subject: Subject) -> str:
        """Return how many facts are relearned, and whether there is a control."""
        taken, others = len(self.relearned(subject)), len(self.unrelated(subject))
        said = f"{taken} of {int(subject.target_scores.exact.sum())} known facts relearned"
        return said if others >= taken else f"{said}; no control, for the model knows {others} unrelated facts"

    @contextmanager
    def _trained(self, subject: Subject, facts: Sequence[Question]) -> Iterator[None]:
        rows = encode(subject.tokenizer, facts)
        batches = [collate(rows[start : start + self.batch]) for start in range(0, len(rows), self.batch)]
        adapter = attach(subject.model, self.adapter, self.select, seed=subject.seed)
        try:
            fit(adapter, batches, steps=self.steps, lr=self.lr, allow_unused=True, quiet=True, seed=subject.seed)
            yield
        finally:
            adapter.detach()


def _known(questions: Sequence[Question], exact: Tensor) -> list[Question]:
    return [question for question, right in zip(questions, exact.tolist(), strict=True) if right]
