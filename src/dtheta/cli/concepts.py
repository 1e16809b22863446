"""Concepts as commands name them: where they come from, which one is meant, and which of them a model knows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.units import percent, plural
from dtheta.core.paths import expanded
from dtheta.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from dtheta.cli.console import Console
    from dtheta.data.concepts import Concept
    from dtheta.probe.recall import Known

SOURCE = "facts, wordnet, or a .jsonl or .json file of concepts"
_LEAST = 2  # questions that a concept has to have for anything to be said of it


def concepts_place(source: str) -> Path | None:
    """Return the path of a file of concepts; None for a source that is known by name."""
    from dtheta.data.concepts import NAMED

    return None if source in NAMED else expanded(source)


def read_concepts(source: str) -> tuple[Concept, ...]:
    """Return the concepts of a source that have two questions with answers or more, each question once.

    Raises:
        ConfigError: If there is no such source, or no concept in it has answers.
        FormatError: If it is damaged.
    """
    from dtheta.data.concepts import load_concepts
    from dtheta.probe.encoded import answered

    place = concepts_place(source)
    found = load_concepts(source if place is None else place)
    asked = (replace(one, questions=tuple(answered(one))) for one in found)
    kept = tuple(one for one in asked if len(one.questions) >= _LEAST)
    if not kept:
        open_ended = any(one.questions for one in found)
        why = "; published ConceptVectors have none: dtheta.probe.validate compares texts instead" if open_ended else ""
        raise ConfigError(f"none of the {len(found)} concepts of {source} has two questions with answers to ask{why}")
    return kept


def digest_of(concepts: Sequence[Concept]) -> str:
    """Return 16 hexadecimal digits that tell these concepts from others, whatever file they stand in."""
    from dtheta.core.jsonfile import json_digest

    return json_digest([asdict(one) for one in concepts])[:16]


def concept_called(concepts: Sequence[Concept], name: str, source: str) -> Concept:
    """Return the concept of a name; where none is written so, that of the name in another case.

    Raises:
        ConfigError: Naming the nearest one.
    """
    alike = [one for one in concepts if one.name.lower() == name.lower()]
    if found := next((one for one in alike if one.name == name), alike[0] if len(alike) == 1 else None):
        return found
    if alike:
        raise ConfigError(f"{source} has {', '.join(repr(one.name) for one in alike)}; write the one that is meant so")
    near = did_you_mean(name, [one.name for one in concepts])
    raise ConfigError(f"{source} has no concept {name!r} with questions and answers{near}")


def recall_of(model: nn.Module, tokenizer: Any, concepts: Sequence[Concept], console: Console) -> Known:
    """Return which concepts a model knows, and say so."""
    from dtheta.probe.recall import known

    asked = sum(len(one.questions) for one in concepts)
    console.note(f"asking {plural(asked, 'question')} about {plural(len(concepts), 'concept')} ...")
    found = known(model, tokenizer, concepts)
    console.note(str(found))
    return found


def unknown_said(found: Known, name: str) -> str:
    """Return a sentence on how much of a concept the model knows."""
    row = next(row for row in found.rows if row.concept.name == name)
    return (
        f"the model answers {sum(row.exact)} of {len(row.exact)} questions about {name}, less than "
        f"{percent(found.least, 0)}: it does not know it to begin with"
    )


def parted(
    concepts: Sequence[Concept], count: int | None, seed: int, name: str
) -> tuple[tuple[Concept, ...], tuple[Concept, ...]]:
    """Return other concepts to retain, and those that are left for a report, by keyed draw.

    Args:
        concepts: The others that are known.
        count: How many to retain; None for two thirds.
        seed: Of the draw.
        name: Of the concept that goes, which the draw depends on as well.
    """
    from dtheta.data.text import keyed_order

    order = keyed_order(len(concepts), seed, f"cli/retain/{name}")
    taken = set(order[: (2 * len(concepts) + 2) // 3 if count is None else count])
    return (
        tuple(one for i, one in enumerate(concepts) if i in taken),
        tuple(one for i, one in enumerate(concepts) if i not in taken),
    )


def without(concepts: Sequence[Concept], names: Collection[str]) -> tuple[Concept, ...]:
    """Return the concepts that are called otherwise."""
    return tuple(one for one in concepts if one.name not in names)


def drawn(concepts: Sequence[Concept], count: int, seed: int, name: str) -> tuple[Concept, ...]:
    """Return so many concepts by keyed draw, in their own order."""
    return parted(concepts, count, seed, name)[0]
