"""Server: the base, the method that all clients train, and how their answers become a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.attach import attach
from dtheta.adapt.method import Method
from dtheta.core.apply import applied
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, UnsupportedLayer
from dtheta.federate.client import untrained
from dtheta.federate.frame import Frame
from dtheta.federate.server.aggregate import Aggregate, Mean
from dtheta.federate.server.optimizer import FedAvg, ServerOptimizer


@dataclass(frozen=True, eq=False)
class Server:
    """The server of a federation.

    Attributes:
        model: The base.
        method: What the clients train.
        optimizer: What takes the joint answer as a step.
        aggregate: What joins the answers.
        select: Which parameters the method moves; as in ``dt.attach``.
        also: Further parameters that train in full; as in ``dt.attach``.

    Raises:
        ConfigError: For anything of another kind.
    """

    model: nn.Module
    method: Method
    optimizer: ServerOptimizer = field(default_factory=FedAvg)
    aggregate: Aggregate = field(default_factory=Mean)
    select: str | None = None
    also: str | None = None

    def __post_init__(self) -> None:
        kinds = {"model": nn.Module, "method": Method, "optimizer": ServerOptimizer, "aggregate": Aggregate}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ConfigError(f"Server: {name} is {value!r:.80}; expected a {kind.__name__}")
        if isinstance(self.model, Adapter):
            raise ConfigError("Server: give the model, not its adapter: Server(adapter.detach(), ...)")

    def template(self, seed: int) -> Delta:
        """Return a delta of what trains, before it trains.

        Raises:
            UnsupportedLayer: If the method has new vectors in factors, whose mean is no product of their rank.
        """
        delta = untrained(self.model, self.method, self.select, self.also, seed)
        for name, change in delta.new.items():
            if change.rank is not None:
                raise UnsupportedLayer(
                    f"{name}: {self.method.name} trains this new vector as a product of factors, and the mean of "
                    "products is none of their rank; federate a method without one, such as PromptTuning"
                )
        return delta

    def beginning(self, template: Delta, frame: Frame) -> Delta:
        """Return the global delta before the first round: new vectors at their start, or no change at all."""
        return Delta(template.changes if template.new else {}, frame.base, template.provenance)

    def labeled(self, delta: Delta, template: Delta) -> Delta:
        """Return a global delta with the provenance of the federation."""
        made = template.provenance
        method = made.method if template.new else {}  # the sum of many trained deltas is no delta of the method
        settings = {**made.settings, "method": dict(made.method)}
        provenance = type(made)("federate", method, [], settings, made.seed, made.task)
        return Delta(delta.changes, template.base, provenance)

    @contextmanager
    def with_delta(self, delta: Delta) -> Iterator[Any]:
        """Run a block with a global delta on the model; what it gets is to be called as the model."""
        if not len(delta):
            yield self.model
        elif not delta.new:
            with applied(self.model, delta):
                yield self.model
        else:
            adapter = attach(self.model, delta)
            try:
                yield adapter
            finally:
                adapter.detach()

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration."""
        return {
            "method": self.method.to_dict(),
            "optimizer": self.optimizer.to_dict(),
            "aggregate": self.aggregate.to_dict(),
            "select": self.select,
            "also": self.also,
        }
