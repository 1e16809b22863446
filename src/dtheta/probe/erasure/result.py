"""Erasure: what a report says, as plain records, saved as JSON and read back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtheta.core.jsonfile import read_json, write_json
from dtheta.core.record import decode, record_of
from dtheta.errors import FormatError
from dtheta.probe.erasure.attack import AttackResult
from dtheta.probe.erasure.behavior import Behavior
from dtheta.probe.erasure.goals import JACCARD, RECOVERY, TARGET, UNRELATED, Goal, goal
from dtheta.probe.erasure.intrinsic import Intrinsic
from dtheta.probe.unlearning.watch import Checkup
from dtheta.score.interval import Interval

FORMAT = "dtheta-erasure/1"


@dataclass(frozen=True)
class Erasure:
    """What a delta took out of a model.

    Attributes:
        concept: Its name.
        method: Name and settings of what made the delta.
        delta: Digest of the delta.
        base: Digest of the model, where the delta knows it.
        seed: Of the draws.
        recall: Share of the concept's questions that the original answers.
        known: Whether that is enough for the concept to have been known; else only ``intrinsic`` is scored.
        intrinsic: What became of the value vectors.
        behavior: What became of the answers; None where the concept was not known.
        attacks: What attacks bring back; none where it was not known.
        checkups: What was seen while the delta was made, the original first; none where that is not at hand.
    """

    concept: str
    method: Mapping[str, Any]
    delta: str
    base: str
    seed: int
    recall: Interval
    known: bool
    intrinsic: Intrinsic
    behavior: Behavior | None
    attacks: tuple[AttackResult, ...]
    checkups: tuple[Checkup, ...] = ()

    def attack(self, name: str) -> AttackResult | None:
        """Return the result of an attack, or None if it was not made."""
        return next((result for result in self.attacks if result.name == name), None)

    @property
    def goals(self) -> tuple[Goal, ...]:
        """The goals that can be told, in the order of ``goals.py``; of behavior none where nothing was known."""
        found: list[Goal] = []
        if self.behavior is not None:
            target, unrelated = self.behavior.target.kept, self.behavior.unrelated.kept
            found += [] if target is None else [goal("target", target, TARGET)]
            found += [] if unrelated is None else [goal("unrelated", unrelated, UNRELATED, "at least")]
        back = [(result.name, result.recovery) for result in self.attacks if result.recovery is not None]
        found += [goal(f"attack: {name}", interval, RECOVERY) for name, interval in back]
        jaccard = self.intrinsic.jaccard
        return (*found, Goal("traces", jaccard, jaccard, jaccard, JACCARD))

    @property
    def erased(self) -> bool | None:
        """Whether every goal is met by its estimate; None where the concept was not known to begin with."""
        return all(one.met for one in self.goals) if self.known else None

    @property
    def verdict(self) -> str:
        """What was found, in a sentence."""
        if not self.known:
            asked = f"{self.recall.estimate:.0%} of the questions about {self.concept}"
            return (
                f"The model did not know {self.concept} to begin with: it answers {asked}. Only the traces are "
                "compared; nothing can be said of what was forgotten."
            )
        missed = [one.name for one in self.goals if not one.met]
        if not missed:
            return f"{self.concept} is gone by every measure taken here, and other things have stayed."
        if "target" in missed:
            return f"{self.concept} is still known."
        if "unrelated" in missed:
            return f"{self.concept} is no longer answered, and neither are other things: the model was damaged."
        return f"{self.concept} is hidden, not gone: it fails {', '.join(missed)}."

    def to_dict(self) -> dict[str, Any]:
        """Return everything as tables, lists, texts and numbers; ``from_dict`` reads it."""
        return {"format": FORMAT, "verdict": self.verdict, **record_of(self)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Erasure:
        """Return the report of a record.

        Raises:
            FormatError: If it is none.
        """
        if not isinstance(record, Mapping) or record.get("format") != FORMAT:
            raise FormatError(f"this is no erasure report: expected 'format': {FORMAT!r}, as Erasure.save writes it")
        fields = {key: value for key, value in record.items() if key not in ("format", "verdict")}
        return decode(fields, cls, cls.__name__, complete=True)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as JSON, complete or not at all; ``load_erasure`` reads it.

        Raises:
            OutputError: If the file cannot be written.
        """
        return write_json(self.to_dict(), path)


def load_erasure(path: str | os.PathLike[str]) -> Erasure:
    """Read a report that was saved.

    Raises:
        ConfigError: If there is no such file.
        FormatError: If it holds no report.
    """
    record = read_json(path)
    try:
        return Erasure.from_dict(record)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
