"""Adapt a real model to real tasks by three methods, and write report.html.

MiniLM, a pretrained text encoder of 22.7 million weights, learns BBC topics, Reuters topics and the sentiment of tweets
by LoRA, PiSSA and SORSA at equal rank, on equal batches, for equal steps. Each is compared with the frozen encoder
under logistic regression on the same texts. Then the PiSSA deltas are compressed to signs and scales, and composed into
one encoder for all tasks by learned coefficients. The deltas, the results and one self-contained page land in the
output folder, which appears complete or not at all. Whatever comes out is what the page says.

  dtheta demo
  dtheta demo --fast --out try/
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dtheta.cli.console import Console, Table
from dtheta.cli.cost import Cost
from dtheta.cli.demo_compose import COMPOSED, TEXTS, table
from dtheta.cli.demo_compose import names as packed_names
from dtheta.cli.options import CommonOptions, Flag
from dtheta.cli.plan import Plan
from dtheta.cli.units import byte_size, duration, percent
from dtheta.errors import FormatError, OutputError

if TYPE_CHECKING:
    from torch import nn

    from dtheta.adapt.recipe import Recipe
    from dtheta.adapt.text_problem import Problem
    from dtheta.report import AdaptResults, MethodResult, NextStep, TaskResult

MODEL = "minilm"
METHODS = ("LoRA", "PiSSA", "SORSA")
_RESULTS, _PAGE, _DELTAS = "results.json", "report.html", "deltas"
_LENGTH, _BATCH = 48, 16


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta demo``."""

    out: Annotated[Path, Flag("the folder to write; an earlier demo there is replaced", "DIR")] = Path("dtheta-demo")
    fast: Annotated[bool, Flag("one task, few texts and steps: shows that all works, and measures nothing")] = False
    rank: Annotated[int, Flag("rank of all three methods")] = 16


@dataclass(frozen=True)
class Size:
    """How much is trained and tested."""

    tasks: tuple[str, ...]
    train: int
    test: int
    steps: int
    learning: int  # steps of the composition's coefficients


_TRIAL = "A trial: with so few texts and steps it shows that all works, and measures nothing."

FULL = Size(("bbc", "r8", "sentiment"), train=800, test=600, steps=50, learning=10)
FAST = Size(("bbc",), train=64, test=64, steps=4, learning=2)


def run(options: Options, console: Console) -> int:
    """Run everything and write the folder."""
    size = FAST if options.fast else FULL
    _require_place(options.out)
    if options.dry_run:
        _plan(options, size).show(console)
        return 0
    start = time.perf_counter()
    with _replaced(options.out) as folder:
        results = _all_tasks(folder, size, options, console)
        results.save(folder / _RESULTS)
        _draw(results, folder / _PAGE)
    _tell(results, options.out, time.perf_counter() - start, console)
    return 0


def _all_tasks(folder: Path, size: Size, options: Options, console: Console) -> AdaptResults:
    from dtheta.cli.demo_compose import pack
    from dtheta.cli.results import adapt_results
    from dtheta.models.load import load_model, load_tokenizer
    from dtheta.report import ACCURACY

    (folder / _DELTAS).mkdir()
    model, tokenizer = load_model(MODEL), load_tokenizer(MODEL)
    deltas = folder / _DELTAS
    with console.progress("demo", len(size.tasks) * (1 + len(METHODS)) + 2) as begin:
        found = [_task(name, model, tokenizer, deltas, size, options, console, begin) for name in size.tasks]
        packed = pack(deltas, size.tasks, model, tokenizer, size.learning, options.seed, console, begin)
    results = adapt_results(
        MODEL, model, found, ACCURACY, _recipes(size, options)[0], _next_steps(options.out, size.tasks)
    )
    return replace(results, packed=packed, note=_TRIAL if options.fast else "")


