"""A ConceptVectors-style benchmark for a model: the concepts it knows, each with what must go and what must stay.

    questions     of the concept: what must go
    completions   sentences of its documents, cut in halves: what must go
    unrelated     the questions of five other concepts of the set: what must stay

The published set (arXiv 2406.11614) was chosen with a judge model and by hand; here a concept is in if the model gives
the answer to at least half of its questions. Which five other concepts are drawn depends on the seed and the names
alone: not on the order of the concepts, and little on which others there are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from dtheta.core.arguments import whole
from dtheta.core.fingerprint import fingerprint
from dtheta.core.jsonfile import read_json, write_json
from dtheta.core.seeds import key
from dtheta.data.concepts import (
    SAVED,
    Completion,
    Concept,
    Question,
    concept_record,
    named_apart,
    saved_concepts,
    texts,
)
from dtheta.data.text import keyed_order
from dtheta.errors import ConfigError, FormatError, did_you_mean
from dtheta.probe.encoded import BATCH
from dtheta.probe.recall import LEAST, Known, known
from dtheta.score.text import words

OTHERS = 5  # concepts whose questions are the unrelated ones
COMPLETIONS = 10
_SHORTEST = 8  # words of a sentence that can be cut in halves
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True)
class Benchmark:
    """Concepts that a model knows, with what to measure on each.

    Attributes:
        concepts: With questions, completions and unrelated questions.
        unknown: Names of the concepts that were left out, since the model does not know them.
        base: Digest of the model that it was made for.
        seed: Of the draws.
        least: Recall of the questions from which on a concept was taken.
    """

    concepts: tuple[Concept, ...]
    unknown: tuple[str, ...]
    base: str
    seed: int
    least: float

    def __getitem__(self, name: str) -> Concept:
        """Return the concept of this name; ConfigError where there is none."""
        for concept in self.concepts:
            if concept.name == name:
                return concept
        if name in self.unknown:
            raise ConfigError(
                f"the model does not know {name!r}: it answers less than {self.least:.0%} of its questions"
            )
        names = [concept.name for concept in self.concepts]
        raise ConfigError(f"the benchmark has no concept {name!r}{did_you_mean(name, names)}")

    def __len__(self) -> int:
        return len(self.concepts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, complete or not at all; ``load_benchmark`` reads it.

        Raises:
            OutputError: If the file cannot be written.
        """
        record = {
            "format": SAVED, "base": self.base, "seed": self.seed, "least": self.least, "unknown": self.unknown,
            "concepts": [concept_record(concept) for concept in self.concepts],
        }  # fmt: skip
        write_json(record, path)


def build_benchmark(
    model: nn.Module,
    tokenizer: Any,
    concepts: Sequence[Concept],
    *,
    least: float = LEAST,
    others: int = OTHERS,
    completions: int = COMPLETIONS,
    seed: int = 0,
    batch: int = BATCH,
) -> Benchmark:
    """Choose the concepts that a model knows and say for each what must go and what must stay.

    Args:
        model: A transformers decoder with its language modeling head.
        tokenizer: Its tokenizer.
        concepts: To choose from.
        least: Recall from which on a concept is taken.
        others: Concepts whose questions are the unrelated ones of a concept; its own, if it has any, are kept.
        completions: At most so many sentences of a concept's documents; its own completions are kept.
        seed: Of the draws.
        batch: Questions at a time.

    Raises:
        ConfigError: As ``known``, or if the model knows fewer than two concepts: there would be nothing unrelated.
    """
    found = known(model, tokenizer, concepts, least=least, batch=batch)
    return of_known(found, fingerprint(model).digest, others=others, completions=completions, seed=seed)


def of_known(
    found: Known, base: str, *, others: int = OTHERS, completions: int = COMPLETIONS, seed: int = 0
) -> Benchmark:
    """Return the benchmark of concepts whose recall is measured already; as ``build_benchmark``."""
    chosen = found.concepts
    if len(chosen) < 2:
        raise ConfigError(f"a benchmark needs two concepts or more that the model knows, but {found}")
    others, completions = whole(others, "others", least=1), whole(completions, "completions", least=0)
    made = [
        replace(
            concept,
            unrelated=concept.unrelated or unrelated_questions(concept, chosen, others, seed),
            completions=concept.completions or halves(concept, completions, seed),
        )
        for concept in chosen
    ]
    return Benchmark(tuple(made), tuple(concept.name for concept in found.unknown), base, seed, found.least)


def unrelated_questions(
    concept: Concept, concepts: Sequence[Concept], others: int = OTHERS, seed: int = 0
) -> tuple[Question, ...]:
    """Return the questions of other concepts, drawn by (seed, both names), without those that speak of this one.

    A question speaks of a concept if its prompt, its answer or a paraphrase holds the last word of the concept's name,
    in the singular or with an s: "Einstein" of Albert Einstein, "dog" of dogs.
    """
    candidates = [other for other in concepts if other.name != concept.name]
    drawn = sorted(candidates, key=lambda other: key(seed, f"probe/unrelated/{concept.name}/{other.name}"))[:others]
    name = _singular(words(concept.name)[-1]) if words(concept.name) else concept.name
    return tuple(question for other in drawn for question in other.questions if not _speaks_of(question, name))


def halves(concept: Concept, count: int = COMPLETIONS, seed: int = 0) -> tuple[Completion, ...]:
    """Return sentences of a concept's documents, drawn by (seed, its name), each cut in the middle of its words."""
    found = list(dict.fromkeys(sentence for document in concept.documents for sentence in _sentences(document)))
    order = keyed_order(len(found), seed, f"probe/completions/{concept.name}")[:count]
    return tuple(_cut(found[i]) for i in sorted(order))


def load_benchmark(path: str | os.PathLike[str]) -> Benchmark:
    """Read a benchmark that ``save`` wrote.

    Raises:
        ConfigError: If there is no such file.
        FormatError: If it is no benchmark.
    """
    name, record = Path(path).name, read_json(path)
    if not isinstance(record, dict) or record.get("format") != SAVED:
        raise FormatError(f"{name} is no benchmark: expected 'format': {SAVED!r}, as Benchmark.save writes it")
    try:
        made = saved_concepts(record, name)
        unknown, base = texts(record["unknown"], f"{name}, unknown"), str(record["base"])
        return Benchmark(named_apart(made, name), unknown, base, int(record["seed"]), float(record["least"]))
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{name} is a damaged benchmark: {error!r}") from error


def _speaks_of(question: Question, name: str) -> bool:
    texts = (question.prompt, question.answer, *question.paraphrases)
    return any(_singular(word) == name for text in texts for word in words(text))


def _singular(word: str) -> str:
    return word.removesuffix("s")


def _sentences(document: str) -> Iterator[str]:
    for sentence in _SENTENCE_END.split(document):
        if len(sentence.split()) >= _SHORTEST:
            yield sentence.strip()


def _cut(sentence: str) -> Completion:
    found = sentence.split()
    middle = (len(found) + 1) // 2
    return Completion(" ".join(found[:middle]), " ".join(found[middle:]))
