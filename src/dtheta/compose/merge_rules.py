"""The merge methods shared with mergekit, as one table: what each one trims, how it agrees, and its parameters.

    method            trims each step by           consensus   normalize   rescale   needs
    linear            -                            -           yes         -         weight of every input
    task_arithmetic   -                            -           no          no        base, weight
    ties              magnitude                    sum         yes         no        base, weight
    dare_linear       chance                       -           no          yes       base, weight
    dare_ties         chance                       sum         no          yes       base, weight
    breadcrumbs       magnitude without outliers   -           no          no        base, weight
    breadcrumbs_ties  magnitude without outliers   sum         no          no        base, weight
    slerp             -                            -           -           -         base, one other input, t
    passthrough       -                            -           -           -         one input

Names, parameters and defaults are those of mergekit 0.1, so that its configurations mean the same here; methods that
it has and this table lacks are refused by name. ``mixing.py`` has the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dtheta.errors import ConfigError, did_you_mean

REQUIRED = object()  # in place of a default


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method.

    Attributes:
        default: ``REQUIRED`` if there is none.
        each: Whether every input has its own value; else one value holds for the tensor.
        base: Whether the base has one too.
        low: Smallest value that can be meant, if there is one.
        high: Largest, likewise.
        flag: Whether it is true or false rather than a number.
    """

    default: Any = REQUIRED
    each: bool = False
    base: bool = False
    low: float | None = None
    high: float | None = None
    flag: bool = False


@dataclass(frozen=True)
class MergeRule:
    """How a method merges.

    Attributes:
        name: As in a configuration.
        kind: Which formula of ``mixing.py``: "steps" works on differences from the base.
        trim: What is kept of each step before it is weighted.
        consensus: Whether entries must have the elected sign.
        parameters: By name.
        inputs: Least and largest number of inputs beside the base; None where there is no bound.
        base: Whether a base must be named.
    """

    name: str
    kind: Literal["steps", "linear", "slerp", "passthrough"]
    parameters: Mapping[str, Parameter]
    trim: Literal["magnitude", "chance", "outliers"] | None = None
    consensus: bool = False
    inputs: tuple[int, int | None] = (1, None)
    base: bool = True


def _steps(
    name: str, trim: Any = None, *, consensus: bool = False, normalize: bool = False, rescale: bool = False
) -> MergeRule:
    parameters = {
        "weight": Parameter(each=True),
        "density": Parameter(1.0, each=True, low=0.0, high=1.0),
        "normalize": Parameter(normalize, flag=True),
        "rescale": Parameter(rescale, flag=True),
        "lambda": Parameter(1.0),
        "int8_mask": Parameter(False, flag=True),
    }
    if trim == "outliers":
        parameters["gamma"] = Parameter(0.01, each=True, low=0.0, high=1.0)
    return MergeRule(name, "steps", parameters, trim, consensus)


RULES: Mapping[str, MergeRule] = {
    rule.name: rule
    for rule in (
        MergeRule(
            "linear",
            "linear",
            {"weight": Parameter(each=True, base=True), "normalize": Parameter(True, flag=True)},
            base=False,
        ),
        _steps("task_arithmetic"),
        _steps("ties", "magnitude", consensus=True, normalize=True),
        _steps("dare_linear", "chance", rescale=True),
        _steps("dare_ties", "chance", consensus=True, rescale=True),
        _steps("breadcrumbs", "outliers"),
        _steps("breadcrumbs_ties", "outliers", consensus=True),
        MergeRule("slerp", "slerp", {"t": Parameter()}, inputs=(1, 1)),
        MergeRule(
            "passthrough",
            "passthrough",
            {"scale": Parameter(None, each=True, base=True)},
            inputs=(1, 1),
            base=False,
        ),
    )
}


_NOT_SHARED = (
    "arcee_fusion", "della", "della_linear", "karcher", "model_stock", "multislerp", "nearswap", "nuslerp", "sce",
)  # fmt: skip


def merge_rule(name: Any) -> MergeRule:
    """Return the rule of a method.

    Raises:
        ConfigError: If there is no such method here, naming those that there are.
    """
    if isinstance(name, str) and name in RULES:
        return RULES[name]
    if name is None:
        raise ConfigError(f"merge_method is missing; there are {', '.join(RULES)}")
    if name in _NOT_SHARED:
        raise ConfigError(f"merge_method {name!r} of mergekit is not done here; there are {', '.join(RULES)}")
    near = did_you_mean(str(name), RULES)
    raise ConfigError(f"there is no merge_method {name!r}{near}; there are {', '.join(RULES)}")
