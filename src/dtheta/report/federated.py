"""The record that the report of a federation is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dtheta.errors import ConfigError
from dtheta.federate.baselines import Baseline
from dtheta.federate.federation import Federation
from dtheta.federate.history import Round
from dtheta.report.quantity import percent, significant


@dataclass(frozen=True)
class Party:
    """A party as the page shows it.

    Attributes:
        name: Of the client.
        examples: How many it holds.
        classes: Examples by class, in the order of the classes; empty where there are none.
        lies: Whether the simulation has it lie.
    """

    name: str
    examples: int
    classes: Sequence[int] = ()
    lies: bool = False


@dataclass(frozen=True)
class Federated:
    """All that the page is drawn from.

    Attributes:
        federation: What came out.
        model: Name of the model.
        data: Name of the data.
        measure: Which score is drawn; "accuracy" is shown as percent, with intervals where ``test`` is known.
        test: How many examples it was measured on; None if not known.
        parties: Who took part.
        classes: Names of the classes.
        centralized: One party with all the data; None without.
        alone: Each party by itself; empty without.
        threshold: Error rate of qubits beyond which a channel is given up; None without a quantum channel.
        error: The one that the channel is known to have, likewise.
        settings: Names and values for the end of the page.
    """

    federation: Federation
    model: str
    data: str
    measure: str = "accuracy"
    test: int | None = None
    parties: Sequence[Party] = ()
    classes: Sequence[str] = ()
    centralized: Baseline | None = None
    alone: Sequence[Baseline] = ()
    threshold: float | None = None
    error: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.federation.history:
            raise ConfigError("a federation without rounds has nothing to show")

    @property
    def rounds(self) -> Sequence[Round]:
        """The history."""
        return self.federation.history

    @property
    def shares(self) -> bool:
        """Whether the score is a share."""
        return self.measure == "accuracy"

    @property
    def unit(self) -> str:
        """The score's name for an axis."""
        return f"{self.measure}, %" if self.shares else self.measure

    @property
    def last(self) -> float | None:
        """The federation's score."""
        return self.federation.scores.get(self.measure)

    @property
    def mean_alone(self) -> float | None:
        """Mean score of the parties by themselves."""
        found = [one.scores[self.measure] for one in self.alone if self.measure in one.scores]
        return sum(found) / len(found) if found else None

    def said(self, score: float) -> str:
        """Return a score as text."""
        return percent(score) if self.shares else significant(score)

    def drawn(self, score: float) -> float:
        """Return a score as it stands on an axis."""
        return 100 * score if self.shares else score
