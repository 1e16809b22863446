"""Budget solver: which short prompt and rank, of as many parameters as a plain prompt, are as fast as asked for.

    share(m) = mean_n t(n + m) / mean_n t(n + l)        t: step_cost.py, n: columns of the padded batches
    saving   = 1 - share, to first order (l - m) / (l + n)

So what DePT saves is bounded by the prompt's own part of a batch: with l = 100, m = 40 and a linear cost it is 52 % of
a step at n = 16, 37 % at 64, 17 % at 256 and 3 % at 2000. The cost of the offsets themselves is left out.

Shape legend: l virtual tokens of the plain prompt, m of the short one, n columns of a text, r rank, s positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dtheta.adapt.prompts.adept import ADePT
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.step_cost import StepCost
from dtheta.core.arguments import whole
from dtheta.errors import ConfigError


@dataclass(frozen=True)
class Choice:
    """A short prompt and a rank.

    Attributes:
        method: DePT or ADePT of this length and rank.
        parameters: Its number of parameters, at most that of the plain prompt.
        share: Predicted time of a step as a share of the plain prompt's.
        first_order: (l - m) / (l + n) at the mean n: the saving if the cost were linear and without a constant.
        fits: Whether the share is at most the one asked for.
    """

    method: DePT | ADePT
    parameters: int
    share: float
    first_order: float
    fits: bool

    @property
    def saving(self) -> float:
        """Predicted share of the plain prompt's time that is saved."""
        return 1.0 - self.share


@dataclass(frozen=True)
class PromptBudget:
    """Every choice within a budget of parameters.

    Attributes:
        tokens: l, virtual tokens of the plain prompt.
        share: Most time of a step, as a share of the plain prompt's.
        columns: Mean columns of a batch, virtual tokens apart.
        choices: By length, the longest prompt first.
    """

    tokens: int
    share: float
    columns: float
    choices: tuple[Choice, ...]

    @property
    def chosen(self) -> Choice:
        """The one with most virtual tokens that is fast enough."""
        return next(choice for choice in self.choices if choice.fits)

    @property
    def fastest(self) -> Choice:
        """The one of least predicted time; the longest prompt of equal ones."""
        return min(self.choices, key=lambda choice: choice.share)

    def __str__(self) -> str:
        """Return a table of choices, at most ten, with the chosen one."""
        step = max(1, len(self.choices) // 10)
        shown = sorted({*range(0, len(self.choices), step), self.choices.index(self.chosen), len(self.choices) - 1})
        lines = [f"{'m':>4} {'r':>4} {'parameters':>10}  share of the time of {self.tokens} tokens"]
        for i in shown:
            c = self.choices[i]
            mark = " chosen" if c is self.chosen else "" if c.fits else " too slow"
            lines.append(f"{c.method.length:4} {c.method.rank:4} {c.parameters:10,}  {c.share:.3f}{mark}")
        return "\n".join(lines)


def prompt_budget(
    width: int,
    columns: Sequence[int] | Mapping[int, int],
    cost: StepCost,
    *,
    tokens: int = 100,
    share: float = 0.8,
    offsets: Literal["position", "token"] = "position",
    positions: int | None = None,
    **fields: Any,
) -> PromptBudget:
    """Return the choices of (m, r) with the parameters of a plain prompt, and which are fast enough.

    Args:
        width: d, the model's features of an embedding.
        columns: Columns of the padded batches to come, the virtual tokens apart: one number a batch, or how many
            batches have each.
        cost: Of a step; ``step_cost(model)`` times it, ``StepCost.fitted`` takes timings.
        tokens: l, whose parameters, l d, may be spent.
        share: Most time of a step, as a share of the plain prompt's.
        offsets: By position (DePT) or by token (ADePT).
        positions: s of DePT; the longest of ``columns`` if None.
        **fields: Other fields of the method.

    Returns:
        The choices; ``.chosen.method`` is to be attached.

    Raises:
        ConfigError: If no choice is fast enough, with the least share there is; if there is no choice of rank 1 or
            more; or if a number cannot be meant.
    """
    counts = dict(columns) if isinstance(columns, Mapping) else {n: list(columns).count(n) for n in columns}
    if not counts:
        raise ConfigError(f"columns must be the columns of at least one batch, found {columns!r:.80}")
    for each in (*counts, *counts.values()):
        whole(each, f"in columns {columns!r:.80}, a number", 1)
    for value, what in (
        (width, "width"),
        (tokens, "tokens"),
        (max(counts) if positions is None else positions, "positions"),
    ):
        whole(value, what, 1)
    if not 0 < share <= 1:
        raise ConfigError(f"expected 0 < share <= 1, found share={share}")
    if offsets not in ("position", "token"):
        raise ConfigError(f"offsets must be 'position' or 'token', found {offsets!r}")
    if offsets == "token" and positions is not None:
        raise ConfigError("offsets by token have no positions; leave positions out")

    (ADePT if offsets == "token" else DePT)(**fields)  # else a field that cannot be meant would pass for a lack of room

    def of(length: int) -> DePT | ADePT | None:
        try:
            if offsets == "token":
                return ADePT.of_budget(tokens, length, width, **fields)
            return DePT.of_budget(tokens, length, positions or max(counts), width, **fields)
        except ConfigError:
            return None  # nothing is left for rank 1

    mean = sum(n * k for n, k in counts.items()) / sum(counts.values())
    choices = tuple(_choice(method, width, counts, mean, cost, tokens, share) for m in range(tokens - 1, -1, -1)
                    if (method := of(m)) is not None)  # fmt: skip
    if not choices:
        raise ConfigError(
            f"{tokens} tokens of {width} leave nothing for rank 1; spend more tokens, or use fewer positions"
        )
    found = PromptBudget(tokens, share, mean, choices)
    if not any(choice.fits for choice in choices):
        raise ConfigError(
            f"no prompt of these parameters takes at most {share:g} of the time: without virtual tokens it is "
            f"{found.fastest.share:.3f}, as texts of {mean:g} columns take the rest. The saving, about "
            "(l - m) / (l + n), vanishes for long texts; ask for a larger share, or cut the texts"
        )
    return found


def _choice(
    method: DePT | ADePT, width: int, counts: Mapping[int, int], mean: float, cost: StepCost, tokens: int, most: float
) -> Choice:
    plain = sum(k * cost(n + tokens) for n, k in counts.items())
    share = sum(k * cost(n + method.length) for n, k in counts.items()) / plain
    return Choice(method, method.parameters(width), share, (tokens - method.length) / (tokens + mean), share <= most)
