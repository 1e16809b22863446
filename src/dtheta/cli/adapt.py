"""Train a delta on your own texts or pictures, or on a packaged task.

With a column of classes a text classifier is trained: encoder, pooling and a head. Its accuracy on test texts that
nothing else has seen is compared with that of the frozen encoder under logistic regression. Without a column of classes
and with a decoder, the model's own next-token loss is trained instead.

Pictures are a folder that holds a folder for each class, or a table of paths and classes. A model with an image and a
text tower is adapted to them; it is compared with the same model untrained, which knows the classes by their names
alone, and with logistic regression on its features and on the raw pixels.

An interrupted run leaves a folder beside the output, from which --resume goes on, bit for bit.

  dtheta adapt --data reviews.csv --text body --label stars --method PiSSA --out reviews.delta --report reviews.html
  dtheta adapt --data bbc --n-train 500 --n-test 400 --method SORSA --set gamma=1e-4
  dtheta adapt --model smollm2 --data notes.jsonl --steps 20 --out notes.delta
  dtheta adapt --model dual --data pictures/ --method CLIPSVD --shots 4 --out pictures.delta --report pictures.html
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_type_hints

from dtheta.cli.adapt_images import IMAGE_COLUMNS
from dtheta.cli.adapt_output import Job, writes
from dtheta.cli.bases import base_path, has_image_tower, local_place
from dtheta.cli.console import Console
from dtheta.cli.idle import refuse_idle
from dtheta.cli.labeled import FILE_OPTIONS, refuse_of_files
from dtheta.cli.options import CommonOptions, Flag
from dtheta.cli.places import require_outputs
from dtheta.cli.workspace import require_workspace, workspace
from dtheta.cli.written import plain_value
from dtheta.core.paths import expanded
from dtheta.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from dtheta.adapt.method import Method

_OF_TEXTS = ("text", "max_length", "pooling", "head_lr")
_OF_IMAGES = ("image", "shots", "template", "augment", "flip", "size")
_STEPS, _BATCH = {False: 100, True: 60}, {False: 16, True: 32}  # of texts, and of pictures


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta adapt``."""

    data: Annotated[
        str, Flag("a .csv, .tsv or .jsonl file, a folder of pictures, or the name of a packaged task", "FILE|DIR|TASK")
    ]
    model: Annotated[
        str | None,
        Flag(
            "a name of 'dtheta models', or a local Hugging Face folder (default: minilm; dual for pictures)", "NAME|DIR"
        ),
    ] = None
    text: Annotated[str, Flag("column of the texts", "COLUMN")] = "text"
    label: Annotated[
        str | None,
        Flag("column of the classes ('label' if there is one); without it a language model is trained", "COLUMN"),
    ] = None
    image: Annotated[
        str | None, Flag("column of the paths of pictures ('path', 'image' or 'file' if there is one)", "COLUMN")
    ] = None
    test: Annotated[
        Path | None, Flag("a second file, or folder, to test on; else a fifth of the data is held out", "FILE|DIR")
    ] = None
    encoding: Annotated[str, Flag("encoding of the files: utf-8, latin-1, utf-16, ...", "NAME")] = "utf-8"
    n_train: Annotated[int | None, Flag("how many texts or pictures to train on; all without it")] = None
    n_test: Annotated[int | None, Flag("how many to test on")] = None
    shots: Annotated[int | None, Flag("pictures of each class to train on; all without it")] = None
    method: Annotated[str, Flag("a name of 'dtheta methods'", "NAME")] = "PiSSA"
    rank: Annotated[int | None, Flag("rank of the method (16 unless it says otherwise)")] = None
    alpha: Annotated[float | None, Flag("scaling of the method")] = None
    set: Annotated[
        tuple[str, ...], Flag("any other field of the method; may be given several times", "FIELD=VALUE")
    ] = ()
    select: Annotated[
        str | None, Flag("which parameters: '*.query|*.value', '@mlp#3-5', ... (default: the method's)", "GLOB")
    ] = None
    steps: Annotated[int | None, Flag("optimizer steps (default: 100; 60 on pictures)")] = None
    batch_size: Annotated[int | None, Flag("texts or pictures a step (default: 16; 32 pictures)")] = None
    lr: Annotated[float | None, Flag("highest learning rate of the method's terms (default: by method)")] = None
    head_lr: Annotated[float, Flag("highest learning rate of the classifier's head")] = 1e-3
    max_length: Annotated[int, Flag("tokens kept of a text")] = 64
    pooling: Annotated[
        Literal["mean", "last"] | None, Flag("how a text's vector is pooled (default: by architecture)")
    ] = None
    template: Annotated[
        str | None, Flag("prompt of a class, {} stands for its name (default: 'a photo of a {}.')", "TEXT")
    ] = None
    augment: Annotated[bool, Flag("train on random cuts of the pictures")] = False
    flip: Annotated[bool, Flag("mirror half of the random cuts; --no-flip where left and right differ")] = True
    size: Annotated[int | None, Flag("pixels a side that the model sees (default: as it was trained)")] = None
    validate: Annotated[int, Flag("training examples to hold out; the best of ten evaluations on them is kept")] = 0
    out: Annotated[Path, Flag("the file to write", "FILE")] = Path("adapted.delta")
    report: Annotated[
        Path | None, Flag("write a page with curves and figures, and its data as .json beside it", "FILE")
    ] = None
    resume: Annotated[bool, Flag("go on with the interrupted run beside the output")] = False


