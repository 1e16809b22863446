"""A trace: the value vectors of a concept, with what speaks for each and what they do together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtheta.core.jsonfile import read_json, write_json
from dtheta.core.record import decode, record_of
from dtheta.errors import ConfigError, FormatError, did_you_mean
from dtheta.probe.value_vector import ValueVector
from dtheta.score.interval import Interval


@dataclass(frozen=True)
class Candidate:
    """A value vector, and what speaks for it.

    Attributes:
        vector: Which, with the side that names the concept.
        projection: Mean weight of its best tokens in the concept's lexicon, in [0, 1].
        p: Share of shuffled directions that project as much; their number bounds it from below.
        contrast: First-order drop of the concept's answers without it, less that of other concepts', in nats.
        npmi: How well its tokens' words belong together in the corpus, in [0, 1]; None without a corpus.
        words: The words of its best tokens, each once, the best first.
    """

    vector: ValueVector
    projection: float
    p: float
    contrast: float
    npmi: float | None
    words: tuple[str, ...]


@dataclass(frozen=True)
class Effect:
    """What taking all vectors of a trace out does.

    Attributes:
        target: Drop of the mean log-probability of the concept's answers, in nats, with its interval over questions.
        others: The same of answers about other concepts.
        null: Drops of the concept's answers without as many random vectors of the same layers.
        p: Share of those that are as large, the trace itself counted; None without any.
    """

    target: Interval
    others: Interval
    null: tuple[float, ...]
    p: float | None

    @property
    def holds(self) -> bool:
        """Whether the concept falls, falls more than others, and more than without any of the random sets.

        Where none were drawn, the first two decide.
        """
        apart = self.target.low > 0.0 and self.target.low > self.others.high
        return apart and all(drop < self.target.estimate for drop in self.null)


@dataclass(frozen=True)
class Trace:
    """The value vectors of a concept.

    Attributes:
        concept: Its name.
        candidates: The vectors, the surest first.
        effect: What they do together.
    """

    concept: str
    candidates: tuple[Candidate, ...]
    effect: Effect

    @property
    def vectors(self) -> tuple[ValueVector, ...]:
        """The addresses."""
        return tuple(candidate.vector for candidate in self.candidates)


@dataclass(frozen=True)
class Traces(Mapping[str, Trace]):
    """Traces of concepts, by name."""

    traces: tuple[Trace, ...]

    def __getitem__(self, name: str) -> Trace:
        """Return the trace of a concept.

        Raises:
            ConfigError: If there is none of that name.
        """
        for trace in self.traces:
            if trace.concept == name:
                return trace
        raise ConfigError(f"no trace of {name!r}{did_you_mean(name, [trace.concept for trace in self.traces])}")

    def __contains__(self, name: object) -> bool:
        return any(trace.concept == name for trace in self.traces)

    def __iter__(self) -> Iterator[str]:
        return (trace.concept for trace in self.traces)

    def __len__(self) -> int:
        return len(self.traces)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain lists, words and numbers."""
        return record_of(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the traces as JSON; ``load_traces`` reads them.

        Raises:
            OutputError: If the file cannot be written.
        """
        return write_json(self.to_dict(), path)


def load_traces(path: str | os.PathLike[str]) -> Traces:
    """Read traces that were saved.

    Raises:
        ConfigError: If there is no such file.
        FormatError: If it holds no traces.
    """
    record = read_json(path)
    try:
        found = record["traces"] if isinstance(record, Mapping) and "traces" in record else None
        # the rest of the record is what 'dtheta probe --json' tells beside them
        return decode({"traces": found}, Traces, "Traces", complete=True)
    except (FormatError, ConfigError) as error:
        raise FormatError(f"{path} holds no traces of concepts: {error}") from None
