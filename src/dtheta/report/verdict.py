"""Verdict: what the numbers say, in sentences computed from them.

A difference is called clear when its interval excludes zero. Where no paired interval is given, the interval of the
difference runs from (low - baseline high) to (high - baseline low): wider than needed, never too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dtheta.report.blocks import Finding, Outcome
from dtheta.report.measure import Measure
from dtheta.report.quantity import fixed, listed, significant
from dtheta.report.results import AdaptResults, Curve, MethodResult, TaskResult
from dtheta.score.interval import Interval, paired_interval

_LOSS_ORDERS = (("PiSSA", "LoRA"), ("SORSA", "LoRA"))
_TAIL = 5  # a training loss is judged by the mean over its last fifth


@dataclass(frozen=True)
class Gain:
    """By how much one method is better than the baseline on one task."""

    task: TaskResult
    method: MethodResult
    interval: Interval

    @property
    def sign(self) -> int:
        """1 where it is clearly better, -1 where clearly worse, 0 where that cannot be told."""
        return (self.interval.low > 0) - (self.interval.high < 0)


def gain_of(results: AdaptResults, task: TaskResult, method: MethodResult) -> Gain:
    """The paired gain, or the difference of two intervals; positive is better."""
    if method.gain is not None:
        return Gain(task, method, method.gain)
    ours, base = method.score, task.baseline
    if results.measure.better == "lower":
        ours, base = base, ours
    apart = Interval(ours.estimate - base.estimate, ours.low - base.high, ours.high - base.low, ours.level, "apart")
    return Gain(task, method, apart)


def best_gains(results: AdaptResults) -> list[Gain]:
    """Every task's method of the best score."""
    sign = -1 if results.measure.better == "lower" else 1
    best = [(task, max(task.methods, key=lambda method: sign * method.score.estimate)) for task in results.tasks]
    return [gain_of(results, task, method) for task, method in best]


