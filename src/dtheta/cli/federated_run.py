"""What ``dtheta federate`` does: the federation, its baselines, and what they leave (federated_output.py)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.console import Console
from dtheta.cli.federated import Divided, Kind, Scene, divided, scene_of
from dtheta.cli.federated_models import rate_of
from dtheta.cli.federated_output import Done, draw, record_of, save, told
from dtheta.cli.federated_parts import Parts
from dtheta.cli.units import duration, percent

if TYPE_CHECKING:
    from dtheta.cli.federate import Options
    from dtheta.federate.client import Client
    from dtheta.report.federated import Party


def run(options: Options, kind: Kind, parts: Parts, folder: Path, console: Console) -> None:
    """Federate, and write what came out."""
    from dtheta.adapt.training import dropout_as

    cut = divided(options, kind)
    clients = len(cut.parts)
    console.note(
        f"{cut.task.name}: {len(cut.task.classes)} classes, {len(cut.task.train.labels)} training examples of "
        f"{clients} parties, {len(cut.task.test.labels)} to test on"
    )
    scene = scene_of(options, cut)
    with dropout_as(scene.net, False) if kind == "texts" else nullcontext():  # as ``dtheta adapt`` trains
        done = _federated(options, parts, cut, scene, folder, console)
    delta = save(options, cut, done)
    record = record_of(options, cut, done, delta)
    if options.report is not None:
        record["report"] = str(draw(options, parts, cut, done))
    _clear(folder, options)
    console.result(record, told(options, cut, done, record))


def _federated(options: Options, parts: Parts, cut: Divided, scene: Scene, folder: Path, console: Console) -> Done:
    from dtheta.federate.baselines import alone, centralized
    from dtheta.federate.federate import federate

    select, also, rates = training(options, parts, cut, scene)
    server = parts.server_of(scene.net, select, also)
    clients = clients_of(options, parts, scene, select, also, rates)
    given = dict(parts.settings)
    with console.progress("rounds", given["rounds"]) as begin:

        def evaluate(model: Any) -> dict[str, float]:
            scores = scene.evaluate(model)
            begin(f"accuracy {percent(scores['accuracy'])}")
            return scores

        federation = federate(server, clients, evaluate=evaluate, folder=folder, resume=options.resume, **given)
    central, each = None, list[Any]()
    if options.baselines:
        asked = {"rounds": options.rounds, "evaluate": scene.evaluate, "seed": options.seed}
        console.note(f"federated in {duration(federation.figures['seconds'])}; training the baselines ...")
        central, each = centralized(server, clients[0], scene.data, **asked), alone(server, clients, **asked)
    return Done(federation, central, each, _parties(cut, clients))


def training(
    options: Options, parts: Parts, cut: Divided, scene: Scene
) -> tuple[str | None, str | None, dict[str, float | None]]:
    """Return where the method trains, what trains in full beside it, and the learning rates.

    Raises:
        ConfigError, UnknownParameter, UnsupportedLayer: As far as shapes tell, if the model cannot have it.
    """
    if cut.kind == "rows":
        return parts.select, None, {"lr": rate_of(options) if options.lr is None else options.lr, "full_lr": None}
    from dtheta.adapt.classify import require_classifier, selection
    from dtheta.adapt.recipe import Recipe

    recipe = Recipe(
        parts.method, parts.select, options.steps, options.batch_size, options.lr, head_lr=options.head_lr,
        max_length=options.max_length, seed=options.seed,
    )  # fmt: skip
    require_classifier(scene.net, cut.task, recipe)  # type: ignore[arg-type]
    return selection(scene.net, recipe), "head.*", {"lr": recipe.rate, "full_lr": recipe.full_rate}  # type: ignore[arg-type]


def clients_of(
    options: Options, parts: Parts, scene: Scene, select: str | None, also: str | None, rates: dict[str, Any]
) -> list[Client]:
    """Return the clients, some of which may lie.

    Raises:
        ConfigError: For a number that cannot be meant.
    """
    from dtheta.federate.attack import attacked
    from dtheta.federate.client import Client

    clients = [
        Client(
            name, scene.net, data, parts.method, steps=options.steps, batch_size=options.batch_size,
            optimizer=options.optimizer, momentum=options.momentum, proximal=options.proximal, select=select,
            also=also, collate=scene.collate, **rates,
        )
        for name, data in scene.parts.items()
    ]  # fmt: skip
    return clients if parts.attack is None else attacked(clients, parts.attack, options.seed)


def _parties(cut: Divided, clients: Sequence[Client]) -> list[Party]:
    from dtheta.federate.attack import Malicious
    from dtheta.report.federated import Party

    return [
        Party(one.name, len(cut.parts[one.name]), cut.counts(one.name), isinstance(one, Malicious)) for one in clients
    ]


def _clear(folder: Path, options: Options) -> None:
    """Remove the state of a run that is complete, unless its folder was asked for."""
    if options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
