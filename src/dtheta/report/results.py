"""What the main job found: model x tasks x methods, as plain records that a file can hold.

The report is a function of these records alone, so any training loop can fill them in and any later version of the
page can be drawn from the saved JSON.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dtheta.errors import ConfigError
from dtheta.report.measure import ACCURACY, Measure
from dtheta.report.pictures import PictureSample
from dtheta.report.record import read_record, write_record
from dtheta.score.interval import Interval

Curve = tuple[tuple[float, float], ...]
"""(optimizer step, value) pairs, steps increasing."""


@dataclass(frozen=True)
class LayerChange:
    """How far training moved one weight matrix W, seen through its singular value decomposition.

    Attributes:
        name: Parameter name.
        shift: dSigma = mean_i |s_i' - s_i|, in the unit of the weights.
        direction: dD = 1 - mean_i (|<u_i', u_i>| + |<v_i', v_i>|) / 2, in [0, 1]; index by index, so two singular
            values that swap places count as a full turn.
        subspace: 1 - mean cosine of the principal angles between the leading singular subspaces, in [0, 1]; blind to
            such swaps.
    """

    name: str
    shift: float
    direction: float
    subspace: float


@dataclass(frozen=True)
class MethodResult:
    """One method on one task.

    Attributes:
        name: Method, e.g. "PiSSA".
        score: On the test examples, with its interval; what it measures is the job's ``measure``.
        losses: Training loss, one curve per seed (nats).
        parameters: Trainable parameters of the delta.
        file_bytes: Size of the saved delta.
        seconds: Wall time of training, mean over seeds.
        scores: The score of every seed, if there are several.
        gain: By how much it is better than the baseline (positive is better), paired over the same test examples or
            seeds; without it the two intervals are compared, which is more cautious.
        orthogonality: Mean Frobenius distance of A A^T and B^T B from the identity, one curve per seed; for methods
            whose factors start orthonormal (SORSA, and SORSA with gamma 0 as its control).
        layers: Per weight matrix, how far it moved.
        settings: What was chosen: rank, learning rate, steps.
    """

    name: str
    score: Interval
    losses: tuple[Curve, ...]
    parameters: int
    file_bytes: int
    seconds: float
    scores: tuple[float, ...] = ()
    gain: Interval | None = None
    orthogonality: tuple[Curve, ...] = ()
    layers: tuple[LayerChange, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.losses or not all(self.losses):
            raise ConfigError(f"report: {self.name} needs at least one loss curve of at least one step")


@dataclass(frozen=True)
class Reference:
    """What else reaches a score on the same test examples without a delta, such as a linear probe: name and score."""

    name: str
    score: Interval


@dataclass(frozen=True)
class TaskResult:
    """One task.

    Attributes:
        name: Of the task.
        train: Training examples.
        test: Test examples.
        baseline: Its score; what the baseline is, the job's ``measure`` says.
        methods: Every method's result.
        classes: How many there are; None for a task without classes.
        shots: Training examples of each class, where so many were drawn; None where all were taken.
        references: Further scores to compare with.
    """

    name: str
    train: int
    test: int
    baseline: Interval
    methods: tuple[MethodResult, ...]
    classes: int | None = None
    shots: int | None = None
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True)
class PackedTask:
    """One task by a compressed delta, and by one encoder that is composed for all tasks, on the same test examples.

    Attributes:
        task: Its name.
        method: Of the delta that was compressed.
        ratio: Bytes of its file over those of the compressed one.
        file_bytes: Size of the compressed file.
        compressed: Score with the compressed delta.
        composed: Score with the composed encoder and the head of the task's own delta.
    """

    task: str
    method: str
    ratio: float
    file_bytes: int
    compressed: Interval
    composed: Interval


@dataclass(frozen=True)
class Packed:
    """Compressed deltas of several tasks, and one delta composed of them.

    Attributes:
        tasks: What each task scores.
        file_bytes: Size of the composed delta, without heads.
        settings: How it was compressed and composed: density, steps, texts.
    """

    tasks: tuple[PackedTask, ...]
    file_bytes: int
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NextStep:
    """A sentence and, if there is one, the command to run."""

    text: str
    command: str = ""


def common_provenance(several: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return what several runs say of themselves as one table: where they differ, what each says, in their order."""
    names = dict.fromkeys(name for one in several for name in one)
    said = {name: dict.fromkeys(one.get(name, "not told") for one in several) for name in names}
    return {name: ("; " if any("," in one for one in values) else ", ").join(values) for name, values in said.items()}


@dataclass(frozen=True)
class AdaptResults:
    """The main job's results.

    Attributes:
        model: Its name.
        model_parameters: Weights of the whole model.
        model_bytes: Size of the whole model's file.
        tasks: What was found on each.
        measure: What the scores are: `ACCURACY` of a classifier, or `TOKEN_LOSS` of a language model.
        provenance: Versions, seeds, base digest: nothing that names a machine.
        next_steps: What to try next.
        packed: What compressing the deltas, and composing them into one, leaves; None where that was not looked at.
        pictures: Test images with predictions, of runs on images.
        note: A sentence that comes before all others, such as that a run is a trial.
    """

    model: str
    model_parameters: int
    model_bytes: int
    tasks: tuple[TaskResult, ...]
    measure: Measure = ACCURACY
    provenance: Mapping[str, str] = field(default_factory=dict)
    next_steps: tuple[NextStep, ...] = ()
    packed: Packed | None = None
    pictures: tuple[PictureSample, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if not self.tasks or any(not task.methods for task in self.tasks):
            raise ConfigError("report: expected at least one task, each with at least one method's result")
        for row in () if self.packed is None else self.packed.tasks:
            if not any(row.task == task.name and row.method in (m.name for m in task.methods) for task in self.tasks):
                raise ConfigError(f"report: {row.method} on {row.task} was compressed, and there is no result of it")

    def method(self, task: str, name: str) -> MethodResult:
        """Return one method's result on one task."""
        return next(m for t in self.tasks if t.name == task for m in t.methods if m.name == name)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of all methods, in order of first appearance."""
        return tuple(dict.fromkeys(method.name for task in self.tasks for method in task.methods))

    @property
    def runs(self) -> tuple[MethodResult, ...]:
        """Every method's result on every task."""
        return tuple(method for task in self.tasks for method in task.methods)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write as JSON, completely or not at all. Raises `OutputError`."""
        return write_record(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AdaptResults:
        """Read what `save` wrote. Raises `FormatError` where the file is not that."""
        return read_record(path, cls)
