"""What few-shot runs found: task x method x shots, as plain records that a file can hold.

They are gathered from the results of single runs (``few_shot_of``), or filled in by whatever ran many.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dtheta.errors import ConfigError
from dtheta.report.pictures import PictureSample
from dtheta.report.record import read_json, read_record, write_record
from dtheta.report.results import AdaptResults, MethodResult, NextStep, TaskResult, common_provenance
from dtheta.score.interval import Interval, mean_interval

FEW_SHOT = "few-shot"


@dataclass(frozen=True)
class ShotScore:
    """One method's score at one number of shots.

    Attributes:
        shots: Training examples of each class.
        score: On the test examples, with its interval: over draws of the training examples where there are several.
        draws: The score of every draw, if there are several.
        seconds: Wall time of training, mean over draws; None where nothing was trained, or it was not measured.
    """

    shots: int
    score: Interval
    draws: tuple[float, ...] = ()
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.shots < 1:
            raise ConfigError(f"report: shots must be at least 1, found {self.shots}")


@dataclass(frozen=True)
class FewShotMethod:
    """One method on one task.

    Attributes:
        name: Method, or what is compared with it, such as "linear probe".
        points: Its scores, shots increasing.
        parameters: Weights that train; None where that does not apply.
    """

    name: str
    points: tuple[ShotScore, ...]
    parameters: int | None = None

    def __post_init__(self) -> None:
        shots = [point.shots for point in self.points]
        if not shots or shots != sorted(set(shots)):
            raise ConfigError(f"report: {self.name} needs scores at increasing numbers of shots, found {shots}")

    def at(self, shots: int) -> ShotScore | None:
        """Return the score at a number of shots, if there is one."""
        return next((point for point in self.points if point.shots == shots), None)


@dataclass(frozen=True)
class FewShotTask:
    """One task: its name, how many classes and test examples it has, the zero-shot score, and every method's curve."""

    name: str
    classes: int
    test: int
    zero_shot: Interval
    methods: tuple[FewShotMethod, ...]

    @property
    def shots(self) -> tuple[int, ...]:
        """All numbers of shots, increasing."""
        return tuple(sorted({point.shots for method in self.methods for point in method.points}))


