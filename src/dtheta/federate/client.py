"""Client: a party with data of its own, and how it trains.

    round t:   theta_t = base + G_t        the model as the global delta G_t makes it
               train the method's terms D on top of it, from zero
               answer D, the change of this round alone

The method is attached to the base before the global delta goes on: factors taken from the weights (PiSSA's, the
singular vectors of CLIP-SVD) are those of the base on every client and in every round. Vectors that the base does not
have (prompts, inserted networks) are relative to nothing, so training goes on from the global ones and the answer is
trained - global.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn
from torch.utils.data import DataLoader

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.attach import attach
from dtheta.adapt.method import Method
from dtheta.core.apply import applied
from dtheta.core.arguments import number, whole
from dtheta.core.delta import Delta
from dtheta.core.modes import kept_modes
from dtheta.core.seeds import key
from dtheta.errors import ConfigError
from dtheta.federate.proximal import proximal_loss
from dtheta.fit.batch import item_counter, rows
from dtheta.fit.loop import fit
from dtheta.fit.randomness import kept_generators, seed_all
from dtheta.fit.settings import Optimizer, Schedule, Settings
from dtheta.fit.trainable import Loss

C = TypeVar("C", bound="Client")


@dataclass(frozen=True)
class Update:
    """What a client learned in a round.

    Attributes:
        delta: The change of this round, relative to the base.
        examples: How many examples it has.
        metrics: Loss of the first and the last step, and what ``evaluate`` measured.
    """

    delta: Delta
    examples: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Client:
    """A party of a federation.

    Attributes:
        name: Unique among the clients.
        model: The base, the same for all; or a function that returns it. It is never written to, so clients in one
            process may share it.
        data: What ``dt.fit`` takes: a Dataset, a DataLoader or batches; or a function that returns it.
        method: The server's.
        steps: Optimizer steps a round.
        lr: Learning rate.
        batch_size: Rows a batch, of a Dataset; 32 if None.
        loss: (model, batch) -> scalar; None for the model's own.
        optimizer: "adamw" or "sgd"; its state does not outlive a round.
        momentum: Of SGD.
        proximal: mu of FedProx; 0 for none.
        evaluate: (model) -> number or numbers by name, called after training.
        select: The server's selection.
        also: The server's further parameters.
        examples: Weight in the mean; None counts the data.
        clip: Largest norm of a step's gradient; None for any.
        schedule: Of the learning rate within a round.
        warmup: As in ``dt.fit``.
        weight_decay: As in ``dt.fit``.
        full_lr: As in ``dt.fit``.
        collate: As in ``dt.fit``.

    Raises:
        ConfigError: For a name that is none, or settings that cannot be meant, as in ``dt.fit``.
    """

    name: str
    model: nn.Module | Callable[[], nn.Module]
    data: Any
    method: Method
    _: dataclasses.KW_ONLY
    steps: int
    lr: float = 1e-3
    batch_size: int | None = None
    loss: Loss | None = None
    optimizer: Optimizer = "adamw"
    momentum: float = 0.0
    proximal: float = 0.0
    evaluate: Callable[[Any], Any] | None = None
    select: str | None = None
    also: str | None = None
    examples: int | None = None
    clip: float | None = 1.0
    schedule: Schedule = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.0
    full_lr: float | None = None
    collate: Callable[[list[Any]], Any] | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if not isinstance(self.method, Method):
            raise ConfigError(f"client {self.name}: method is {self.method!r}; expected one such as dt.LoRA(rank=8)")
        whole(self.steps, f"client {self.name}: steps", least=1)
        if number(self.proximal, f"client {self.name}: proximal") < 0:
            raise ConfigError(f"client {self.name}: proximal is {self.proximal}; expected zero or more")
        Settings(  # what cannot train is told here, and not as a client that dies in every round
            self.steps, self.lr, self.full_lr, self.schedule, self.warmup, self.weight_decay, self.optimizer,
            self.momentum, clip=self.clip, batch_size=self.batch_size,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers and names of the configuration, without model, data and functions."""
        plain = (str, int, float, type(None))
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {n: v for n, v in found.items() if isinstance(v, plain)} | {"method": self.method.to_dict()}

    def remade(self, kind: type[C], **more: Any) -> C:
        """Return a client of another kind with the same fields, and ``more`` that this kind has."""
        return kind(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Client)}, **more)

    def module(self) -> nn.Module:
        """Return the base."""
        return self.model if isinstance(self.model, nn.Module) else self.model()

    def template(self, model: nn.Module) -> Delta:
        """Return a delta of what would train on a model, before it trains."""
        return untrained(model, self.method, self.select, self.also)

    def train(self, global_delta: Delta, round: int, seed: int) -> Update:
        """Train for one round.

        Args:
            global_delta: What the federation has learned, relative to the base; without changes at the beginning.
            round: Counted from 1; with ``seed`` and the name it keys every draw.
            seed: Of the federation.

        Raises:
            DthetaError: As ``dt.attach``, ``dt.applied`` and ``dt.fit``; the model is as it was.
        """
        model = self.module()
        data = self.data() if _makes(self.data) else self.data
        drawn = key(seed, f"federate/{round}/{self.name}/train")
        with self._attached(model, global_delta, drawn) as (adapter, continued):
            record = self._fit(adapter, data, drawn, continued)
            measured = self._measured(adapter, model, drawn)
            delta = adapter.delta()
        delta = delta - global_delta if continued else delta
        losses = {"loss_before": record.losses[0][1], "loss": record.losses[-1][1]}
        return Update(delta, self._count(data), losses | measured)

    @contextlib.contextmanager
    def _attached(self, model: nn.Module, global_delta: Delta, seed: int) -> Iterator[tuple[Adapter, bool]]:
        """Put the method and the global delta on the model; the second says whether the terms go on from the latter."""
        continued = bool(global_delta.new)
        if continued:
            made = dataclasses.replace(global_delta.provenance, method=self.method.to_dict())
            adapter = attach(model, dataclasses.replace(global_delta, provenance=made), seed=seed)
        else:
            adapter = attach(model, self.method, self.select, also=self.also, seed=seed)
        whole_model = applied(model, global_delta) if len(global_delta) and not continued else contextlib.nullcontext()
        try:
            with whole_model:
                yield adapter, continued
        finally:
            adapter.detach()

    def _fit(self, adapter: Adapter, data: Any, seed: int, continued: bool) -> Any:
        loss = self.loss
        if self.proximal:
            loss = proximal_loss(adapter, self.loss, self.proximal, continued)
        return fit(
            adapter, data, steps=self.steps, lr=self.lr, full_lr=self.full_lr, batch_size=self.batch_size, loss=loss,
            optimizer=self.optimizer, momentum=self.momentum, clip=self.clip, schedule=self.schedule,
            warmup=self.warmup, weight_decay=self.weight_decay, collate=self.collate, quiet=True, seed=seed,
            count=item_counter(adapter, own_loss=self.loss is None),
        )  # fmt: skip

    def _measured(self, adapter: Adapter, model: nn.Module, drawn: int) -> dict[str, float]:
        if self.evaluate is None:
            return {}
        return measured(self.evaluate, adapter, model, drawn, f"evaluate of client {self.name}")

    def _count(self, data: Any) -> int:
        """Return how many examples there are.

        Raises:
            ConfigError: If they cannot be counted.
        """
        if self.examples is not None:
            return whole(self.examples, f"client {self.name}: examples", least=1)
        held: Any = data.dataset if isinstance(data, DataLoader) else data
        batched = isinstance(data, DataLoader) and data.batch_sampler is not None
        if isinstance(held, (list, tuple)) and not batched:  # a list of batches; one that is batched is of examples
            return sum(map(rows, held))
        try:
            return len(held)
        except TypeError:
            raise ConfigError(f"client {self.name}: its data has no length; give examples=...") from None


