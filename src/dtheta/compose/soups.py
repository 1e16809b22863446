"""Soups: the mean of several fine-tuned models, of all or of those that make it better.

    uniform    delta = (1/n) sum_i tau_i
    greedy     S = {best};  in order of their own score:  S = S + {i} where score(mean of S and i) > score(mean of S)

Wortsman et al. 2022, arXiv 2203.05482, whose recipe also takes what leaves the score as it is; here, as in the released
code, only what makes it better. The soup is thus never worse than the best delta, on the data of the score, which
should be held out from training and from the final test: the soup is chosen by it.

For deltas of one base the mean of the models is the base plus the mean of the deltas, so a soup is one delta, whose
terms stay in their form and are summed exactly (compose.py).

Shape legend: n deltas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from dtheta.compose.arguments import all_finite, choose
from dtheta.compose.compose import compose
from dtheta.core.arguments import listed, number
from dtheta.core.delta import Delta, derived
from dtheta.core.naming import naming
from dtheta.errors import ConfigError


@dataclass(frozen=True)
class Trial:
    """One delta, tried as an ingredient.

    Attributes:
        delta: Its number among those given.
        alone: Its own score.
        together: Score of the mean of what was kept before and it.
        kept: Whether it was kept.
    """

    delta: int
    alone: float
    together: float
    kept: bool


class Soup(NamedTuple):
    """A greedy soup.

    Attributes:
        delta: The mean of the kept deltas.
        table: How each delta fared, in the order in which they were tried.
    """

    delta: Delta
    table: tuple[Trial, ...]

    @property
    def score(self) -> float:
        """Score of the soup."""
        return [trial.together for trial in self.table if trial.kept][-1]


def uniform_soup(deltas: Delta | Sequence[Delta]) -> Delta:
    """Return the mean of deltas of one base; a delta that does not change a parameter counts as zero there.

    Args:
        deltas: n deltas, or one.

    Returns:
        The mean. ``compose(parents, Coefficients.from_settings(mean.provenance.settings["coefficients"]))`` makes the
        same bits again.

    Raises:
        ConfigError: If there are no deltas.
        NonFinite: If one holds NaN or infinity; the message says where.
        BaseMismatch: If they were made on different bases.
        ShapeMismatch: If they disagree on a shape.
        UnsupportedLayer: If a name is a new vector in one and an existing parameter in another.
    """
    deltas = listed(deltas)
    all_finite(deltas)
    return _mean(deltas, range(len(deltas)), "uniform_soup")


def greedy_soup(
    deltas: Delta | Sequence[Delta],
    score: Callable[[Delta], float],
    *,
    better: Literal["higher", "lower"] = "higher",
) -> Soup:
    """Return the mean of the deltas that make it better, tried from the best on, and a table of how it went.

    ``score`` is called n times for the deltas alone and n - 1 times for means, which are deltas too.

    Args:
        deltas: n deltas, or one; of equal scores, the first is tried first.
        score: Delta -> number, on held-out data: such as accuracy under ``dt.applied(model, delta)``.
        better: Which direction of the score is better.

    Returns:
        The soup, whose provenance has the coefficients, as that of ``uniform_soup``, and the table.

    Raises:
        ConfigError: If a score is no number.
        NonFinite: If a score is NaN or infinite; the message says of what.
        DthetaError: Otherwise as ``uniform_soup``, before anything is scored.
    """
    choose(better, ("higher", "lower"), "better")
    if not callable(score):
        raise ConfigError(f"the score is a {type(score).__name__}; expected a function: score(delta) -> number")
    deltas = listed(deltas)
    uniform_soup(deltas)  # whether they fit together, before anything is scored
    sign = 1.0 if better == "higher" else -1.0
    alone = [_scored(score, delta, f"delta {i}") for i, delta in enumerate(deltas)]
    first, *others = sorted(range(len(deltas)), key=lambda i: -sign * alone[i])
    kept, best = [first], alone[first]
    table = [Trial(first, best, best, True)]
    for i in others:
        together = _scored(score, _mean(deltas, [*kept, i], "greedy_soup"), f"the mean of deltas {sorted([*kept, i])}")
        table.append(Trial(i, alone[i], together, sign * together > sign * best))
        if table[-1].kept:
            kept, best = [*kept, i], together
    soup = _mean(deltas, kept, "greedy_soup", better=better, table=[asdict(trial) for trial in table])
    return Soup(soup, tuple(table))


def _mean(deltas: list[Delta], kept: Sequence[int], operation: str, **settings: Any) -> Delta:
    """Return the mean of some deltas; all are parents, the others with coefficient zero."""
    found = compose(deltas, [1.0 / len(kept) if i in kept else 0.0 for i in range(len(deltas))])
    chosen = {"coefficients": found.provenance.settings["coefficients"], **settings}
    return Delta(found.changes, found.base, derived(operation, deltas, **chosen))


def _scored(score: Callable[[Delta], float], delta: Delta, what: str) -> float:
    return number(naming(what, lambda: score(delta)), f"the score of {what}")
