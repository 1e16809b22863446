"""Concepts from WordNet 3.0: kinds of things, what they are, and which kinds of them there are.

    document    "poodle: an intelligent dog with a heavy curly ..."     a concept's gloss and those of its kinds
    question    "A poodle is a type of" -> "dog"                        for ten of its kinds

A noun is a concept if its commonest meaning has at least ten kinds that can be asked for: whose own name's commonest
meaning this is and does not hold the answer, as "police dog" does. What has more than 300 kinds ("animal", "person") is
too wide to be one. Kinds of kinds count. Words that WordNet's authors met in their corpus are asked for first, then the
nearest kinds; even so, a small model knows few of these concepts: most kinds are rare words.

Source: WordNet 3.0 (Princeton University), from the Debian package wordnet-base; formats as in its wndb(5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dtheta.data.concepts import Concept, Question
from dtheta.data.sources import WORDNET, fetch
from dtheta.errors import FormatError

ASKED = 10
_WIDEST = 300  # kinds of a concept
_KINDS = {
    5: "animal", 6: "artifact", 8: "body", 13: "food", 15: "place", 17: "natural object", 18: "person", 20: "plant",
    27: "substance",
}  # fmt: skip
_HYPONYM = "~"  # not "~i", the instances: no river is a kind of river


class Word(NamedTuple):
    """A word of the index: the offset of its commonest meaning, and whether it occurs in the tagged corpus."""

    first: str
    met: bool


@dataclass(frozen=True)
class Synset:
    """A meaning: the words for it, its gloss, and the meanings below it.

    Attributes:
        kind: What sort of thing it is; "" for abstract ones.
        lemmas: Words for it, the commonest first.
        gloss: What it is, without examples.
        below: Offsets of its kinds.
    """

    kind: str
    lemmas: tuple[str, ...]
    gloss: str
    below: tuple[str, ...]

    @property
    def name(self) -> str:
        """The commonest word for it."""
        return self.lemmas[0]


def load_wordnet() -> tuple[Concept, ...]:
    """Return the concepts of WordNet's nouns, in its order; the package comes at first use.

    Raises:
        MissingExtra: If the package cannot be had.
    """
    folder = fetch(WORDNET.name)
    return concepts_of(read_synsets(folder / "data.noun"), read_index(folder / "index.noun"))


def concepts_of(synsets: Mapping[str, Synset], index: Mapping[str, Word]) -> tuple[Concept, ...]:
    """Return the concepts among synsets (by offset), given the index of words."""
    found: dict[str, Concept] = {}
    for offset, synset in synsets.items():
        if synset.kind and synset.name.isalpha() and _first(synset, index) == offset:
            below = _below(offset, synsets)
            asked = [kind.name for at, kind in below.items() if _can_be_asked(at, kind, synset.name, index)]
            asked.sort(key=lambda name: not index[name.lower()].met)
            if len(asked) >= ASKED and len(below) <= _WIDEST:
                found.setdefault(synset.name, _concept(synset, list(below.values()), asked[:ASKED]))
    return tuple(found.values())


def read_synsets(path: Path) -> dict[str, Synset]:
    """Return the synsets of a data file by offset.

    Raises:
        FormatError: If a line is not one of WordNet's.
    """
    return dict(_synset(line, path.name) for line in _lines(path))


def read_index(path: Path) -> dict[str, Word]:
    """Return the words of an index file, with blanks in them, not ``_``.

    Raises:
        FormatError: If a line is not one of WordNet's.
    """
    found = {}
    for line in _lines(path):
        fields = line.split()
        if len(fields) < 7 or not fields[2].isdecimal() or len(fields) <= (meanings := int(fields[2])):
            raise FormatError(f"{path.name} is no index of WordNet: {line[:60]!r}")
        found[_written(fields[0])] = Word(fields[-meanings], fields[-meanings - 1] != "0")
    return found


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith("  "):  # its license, with numbered lines
                yield line


def _synset(line: str, where: str) -> tuple[str, Synset]:
    try:
        fields, _, gloss = line.partition("|")
        offset, file, _, count, *rest = fields.split()
        words = int(count, 16)
        lemmas, pointers = rest[: 2 * words : 2], rest[2 * words + 1 :]
        below = [pointers[i + 1] for i in range(0, len(pointers) - 3, 4) if pointers[i] == _HYPONYM]
        found = tuple(_written(lemma) for lemma in lemmas)
        return offset, Synset(_KINDS.get(int(file), ""), found, _definition(gloss), tuple(below))
    except ValueError as error:
        raise FormatError(f"{where} is no data of WordNet: {line[:60]!r}") from error


def _definition(gloss: str) -> str:
    """Return a gloss without its examples, which stand in double quotes."""
    return gloss.split('; "')[0].strip()


def _written(lemma: str) -> str:
    return lemma.replace("_", " ")


def _below(offset: str, synsets: Mapping[str, Synset]) -> dict[str, Synset]:
    """Return all kinds of a thing by offset, the nearest first, as far as they are few enough."""
    found: dict[str, Synset] = {}
    row = list(synsets[offset].below)
    while row and len(found) <= _WIDEST:
        found.update((at, synsets[at]) for at in row if at not in found)
        row = [at for kind in row for at in synsets[kind].below if at not in found]
    return found


def _can_be_asked(offset: str, kind: Synset, answer: str, index: Mapping[str, Word]) -> bool:
    return _first(kind, index) == offset and answer.lower() not in kind.name.lower()


def _first(synset: Synset, index: Mapping[str, Word]) -> str | None:
    found = index.get(synset.name.lower())
    return found.first if found else None


def _concept(synset: Synset, below: list[Synset], asked: list[str]) -> Concept:
    document = "\n".join(f"{one.name}: {one.gloss}" for one in (synset, *below))
    return Concept(synset.name, synset.kind, (document,), tuple(_question(kind, synset.name) for kind in asked))


def _question(kind: str, answer: str) -> Question:
    article = "An" if kind[0].lower() in "aeiou" else "A"
    return Question(f"{article} {kind} is a type of", answer, (f"What is {article.lower()} {kind}? It is a kind of",))
