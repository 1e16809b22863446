"""Scene: a network, its examples, and what is known of them before any method is looked at."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.adapt.attach import attach
from dtheta.errors import DthetaError
from dtheta.scout.attached import derivatives_in
from dtheta.scout.candidates import Candidate
from dtheta.scout.derivatives import Derivatives, Glance, derivatives_of
from dtheta.scout.examples import Examples
from dtheta.scout.head import LinearHead, Start, features_of, head_kernel, projected, starts
from dtheta.scout.regression import Half
from dtheta.scout.scouting import Refused


@dataclass
class Clock:
    """CPU seconds by part of the work."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count a block to a part."""
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start


@dataclass(frozen=True, eq=False)
class View:
    """What the head sees of the examples: through the plain network, or through one with a prompt.

    Attributes:
        features: (N, E), float64.
        starts: Of each half, by the head of the other one.
    """

    features: Tensor
    starts: list[Start]


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that a method is judged by.

    Attributes:
        candidate: The method.
        halves: Both halves, with its kernel.
        derivatives: Of each half.
    """

    candidate: Candidate
    halves: list[Half]
    derivatives: list[Derivatives]


@dataclass(frozen=True, eq=False)
class Scene:
    """A network, its head and examples.

    Attributes:
        net: The network.
        head: Its last layer.
        examples: What it is looked at with.
        directions: Directions of the logits (O, C), float64.
        chunk: Examples a pass.
        seed: Of random starts.
        clock: Where time is counted.
    """

    net: nn.Module
    head: LinearHead
    examples: Examples
    directions: Tensor
    chunk: int
    seed: int
    clock: Clock

    def view(self, model: nn.Module) -> View:
        """Return the features of all examples and the heads of both halves."""
        with self.clock.part("features"):
            features = features_of(model, self.head, self.examples, self.chunk)
        with self.clock.part("head"):
            return View(features, starts(features, self.examples))

    def half(self, view: View, i: int, derivatives: Derivatives | None = None) -> Half:
        """Return a half, with the kernels of a method or with none."""
        index, other = self.examples.halves[i], self.examples.halves[1 - i]
        labels = self.examples.labels[index]
        prior = self._target(self.examples.labels[other]).mean(0).expand(len(index), -1)
        own = head_kernel(view.features[index])
        none = torch.zeros_like(own)
        kernel, moves = (None, None) if derivatives is None else (derivatives.kernel(), derivatives.moves)
        return Half(
            labels, self._target(labels), prior, view.starts[i].outputs, own, none if kernel is None else kernel,
            none if moves is None else moves,
        )  # fmt: skip

    def evidence(self, candidates: Sequence[Candidate], view: View) -> tuple[list[Evidence], list[Refused]]:
        """Return the evidence of every candidate, and those whose derivatives cannot be had with the reason."""
        shared = self._shared([c for c in candidates if not c.attached], view)
        found: list[Evidence] = []
        refused: list[Refused] = []
        for candidate in candidates:
            try:
                found.append(self._attached(candidate) if candidate.attached else self._plain(candidate, shared, view))
            except DthetaError as error:
                refused.append(Refused(candidate.name, str(error)))
        return found, refused

    def _glances(self, view: View) -> list[Glance]:
        """Return how each half is looked at: with the other half's head, along the directions."""
        found = []
        for index, start in zip(self.examples.halves, view.starts, strict=True):
            residual = (self._target(self.examples.labels[index]) - start.outputs) @ self.directions.mT
            found.append(Glance(projected(self.head, start.weight, self.directions), index, residual))
        return found

    def _shared(self, candidates: list[Candidate], view: View) -> list[dict[str, Derivatives]]:
        """Return the derivatives of all candidates that share a pass, by half and name."""
        if not candidates:
            return []
        with self.clock.part("passes"):
            return derivatives_of(self.net, self.examples, self._glances(view), candidates, self.chunk)

    def _plain(self, candidate: Candidate, shared: list[dict[str, Derivatives]], view: View) -> Evidence:
        derivatives = [half[candidate.name] for half in shared]
        for one in derivatives:
            if one.failure is not None:
                raise one.failure
        return self._judged(candidate, view, derivatives)

    def _attached(self, candidate: Candidate) -> Evidence:
        """Attach a method, take its derivatives, and take it off."""
        assert candidate.method is not None
        adapter = attach(self.net, candidate.method, candidate.select, seed=self.seed)
        try:
            view = self.view(adapter)
            with self.clock.part("passes"):
                derivatives = derivatives_in(adapter, self.examples, self._glances(view), self.chunk)
        finally:
            adapter.detach()
        return self._judged(candidate, view, derivatives)

    def _judged(self, candidate: Candidate, view: View, derivatives: list[Derivatives]) -> Evidence:
        halves = [self.half(view, i, one) for i, one in enumerate(derivatives)]
        return Evidence(candidate, halves, derivatives)

    def _target(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels, self.examples.classes).double()
