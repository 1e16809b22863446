"""Unlearning without a loss of its own: vectors taken out, and a task vector turned around.

    Ablate   v <- 0 for the value vectors that hold the concept                ConceptVectors' oracle, without its noise
    Needle   v <- v + eps, noise relative to the vector                        ConceptVectors' "Needle"
    Repair   the vectors are taken out; then a loss unlearns what is left and repairs what the cut broke, while they
             stay out; at the end they are exactly zero                        ours
    Memit    W <- W + R adj^T: what the MLPs write on the concept's prompts is moved to where no answer follows
             (memit.py)                                                               (Meng et al. 2023)
    Negate   theta - scale (theta_c - theta): trained towards it, then moved the other way        (Ilharco et al. 2023)

How many vectors, or how far, is decided by the watch: the most that leaves other things alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from dtheta.core.apply import applied
from dtheta.core.arguments import number, positive, whole
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError
from dtheta.probe.ablation import ablation, noise, silenced
from dtheta.probe.unlearning.ascent import WGA
from dtheta.probe.unlearning.objective import Side, Unlearning, told
from dtheta.probe.unlearning.task import Task
from dtheta.probe.unlearning.train import Training, trained
from dtheta.probe.value_vector import ValueVector

TRAINING = ("adapter", "lr", "steps", "batch", "select")  # what says how something is trained
WATCHING = ("every", "goal")  # what says how often it is looked at meanwhile, and when it ends


class Edit(ABC):
    """An unlearning that is more than one loss.

    Attributes:
        heeds: What it takes of ``TRAINING`` and ``WATCHING``, settings that have no meaning where nothing trains.
    """

    heeds: ClassVar[tuple[str, ...]] = ()

    @property
    def located(self) -> bool:
        """Whether it needs to know where the concept is, which takes a scan of all value vectors."""
        return True

    @abstractmethod
    def delta(self, task: Task, training: Training, vectors: Sequence[ValueVector], quiet: bool) -> Delta:
        """Return the delta; ``vectors`` hold the concept, the surest first."""

    def to_dict(self) -> dict[str, Any]:
        """Return name and settings."""
        return told(self)


@dataclass(frozen=True)
class Ablate(Edit):
    """Take out the value vectors of the concept.

    Attributes:
        counts: How many of the surest, tried in this order; the best of them that keeps other things is taken.
    """

    counts: tuple[int, ...] = (8, 16, 32, 64, 128, 256)

    def __post_init__(self) -> None:
        """Check the counts.

        Raises:
            ConfigError: If there is none, or one is no whole number of 1 or more.
        """
        _check_tried(self, "counts", lambda count, name: whole(count, name, least=1))

    def delta(self, task: Task, training: Training, vectors: Sequence[ValueVector], quiet: bool) -> Delta:
        """Return the ablation of the best number of vectors."""
        tried = (ablation(task.model, vectors[:count]) for count in counts(self.counts, vectors))
        return best(task, tried)


@dataclass(frozen=True)
class Needle(Edit):
    """Add noise to the value vectors of the concept.

    Attributes:
        vectors: How many of the surest; 1 is the paper's.
        strengths: Lengths of the noise over those of the vectors, tried in this order.
    """

    vectors: int = 1
    strengths: tuple[float, ...] = (1.0, 2.0, 4.0)

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: If there are none, or one is not positive.
        """
        whole(self.vectors, "vectors", least=1)
        _check_tried(self, "strengths", positive)

    def delta(self, task: Task, training: Training, vectors: Sequence[ValueVector], quiet: bool) -> Delta:
        """Return the noise of the best strength."""
        chosen = vectors[: self.vectors]
        return best(task, (noise(task.model, chosen, strength=s, seed=task.seed) for s in self.strengths))


@dataclass(frozen=True)
class Negate(Edit):
    """Train towards the concept and go the other way.

    Attributes:
        scales: How far, tried in this order.
    """

    scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)

    heeds = TRAINING

    @property
    def located(self) -> bool:
        """It goes wherever its training went."""
        return False

    def __post_init__(self) -> None:
        """Check the scales.

        Raises:
            ConfigError: If there is none, or one is not positive.
        """
        _check_tried(self, "scales", positive)

    def delta(self, task: Task, training: Training, vectors: Sequence[ValueVector], quiet: bool) -> Delta:
        """Return the negated task vector of the best scale."""
        toward = trained(_unwatched(task), _learning, training, quiet=quiet)
        return best(task, (-scale * toward for scale in self.scales))


