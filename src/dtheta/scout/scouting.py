"""What scouting found: one row a method, the order of the rows, and whether to believe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dtheta.adapt.method import Method
from dtheta.score.interval import Interval


@dataclass(frozen=True)
class Prospect:
    """What is predicted of one method.

    Attributes:
        name: Method, fields that differ from their defaults, and selection.
        method: The method; None for the coefficients of given deltas.
        select: Where it trains, as ``attach`` takes it; None for the method's default.
        parameters: Weights that train, without the head's.
        accuracy: Predicted accuracy at the method's own best rate and stopping time, with its Wilson interval: each
            example is predicted by the others.
        gain: The same minus that of the head alone, on the same examples.
        loss: Leave-one-out squared error, summed over classes, a mean over examples, at one budget of movement for all
            methods: what rows are ordered by.
        tuned_loss: The same at the method's own best rate and stopping time.
        effective_dimension: Directions that the regression uses, of at most half the examples.
        alignment: Of the method's kernel with what the head leaves unexplained, centered, 0 to 1.
        learning_rate: Bound of gradient descent; above it the linear model diverges.
        sign_rate: The largest rate at which a first step of Adam, which moves every weight by the rate, still lowers
            the loss of the linear model. Rates to train at are much lower: it knows the first step alone.
        stopping_time: Steps times rate of gradient descent at which the leave-one-out error is least.
        steps: The same in steps, at half of ``learning_rate``.
        sign_steps: How many steps of Adam at half of ``sign_rate`` go as far, each lowering the loss by the same share.
        slope: |J^T r|_1 / n: how fast first steps of Adam lower the loss, per unit of rate.
        strength: How much the method moves relative to the head where the error is least: trace of its kernel over
            that of the head's.
        shares: Part of the first step's fall of the loss that comes from each layer; they sum to 1.
        note: What is to be known of this row; empty if nothing.
    """

    name: str
    method: Method | None
    select: str | None
    parameters: int
    accuracy: Interval
    gain: Interval
    loss: float
    tuned_loss: float
    effective_dimension: float
    alignment: float
    learning_rate: float
    sign_rate: float
    stopping_time: float
    steps: int
    sign_steps: int
    slope: float
    strength: float
    shares: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True)
class Refused:
    """A method that could not be scouted, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Check:
    """Whether the network stays near its linear model over a few steps of training.

    Attributes:
        name: Of the method that trained.
        steps: Optimizer steps of the probe.
        rate: Its learning rate.
        nonlinearity: |f(theta + d) - f(theta) - J d| / |f(theta + d) - f(theta)| on examples of the probe.
        cka: Of the method's kernel before and after, centered: 1 if only its scale changed.
        inflation: Its trace after over before.
        believe: Whether the prediction may be believed.
        verdict: The same in words.
    """

    name: str
    steps: int
    rate: float
    nonlinearity: float
    cka: float
    inflation: float
    believe: bool
    verdict: str


@dataclass(frozen=True)
class Proposal:
    """What to train.

    Attributes:
        name: The row that it comes from: the best, or one as good as it with fewer weights.
        rank: Its rank, where it has one; else None.
        rank_rule: sqrt of the number of training examples: at this rank low-rank training has no spurious minima in
            the linear regime (Jang, Lee and Ryu 2024, arXiv 2402.11867).
        layers: Layers that together bring four fifths of the first step's fall of the loss, in order.
        learning_rate: Rate for AdamW to begin a search with, 0.04 of ``sign_rate``.
        steps: Steps of AdamW at that rate to go as far as the linear model has to.
    """

    name: str
    rank: int | None
    rank_rule: int
    layers: tuple[str, ...]
    learning_rate: float
    steps: int


@dataclass(frozen=True)
class Scouting:
    """Methods by predicted loss, the best first.

    Attributes:
        rows: One a method.
        refused: Methods that could not be scouted.
        head: Accuracy of the head alone, on the same examples.
        proposal: What to train.
        checks: Probes of the network's linearity, one a probed method; empty if none was made.
        examples: How many were looked at.
        classes: How many there are.
        outputs: Directions of the logits whose derivatives were taken.
        seconds: CPU seconds by part: features, passes, kernels, regression, check.
        seed: As given.
    """

    rows: tuple[Prospect, ...]
    refused: tuple[Refused, ...]
    head: Interval
    proposal: Proposal
    checks: tuple[Check, ...]
    examples: int
    classes: int
    outputs: int
    seconds: Mapping[str, float]
    seed: int

    @property
    def best(self) -> Prospect:
        """The row of least predicted loss."""
        return self.rows[0]

    @property
    def believe(self) -> bool | None:
        """Whether the prediction may be believed, by its checks; None if none was made."""
        return all(check.believe for check in self.checks) if self.checks else None

    def __getitem__(self, name: str) -> Prospect:
        """Return a row by its name."""
        return next(row for row in self.rows if row.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Return numbers, texts, lists and mappings, as JSON takes them."""
        found = asdict(self)
        for row, record in zip(self.rows, found["rows"], strict=True):
            record["method"] = None if row.method is None else row.method.to_dict()
        return {**found, "best": self.best.name, "believe": self.believe}

    def table(self) -> str:
        """Return the rows as a table of plain text, what was refused, and the verdict."""
        from dtheta.scout.text import table

        return table(self)
