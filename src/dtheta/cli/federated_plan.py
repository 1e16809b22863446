"""What ``dtheta federate --dry-run`` says, after the checks that the run would make.

Two rounds are rehearsed with made-up answers, through the codec, the channel and the server as they are written: what
these refuse is refused, and what travels is counted. For rows of numbers the answers are those of the model itself, and
a step of it is timed; for texts, whose model is not loaded, they are of a stand-in, and the payload is that of noise in
the shapes that the outline of the model has.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dtheta.cli.federated import Divided, Kind, divided, packaged, scene_of
from dtheta.cli.federated_output import remembered
from dtheta.cli.federated_parts import Parts
from dtheta.cli.federated_run import clients_of, training
from dtheta.cli.plan import PROGRAM, Plan, size_of
from dtheta.cli.units import byte_size, count, plural
from dtheta.core.paths import expanded
from dtheta.errors import FederationFailed

if TYPE_CHECKING:
    from torch import nn

    from dtheta.cli.federate import Options
    from dtheta.cli.federated import Scene
    from dtheta.core.delta import Delta
    from dtheta.federate.client import Client
    from dtheta.federate.frame import Frame
    from dtheta.federate.history import Round
    from dtheta.federate.server.server import Server

_ROUND = 0.03  # seconds that a client takes in a round beside its steps, about
_LARGEST = 30_000_000  # entries of a delta that are made up


def made_up(template: Delta, keep: bool) -> Delta:
    """Return a delta with noise in the place of every entry, or with the forms of its changes kept."""
    from dtheta.federate.frame import Frame

    noise = _noise(Frame.of(template))
    if not keep:
        return noise
    return noise.map(lambda name, plain: min(plain, template.changes[name], key=lambda change: change.nbytes))


def _noise(frame: Frame) -> Delta:
    import torch

    from dtheta.core.delta import Delta
    from dtheta.core.provenance import Provenance

    draws = torch.Generator().manual_seed(0)
    changes = {n: frame.change(n, 1e-3 * torch.randn(shape, generator=draws)) for n, shape in frame.shapes.items()}
    return Delta(changes, frame.base, Provenance("rehearse"))


def plan(options: Options, kind: Kind, parts: Parts) -> Plan:
    """Return what would be read and written, how long it would take, and what would travel.

    Raises:
        DthetaError: As the run.
    """
    return _of_rows(options, parts) if kind == "rows" else _of_texts(options, parts)


def _of_rows(options: Options, parts: Parts) -> Plan:
    cut = divided(options, "rows")
    scene = scene_of(options, cut)
    select, also, rates = training(options, parts, cut, scene)
    server = parts.server_of(scene.net, select, also)
    clients = clients_of(options, parts, scene, select, also, rates)
    numel = sum(p.numel() for p in scene.net.parameters())
    notes = [_entries(numel)]
    if numel <= _LARGEST:
        rows, trouble = _rehearsed(server, clients, parts)
        notes += [*([_traffic(rows, options)] if rows else []), *trouble]
    else:
        notes += _stand_in(parts, len(clients))
    seconds = _trained(options, len(clients)) * _step(scene, options) + _ROUND * _asked(options, len(clients))
    memory = PROGRAM + 64 * numel * (len(clients) + 4)
    return _plan(options, {}, memory, seconds, notes)


def _step(scene: Scene, options: Options) -> float:
    """Return the seconds of one step."""
    items = [scene.data[i] for i in range(min(options.batch_size, len(scene.data)))]
    assert scene.collate is not None
    batch, best = scene.collate(items), math.inf
    for _ in range(3):
        start = time.perf_counter()
        scene.net(**batch).loss.backward()
        best = min(best, time.perf_counter() - start)
    scene.net.zero_grad(set_to_none=True)
    return 1.5 * best  # with the optimizer


def _trained(options: Options, clients: int) -> float:
    """Return the steps of all clients, with those of the baselines."""
    own = options.rounds * options.steps
    return options.steps * _asked(options, clients) + (own * (clients + 1) if options.baselines else 0)


def _asked(options: Options, clients: int) -> float:
    """Return how often a client is asked, over all rounds."""
    return options.rounds * _at_work(options, clients)


def _at_work(options: Options, clients: int) -> int:
    return max(1, round(options.sample * clients))


def _rehearsed(server: Server, clients: Sequence[Client], parts: Parts) -> tuple[Sequence[Round], list[str]]:
    """Return two rounds of made-up answers, none where no answer counted, and what is to be said of them.

    Raises:
        DthetaError: As the run.
    """
    from dtheta.federate.client import Client, Update
    from dtheta.federate.federate import federate

    delta = made_up(server.template(parts.settings["seed"]), keep=parts.settings["codec"].exact)

    @dataclasses.dataclass(frozen=True, eq=False)
    class Rehearsing(Client):
        """A client that answers at once."""

        def train(self, global_delta: Delta, round: int, seed: int) -> Update:
            return Update(delta, 1, {})

    held = [one.remade(Rehearsing) for one in clients]
    try:
        rows = federate(server, held, **{**parts.settings, "rounds": 2, "dropout": 0.0, "timeout": None}).history
    except FederationFailed as error:  # by chance, perhaps: the run is longer
        return [], [f"in the rehearsal the federation failed: {error}"]
    return rows, _excluded(rows)


def _excluded(rows: Sequence[Round]) -> list[str]:
    """Return what kept answers from counting in the rehearsal."""
    why = [f"{name} {reason}" for row in rows for name, reason in row.excluded.items()]
    skipped = [row.skipped for row in rows if row.skipped is not None]
    found = [f"in the rehearsal {len(why)} answers did not count; the first: {why[0]}"] if why else []
    return found + ([f"in the rehearsal a round was skipped: {skipped[0]}"] if skipped else [])


def _entries(numel: int) -> str:
    return f"{count(numel)} entries travel"


def _traffic(rows: Sequence[Round], options: Options) -> str:
    last = rows[-1]
    said = f"a round sends about {byte_size(last.bits_up / 8)} up and {byte_size(last.bits_down / 8)} down"
    return said + (f", and {count(last.qubits)} qubits" if last.qubits else "") + f"; {plural(options.rounds, 'round')}"


def _plan(
    options: Options, reads: dict[str, int | None], memory: int | None, seconds: float | None, notes: list[str]
) -> Plan:

    files = {str(path): size_of(path) for path in (*options.party, options.test) if path is not None}
    if options.data is not None:
        files = {options.data: None if packaged(options) else size_of(expanded(options.data)), **files}
    writes = {str(path): None for path in (options.out, options.report, options.folder) if path is not None}
    if options.folder is None:
        writes[f"{options.out}.run, until it is done"] = None
    return Plan({**reads, **files}, writes, memory, seconds, remembered(options), notes)


# texts


def _of_texts(options: Options, parts: Parts) -> Plan:
    from dtheta.cli.bases import base_path
    from dtheta.cli.cost import Cost
    from dtheta.data.sources import is_fetched
    from dtheta.data.tasks import TASKS

    name = options.model or "minilm"
    place, notes, cut = base_path(name, fetch=False), list[str](), None
    if place is None:
        notes.append(f"the model {name} is not in the cache yet and would be fetched first")
    if options.data in TASKS and not is_fetched(TASKS[options.data].package.name):
        notes.append("the data is not in the cache yet and would be fetched first")
    else:
        cut = divided(options, "texts")
    clients = len(cut.parts) if cut is not None else options.clients or 8
    notes += _stand_in(parts, clients)
    cost, tokens = Cost.of_model(name), options.batch_size * options.max_length
    if place is not None and cut is not None:
        notes += _outlined(options, parts, cut, place)
    tested = 0 if cut is None else len(cut.task.test.labels) * options.rounds // max(1, options.evaluate_every)
    trained = round(_trained(options, clients) * tokens)
    seconds = cost.seconds(trained=trained, run=tested * options.max_length)
    return _plan(options, {f"model {name}": cost.nbytes}, cost.memory(tokens), seconds, notes)


def _stand_in(parts: Parts, clients: int) -> list[str]:
    """Rehearse on a small network, for what does not depend on the model."""
    from dtheta.adapt.full import Full
    from dtheta.federate.client import Client
    from dtheta.models.perceptron import Perceptron

    net, method = Perceptron(4, 2, width=4), Full()
    server = dataclasses.replace(parts.server_of(net, None, None), method=method)
    held = [Client(f"party {i}", net, [], method, steps=1) for i in range(clients)]
    return _rehearsed(server, held, parts)[1]


def _outlined(options: Options, parts: Parts, cut: Divided, place: Any) -> list[str]:
    """Check the method on the model's outline, and say what would travel."""
    from dtheta.cli.federated import Scene
    from dtheta.cli.outline import outline
    from dtheta.models.classifier import classifier

    net = classifier(outline(place), cut.task.classes, options.pooling)
    scene = Scene(net, None, dict.fromkeys(cut.parts), dict)
    select, also, rates = training(options, parts, cut, scene)
    clients: list[Client] = clients_of(options, parts, scene, select, also, rates)
    if parts.method.new_vectors:
        return []
    shapes = _shapes(net, parts, select)
    numel = sum(map(math.prod, shapes.values()))
    if numel > _LARGEST:
        return [_entries(numel)]
    bits = _bits(shapes, parts)
    sent = byte_size(_at_work(options, len(clients)) * bits / 8)
    return [_entries(numel), f"a round sends about {sent} up; {plural(options.rounds, 'round')}"]


def _shapes(net: nn.Module, parts: Parts, select: str | None) -> dict[str, tuple[int, ...]]:
    from dtheta.core.selection import select as select_sites

    pattern = select if select is not None else parts.method.default_select
    sites = [*select_sites(net, pattern, matrices=parts.method.matrices), *select_sites(net, "head.*", matrices=False)]
    return {site.key: tuple(site.shape) for site in sites}


def _bits(shapes: Mapping[str, tuple[int, ...]], parts: Parts) -> int:
    """Return the bits of an answer of noise in these shapes."""
    from dtheta.federate.frame import Frame

    codec, rank = parts.settings["codec"], getattr(parts.method, "rank", None)
    if codec.exact:
        factored = {
            n: rank * sum(s) if isinstance(rank, int) and len(s) == 2 else math.prod(s) for n, s in shapes.items()
        }
        return 32 * sum(min(size, math.prod(shapes[n])) for n, size in factored.items())
    frame = Frame(shapes)
    return codec.encode(_noise(frame), frame, seed=0, key="rehearse").bits