def _task(
    name: str,
    model: nn.Module,
    tokenizer: Any,
    folder: Path,
    size: Size,
    options: Options,
    console: Console,
    begin: Any,
) -> TaskResult:
    """Encode a task once, and train every method on it."""
    from dtheta.adapt.text_problem import frozen_baseline, problem
    from dtheta.cli.results import share
    from dtheta.data.tasks import load_task
    from dtheta.report import TaskResult

    begin(f"{name}: frozen encoder")
    posed = problem(model, tokenizer, load_task(name, size.train, size.test, options.seed), _LENGTH)
    frozen = frozen_baseline(posed)
    console.note(f"{name}: frozen encoder {share(frozen.accuracy)} in {duration(frozen.seconds)}")
    methods = []
    for recipe in _recipes(size, options):
        begin(f"{name}: {recipe.method.name}")
        methods.append(_adapt(posed, recipe, frozen, folder, console))
    return TaskResult(name, len(posed.train), len(posed.test), frozen.accuracy, tuple(methods), len(posed.task.classes))


def _recipes(size: Size, options: Options) -> list[Recipe]:
    from dtheta.adapt.recipe import Recipe
    from dtheta.cli.adapt import build_method

    return [
        Recipe(
            build_method(name, options.rank, None, ()), steps=size.steps, batch_size=_BATCH, max_length=_LENGTH,
            seed=options.seed,
        )
        for name in METHODS
    ]  # fmt: skip


def _adapt(posed: Problem, recipe: Recipe, frozen: Any, folder: Path, console: Console) -> MethodResult:
    from dtheta.adapt.classify import adapt_classifier
    from dtheta.cli.results import difference, method_result, share

    adapted = adapt_classifier(posed, recipe, frozen, model_name=MODEL, quiet=True)
    file = adapted.delta.save(folder / f"{posed.task.name}-{recipe.method.name.lower()}.delta")
    console.note(
        f"{posed.task.name}: {recipe.method.name} {share(adapted.score)}, {difference(adapted.gain)}, "
        f"trained in {duration(adapted.record.seconds)}"
    )
    return method_result(adapted, recipe, posed.net, file.stat().st_size)


def _draw(results: AdaptResults, path: Path) -> None:
    from dtheta.report import adapt_report

    adapt_report(results, path)


def _next_steps(out: Path, tasks: Sequence[str]) -> list[NextStep]:
    from dtheta.report import NextStep

    deltas = [out / _DELTAS / f"{task}-pissa.delta" for task in tasks]
    delta, several = deltas[0], " ".join(map(str, [*deltas, *([out / _DELTAS / COMPOSED] if len(deltas) < 2 else [])]))
    return [
        NextStep("Run an adapted model", f'dtheta apply {delta} --text "Shares fell after the bank cut its forecast"'),
        NextStep("Look into a delta", f"dtheta show {delta}"),
        NextStep("See how alike deltas are", f"dtheta compare {several}"),
        NextStep(
            "Adapt the model to your own texts", "dtheta adapt --data my.csv --text text --label label --out my.delta"
        ),
    ]


def _tell(results: AdaptResults, out: Path, seconds: float, console: Console) -> None:
    from dtheta.cli.results import difference, share

    page = out / _PAGE
    record = {"out": str(out), "report": str(page), "seconds": seconds, **asdict(results)}
    for task in record["tasks"]:  # the page and results.json hold the curves and layers
        for method in task["methods"]:
            for name in ("losses", "layers", "orthogonality"):
                del method[name]
    rows = []
    for task in results.tasks:
        rows.append((task.name, "frozen encoder", share(task.baseline), "", "", ""))
        for m in task.methods:
            loss = sum(v for _, v in m.losses[0][-10:]) / len(m.losses[0][-10:])
            gain = "" if m.gain is None else difference(m.gain)
            rows.append((task.name, m.name, share(m.score), gain, f"{loss:.3f}", byte_size(m.file_bytes)))
    scores = Table(("task", "method", "accuracy [95 %]", "above frozen", "last losses>", "file>"), rows)
    more = [] if results.packed is None else ["", table(results)]
    weights = results.tasks[0].methods[0].parameters
    trained = f"{percent(weights / results.model_parameters)} of {results.model_parameters:,} weights trained"
    lines = [
        "",
        f"report: {page}   ({duration(seconds)} in all; {trained})",
        "try next:",
        *(f"  {step.command}" for step in results.next_steps),
    ]
    console.result(record, [scores, *more, "\n".join(lines)])


