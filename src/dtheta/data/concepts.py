"""Concepts: what texts say of one thing, as documents, questions with their answers, and texts cut in halves.

    "facts"       plain facts in English that dtheta ships (facts.tsv), ten or so a concept
    "wordnet"     kinds of things, from the glosses and relations of WordNet 3.0, see data.wordnet
    x.jsonl       one's own: a concept a line
    x.json        the published data of ConceptVectors (arXiv 2406.11614), see data.concept_vectors, or a benchmark that
                  ``probe.build_benchmark`` made

A prompt is the very text that a model is given, a sentence to complete or a question with "Answer:" after it; the
answer is what follows, without the blank between them. The facts' wordings were chosen, among several of each, by what
SmolLM2-135M can complete; recall of that model on them is therefore no estimate of what it knows in general. A line of
one's own file, of which only ``name`` is required:

    {"name": "France", "kind": "country", "documents": ["France is ..."],
     "questions": [{"prompt": "The capital of France is", "answer": "Paris", "paraphrases": ["France's capital is"]}],
     "completions": [{"first": "The Loire is the longest", "second": "river of France."}], "unrelated": [],
     "vector": [29, 864]}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from dtheta.data.lines import numbered_lines, text_field
from dtheta.errors import ConfigError, FormatError, did_you_mean

FACTS = Path(__file__).with_name("facts.tsv")
NAMED = ("facts", "wordnet")
SAVED = "dtheta-concepts/1"  # the format of a benchmark of probe.benchmark
_BETWEEN = " | "  # paraphrases of a row of facts.tsv
_T = TypeVar("_T")


@dataclass(frozen=True)
class Question:
    """A prompt and what should follow it.

    Attributes:
        prompt: What the model is given.
        answer: What follows, without a leading blank; "" where no answer is known, as in the published data.
        paraphrases: Other prompts for the same answer.
    """

    prompt: str
    answer: str
    paraphrases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """A text of a document, cut in two: the first half is given, the second one expected."""

    first: str
    second: str


@dataclass(frozen=True)
class Concept:
    """What texts say of one thing.

    Attributes:
        name: What it is called.
        kind: What sort of thing it is, such as "country"; "" if not known.
        documents: Texts about it.
        questions: About it.
        completions: Texts about it, cut in halves.
        unrelated: Questions about other things, which unlearning this one must leave alone.
        vector: Layer and column of the value vector that holds it in the model it was made for, or None.
    """

    name: str
    kind: str = ""
    documents: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    completions: tuple[Completion, ...] = ()
    unrelated: tuple[Question, ...] = ()
    vector: tuple[int, int] | None = None


def load_concepts(source: str | Path = "facts", encoding: str = "utf-8") -> tuple[Concept, ...]:
    """Return the concepts of a source, in its order.

    Args:
        source: "facts", "wordnet", or the path of a JSONL file of one's own, of published ConceptVectors JSON, or of a
            benchmark that was saved.
        encoding: Of a file.

    Raises:
        ConfigError: If there is no such source or file.
        FormatError: If a file is not in its format, or names two concepts alike.
        MissingExtra: If the package that carries WordNet cannot be had.
    """
    if source == "facts":
        return read_facts(FACTS)
    if source == "wordnet":
        from dtheta.data.wordnet import load_wordnet

        return load_wordnet()
    path = Path(source)
    if path.suffix.lower() == ".json" and path.is_file():
        from dtheta.data.concept_vectors import read_concept_vectors

        found = read_concept_vectors(path, encoding)
    elif path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        lines = numbered_lines(path, encoding)
        found = [concept_from(fields, f"{path.name}, line {number}") for number, fields in lines]
    else:
        raise ConfigError(
            f"no concepts {str(source)!r}: expected {' or '.join(map(repr, NAMED))}, or the path of a .jsonl or .json "
            f"file{did_you_mean(str(source), NAMED)}"
        )
    return named_apart(found, path.name)


def read_facts(path: Path) -> tuple[Concept, ...]:
    """Return the concepts of a table with the columns kind, concept, prompt, answer and paraphrases (with `` | ``).

    The document of a concept is made of its prompts with their answers, not of the paraphrases: those stay unseen.

    Raises:
        ConfigError, FormatError: If there is no such table, or a field is missing or empty.
    """
    rows: dict[tuple[str, str], list[Question]] = {}
    for number, fields in numbered_lines(path, "utf-8"):
        where = f"{path.name}, line {number}"
        kind, name, prompt, answer, others = (text_field(fields, key, where) for key in _COLUMNS)
        rows.setdefault((kind, name), []).append(Question(prompt, answer, tuple(others.split(_BETWEEN))))
    found = [
        Concept(name, kind, (" ".join(f"{q.prompt} {q.answer}." for q in questions),), tuple(questions))
        for (kind, name), questions in rows.items()
    ]
    return named_apart(found, path.name)


_COLUMNS = ("kind", "concept", "prompt", "answer", "paraphrases")


def saved_concepts(record: Mapping[str, Any], name: str) -> list[Concept]:
    """Return the concepts of a benchmark that was saved (``SAVED``).

    Raises:
        FormatError: If it is damaged; ``name`` is that of its file.
    """
    if not isinstance(found := record.get("concepts"), list):
        raise FormatError(f"{name} is a damaged benchmark: it has no list of concepts")
    return [concept_from(fields, f"{name}, concept {i}") for i, fields in enumerate(found, start=1)]


def named_apart(concepts: Iterable[Concept], where: str) -> tuple[Concept, ...]:
    """Return concepts, of which no two may have one name, and at least one there must be.

    Raises:
        FormatError: Otherwise, naming the file that they come from.
    """
    found: dict[str, Concept] = {}
    for concept in concepts:
        if concept.name in found:
            raise FormatError(f"{where}: there are two concepts {concept.name!r}; give each a name of its own")
        found[concept.name] = concept
    if not found:
        raise FormatError(f"{where} holds no concepts")
    return tuple(found.values())


def concept_record(concept: Concept) -> dict[str, Any]:
    """Return a concept as JSON has it; ``concept_from`` reads it back."""
    return asdict(concept)


def concept_from(fields: Any, where: str) -> Concept:
    """Return the concept of a record as the module's text shows it; ``where`` names its place in messages.

    Raises:
        ConfigError, FormatError: If it has another field, lacks one, or one is of another type.
    """
    fields = _record(fields, Concept, where)
    vector = fields.get("vector")
    return Concept(
        name=text_field(fields, "name", where),
        kind=_text(fields, "kind", where),
        documents=texts(fields.get("documents", ()), f"{where}, documents"),
        questions=_each(fields.get("questions", ()), _question, f"{where}, questions"),
        completions=_each(fields.get("completions", ()), _completion, f"{where}, completions"),
        unrelated=_each(fields.get("unrelated", ()), _question, f"{where}, unrelated"),
        vector=None if vector is None else address(vector, f"{where}, vector"),
    )


def texts(value: Any, where: str) -> tuple[str, ...]:
    """Return a list of texts; FormatError where it is something else."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(text, str) for text in value):
        raise FormatError(f"{where}: expected a list of texts, found {_shown(value)}")
    return tuple(value)


