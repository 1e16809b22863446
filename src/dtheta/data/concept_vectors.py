"""The published data of ConceptVectors: concepts of LLaMA-2-7B-chat and OLMo-7B with the value vectors that hold them.

A file is a list of records

    {"Concept": name, "Layer": l, "Dim": j, "QA": [10 questions], "wikipedia_content": article,
     "text_completion": [{"First_half": ..., "Second_half": ...}], "unrelated_QA": [50 questions]}

of which Concept, Layer, Dim and QA are required and others are not read. Questions have no answers: a changed model is
compared with what the original one answers. Their prompt is that of the authors' validation: "Question: ...", new line,
" Answer:". The data is not part of dtheta; get it from the authors. A benchmark that dtheta wrote (probe.benchmark) is
read as well.

Source: "Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces" (arXiv 2406.11614).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dtheta.core.tensorfile import parse_json
from dtheta.data.concepts import SAVED, Completion, Concept, Question, address, saved_concepts, texts
from dtheta.data.lines import text_field
from dtheta.errors import ConfigError, FormatError, did_you_mean

_REQUIRED = ("Concept", "Layer", "Dim", "QA")


def read_concept_vectors(path: Path, encoding: str = "utf-8") -> tuple[Concept, ...]:
    """Return the concepts of a published file; where two have one name, the later one's place is added to it.

    Those of a benchmark of dtheta are returned as they are.

    Raises:
        ConfigError: If the encoding is unknown.
        FormatError: If the file is not in this format.
    """
    records = _parsed(path, encoding)
    if isinstance(records, Mapping) and records.get("format") == SAVED:
        return tuple(saved_concepts(records, path.name))
    if not isinstance(records, list) or not records:
        raise FormatError(f"{path.name}: expected a list of concepts, as ConceptVectors publishes them")
    found: list[Concept] = []
    for number, fields in enumerate(records, start=1):
        concept = _concept(fields, f"{path.name}, concept {number}")
        if any(concept.name == other.name for other in found):
            concept = replace(concept, name=f"{concept.name} ({fields['Layer']}/{fields['Dim']})")
        found.append(concept)
    return tuple(found)


def _parsed(path: Path, encoding: str) -> Any:
    try:
        text = path.read_bytes().decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise ConfigError(f"unknown encoding {encoding!r}") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{path.name} is not {encoding}: {error}; give its encoding") from error
    return parse_json(text, path.name)


def _concept(fields: Any, where: str) -> Concept:
    if not isinstance(fields, Mapping):
        raise FormatError(f"{where}: expected a JSON object, found {type(fields).__name__}")
    for key in _REQUIRED:
        if key not in fields:
            raise FormatError(f"{where} has no field {key!r}; a published concept has it{did_you_mean(key, fields)}")
    article = texts([fields.get("wikipedia_content", "")], f"{where}, wikipedia_content")
    return Concept(
        name=text_field(fields, "Concept", where).strip(),
        documents=article if article[0].strip() else (),
        questions=_questions(fields["QA"], f"{where}, QA"),
        completions=_completions(fields.get("text_completion", []), f"{where}, text_completion"),
        unrelated=_questions(fields.get("unrelated_QA", []), f"{where}, unrelated_QA"),
        vector=address([fields["Layer"], fields["Dim"]], f"{where}, Layer and Dim"),
    )


def _questions(value: Any, where: str) -> tuple[Question, ...]:
    return tuple(Question(f"Question: {text.strip()}\n Answer:", "") for text in texts(value, where))


def _completions(value: Any, where: str) -> tuple[Completion, ...]:
    if not isinstance(value, list) or not all(isinstance(fields, Mapping) for fields in value):
        raise FormatError(f"{where}: expected a list of objects with First_half and Second_half")
    return tuple(
        Completion(text_field(fields, "First_half", where).strip(), text_field(fields, "Second_half", where).strip())
        for fields in value
    )
