"""``dtheta adapt`` on pictures: an image-text model and a few images of each class.

Compared are the model as it is, which knows the classes by their names alone (zero-shot), logistic regression on its
frozen features (linear probe) and on the raw pixels: what the task gives away without any model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.adapt_output import Job, draw, next_steps, record_of, remembered, save, told, writes
from dtheta.cli.bases import base_path, model_name
from dtheta.cli.columns import require_columns
from dtheta.cli.console import Console
from dtheta.cli.idle import refuse_idle
from dtheta.cli.plan import Plan, size_of
from dtheta.cli.workspace import clear, kept_for_later, workspace
from dtheta.core.paths import expanded
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from dtheta.adapt.few_shot import AdaptedImages, FewShot
    from dtheta.adapt.image_problem import ImageProblem, Judged
    from dtheta.cli.adapt import Options
    from dtheta.core.delta import Delta
    from dtheta.data.images import ImageTask
    from dtheta.data.pixels import Pixels
    from dtheta.models.image_text import ImageTextClassifier

IMAGE_COLUMNS = ("path", "image", "file")
_PREFIX = "model."  # of the model's parameters in the classifier around it


@dataclass(frozen=True)
class _Compared:
    """What needs no training of the model."""

    zero_shot: Judged
    linear_probe: Judged
    pixel_probe: Judged

    @property
    def references(self) -> dict[str, Judged]:
        """What is a row beside the baseline."""
        return {"linear probe": self.linear_probe, "raw pixels": self.pixel_probe}


def run(job: Job, console: Console) -> int:
    """Train, score, save, and report."""
    from dtheta.adapt.few_shot import FewShot

    options = job.options
    recipe = FewShot(
        job.method, options.select, job.steps, job.batch_size, options.lr, augment=options.augment, flip=options.flip,
        validate=options.validate, seed=options.seed,
    )  # fmt: skip
    if options.shots is not None and options.n_train is not None:
        raise ConfigError("--shots and --n-train both say how many pictures to train on; give one of them")
    if options.dry_run:
        _plan(job, recipe).show(console)
        return 0
    pixels = _pixels(job)
    task = _task(options, pixels)
    work = workspace(options.out)
    with kept_for_later(work):
        _adapt(job, recipe, pixels, task, work, console)
    return 0


def _pixels(job: Job) -> Pixels:
    """Return what the model sees, at the size that is wanted."""
    from dtheta.models.pixels import load_pixels

    found = load_pixels(job.model)
    return found if job.options.size is None else replace(found, size=job.options.size)


def _task(options: Options, pixels: Pixels) -> ImageTask:
    """Return the pictures that the options name, those to train on drawn."""
    from dtheta.data.image_tasks import IMAGE_TASKS, load_image_task
    from dtheta.data.own_images import load_images
    from dtheta.data.shots import few_shot

    counts = options.n_train, options.n_test, options.seed
    if options.data in IMAGE_TASKS:
        task = load_image_task(options.data, *counts)
    else:
        task = load_images(options.data, pixels.size, _table(options), options.test, *counts)
    if options.template is not None:
        task = replace(task, template=options.template)
    _require_every_class(task)
    if options.shots is None:
        return task
    return replace(task, train=few_shot(task.train, options.shots, options.seed, task.classes))


def _table(options: Options) -> Any:
    """Return how tables of pictures are read, after a look at their columns."""
    from dtheta.data.corpus import columns
    from dtheta.data.own_images import Table

    paths = [path for path in (expanded(options.data), options.test) if path is not None and path.is_file()]
    if not paths:
        table = f"a table of pictures, and --data {options.data} is none; leave it out"
        refuse_idle(options, ("image", "label"), f"names a column of {table}")
        refuse_idle(options, ("encoding",), f"is that of {table}")
        return None
    there = columns(paths[0], options.encoding)
    image = options.image or next((name for name in IMAGE_COLUMNS if name in there), IMAGE_COLUMNS[0])
    label = options.label or "label"
    for path in paths:
        require_columns(path, columns(path, options.encoding), {"--image": image, "--label": label})
    return Table(image, label, options.encoding)


def _require_every_class(task: ImageTask) -> None:
    """Raise where a class has no picture to train on, as drawing few by --n-train can leave it."""
    counts = task.train.labels.bincount(minlength=len(task.classes)).tolist()
    if 0 in counts:
        raise ConfigError(
            f"{task.name}: the class {task.classes[counts.index(0)]!r} has no picture to train on; raise --n-train, or "
            "draw as many of each class with --shots"
        )


def _classifier(model: nn.Module, job: Job, task: ImageTask, pixels: Pixels) -> ImageTextClassifier:
    """Return the zero-shot classifier of a task on a model.

    Raises:
        ConfigError: If the model takes pictures of one size, and not of this one; and as ``image_text_classifier``.
    """
    from dtheta.models.image_text import image_text_classifier
    from dtheta.models.load import load_tokenizer

    vision: Any = getattr(getattr(model, "config", None), "vision_config", None)
    wanted = getattr(vision, "image_size", None)
    if wanted is not None and pixels.size != wanted:
        raise ConfigError(f"--size {pixels.size}: the image tower of {job.model} takes {wanted} pixels a side only")
    return image_text_classifier(model, load_tokenizer(job.model), task.classes, task.template)


def _adapt(job: Job, recipe: FewShot, pixels: Pixels, task: ImageTask, work: Path, console: Console) -> None:
    from dtheta.adapt.few_shot import adapt_images
    from dtheta.adapt.image_problem import image_problem, linear_probe, pixel_probe, zero_shot
    from dtheta.cli.results import share
    from dtheta.models.load import load_model

    net = _classifier(load_model(job.model), job, task, pixels)
    posed = image_problem(net, pixels, task.train, task.test, task.name)
    console.note(
        f"{task.name}: {len(task.classes)} classes, {len(task.train)} training and {len(task.test)} test images"
    )
    _require(net, recipe, task)
    compared = _Compared(zero_shot(posed), linear_probe(posed), pixel_probe(posed))
    console.note(f"zero-shot: {share(compared.zero_shot.accuracy)}; training ...")
    adapted = adapt_images(
        posed, recipe, model_name=model_name(job.model), checkpoint=work, resume=job.options.resume,
        quiet=not console.animated,
    )  # fmt: skip
    delta = save(of_model(adapted.delta, net), job)
    drawn = _report(job, recipe, task, posed, compared, adapted, delta)
    clear(work)
    _tell(job, delta, adapted, compared, [str(job.options.out), *drawn], console)


def of_model(delta: Delta, net: ImageTextClassifier) -> Delta:
    """Return a classifier's delta as that of its model, whose checkpoint has these names: so that it can be merged.

    A prompt stands beside the model under a name of its own, and is of the classifier, as some of them need its texts.
    """
    from dtheta.core.fingerprint import Fingerprint, fingerprint

    if delta.new:
        return delta
    inner = delta.rename(lambda name: name.removeprefix(_PREFIX))
    base = Fingerprint(inner.base.digests, fingerprint(net.model).root)
    return replace(inner, base=base, provenance=delta.provenance)


def _require(net: nn.Module, recipe: FewShot, task: ImageTask) -> None:
    """Raise what attaching and holding out would raise, before anything is computed."""
    from dtheta.adapt.requirements import require_sites
    from dtheta.data.shots import hold_out

    hold_out(task.train, recipe.validate, recipe.seed)
    require_sites(net, recipe.method, recipe.select)


def _report(
    job: Job, recipe: FewShot, task: ImageTask, posed: ImageProblem, compared: _Compared, adapted: AdaptedImages,
    delta: Delta,
) -> list[str]:  # fmt: skip
    """Draw the page where one is wanted; return what was written."""
    from dtheta.cli.results import image_result, image_results
    from dtheta.report import Reference, TaskResult, picture_sample

    options = job.options
    if options.report is None:
        return []
    result = image_result(adapted, recipe, posed.net.model, delta, options.out.stat().st_size)
    found = TaskResult(
        task.name, len(task.train), len(task.test), compared.zero_shot.accuracy, (result,), len(task.classes),
        options.shots, tuple(Reference(name, judged.accuracy) for name, judged in compared.references.items()),
    )  # fmt: skip
    sample = picture_sample(
        task.name, job.method.name, task.test.images, task.test.labels, compared.zero_shot.logits,
        adapted.judged.logits, task.classes,
    )  # fmt: skip
    results = image_results(
        model_name(job.model), posed.net, [found], [sample], recipe, posed.test.pixels, next_steps(job)
    )
    return draw(results, options.report)


def _tell(
    job: Job, delta: Delta, adapted: AdaptedImages, compared: _Compared, wrote: Sequence[str], console: Console
) -> None:
    from dtheta.cli.results import clearness, difference, share

    references = {name.replace(" ", "_"): dataclasses.asdict(j.accuracy) for name, j in compared.references.items()}
    record = record_of(
        job, delta, adapted, wrote, accuracy=dataclasses.asdict(adapted.judged.accuracy),
        baseline=dataclasses.asdict(compared.zero_shot.accuracy), gain=dataclasses.asdict(adapted.gain), **references,
        kept_step=adapted.record.best.step if adapted.record.best else adapted.record.steps,
    )  # fmt: skip
    found = [
        ("accuracy", f"{share(adapted.judged.accuracy)} on {record['task']['test']} test images"),
        ("zero-shot", f"{share(compared.zero_shot.accuracy)} by the names of the classes alone"),
        ("gain", f"{difference(adapted.gain)}: {clearness(adapted.gain)}"),
        ("probe", f"{share(compared.linear_probe.accuracy)} by logistic regression on the unadapted features"),
        ("pixels", f"{share(compared.pixel_probe.accuracy)} by logistic regression on the raw pixels"),
    ]
    if adapted.record.best:
        found.append(("kept", f"step {record['kept_step']}: the best on {job.options.validate} pictures held out"))
    console.result(record, [told(job, record, found)])


def is_at_hand(task: str) -> bool:
    """Tell whether the package of a packaged image task is in the cache, or comes with an installed library."""
    from dtheta.data.image_tasks import IMAGE_TASKS
    from dtheta.data.sources import SOURCES, is_fetched

    package = IMAGE_TASKS[task].source.split()[0]
    return package not in SOURCES or is_fetched(package)


def _plan(job: Job, recipe: FewShot) -> Plan:
    """Return what would be read and written, after every check that needs no weights; nothing is fetched for it."""
    from dtheta.cli.cost import Cost
    from dtheta.cli.outline import outline
    from dtheta.data.image_tasks import IMAGE_TASKS

    options, cost = job.options, Cost.of_model(job.model)
    notes = ["the time is not estimated for pictures"]
    place = base_path(job.model, fetch=False)
    fetched = options.data not in IMAGE_TASKS or is_at_hand(options.data)
    if place is None:
        notes.append(f"the model {job.model} is not in the cache yet and would be fetched first")
    if not fetched:
        notes.append(f"the task {options.data} is not in the cache yet and would be fetched first")
    if place is not None and fetched:
        pixels = _pixels(job)
        task = _task(options, pixels)
        _require(_classifier(outline(place), job, task, pixels), recipe, task)
    return Plan(
        reads={f"model {job.model}": cost.nbytes, options.data: size_of(expanded(options.data))},
        writes={str(path): None for path in writes(options).values() if path is not None},
        memory=cost.memory(job.batch_size * 64),
        settings={**remembered(job), "lr": recipe.rate},
        notes=notes,
    )