def _plan(options: Options, size: Size) -> Plan:
    cost, runs = Cost.of_model(MODEL), len(size.tasks) * len(METHODS)
    tokens = size.steps * _BATCH * _LENGTH * runs
    tokens += size.learning * TEXTS * _LENGTH * len(size.tasks)
    evaluated = (len(size.tasks) * (size.train + 3 * size.test) + runs * size.test) * _LENGTH
    reads: dict[str, int | None] = {f"model {MODEL}": cost.nbytes, **{f"task {name}": None for name in size.tasks}}
    writes: dict[str, int | None] = {str(options.out / _PAGE): 400_000, str(options.out / _RESULTS): 200_000}
    writes |= {str(options.out / _DELTAS / name): None for name in sorted(_names(size.tasks))}
    return Plan(
        reads,
        writes,
        cost.memory(_BATCH * _LENGTH),
        cost.seconds(tokens, evaluated),
        {**options.resolved(), **asdict(size)},
        [] if cost.known else ["the model is not in the cache yet and would be fetched first"],
    )


def _require_place(out: Path) -> None:
    """Raise before anything is computed if the folder could not be written in the end.

    Raises:
        OutputError: If there is something else than an earlier demo, or no permission.
    """
    from dtheta.cli.places import require_output

    place = out.resolve()
    if place == Path.cwd() or place in Path.cwd().parents:
        raise OutputError(f"cannot write the folder {out}: you are in it, and it would be replaced; give another --out")
    if not place.is_dir():
        require_output(place)
        if place.exists():
            raise OutputError(f"cannot write the folder {out}: there is a file of that name")
        return
    if any(place.iterdir()) and not _is_demo(place):
        raise OutputError(
            f"cannot write the folder {out}: it holds something else than an earlier demo; choose another --out"
        )
    require_output(place / _PAGE)


def _is_demo(folder: Path) -> bool:
    """Tell whether a folder holds what this verb writes and nothing besides, so that nothing of anyone is lost."""
    from dtheta.report import AdaptResults

    found = list(folder.iterdir())
    if {p.name for p in found} != {_RESULTS, _PAGE, _DELTAS} or any(p.is_symlink() for p in found):
        return False
    deltas = folder / _DELTAS
    ours = _names((*FULL.tasks, *FAST.tasks))
    if not deltas.is_dir() or not {p.name for p in deltas.iterdir()} <= ours:
        return False
    try:
        AdaptResults.load(folder / _RESULTS)
    except FormatError:
        return False
    return True


def _names(tasks: Sequence[str]) -> set[str]:
    """Return the names of the deltas that a run on these tasks writes."""
    return {*(f"{task}-{method.lower()}.delta" for task in tasks for method in METHODS), *packed_names(tasks)}


@contextlib.contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """Make a folder that takes the place of ``out`` when the block ends, complete or not at all."""
    from dtheta.core.output import write_folder

    out, token = out.resolve(), secrets.token_hex(4)
    fresh, old = (out.with_name(f".{out.name}.{token}.{part}") for part in ("new", "old"))
    try:
        with write_folder(fresh) as folder:
            yield folder
        if out.exists():
            os.replace(out, old)
        os.replace(fresh, out)
    except OSError as error:
        if old.exists() and not out.exists():
            os.replace(old, out)
        raise OutputError(f"cannot write {out}: {error.strerror or error}; what was there is still there") from error
    finally:
        for rest in (fresh, old):
            shutil.rmtree(rest, ignore_errors=True)
