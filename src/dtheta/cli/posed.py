"""Posed: labeled texts under a model with a head, as ``dtheta scout`` and ``dtheta kernel`` look at them.

A dry run poses them to the model's outline (outline.py), so that it refuses what the run would: no weight is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dtheta.cli.bases import base_path
from dtheta.cli.labeled import loaded, require_labeled, require_read

if TYPE_CHECKING:
    from torch import nn

    from dtheta.adapt.text_problem import Problem
    from dtheta.cli.console import Console
    from dtheta.cli.labeled import Source
    from dtheta.data.text import TextTask


def require_meant(options: Any, source: Source) -> None:
    """Raise what names and numbers tell: of the texts, examples, directions to differentiate and tokens.

    Raises:
        ConfigError: If there is no such task or file, or no such columns; for a number that is too small.
        FormatError: If the file is damaged.
    """
    from dtheta.core.arguments import whole
    from dtheta.scout.examples import LEAST

    require_labeled(source)
    require_read(options, [source])
    whole(options.examples, "examples", least=LEAST)
    whole(options.outputs, "outputs", least=1)
    whole(options.max_length, "max_length", least=1)


def task_of(source: Source, seed: int) -> TextTask:
    """Return the task that ``source.data`` names, or the texts of its file, that ``require_meant`` has let pass.

    Raises:
        FormatError: If the file is damaged.
    """
    data, path = str(source.data), source.path
    return loaded(source, data if path is None else path.stem, None, seed)


def posed(options: Any, task: TextTask, console: Console) -> Problem:
    """Return a task with a model under a head, as the options ``model``, ``max_length`` and ``pooling`` say.

    How many of its texts the option ``examples`` takes is told on the console.
    """
    from dtheta.models.load import load_model

    found = _posed(load_model(options.model), options, task)
    looked = min(options.examples, len(found.train))
    console.note(f"{task.name}: {len(task.classes)} classes; looking at {looked} of {len(found.train)} training texts")
    return found


def rehearsed(options: Any, source: Source) -> tuple[Problem | None, list[str]]:
    """Return the task with the model's outline under a head, for a dry run, and notes of what is not at hand.

    Returns:
        The problem, whose network is on the meta device; None where texts or model would be fetched first.

    Raises:
        ConfigError, FormatError: As the run, of lengths, classes and the number of texts.
    """
    from dtheta.cli.outline import outline
    from dtheta.scout.examples import examples_of

    place, absent = base_path(options.model, fetch=False), []
    if place is None:
        absent.append(f"the model {options.model} is not in the cache yet and would be fetched first")
    if not source.fetched():
        absent.append("the data is not in the cache yet and would be fetched first")
    if place is None or absent:
        return None, absent
    task = task_of(source, options.seed)
    found = _posed(outline(place), options, task)
    examples_of(found.train, options.examples, len(task.classes), options.seed)
    return found, []


def _posed(net: nn.Module, options: Any, task: TextTask) -> Problem:
    from dtheta.adapt.text_problem import problem
    from dtheta.models.load import load_tokenizer

    return problem(net, load_tokenizer(options.model), task, options.max_length, options.pooling)
