"""Rehearsal: what ``dtheta adapt --dry-run`` says, after every check that the real run would make.

The model is looked at without its weights (outline.py). The time is that of the texts as they are: a sample of them is
tokenized, and a batch is as long as the longest text in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.bases import base_path
from dtheta.cli.cost import Cost
from dtheta.cli.plan import Plan

if TYPE_CHECKING:
    from dtheta.adapt.recipe import Recipe
    from dtheta.data.corpus import Corpus
    from dtheta.data.text import TextTask

_SAMPLE = 256  # texts that are tokenized


@dataclass(frozen=True)
class Lengths:
    """Tokens of a text, on average: as it is, and padded to the longest of its batch."""

    alone: float
    padded: float


def lengths(texts: Sequence[str], tokenizer: Any, recipe: Recipe) -> Lengths:
    """Return the lengths of a sample of the texts, cut as the recipe says."""
    every = max(1, len(texts) // _SAMPLE)
    sample = list(texts[::every])[:_SAMPLE]
    ids = tokenizer(sample, truncation=True, max_length=recipe.max_length)["input_ids"]
    counts = [len(row) for row in ids]
    size = min(recipe.batch_size, len(counts))
    longest = [max(counts[i : i + size]) for i in range(0, len(counts) - size + 1, size)]
    return Lengths(sum(counts) / len(counts), sum(longest) / len(longest))


def rehearse(
    source: TextTask | Corpus | None,
    model: str,
    recipe: Recipe,
    pooling: Any,
    reads: dict[str, int | None],
    writes: Sequence[Path],
    settings: dict[str, Any],
) -> Plan:
    """Return the plan of an adaptation.

    Args:
        source: The texts, with or without classes; None where they would be fetched first.
        model: Name or folder of the model.
        recipe: How to train.
        pooling: How a text's vector is pooled, or None.
        reads: Sizes of the data, by name.
        writes: Files that are written.
        settings: The resolved options.

    Raises:
        ConfigError, UnknownParameter, UnsupportedLayer, FormatError: As the run itself.
    """
    cost, notes = Cost.of_model(model), []
    if source is None:
        notes.append("the data is not in the cache yet and would be fetched first")
    found = Lengths(recipe.max_length, recipe.max_length)
    if not cost.known:
        notes.append(f"the model {model} is not in the cache yet and would be fetched first")
    elif source is not None:
        found = _checked(source, model, recipe, pooling)
    trained = recipe.steps * recipe.batch_size * found.padded
    return Plan(
        reads={f"model {model}": cost.nbytes, **reads},
        writes={str(path): None for path in writes},
        memory=cost.memory(recipe.batch_size * recipe.max_length),
        seconds=cost.seconds(trained=round(trained), run=round(_evaluated(source) * found.alone)),
        settings=settings,
        notes=notes,
    )


def _evaluated(source: TextTask | Corpus | None) -> int:
    """Return how many texts are run forward alone: all once for a baseline by features, and test texts twice."""
    from dtheta.data.text import TextTask

    if source is None:
        return 0
    return 2 * len(source.test) + (len(source.train) if isinstance(source, TextTask) else 0)


def _checked(source: TextTask | Corpus, model: str, recipe: Recipe, pooling: Any) -> Lengths:
    from dtheta.adapt.classify import require_classifier
    from dtheta.adapt.language import TokenTexts, require_language
    from dtheta.cli.outline import outline
    from dtheta.data.batches import EncodedTexts
    from dtheta.data.text import Texts, TextTask
    from dtheta.models.classifier import classifier
    from dtheta.models.load import load_tokenizer

    place = base_path(model, fetch=False)
    assert place is not None, "the cost of the model is known"
    net, tokenizer = outline(place), load_tokenizer(place)
    if isinstance(source, TextTask):
        require_classifier(classifier(net, source.classes, pooling), source, recipe)
        EncodedTexts(Texts(source.train.texts[:1], source.train.labels[:1]), tokenizer, recipe.max_length)
        return lengths(source.train.texts, tokenizer, recipe)
    require_language(net, recipe)
    TokenTexts((*source.train, *source.test), tokenizer, recipe.max_length)
    return lengths(source.train, tokenizer, recipe)
