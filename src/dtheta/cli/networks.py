"""Networks: the model that a delta is relative to, loaded only where a command has to run it or needs its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.core.delta import Delta
    from dtheta.core.header import Header


def base_name(task: Mapping[str, Any], model: str | None) -> str:
    """Return the model that was given, or the one that a delta names, if it is known by name.

    Raises:
        ConfigError: If there is neither.
    """
    from dtheta.models.zoo import ZOO

    name = model or task.get("model", "")
    if task.get("kind") == "row-classification":
        raise ConfigError("the delta is of a classifier of numbers, which runs in Python alone: see docs/federate.md")
    if not model and name not in ZOO:
        said = f"the delta was made on a model called {name!r}" if name else "the delta does not name its model"
        raise ConfigError(f"{said}, which 'dtheta models' does not know; give its folder with --model")
    return name


def require_classifier_of(header: Header) -> None:
    """Raise unless a delta is a classifier's.

    Raises:
        ConfigError: Naming the file.
    """
    from dtheta.adapt.tasks import CLASSIFICATION

    if header.provenance.task.get("kind") != CLASSIFICATION:
        raise ConfigError(
            f"{header.path}: this delta is of no text classifier, so labeled texts cannot judge it; in Python, "
            "dt.learn_coefficients and dt.search_compression take any loss and any score"
        )


def require_model(header: Header, model: str | None, whole: bool = False) -> str:
    """Return the model for a delta, which must be its base; a head alone moves nothing of one.

    Args:
        header: Of the delta.
        model: What was given; None for the one that the delta names.
        whole: Whether to compare all digests; else only those of the smallest tensors.

    Raises:
        ConfigError: If there is no such model.
        BaseMismatch: If the delta was made on another one.
    """
    from dtheta.cli.bases import base_path
    from dtheta.cli.family import has_head
    from dtheta.cli.fits import require_base
    from dtheta.core.checkpoints import open_checkpoint

    name = base_name(header.provenance.task, model)
    if (place := base_path(name, fetch=False)) is not None:
        base = open_checkpoint(place)
        if any(changed in base or not has_head([changed]) for changed in header.changes):
            require_base(header, base, whole)
    return name


def require_models(headers: Iterable[Header], model: str | None) -> None:
    """Raise unless a model that was given is the base of all deltas, whether it will be needed or not.

    Raises:
        ConfigError, BaseMismatch: As ``require_model``.
    """
    if model is not None:
        for header in headers:
            require_model(header, model)


def bases_read(headers: Iterable[Header], model: str | None) -> dict[str, int | None]:
    """Return the models that deltas have to be bound to, with their bytes: where a change shifts singular values.

    Raises:
        ConfigError: As ``bound``.
        BaseMismatch: If the model is another one.
    """
    from dtheta.cli.bases import base_path
    from dtheta.cli.plan import size_of

    reads = {}
    for header in headers:
        if shifts(header.changes):
            try:
                name = require_model(header, model)
            except ConfigError as error:
                raise _unbound(header.path, error) from None
            reads[f"model {name}"] = size_of(base_path(name, fetch=False))
    return reads


def shifts(meta: Any) -> bool:
    """Tell whether there are shifts of singular values in what a header says of changes."""
    if isinstance(meta, Mapping):
        return meta.get("kind") == "spectral" or any(map(shifts, meta.values()))
    return isinstance(meta, list) and any(map(shifts, meta))


def _unbound(path: Path, error: ConfigError) -> ConfigError:
    return ConfigError(f"{path}: shifts of singular values need the weights they belong to: {error}")


def bound(delta: Delta, model: str | None, path: Path) -> Delta:
    """Return a delta with the singular vectors that its numbers are relative to, loading the model if it has any.

    Raises:
        ConfigError: If they are needed and no model is known.
        BaseMismatch: If the model is another one.
    """
    from dtheta.adapt.tasks import task_model
    from dtheta.core.spectral import Spectral
    from dtheta.models.load import load_model

    leaves = (leaf for change in delta.changes.values() for leaf in change.leaves())
    if all(leaf.bound for leaf in leaves if isinstance(leaf, Spectral)):
        return delta
    try:
        name = base_name(delta.provenance.task, model)
    except ConfigError as error:
        raise _unbound(path, error) from None
    return delta.bind(task_model(delta, load_model(name)))
