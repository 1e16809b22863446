"""Results: what runs found, as the records that reports are drawn from."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dtheta.cli.units import percent
from dtheta.report import (
    ACCURACY,
    IMAGE_ACCURACY,
    AdaptResults,
    LayerChange,
    Measure,
    MethodResult,
    NextStep,
    PictureSample,
    TaskResult,
)

if TYPE_CHECKING:
    from torch import nn

    from dtheta.adapt.classify import Adapted
    from dtheta.adapt.few_shot import AdaptedImages, FewShot
    from dtheta.adapt.language import AdaptedLanguage
    from dtheta.adapt.recipe import Recipe
    from dtheta.core.delta import Delta
    from dtheta.data.pixels import Pixels
    from dtheta.models.image_text import ImageTextClassifier
    from dtheta.score import Interval

_LEADING = 16  # singular triplets that are compared


def method_result(found: Adapted | AdaptedLanguage, recipe: Recipe, net: nn.Module, file_bytes: int) -> MethodResult:
    """Return one method's result on one task."""
    fields = {name: str(value) for name, value in recipe.method.to_dict().items() if name == "rank"}
    return MethodResult(
        name=recipe.method.name,
        score=found.score,
        losses=(tuple((float(step), loss) for step, loss in found.record.losses),),
        parameters=found.parameters,
        file_bytes=file_bytes,
        seconds=found.record.seconds,
        gain=found.gain,
        orthogonality=(tuple((float(s), d) for s, d in found.orthogonality),) if found.orthogonality else (),
        layers=layer_changes(net, found.delta),
        settings={**fields, "learning rate": f"{recipe.rate:g}", "steps": str(recipe.steps)},
    )


def layer_changes(net: nn.Module, delta: Delta) -> tuple[LayerChange, ...]:
    """Return how far each matrix of the pretrained part moved; a head that started at zero has nothing to move from."""
    from dtheta.adapt.variation import variation
    from dtheta.core.change import matrix_shape

    moved = {n: c for n, c in delta.changes.items() if n not in delta.new}
    matrices = [n for n, c in moved.items() if len(c.shape) > 1 and not n.startswith("head.")]
    if not matrices:
        return ()
    rank = min(_LEADING, *(min(matrix_shape(delta[name].shape)) for name in matrices))
    found = variation(net, delta.restrict("|".join(matrices)), rank)
    return tuple(LayerChange(v.name, v.d_sigma, v.d_direction, v.d_subspace) for v in found)


def adapt_results(
    model_name: str,
    model: nn.Module,
    tasks: Sequence[TaskResult],
    measure: Measure,
    recipe: Recipe,
    steps: Sequence[NextStep],
) -> AdaptResults:
    """Return the whole run's results, with what is needed to get them again."""
    said = {
        "texts a step": str(recipe.batch_size),
        "tokens of a text": str(recipe.max_length),
        **({"head": _head(recipe)} if measure is ACCURACY else {}),
    }
    return _results(model_name, model, tasks, measure, recipe, said, steps)


def _results(
    model_name: str,
    model: nn.Module,
    tasks: Sequence[TaskResult],
    measure: Measure,
    recipe: Recipe | FewShot,
    said: dict[str, str],
    steps: Sequence[NextStep],
    pictures: tuple[PictureSample, ...] = (),
) -> AdaptResults:
    from dtheta.core.fingerprint import fingerprint
    from dtheta.core.provenance import versions

    parameters = list(model.parameters())
    return AdaptResults(
        model=model_name,
        model_parameters=sum(p.numel() for p in parameters),
        model_bytes=sum(p.numel() * p.element_size() for p in parameters),
        tasks=tuple(tasks),
        measure=measure,
        provenance={
            "base": fingerprint(model).digest,
            "seed": str(recipe.seed),
            **said,
            "schedule": f"warmup over {recipe.warmup:g} of the steps, then a cosine to zero",
            **versions(),
            "machine": f"{platform.machine()}, {platform.system()}",
        },
        next_steps=tuple(steps),
        pictures=pictures,
    )


def image_result(
    found: AdaptedImages, recipe: FewShot, model: nn.Module, delta: Delta, file_bytes: int
) -> MethodResult:
    """Return one method's result on one task of images; ``delta`` is that of the model itself."""
    fields = {name: str(value) for name, value in recipe.method.to_dict().items() if name in ("rank", "length")}
    return MethodResult(
        name=recipe.method.name,
        score=found.judged.accuracy,
        losses=(tuple((float(step), loss) for step, loss in found.record.losses),),
        parameters=found.parameters,
        file_bytes=file_bytes,
        seconds=found.record.seconds,
        gain=found.gain,
        layers=layer_changes(model, delta),
        settings={**fields, "learning rate": f"{recipe.rate:g}", "steps": str(recipe.steps)},
    )


def image_results(
    model_name: str,
    net: ImageTextClassifier,
    tasks: Sequence[TaskResult],
    pictures: Sequence[PictureSample],
    recipe: FewShot,
    pixels: Pixels,
    steps: Sequence[NextStep],
) -> AdaptResults:
    """Return a run's results on images, with what is needed to get them again."""
    said = {
        "images a step": str(recipe.batch_size),
        "pixels a side": str(pixels.size),
        "prompt": " | ".join(net.templates),
        **({"held out": f"{recipe.validate} of the training images, to choose the step"} if recipe.validate else {}),
        "augmentation": ("cuts, mirrored" if recipe.flip else "cuts") if recipe.augment else "none",
    }
    return _results(model_name, net.model, tasks, IMAGE_ACCURACY, recipe, said, steps, tuple(pictures))


def _head(recipe: Recipe) -> str:
    probe = f"logistic regression on the frozen encoder's features (C = {recipe.head_C:g})"
    return f"from {probe if recipe.head == 'probe' else 'zeros'}, at rate {recipe.head_lr:g}"


def share(interval: Interval) -> str:
    """Return an accuracy with its interval: 94.3 % [92.1, 96.0]."""
    return f"{percent(interval.estimate)} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def difference(interval: Interval) -> str:
    """Return a difference of accuracies: +1.2 points [+0.2, +2.3]."""
    return f"{100 * interval.estimate:+.1f} points [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def clearness(interval: Interval) -> str:
    """Return what an interval says about the sign of a difference."""
    if interval.excludes(0.0):
        return "clearly better" if interval.estimate > 0 else "clearly worse"
    return "no clear difference"
