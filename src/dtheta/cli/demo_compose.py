"""The demo's second part: the deltas of one method compressed, and composed into one encoder for all tasks.

    compressed_t = signs and a scale of delta_t                      ComPEFT; the head stays as it is
    composed     = sum_t c_t^(j) encoder part of compressed_t        aTLAS; one coefficient a delta and tensor

The coefficients are learned on texts that trained none of the deltas, in few steps; nothing is tuned on test texts, and
what comes out is what the page says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.console import Console, Table
from dtheta.cli.units import byte_size

if TYPE_CHECKING:
    from torch import nn

    from dtheta.cli.multitask import Expert
    from dtheta.core.delta import Delta
    from dtheta.report import AdaptResults, Packed, PackedTask

METHOD = "PiSSA"
COMPOSED = "composed.delta"
TEXTS = 8  # of each task a step
_DENSITY, _RATE = 0.2, 0.1  # chosen on texts that are neither trained nor tested on


def names(tasks: Sequence[str]) -> list[str]:
    """Return the names of the files that are written beside the deltas."""
    return [*(_small(task) for task in tasks), COMPOSED]


def _small(task: str) -> str:
    return f"{task}-{METHOD.lower()}-compressed.delta"


def pack(
    folder: Path, tasks: Sequence[str], model: nn.Module, tokenizer: Any, steps: int, seed: int, console: Console,
    begin: Callable[[str], None],
) -> Packed:  # fmt: skip
    """Compress every task's delta in a folder, compose them, write both there, and score both on the test texts.

    Args:
        folder: Holds the deltas; is written to.
        tasks: Packaged tasks, whose deltas name the split of their texts.
        model: The encoder.
        tokenizer: Its tokenizer.
        steps: Of learning the coefficients.
        seed: Key of the order of the texts.
        console: For notes.
        begin: Told what comes next.
    """
    from dtheta.cli.multitask import Descent, learned
    from dtheta.compose.compose import compose
    from dtheta.report import Packed

    begin("compressed deltas")
    experts = [_expert(folder, task, model, steps) for task in tasks]
    small = [_compressed(expert, folder) for expert in experts]
    parts = [delta.restrict("encoder.*") for delta in small]
    begin("composed encoder")
    coefficients = learned(experts, parts, tokenizer, Descent(1, _RATE, TEXTS, seed=seed))
    composed = compose(parts, coefficients)
    file = composed.save(folder / COMPOSED)
    rows = tuple(
        _scored(expert, part, composed, folder, tokenizer, console) for expert, part in zip(experts, parts, strict=True)
    )
    texts = sum(len(expert.learn) for expert in experts)
    settings = {
        "compressed": f"density {_DENSITY:g} of the balanced factors, one scale a delta (ComPEFT); heads as they are",
        "composed": f"{coefficients.values.numel()} coefficients, one a delta and tensor (aTLAS)",
        "learned on": f"{texts} texts that trained none of the deltas, {steps} steps at {_RATE:g}",
    }
    return Packed(rows, file.stat().st_size, settings)


def _expert(folder: Path, task: str, model: nn.Module, steps: int) -> Expert:
    from dtheta.cli.labeled import Source, labeled
    from dtheta.cli.multitask import Expert, own_head
    from dtheta.core.files import load

    delta = load(folder / f"{task}-{METHOD.lower()}.delta")
    texts = labeled(delta.provenance, Source(), 0)
    learn, none = texts.to_learn(steps * TEXTS, 0)
    return Expert(task, own_head(delta, model), delta, learn, none, texts.test)


def _compressed(expert: Expert, folder: Path) -> Delta:
    from dtheta.compress.compeft import compress

    small = compress(expert.delta, _DENSITY, of="balanced", keep="head.*")
    small.save(folder / _small(expert.name))
    return small


def _scored(expert: Expert, part: Delta, composed: Delta, folder: Path, tokenizer: Any, console: Console) -> PackedTask:
    from dtheta.cli.judge import accuracy, encoded, right
    from dtheta.cli.results import share
    from dtheta.report import PackedTask

    texts = encoded(expert.test, tokenizer, expert.delta.provenance.task)
    small, one = (accuracy(right(expert.net, texts, delta)) for delta in (part, composed))
    nbytes = (folder / _small(expert.name)).stat().st_size
    ratio = (folder / f"{expert.name}-{METHOD.lower()}.delta").stat().st_size / nbytes
    console.note(f"{expert.name}: {METHOD} compressed {ratio:.0f}x {share(small)}, composed encoder {share(one)}")
    return PackedTask(expert.name, METHOD, ratio, nbytes, small, one)


def table(results: AdaptResults) -> Table:
    """Return what compressing and composing left, for the terminal."""
    from dtheta.cli.results import share

    assert results.packed is not None, "the demo compresses and composes"
    rows = [
        (
            row.task,
            share(next(task.baseline for task in results.tasks if task.name == row.task)),
            share(results.method(row.task, row.method).score),
            share(row.compressed),
            f"{row.ratio:.0f}x, {byte_size(row.file_bytes)}",
            share(row.composed),
        )
        for row in results.packed.tasks
    ]
    size = byte_size(results.packed.file_bytes)
    title = f"{METHOD} compressed, and one encoder composed for all tasks ({size}), each with its own head"
    headings = ("task", "frozen encoder", f"own {METHOD}", "compressed", "smaller", "composed")
    return Table(headings, rows, title)