def untrained(model: nn.Module, method: Method, select: str | None, also: str | None, seed: int = 0) -> Delta:
    """Return a delta of what a method would train on a model, before it trains; the model is as it was."""
    adapter = attach(model, method, select, also=also, seed=seed)
    try:
        return adapter.delta()
    finally:
        adapter.detach()


def check_name(name: Any) -> None:
    """Check the name of a client.

    Raises:
        ConfigError: If it is no text that keys could be made of.
    """
    if not isinstance(name, str) or not name or any("\ud800" <= sign <= "\udfff" for sign in name):
        raise ConfigError(f"the name of a client is {name!r}; expected text")


def _makes(data: Any) -> bool:
    """Tell whether this is a function that returns data, and no data."""
    return callable(data) and not hasattr(data, "__iter__") and not hasattr(data, "__getitem__")


def measured(evaluate: Callable[[Any], Any], called: Any, model: nn.Module, seed: int, what: str) -> dict[str, float]:
    """Return what a function of the user's measured of a model; its modes and all generators are as before.

    Args:
        evaluate: The function.
        called: What it gets: the model, or what stands for it.
        model: The model itself.
        seed: Of what it draws, such as shots.
        what: It is called in messages.

    Raises:
        ConfigError, NonFinite: If it is no number.
    """
    with kept_generators(), kept_modes(model):
        seed_all(seed)
        return numbers(evaluate(called), what)


def numbers(found: Any, what: str) -> dict[str, float]:
    """Return what a function of the user's measured, by name; a single number is called "score".

    Raises:
        ConfigError, NonFinite: If it is no number.
    """
    table = found if isinstance(found, Mapping) else {"score": found}
    return {str(name): number(value, f"{what}: {name}") for name, value in table.items()}
