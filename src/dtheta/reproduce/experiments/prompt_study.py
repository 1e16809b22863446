"""One model and one prompt method: training from the method's own start, from that of many tasks, or of one.

    untuned      the multi-task prompt of all other tasks, not trained on the target
    single       a prompt trained on the support, from the method's own start
    multi        the same from the multi-task prompt: one softmax over the union of the classes of all source tasks but
                 the target, by plain shuffling, checkpoint by the mean of validation accuracies, seeds averaged

Rates are chosen on supports of a draw that is not used otherwise and validation images of the training split, by start
and shots (1 shot: those of 5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dtheta.adapt.method import Method
from dtheta.core.delta import Delta
from dtheta.reproduce.experiments.image_prompts import METHODS, ImagePrompts

LADDER = (1e-3, 5e-3, 2e-2, 8e-2, 3e-1)
FIRST = (1, 2, 3)  # of the ladder; a search that ends at an end of its part goes on outwards
TUNED_ON = ("fashion", "digits", "emoji-google")
TUNING_DRAW = 100


class Kept(Protocol):
    """Where runs are kept."""

    def get(self, key: Sequence[Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return the record of a key, kept or made now."""
        ...


@dataclass
class Study:
    """One model and one method on it; every number comes from ``runs`` or is measured once."""

    prompts: ImagePrompts
    method: str
    runs: Kept
    sources: tuple[str, ...]
    tunes: bool = True
    rates: dict[tuple[str, int], float] = field(default_factory=dict)

    def others(self, target: str) -> tuple[str, ...]:
        """Return the source tasks for a target: all but itself."""
        return tuple(name for name in self.sources if name != target)

    def start(self, kind: str, target: str) -> Method | Delta:
        """Return what training begins at: nothing, all other tasks, or the one task that ``kind`` names."""
        if kind == "single":
            return METHODS[self.method]
        names = self.others(target) if kind == "multi" else (kind,)
        return self.prompts.averaged(self.method, names, self.rate("source", 0))

    def score(self, part: str, kind: str, target: str, shots: int, draw: int, lr: float) -> float:
        """Return the accuracy on a part of the target after training on a support of it."""

        def make() -> dict[str, Any]:
            prompt = self.prompts.target(self.method, self.start(kind, target), target, shots, draw, lr)
            return {"accuracy": self.prompts.accuracy(target, prompt, part, self.method)}

        key = (part, self.prompts.name, self.method, kind, target, shots, draw, lr)
        return self.runs.get(key, make)["accuracy"]

    def rate(self, kind: str, shots: int) -> float:
        """Return the learning rate of a kind of start, or of source prompts, chosen without any test image."""
        if not self.tunes:
            return LADDER[FIRST[1]]
        key = (kind, max(shots, 5))
        if key not in self.rates:
            self.rates[key] = LADDER[_climb(lambda place: self._judge(kind, key[1], LADDER[place]))]
        return self.rates[key]

    def _judge(self, kind: str, shots: int, lr: float) -> float:
        tasks = [name for name in TUNED_ON if name in self.sources]
        if kind != "source":
            return mean([self.score("validate", kind, name, shots, TUNING_DRAW, lr) for name in tasks])

        def make() -> dict[str, Any]:
            prompt = self.prompts.source(self.method, self.sources, TUNING_DRAW, lr)
            found = [self.prompts.accuracy(name, prompt, "validate", self.method) for name in self.sources]
            return {"accuracy": mean(found)}

        key = ("validate", self.prompts.name, self.method, "source", "all", 0, TUNING_DRAW, lr)
        return self.runs.get(key, make)["accuracy"]

    def fixed(self, what: str, target: str) -> float:
        """Return the test accuracy of the zero-shot model, or of the multi-task prompt as it is."""

        def make() -> dict[str, Any]:
            start = None if what == "zero-shot" else self.start("multi", target)
            assert not isinstance(start, Method)
            return {"accuracy": self.prompts.accuracy(target, start, "test", self.method)}

        return self.runs.get(("test", self.prompts.name, self.method, what, target, 0, 0, 0.0), make)["accuracy"]

    def raw(self, target: str, shots: int, draw: int) -> float:
        """Return the test accuracy of raw pixels."""
        key = ("test", "none", "pixels", "single", target, shots, draw, 0.0)
        return self.runs.get(key, lambda: {"accuracy": self.prompts.raw(target, shots, draw)})["accuracy"]

    def tested(self, kind: str, target: str, shots: int, draws: Sequence[int]) -> list[float]:
        """Return the test accuracy of every support."""
        return [self.score("test", kind, target, shots, draw, self.rate(kind, shots)) for draw in draws]


def _climb(judge: Callable[[int], float]) -> int:
    """Return the best place on the ladder, going on outwards while the best is at an end; ties go to the lower one."""
    found = {place: judge(place) for place in FIRST}
    while True:
        best = max(found, key=lambda place: (found[place], -place))
        beyond = [p for p in (best - 1, best + 1) if p not in found and 0 <= p < len(LADDER)]
        if not beyond:
            return best
        found |= {place: judge(place) for place in beyond}


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)
