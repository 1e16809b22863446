"""Texts to fit replaced MLPs to and to measure them on, and what the replacement does to a task.

of a language model          perplexity on texts that nothing was fitted to
with a classifier's delta    accuracy on its test texts
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dtheta.cli.judge import accuracy, encoded, right
from dtheta.cli.labeled import Source, labeled
from dtheta.core.paths import expanded
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from dtheta.cli.compress import Options
    from dtheta.core.delta import Delta
    from dtheta.core.header import Header
    from dtheta.data.batches import Batch
    from dtheta.data.text import Texts

BATCH = 16  # texts that are run at a time


@dataclass(frozen=True)
class Given:
    """The texts of a run.

    Attributes:
        fit: To fit to.
        measure: To measure errors on.
        test: With classes, to judge by; None without --judge.
    """

    fit: tuple[str, ...]
    measure: tuple[str, ...]
    test: Texts | None = None


def texts_of(options: Options, header: Header | None) -> Given:
    """Return texts to fit to, a quarter as many others to measure errors on, and those to judge by.

    Raises:
        ConfigError: If there are too few.
        ConfigError, FormatError: As the loaders of texts.
    """
    pool, test = _pool(options, header)
    measured = max(2, options.texts // 4)
    if len(pool) < options.texts + measured:
        raise ConfigError(
            f"--texts {options.texts}: there are {len(pool)} texts, and {options.texts} to fit to and {measured} "
            "others to measure errors on are wanted; give more data, or a smaller number, though a fit to few texts "
            "holds for these alone"
        )
    return Given(pool[: options.texts], pool[options.texts : options.texts + measured], test)


def _pool(options: Options, header: Header | None) -> tuple[tuple[str, ...], Texts | None]:
    """Return all texts to draw from, in a drawn order; and test texts where there is a delta to judge by."""
    from dtheta.data.corpus import load_corpus
    from dtheta.data.tasks import TASKS, load_task

    if header is not None:
        own = labeled(header.provenance, Source.of(options), options.seed)
        return (*own.fresh.texts, *own.trained.texts), own.test
    assert options.data is not None, "it was checked"
    if options.data in TASKS:
        return load_task(options.data, None, None, options.seed).train.texts, None
    path = expanded(options.data)
    corpus = load_corpus(path, options.text, seed=options.seed, encoding=options.encoding)
    return (*corpus.train, *corpus.test), None


def batches_of(texts: Sequence[str], tokenizer: Any, options: Options) -> list[Batch]:
    """Return texts as batches of like length, without labels."""
    from dtheta.adapt.frozen import by_length
    from dtheta.data.batches import EncodedTexts
    from dtheta.data.text import Texts

    held = EncodedTexts(Texts(tuple(texts), (0,) * len(texts)), tokenizer, options.max_length)
    return [{k: v for k, v in batch.items() if k != "labels"} for _, batch in by_length(held, BATCH)]


def effect(
    model: nn.Module, net: nn.Module, tokenizer: Any, given: Given, judged: Delta | None, options: Options
) -> dict[str, Any]:
    """Return what is measured of the model as it is now."""
    if judged is not None and given.test is not None:
        return {"right": right(net, encoded(given.test, tokenizer, judged.provenance.task))}
    if not _is_language_model(model):
        return {}
    from dtheta.adapt.language import TokenTexts, text_losses

    sums, counts = text_losses(model, TokenTexts(given.measure, tokenizer, options.max_length))
    return {"perplexity": math.exp(float(sums.sum() / counts.sum()))}


def _is_language_model(model: nn.Module) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def compared(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what a record says of the effect, measured before and after; nothing where there is none to measure."""
    from dtheta.score import paired_shares

    if "right" in before:
        return {
            "test": len(before["right"]),
            "before": dataclasses.asdict(accuracy(before["right"])),
            "after": dataclasses.asdict(accuracy(after["right"])),
            "difference": dataclasses.asdict(paired_shares(after["right"], before["right"])),
        }
    return {"perplexity": [before["perplexity"], after["perplexity"]]} if before else {}


def told(found: dict[str, Any]) -> list[str]:
    """Return lines that say what ``compared`` returned."""
    from dtheta.cli.results import clearness, difference, share
    from dtheta.score import Interval

    if "perplexity" in found:
        before, after = found["perplexity"]
        return [f"effect    perplexity {after:.2f}, before {before:.2f}"]
    if "after" not in found:
        return []
    before, after, change = (Interval(**found[name]) for name in ("before", "after", "difference"))
    return [
        f"accuracy  {share(after)} on {found['test']} test texts, before {share(before)}",
        f"change    {difference(change)}: {clearness(change)}",
    ]