def run(options: Options, console: Console) -> int:
    """Train, score, save, and report."""
    from dtheta.cli import adapt_images, adapt_texts

    method = build_method(options.method, options.rank, options.alpha, options.set)
    _require_data(options)
    pictures = holds_pictures(options)
    model = options.model or ("dual" if pictures else "minilm")
    _require_meant(options, pictures)
    _require_places(options)
    require_workspace(workspace(options.out), options.resume)
    _require_model(model, pictures, options)
    steps = _STEPS[pictures] if options.steps is None else options.steps
    batch = _BATCH[pictures] if options.batch_size is None else options.batch_size
    given = "--image FILE" if pictures else '--text "..."'
    job = Job(replace(options, steps=steps, batch_size=batch), method, model, steps, batch, given)
    return (adapt_images if pictures else adapt_texts).run(job, console)


def _require_data(options: Options) -> None:
    """Raise unless the data are there: what they hold cannot be told before.

    Raises:
        ConfigError: Naming the packaged tasks, or the file.
    """
    from dtheta.data.corpus import columns
    from dtheta.data.image_tasks import IMAGE_TASKS
    from dtheta.data.tasks import TASKS

    data, path = options.data, expanded(options.data)
    if data in TASKS or data in IMAGE_TASKS or path.exists():
        return
    if path.suffix:
        columns(path, options.encoding)  # says what is wrong with it
    raise ConfigError(
        f"there is no task {data!r} and no such file; packaged tasks: {', '.join(TASKS)}; of images: "
        f"{', '.join(IMAGE_TASKS)}{did_you_mean(data, [*TASKS, *IMAGE_TASKS])}"
    )


def holds_pictures(options: Options) -> bool:
    """Tell whether the data are pictures: by the name of the task, a folder, or the columns of a table."""
    from dtheta.data.corpus import columns
    from dtheta.data.image_tasks import IMAGE_TASKS
    from dtheta.data.tasks import TASKS

    path = expanded(options.data)
    if options.data in IMAGE_TASKS or options.data in TASKS:
        return options.data in IMAGE_TASKS
    if path.is_dir() or options.image is not None:
        return True
    if not path.is_file():  # what is wrong with it is said where it is read
        return False
    there = columns(path, options.encoding)
    return options.text not in there and any(column in there for column in IMAGE_COLUMNS)


def _require_meant(options: Options, pictures: bool) -> None:
    """Raise for an option of the other kind of data, or of files where there are none: it would do nothing.

    Raises:
        ConfigError: Naming it.
    """
    from dtheta.data.image_tasks import IMAGE_TASKS
    from dtheta.data.tasks import TASKS

    of_others, kind = (_OF_TEXTS, "texts") if pictures else (_OF_IMAGES, "pictures")
    refuse_idle(options, of_others, f"is for {kind}, and {_held(options, pictures)}; leave it out")
    if pictures and not options.augment:
        refuse_idle(options, ("flip",), "is of random cuts, which --augment makes; add that, or leave it out")
    if (data := options.data) in TASKS or data in IMAGE_TASKS:
        refuse_of_files(options, data, ("image", *FILE_OPTIONS))


def _held(options: Options, pictures: bool) -> str:
    """Return what the data are, in words."""
    if expanded(options.data).is_dir():
        return f"--data {options.data} is a folder, which is how pictures are given"
    return f"--data {options.data} holds {'pictures' if pictures else 'texts'}"


def _require_model(name: str, pictures: bool, options: Options) -> None:
    """Raise for a model of the other kind, as far as its configuration tells.

    Raises:
        ConfigError: Naming models that fit.
    """
    place = local_place(name) or base_path(name, fetch=False)
    both = None if place is None else has_image_tower(place)
    if pictures and both is False:
        raise ConfigError(
            f"--model {name} reads texts alone, and {_held(options, pictures)}; give a model with an image and a text "
            "tower: dual, or a local folder with a CLIP model"
        )
    if both and not pictures:
        raise ConfigError(
            f"--model {name} has an image and a text tower, and {_held(options, pictures)}; give a text model, such as "
            "minilm or smollm2, or pictures: a folder for each class, or a table with a column of paths (--image)"
        )


def _require_places(options: Options) -> None:
    """Raise if an output has no place, or is an input or another output."""
    from dtheta.data.image_tasks import IMAGE_TASKS
    from dtheta.data.tasks import TASKS

    reads = {"--test": options.test, "--config": options.config, "--model": local_place(options.model)}
    if options.data not in TASKS and options.data not in IMAGE_TASKS:
        reads["--data"] = expanded(options.data)
    require_outputs(writes(options), reads)


def build_method(name: str, rank: int | None, alpha: float | None, fields: tuple[str, ...]) -> Method:
    """Return the method that the options describe.

    Raises:
        ConfigError: For an unknown method or field, or a value that cannot be meant.
    """
    from dtheta.adapt.registry import method_class

    kind = method_class(name)
    hints = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    given = {n: str(v) for n, v in (("rank", rank), ("alpha", alpha)) if v is not None}
    for text in fields:
        field, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set must be FIELD=VALUE, found {text!r}")
        if (field := field.strip()) in given:
            twice = f"{given[field]!r} and {value.strip()!r}"
            raise ConfigError(f"{field} is given twice, {twice}, and takes one value; keep one")
        given[field] = value.strip()
    for field in given:
        if field not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"{kind.__name__} has no field {field!r} ({has}){did_you_mean(field, known)}")
    return kind(**{n: plain_value(v, hints[n], f"{kind.__name__}'s {n}") for n, v in given.items()})