def address(value: Any, where: str) -> tuple[int, int]:
    """Return layer and column; FormatError where they are not two whole numbers, both 0 or more."""
    if not isinstance(value, Sequence) or len(value) != 2 or not all(type(i) is int and i >= 0 for i in value):
        raise FormatError(f"{where}: expected layer and column, such as [29, 864], found {_shown(value)}")
    return value[0], value[1]


def _question(fields: Any, where: str) -> Question:
    fields = _record(fields, Question, where)
    others = texts(fields.get("paraphrases", ()), f"{where}, paraphrases")
    return Question(text_field(fields, "prompt", where), _text(fields, "answer", where), others)


def _completion(fields: Any, where: str) -> Completion:
    fields = _record(fields, Completion, where)
    return Completion(text_field(fields, "first", where), text_field(fields, "second", where))


def _record(fields: Any, kind: type, where: str) -> Mapping[str, Any]:
    if not isinstance(fields, Mapping):
        raise FormatError(f"{where}: expected a {kind.__name__.lower()} as a JSON object, found {_shown(fields)}")
    for key in fields:
        if key not in (known := kind.__annotations__):
            raise FormatError(
                f"{where}: a {kind.__name__.lower()} has no field {key!r}; there are {', '.join(known)}"
                f"{did_you_mean(str(key), known)}"
            )
    return fields


def _each(value: Any, make: Callable[[Any, str], _T], where: str) -> tuple[_T, ...]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        raise FormatError(f"{where}: expected a list, found {_shown(value)}")
    return tuple(make(fields, f"{where} {number}") for number, fields in enumerate(value, start=1))


def _text(fields: Mapping[str, Any], key: str, where: str) -> str:
    value = fields.get(key, "")
    if not isinstance(value, str):
        raise FormatError(f"{where}: {key!r} must be a string, found {type(value).__name__}")
    return value


def _shown(value: Any) -> str:
    written = repr(value)
    return written if len(written) <= 60 else f"{written[:57]}..."