@dataclass(frozen=True)
class FewShotResults:
    """Few-shot runs on one model.

    Attributes:
        model: Its name.
        tasks: What was found on each.
        provenance: Versions, seeds, base digest: nothing that names a machine.
        next_steps: What to try next.
        pictures: Test images with predictions.
        note: A sentence that comes before all others, such as that a run is a trial.
        kind: What this file is; always "few-shot".
    """

    model: str
    tasks: tuple[FewShotTask, ...]
    provenance: Mapping[str, str] = field(default_factory=dict)
    next_steps: tuple[NextStep, ...] = ()
    pictures: tuple[PictureSample, ...] = ()
    note: str = ""
    kind: str = FEW_SHOT

    def __post_init__(self) -> None:
        if self.kind != FEW_SHOT:
            raise ConfigError(f"report: these are results of the kind {self.kind!r}, expected {FEW_SHOT!r}")
        if not self.tasks or any(not task.methods for task in self.tasks):
            raise ConfigError("report: expected at least one task, each with at least one method's scores")

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of all methods, in order of first appearance."""
        return tuple(dict.fromkeys(method.name for task in self.tasks for method in task.methods))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write as JSON, completely or not at all. Raises `OutputError`."""
        return write_record(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FewShotResults:
        """Read what `save` wrote. Raises `FormatError` where the file is not that."""
        return read_record(path, cls)


def is_few_shot(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file holds few-shot results, by its kind. Raises `FormatError` where it is no JSON."""
    document = read_json(path)
    return isinstance(document, dict) and document.get("kind") == FEW_SHOT


def few_shot_of(found: Sequence[AdaptResults]) -> FewShotResults:
    """Gather the runs of one model at several numbers of shots; runs alike but for their draw become one point.

    Raises:
        ConfigError: If they are of several bases, or one took all training examples, or runs on one task differ in
            their test examples, or those of a method at one number of shots in its settings.
    """
    if len({results.provenance.get("base") for results in found}) > 1:
        raise ConfigError("these runs are of different bases; one page compares runs on one base")
    names = dict.fromkeys(task.name for results in found for task in results.tasks)
    runs = [(results.provenance.get("seed", ""), task) for results in found for task in results.tasks]
    tasks = tuple(_task([(seed, task) for seed, task in runs if task.name == name]) for name in names)
    first = found[0]
    provenance = common_provenance([results.provenance for results in found])
    most = max(found, key=lambda results: max(task.shots or 0 for task in results.tasks))
    return FewShotResults(first.model, tasks, provenance, first.next_steps, most.pictures, first.note)


_Run = tuple[str, TaskResult]  # its seed, and what it found


def _task(seeded: Sequence[_Run]) -> FewShotTask:
    runs = [run for _, run in seeded]
    first = runs[0]
    for run in runs:
        if run.shots is None or run.classes is None:
            raise ConfigError(
                f"a run on {run.name} took all training examples, which is no number of shots; leave it out"
            )
        if (run.test, run.baseline, run.classes) != (first.test, first.baseline, first.classes):
            raise ConfigError(
                f"the runs on {run.name} differ in their test images or their zero-shot prompt, so their accuracies "
                "cannot be compared; give --test, or one --seed, and one --template"
            )
    methods = dict.fromkeys(method.name for run in runs for method in run.methods)
    references = dict.fromkeys(reference.name for run in runs for reference in run.references)
    curves = [_curve(seeded, name) for name in methods] + [_reference(seeded, name) for name in references]
    return FewShotTask(first.name, first.classes or 0, first.test, first.baseline, tuple(curves))


def _curve(seeded: Sequence[_Run], name: str) -> FewShotMethod:
    found = [(run.shots or 0, seed, method) for seed, run in seeded for method in run.methods if method.name == name]
    points = []
    for shots in sorted({shots for shots, *_ in found}):
        same = [method for k, _, method in found if k == shots]
        _require_alike(same, seeded[0][1].name, shots)
        _require_once(name, seeded[0][1].name, shots, [seed for k, seed, _ in found if k == shots])
        seconds = sum(method.seconds for method in same) / len(same)
        points.append(_point(shots, [method.score for method in same], seconds))
    return FewShotMethod(name, tuple(points), found[0][2].parameters)


def _require_once(method: str, task: str, shots: int, seeds: Sequence[str]) -> None:
    """Raise where one draw stands twice among runs: an interval over draws would count it as two."""
    twice = next((seed for seed in seeds if seed and seeds.count(seed) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"two of the runs of {method} on {task} at {shots} shots have the seed {twice}, so they are one draw; give "
            "each run once, and several draws with --seed"
        )


def _require_alike(runs: Sequence[MethodResult], task: str, shots: int) -> None:
    """Raise unless runs differ in their draw alone: an interval over other settings would be one over nothing."""
    first = runs[0].settings
    for other in (run.settings for run in runs[1:]):
        if odd := next((name for name in {**first, **other} if first.get(name) != other.get(name)), None):
            raise ConfigError(
                f"the runs of {runs[0].name} on {task} at {shots} shots differ in {odd} ({first.get(odd)} and "
                f"{other.get(odd)}), so they are no draws of one method; give only those that are alike"
            )


def _reference(seeded: Sequence[_Run], name: str) -> FewShotMethod:
    """Return a reference's curve; the runs of several methods with one seed bring the same score, which counts once."""
    every = [(seed, run, r.score) for seed, run in seeded for r in run.references if r.name == name]
    found = dict.fromkeys((run.shots or 0, seed, score) for seed, run, score in every)
    shots = sorted({k for k, *_ in found})
    return FewShotMethod(name, tuple(_point(k, [score for at, _, score in found if at == k]) for k in shots))


def _point(shots: int, scores: Sequence[Interval], seconds: float | None = None) -> ShotScore:
    """One score keeps its interval over test examples, and so do equal ones; several become their mean over draws."""
    if len(set(scores)) == 1:
        return ShotScore(shots, scores[0], seconds=seconds)
    draws = tuple(score.estimate for score in scores)
    return ShotScore(shots, mean_interval(draws), draws, seconds)