def _learning(model: Any, batch: Any) -> Tensor:
    return Side(model, batch["forget"]).ce


@dataclass(frozen=True)
class Repair(Edit):
    """Take out what holds the concept, then unlearn the rest and repair the cut.

    Attributes:
        counts: How many vectors, tried in this order; the first that keep ``hold`` of other things are taken. Where
            the repair of these gives nothing better than the untouched model, the next numbers are tried in turn.
        hold: Share of other things that the cut may leave, before its repair.
        loss: What unlearns the rest.
    """

    counts: tuple[int, ...] = (256, 128, 64, 32, 16, 8, 4)
    hold: float = 0.8
    loss: Unlearning = field(default_factory=lambda: WGA(retain=1.0, kl=1.0))

    heeds = (*TRAINING, *WATCHING)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: If there are no counts, one is no whole number of 1 or more, or ``hold`` is no share.
        """
        _check_tried(self, "counts", lambda count, name: whole(count, name, least=1))
        if not 0.0 <= number(self.hold, "hold") <= 1.0:
            raise ConfigError(f"Repair: hold is {self.hold}; expected a share from 0 to 1")

    def delta(self, task: Task, training: Training, vectors: Sequence[ValueVector], quiet: bool) -> Delta:
        """Return the sum of the cut and of its repair; nothing where no state of it was better than nothing."""
        tried, nothing = counts(self.counts, vectors), None
        for count in tried[self._first(task, vectors, tried) :]:
            watch, before = task.watch, len(task.watch.seen)
            made = trained(task, self.loss, training, silent=vectors[:count], quiet=quiet)
            if max(look.score(watch.keep) for look in watch.seen[before:]) > watch.seen[0].score(watch.keep):
                return made
            nothing = 0.0 * made
        assert nothing is not None  # there is one number to try or more
        return nothing

    def _first(self, task: Task, vectors: Sequence[ValueVector], tried: Sequence[int]) -> int:
        """Return the place of the first number whose cut leaves enough; of the last one where none does."""
        for place, count in enumerate(tried):
            with silenced(task.model, vectors[:count]):
                if task.watch.look(task.model).unrelated >= self.hold:
                    return place
        return len(tried) - 1


def _check_tried(edit: Edit, name: str, check: Callable[[Any, str], object]) -> None:
    """Raise ConfigError unless a field holds one number to try or more, each of which passes a check."""
    values = getattr(edit, name)
    if not isinstance(values, tuple | list) or not values:
        raise ConfigError(f"{type(edit).__name__}: {name} is {values!r}; expected one number to try or more")
    for value in values:
        check(value, name)


def counts(wanted: Iterable[int], vectors: Sequence[ValueVector]) -> list[int]:
    """Return the numbers, none beyond how many vectors there are, each once."""
    return list(dict.fromkeys(min(count, len(vectors)) for count in wanted))


def best(task: Task, deltas: Iterable[Delta]) -> Delta:
    """Return the delta with the best score; where none is better than nothing, nothing: 0 times the first."""
    found: Delta | None = None
    top = task.watch.seen[0].score(task.watch.keep)
    for delta in deltas:
        first = delta if found is None else None
        with applied(task.model, delta):
            score = task.watch(task.model)
        if first is not None:
            found = 0.0 * delta
        if score > top:
            found, top = delta, score
    assert found is not None  # every method tries something
    return found


class _Blind:
    """A watch that sees nothing: the last state is kept, whatever it knows."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self, model: Any) -> float:
        self.looks += 1
        return float(self.looks)

    def reached(self, step: Any = None) -> bool:
        return False


def _unwatched(task: Task) -> Task:
    watch: Callable[..., Any] = _Blind()
    return replace(task, watch=watch)  # type: ignore[arg-type]