def final_loss(curve: Curve) -> float:
    """Mean training loss over the last fifth of the curve."""
    tail = curve[-max(1, len(curve) // _TAIL) :]
    return sum(value for _, value in tail) / len(tail)


def verdict(results: AdaptResults) -> str:
    """The one sentence on top of the page."""
    gains, measure = best_gains(results), results.measure
    if len(gains) == 1:
        return " ".join([_single(results, gains[0]), *_beside(results, gains[0])])
    clear = [gain for gain in gains if gain.sign > 0]
    if not clear:
        most = max(gains, key=lambda gain: gain.interval.estimate)
        return (
            f"Adapting {results.model} does not clearly beat the {measure.baseline} on any of {len(gains)} tasks; the "
            f"largest gain is {measure.gain(most.interval.estimate)} {measure.gain_unit} on {most.task.name} "
            f"({most.method.name}, {_range(measure, most.interval)})."
        )
    share = f"all {len(gains)}" if len(clear) == len(gains) else f"{len(clear)} of {len(gains)}"
    led = [f"{measure.gain(g.interval.estimate)} on {g.task.name} ({g.method.name})" for g in clear]
    led[0] = led[0].replace(" on ", f" {measure.gain_unit} of {measure.name} on ", 1)
    text = f"Adapting {results.model} clearly beats the {measure.baseline} on {share} tasks: {listed(led)}"
    return "; ".join([text, *_rest(measure, [gain for gain in gains if gain.sign <= 0])]) + "."


def findings(results: AdaptResults) -> list[Finding]:
    """Statements worth checking, each with its outcome in these data."""
    found = [_above_baseline(results, name) for name in results.methods]
    more = [*(_loss_order(results, *pair) for pair in _LOSS_ORDERS), _orthonormal(results)]
    return found + [finding for finding in more if finding is not None]


def _single(results: AdaptResults, gain: Gain) -> str:
    measure, difference = results.measure, gain.interval
    score, base = measure.text(gain.method.score.estimate), measure.number(gain.task.baseline.estimate)
    reached = f"On {gain.task.name}, {results.model} with {gain.method.name} reaches {score} {measure.name}"
    if measure.better == "lower":
        reached = f"On {gain.task.name}, {results.model} with {gain.method.name} reaches a {measure.name} of {score}"
    if not gain.sign:
        how_far = f"{measure.gain(difference.estimate)} {measure.gain_unit}, {_range(measure, difference)}"
        return f"{reached}, not clearly different from the {measure.baseline}'s {base} ({how_far})."
    size = measure.gain(abs(difference.estimate))[1:]
    side = "better" if gain.sign > 0 else "worse"
    how_far = f"{size} {measure.gain_unit} {side} than the {measure.baseline}'s {base}"
    return f"{reached}, {how_far} (gain {_range(measure, difference)})."


def _beside(results: AdaptResults, gain: Gain) -> list[str]:
    """A sentence on the references of a task; nothing where there are none."""
    measure = results.measure
    named = [f"{found.name} {measure.text(found.score.estimate)}" for found in gain.task.references]
    return [f"For comparison: {listed(named)}."] if named else []


def _rest(measure: Measure, gains: Sequence[Gain]) -> list[str]:
    """Clauses on the tasks without a clear gain."""

    def named(sign: int) -> str:
        chosen = [gain for gain in gains if gain.sign == sign]
        return listed([f"{g.task.name} ({measure.gain(g.interval.estimate)}, {g.method.name})" for g in chosen])

    clauses = [("no clear difference on ", named(0)), ("worse on ", named(-1))]
    return [start + names for start, names in clauses if names]


def _range(measure: Measure, interval: Interval) -> str:
    return f"{measure.gain(interval.low)} to {measure.gain(interval.high)}"


def _results_of(results: AdaptResults, name: str) -> list[tuple[TaskResult, MethodResult]]:
    return [(task, method) for task in results.tasks for method in task.methods if method.name == name]


def _above_baseline(results: AdaptResults, name: str) -> Finding:
    measure = results.measure
    gains = [gain_of(results, task, method) for task, method in _results_of(results, name)]
    each = [f"{measure.gain(g.interval.estimate)} ({_range(measure, g.interval)}) on {g.task.name}" for g in gains]
    text = f"{name} beats the {measure.baseline}, in {measure.gain_unit} of {measure.name}: {listed(each)}."
    return Finding(text, *_outcome([-gain.sign for gain in gains]))


def _loss_order(results: AdaptResults, lower: str, upper: str) -> Finding | None:
    """Whether ``lower`` ends training at a lower loss than ``upper`` on the tasks of both, paired by seed.

    None where no task has both, at equal steps. One run of each shows an order of these two runs and of nothing else.
    """
    texts, signs = [], []
    uppers = {task.name: method for task, method in _results_of(results, upper)}
    pairs = [(task, method, uppers[task.name]) for task, method in _results_of(results, lower) if task.name in uppers]
    pairs = [(task, *methods) for task, *methods in pairs if len({_last_step(method) for method in methods}) == 1]
    if not pairs:
        return None
    for task, *methods in pairs:
        ours, theirs = ([final_loss(c) for c in method.losses] for method in methods)
        signs.append(_sign(ours, theirs))
        means = (sum(losses) / len(losses) for losses in (ours, theirs))
        texts.append(f"{task.name} {' against '.join(fixed(mean, 3) for mean in means)}")
    seeds = {len(method.losses) for _, *methods in pairs for method in methods}
    basis = "not paired, so no interval" if len(seeds) > 1 else f"paired over {min(seeds)} seeds"
    basis = "one seed, so no interval" if seeds == {1} else basis
    text = f"{lower}'s training loss ends below {upper}'s: {listed(texts)} nats ({basis})."
    return Finding(text, "unclear", "one run each") if seeds == {1} else Finding(text, *_outcome(signs))


def _last_step(method: MethodResult) -> float:
    return max(curve[-1][0] for curve in method.losses)


def _outcome(signs: Sequence[int]) -> tuple[Outcome, str]:
    """Outcome and label of a claim over tasks: -1 clearly so, 0 cannot be told, 1 clearly the contrary."""
    clear, contrary = sum(sign < 0 for sign in signs), sum(sign > 0 for sign in signs)
    if clear == len(signs):
        return "holds", "holds" if len(signs) == 1 else f"holds on all {len(signs)}"
    if contrary:
        return "fails", "does not hold" if len(signs) == 1 else f"fails on {contrary} of {len(signs)}"
    return ("partly", f"clear on {clear} of {len(signs)}") if clear else ("unclear", "not clear")


def _sign(ours: Sequence[float], theirs: Sequence[float]) -> int:
    """-1 where ours is clearly lower, 1 where clearly higher, 0 where the seeds cannot tell, as one never can."""
    if len(ours) != len(theirs) or len(ours) < 2:
        return 0
    interval = paired_interval(ours, theirs)
    return -1 if interval.high < 0 else 1 if interval.low > 0 else 0


def _orthonormal(results: AdaptResults) -> Finding | None:
    """SORSA's promise: its factors stay nearer to orthonormal than those of the controls measured beside it."""
    ends = {
        name: [curve[-1][1] for _, method in _results_of(results, name) for curve in method.orthogonality]
        for name in results.methods
    }
    means = {name: sum(values) / len(values) for name, values in ends.items() if values}
    if "SORSA" not in means or len(means) < 2:
        return None
    rivals = [name for name in means if name != "SORSA"]
    kept = all(means["SORSA"] < means[name] for name in rivals)
    against = listed([f"{name} {significant(means[name], 3)}" for name in rivals])
    return Finding(
        f"SORSA keeps its factors near orthonormal: distance {significant(means['SORSA'], 3)}, against {against}.",
        *_outcome([-1 if kept else 1]),
    )
