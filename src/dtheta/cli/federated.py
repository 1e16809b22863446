"""Federated: a model, and data that are cut into those of several parties, as ``dtheta federate`` trains on them.

    rows of numbers    a small classifier, quantum or classical, drawn by the seed; every parameter trains
    texts              a pretrained encoder under a head of zeros; the method trains, and the head in full

The head of a text classifier starts at zeros for everybody. A regression on the features, where ``dtheta adapt`` starts
its head, would be made of all parties' texts and labels: nobody has these here. The federated mean of the first round's
heads is what the global delta holds after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from dtheta.cli.written import call, parsed
from dtheta.core.paths import expanded
from dtheta.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dtheta.cli.federate import Options
    from dtheta.data.tabular import TabularTask
    from dtheta.data.text import TextTask

Kind = Literal["rows", "texts"]


@dataclass(frozen=True)
class Divided:
    """A task, and which of its training examples are whose.

    Attributes:
        kind: What the examples are.
        task: With training and test part.
        parts: Indices of training examples by party.
        scale: Means and deviations that rows were standardized by; empty where they are as they were.
    """

    kind: Kind
    task: TabularTask | TextTask
    parts: Mapping[str, Sequence[int]]
    scale: Mapping[str, list[float]] = field(default_factory=dict)

    def counts(self, party: str) -> list[int]:
        """Return how many examples of every class a party has."""
        labels = [int(self.task.train.labels[i]) for i in self.parts[party]]
        return [labels.count(c) for c in range(len(self.task.classes))]


@dataclass(frozen=True)
class Scene:
    """A model, and the data as it takes them.

    Attributes:
        net: The base.
        data: All training examples.
        parts: Those of each party.
        evaluate: Model to its scores on the test part.
        collate: How rows become a batch; None where the data say so themselves.
    """

    net: nn.Module
    data: Any
    parts: Mapping[str, Any]
    evaluate: Callable[[Any], dict[str, float]]
    collate: Callable[[list[Any]], Any] | None = None


def kind_of(options: Options) -> Kind:
    """Return what the data are: texts where a task or a column of them is named, or there is a column 'text'.

    Raises:
        ConfigError: Unless there is data, of one place, and it exists.
        FormatError: If a file is damaged.
    """
    from dtheta.data.corpus import columns
    from dtheta.data.tabular import TABULAR_TASKS
    from dtheta.data.tasks import TASKS

    if (options.data is None) == (not options.party):
        raise ConfigError("give --data FILE or the name of a task, or --party FILE for each party; one of the two")
    if packaged(options):
        return "rows" if options.data in TABULAR_TASKS else "texts"
    file = options.party[0] if options.party else expanded(str(options.data))
    if not options.party and not file.exists() and not file.suffix:
        known = [*TABULAR_TASKS, *TASKS]
        raise ConfigError(
            f"there is no task {str(file)!r} and no such file; packaged tasks: {', '.join(known)}"
            f"{did_you_mean(str(file), known)}"
        )
    there = columns(file, options.encoding)
    return "texts" if options.text is not None or "text" in there else "rows"


def packaged(options: Options) -> bool:
    """Tell whether the data are a task that a package carries."""
    from dtheta.data.tabular import TABULAR_TASKS
    from dtheta.data.tasks import TASKS

    return options.data in TABULAR_TASKS or options.data in TASKS


def divided(options: Options, kind: Kind) -> Divided:
    """Return the data, cut into those of the parties.

    Raises:
        ConfigError, FormatError: As the loaders and partitions.
    """
    import torch

    task, parts = _loaded(options, kind)
    if parts is None:
        labels = torch.as_tensor(task.train.labels)
        clients = 8 if options.clients is None else options.clients
        found = _partition(options)(labels, clients, seed=options.seed)
        width = len(str(clients))
        parts = {f"party {i:0{width}}": part.tolist() for i, part in enumerate(found, 1)}
    if kind == "texts":
        return Divided(kind, task, parts)
    standardize = options.standardize and options.data != "digits"  # whose pixels share one unit
    if not standardize:
        return Divided(kind, task, parts)
    mean, deviation = task.scale
    return Divided(kind, task.standardized(), parts, {"mean": mean.tolist(), "deviation": deviation.tolist()})


def _loaded(options: Options, kind: Kind) -> tuple[Any, dict[str, list[int]] | None]:
    from dtheta.data.parties import load_parties
    from dtheta.data.table import load_table
    from dtheta.data.tabular import load_tabular
    from dtheta.data.tasks import TASKS, load_task

    label, n_test, seed, encoding = options.label, options.n_test, options.seed, options.encoding
    text = None if kind == "rows" else options.text or "text"
    if options.party:
        found = load_parties(options.party, text, label, options.test, n_test, seed, encoding)
        return found.task, found.parts
    data = str(options.data)
    if options.data in TASKS:
        return load_task(data, options.n_train, n_test, seed), None
    if text is not None:
        return load_table(data, text, label, options.test, options.n_train, n_test, seed, encoding), None
    if options.test is not None:
        return load_parties([data], None, label, options.test, n_test, seed, encoding).task, None
    return load_tabular(data, label, n_test=n_test, seed=seed, encoding=encoding), None


def _partition(options: Options) -> Callable[..., list[Tensor]]:
    from dtheta.federate.partition import dirichlet, iid, shards

    known = {"iid": iid, "dirichlet": dirichlet, "shards": shards}
    return call(parsed(options.partition, "--partition", "dirichlet(alpha=0.5)"), known, "--partition")


# the model on the data


def scene_of(options: Options, cut: Divided) -> Scene:
    """Return the model and the data as it takes them.

    Raises:
        DthetaError: As the model's class, or as loading it.
    """
    return _rows(options, cut) if cut.kind == "rows" else _texts(options, cut)


def _rows(options: Options, cut: Divided) -> Scene:
    from torch.utils.data import TensorDataset

    from dtheta.cli.federated_models import model_of

    task: TabularTask = cut.task  # type: ignore[assignment]
    net = model_of(options, len(task.features), len(task.classes), bool(cut.scale))
    every = TensorDataset(task.train.x, task.train.labels)
    parts = {name: task.train.take(part) for name, part in cut.parts.items()}
    held = {name: TensorDataset(part.x, part.labels) for name, part in parts.items()}
    return Scene(net, every, held, partial(_accuracy, x=task.test.x, labels=task.test.labels), _batch)


def _batch(items: list[Any]) -> dict[str, Tensor]:
    import torch

    return {"x": torch.stack([x for x, _ in items]), "labels": torch.stack([label for _, label in items])}


def _accuracy(model: Any, *, x: Tensor, labels: Tensor) -> dict[str, float]:
    import torch

    model.eval()  # the caller gives every mode back
    with torch.no_grad():
        found = torch.cat([model(some).logits.argmax(1) for some in x.split(512)])
    return {"accuracy": float((found == labels).double().mean())}


def _texts(options: Options, cut: Divided) -> Scene:
    from dtheta.adapt.text_problem import problem
    from dtheta.data.batches import EncodedTexts
    from dtheta.data.text import Texts
    from dtheta.models.load import load_model, load_tokenizer

    task: TextTask = cut.task  # type: ignore[assignment]
    name = options.model or "minilm"
    found = problem(load_model(name), load_tokenizer(name), task, options.max_length, options.pooling)
    held = {}
    for party, part in cut.parts.items():
        texts = Texts(tuple(task.train.texts[i] for i in part), tuple(task.train.labels[i] for i in part))
        held[party] = EncodedTexts(texts, found.tokenizer, options.max_length)
    return Scene(found.net, found.train, held, partial(_right_texts, test=found.test))


def _right_texts(model: Any, *, test: Any) -> dict[str, float]:
    import torch

    from dtheta.adapt.frozen import predicted_logits

    right = predicted_logits(model, test).argmax(1) == torch.tensor(test.labels)
    return {"accuracy": float(right.double().mean())}
