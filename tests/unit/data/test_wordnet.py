"""WordNet: its files as wndb(5) describes them, what becomes a concept, and the real package."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtheta.data.concepts import Question, load_concepts
from dtheta.data.wordnet import Synset, Word, concepts_of, read_index, read_synsets
from dtheta.errors import FormatError, MissingExtra

DATA = """\
  1 This software and database is being provided to you, the LICENSEE
00000010 05 n 02 dog 0 wild_dog 0 003 @ 00000001 n 0000 ~ 00000020 n 0000 ~i 00000030 n 0000 | a tame animal; "it ran"
00000020 05 n 01 wolf_hound 0 001 @ 00000010 n 0000 | a large dog; hunts  
00000030 18 n 01 Lassie 0 000 | a dog of films
"""
INDEX = """\
  1 This software and database is being provided to you, the LICENSEE
dog n 2 2 @ ~ 2 1 00000010 00000099
wolf_hound n 1 1 @ 1 0 00000020
"""


def test_synsets_are_read(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(DATA)
    assert read_synsets(tmp_path / "data.noun") == {
        "00000010": Synset("animal", ("dog", "wild dog"), "a tame animal", ("00000020",)),
        "00000020": Synset("animal", ("wolf hound",), "a large dog; hunts", ()),
        "00000030": Synset("person", ("Lassie",), "a dog of films", ()),
    }


def test_the_commonest_meaning_of_a_word_is_its_first(tmp_path: Path) -> None:
    (tmp_path / "index.noun").write_text(INDEX)
    assert read_index(tmp_path / "index.noun") == {
        "dog": Word("00000010", True),
        "wolf hound": Word("00000020", False),
    }


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.noun"
    path.write_text("not of WordNet\n")
    for read in (read_synsets, read_index):
        with pytest.raises(FormatError, match="WordNet"):
            read(path)


def small_world(kinds: list[str]) -> tuple[dict[str, Synset], dict[str, Word]]:
    """A dog with these kinds, of which the last is a kind of the one before it."""
    synsets = {"d": Synset("animal", ("dog",), "a tame animal", tuple(f"k{i}" for i in range(len(kinds) - 1)))}
    for i, kind in enumerate(kinds):
        below = (f"k{i + 1}",) if i == len(kinds) - 2 else ()
        synsets[f"k{i}"] = Synset("animal", (kind,), f"the {kind} kind", below)
    return synsets, {synset.name.lower(): Word(offset, True) for offset, synset in synsets.items()}


def test_a_concept_has_ten_kinds_that_can_be_asked_for() -> None:
    kinds = [f"breed{chr(97 + i)}" for i in range(8)] + ["Afghan", "otter"]
    (concept,) = concepts_of(*small_world(kinds))
    assert (concept.name, concept.kind) == ("dog", "animal")
    assert concept.documents[0].splitlines()[:2] == ["dog: a tame animal", "breeda: the breeda kind"]
    assert concept.questions[0] == Question("A breeda is a type of", "dog", ("What is a breeda? It is a kind of",))
    assert [q.prompt for q in concept.questions[-2:]] == ["An Afghan is a type of", "An otter is a type of"]
    assert concepts_of(*small_world(kinds[:-1])) == ()
    assert concepts_of(*small_world([*kinds[:-1], "hot dog"])) == ()


def test_a_word_that_means_something_else_first_is_not_asked_for() -> None:
    synsets, index = small_world([f"breed{chr(97 + i)}" for i in range(10)])
    assert concepts_of(synsets, {**index, "breeda": Word("elsewhere", True)}) == ()
    assert concepts_of(synsets, {**index, "dog": Word("elsewhere", True)}) == ()


def test_words_of_the_corpus_are_asked_for_first() -> None:
    synsets, index = small_world([f"breed{chr(97 + i)}" for i in range(11)])
    (concept,) = concepts_of(synsets, {**index, "breeda": Word("k0", False), "breedc": Word("k2", False)})
    assert [question.prompt.split()[1][-1] for question in concept.questions] == list("bdefghijka")


def test_what_has_too_many_kinds_is_no_concept() -> None:
    synsets, first = small_world([f"breed{i}" for i in range(302)])
    assert concepts_of(synsets, first) == ()
    synsets, first = small_world([f"breed{i}" for i in range(300)])
    assert [concept.name for concept in concepts_of(synsets, first)] == ["dog"]


def test_the_real_wordnet_has_hundreds_of_concepts() -> None:
    try:
        concepts = {concept.name: concept for concept in load_concepts("wordnet")}
    except MissingExtra as error:
        pytest.skip(str(error))
    assert len(concepts) == 588
    assert all(len(concept.questions) == 10 for concept in concepts.values())
    assert concepts["dog"].questions[0] == Question(
        "A puppy is a type of", "dog", ("What is a puppy? It is a kind of",)
    )
    assert "poodle: an intelligent dog" in concepts["dog"].documents[0]
    assert {"dog", "shark", "bread", "ship", "musician", "poison"} <= set(concepts)
