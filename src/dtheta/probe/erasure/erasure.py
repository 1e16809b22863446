"""erasure: what a delta took out of a model, in three ways, each against the original.

    intrinsic  the concept's value vectors: does anything still read like them?              (intrinsic.py)
    behavior   questions, greedy texts, perplexity: what is answered, and what else changed?  (behavior.py)
    attacks    other words, personas, facts in the prompt, relearning, rounding: does it come back?  (attack.py)

A network that no longer says a thing may still hold it: behavior alone cannot tell. Traces alone cannot either, for a
concept may sit elsewhere than in the vectors that were looked at. So all three are asked, and ``Erasure.erased`` is no
proof: it says that nothing tried here found the concept. Of what the model did not know to begin with (fewer than half
of the questions answered) only traces are compared.

The model is as it was afterwards, to the bit, also when something raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from dtheta.core.arguments import one_delta, whole
from dtheta.core.delta import Delta
from dtheta.core.record import record_of
from dtheta.data.concepts import Concept, Question
from dtheta.errors import ConfigError
from dtheta.probe.decoder import Norm
from dtheta.probe.erasure.attack import Attack, AttackResult, Outcome, attack_result
from dtheta.probe.erasure.attacks import USUAL
from dtheta.probe.erasure.behavior import Behavior
from dtheta.probe.erasure.intrinsic import Words, intrinsic
from dtheta.probe.erasure.likeness import likeness, written
from dtheta.probe.erasure.paired import share
from dtheta.probe.erasure.perplexity import Texts, perplexity_change
from dtheta.probe.erasure.questions import question_change
from dtheta.probe.erasure.result import Erasure
from dtheta.probe.erasure.subject import subject
from dtheta.probe.recall import LEAST
from dtheta.probe.unlearning.watch import Checkup
from dtheta.probe.value_vector import ValueVector

_NEW_TOKENS = 32


def erasure(
    model: nn.Module,
    delta: Delta,
    concept: Concept,
    *,
    tokenizer: Any,
    vectors: Sequence[ValueVector],
    unrelated: Sequence[Question],
    texts: Sequence[str] = (),
    attacks: Sequence[Attack] = USUAL,
    norm: Norm = "folded",
    new_tokens: int = _NEW_TOKENS,
    checkups: Sequence[Checkup] = (),
    seed: int = 0,
) -> Erasure:
    """Measure what a delta took out of a model.

    Args:
        model: The decoder as it was, without the delta; it is so again when this returns.
        delta: What was done, such as ``unlearn(...).delta``.
        concept: What should be gone: questions with answers, two or more; paraphrases, documents and completions are
            used where there are any.
        tokenizer: The model's tokenizer.
        vectors: The concept's value vectors, with their sides, found on the original.
        unrelated: Questions about other things, two or more. Give some that the unlearning neither trained on nor
            watched, else what it kept is overrated.
        texts: Any texts, for the perplexity.
        attacks: What to try; all by default, none for ``()``.
        norm: What vectors are read through (see ``decoder``).
        new_tokens: Length of the greedy texts.
        checkups: What was seen while the delta was made (``Unlearned.seen``), to be shown with the rest.
        seed: Of all draws.

    Raises:
        ConfigError: For too few questions, one that is about the concept and unrelated at once, no vectors, what is
            no attack, or another model's tokenizer.
        BaseMismatch: If the delta is another model's.
        UnsupportedLayer: If the model is no decoder that can be probed, or the delta brings new vectors.
        NonFinite: If the changed model's answers are not finite.
    """
    examined = Examination(
        model, concept, tokenizer=tokenizer, unrelated=unrelated, texts=texts, attacks=attacks, norm=norm,
        new_tokens=new_tokens, seed=seed,
    )  # fmt: skip
    return examined.report(delta, vectors, checkups=checkups)


class Examination:
    """The original's side of a report, computed once, for reports on any number of deltas."""

    def __init__(
        self,
        model: nn.Module,
        concept: Concept,
        *,
        tokenizer: Any,
        unrelated: Sequence[Question],
        texts: Sequence[str] = (),
        attacks: Sequence[Attack] = USUAL,
        norm: Norm = "folded",
        new_tokens: int = _NEW_TOKENS,
        progress: Callable[[str], None] | None = None,
        seed: int = 0,
    ) -> None:
        """Ask the original.

        Args:
            model: As ``erasure``, and so are the others.
            concept: What should be gone.
            tokenizer: The model's tokenizer.
            unrelated: Questions about other things.
            texts: For the perplexity.
            attacks: What to try.
            norm: What vectors are read through.
            new_tokens: Length of the greedy texts.
            progress: Called with what is being done.
            seed: Of all draws.

        Raises:
            ConfigError, NonFinite: As ``erasure``.
        """
        for attack in (listed := list(attacks) if isinstance(attacks, Iterable) else [attacks]):
            if not isinstance(attack, Attack):
                raise ConfigError(f"{attack!r} is no attack; expected such as Paraphrase() or Quantization(bits=4)")
        names = [attack.label for attack in listed]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"two attacks are called {twice!r}; a report holds one of each")
        self.attacks = tuple(listed)
        self.norm: Norm = norm
        self.new_tokens = whole(new_tokens, "new_tokens", least=1)
        self._say = progress or (lambda _: None)
        self.subject = subject(model, tokenizer, concept, unrelated, seed)
        self._texts = Texts(self.subject, texts) if texts else None
        self._outcomes: dict[Attack, Outcome | None] = {}

    @property
    def known(self) -> bool:
        """Whether the original answers enough of the concept's questions."""
        return share(self.subject.target_scores.exact).estimate >= LEAST

    def report(self, delta: Delta, vectors: Sequence[ValueVector], *, checkups: Sequence[Checkup] = ()) -> Erasure:
        """Measure what a delta took out.

        Args:
            delta: What was done.
            vectors: The concept's value vectors, found on the original.
            checkups: As ``erasure``.

        Raises:
            ConfigError, BaseMismatch, UnsupportedLayer, NonFinite: As ``erasure``.
        """
        delta = one_delta(delta)
        self._say("comparing traces")
        traces = intrinsic(self.subject, delta, vectors, self._words, self.norm)
        behavior, attacks = self._asked(delta) if self.known else (None, ())
        return Erasure(
            self.subject.concept.name, record_of(delta.provenance.method), delta.digest, delta.base.root or "",
            self.subject.seed, share(self.subject.target_scores.exact), self.known, traces, behavior, attacks,
            tuple(checkups),
        )  # fmt: skip

    def _asked(self, delta: Delta) -> tuple[Behavior, tuple[AttackResult, ...]]:
        asked, original = self.subject, self._original
        self._say("asking questions")
        with asked.changed(delta):
            target, unrelated = asked.scores(asked.target), asked.scores(asked.unrelated)
            texts = written(asked, self.new_tokens)
            losses = None if self._texts is None else self._texts.losses()
        behavior = Behavior(
            question_change(asked.target_scores, target),
            question_change(asked.unrelated_scores, unrelated),
            {group: likeness(found, reference=original[0][group]) for group, found in texts.items()},
            None if self._texts is None or losses is None else perplexity_change(self._texts, original[1], losses),
        )
        results = []
        for attack in self.attacks:
            self._say(f"attacking: {attack.label}")
            results.append(attack_result(attack, asked, target, self._attacked(attack, delta), delta))
        return behavior, tuple(results)

    @cached_property
    def _words(self) -> Words:
        return Words(self.subject)

    @cached_property
    def _original(self) -> tuple[dict[str, list[str]], Tensor]:
        """What the original writes, and its losses on the texts."""
        empty = self.subject.target_scores.logprob[:0]
        return written(self.subject, self.new_tokens), empty if self._texts is None else self._texts.losses()

    def _attacked(self, attack: Attack, delta: Delta) -> Outcome | None:
        """Return what the original answers under an attack."""
        if attack.follows_delta:
            return attack.outcome(self.subject, delta, present=False)
        if attack not in self._outcomes:
            self._outcomes[attack] = attack.outcome(self.subject, delta, present=False)
        return self._outcomes[attack]
