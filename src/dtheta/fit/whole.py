"""A network that trains whole, from its first weights: all of it is the term, and there is no base beside it.

``fit(Whole(network), ...)`` is ordinary training with all that ``fit`` has: keyed order, resume bit by bit, DDP.
"""

from __future__ import annotations

from typing import Any

from torch import nn


class Whole(nn.Module):
    """A network as something ``Trainable``; the network is used, not copied."""

    def __init__(self, network: nn.Module) -> None:
        """Train every parameter of ``network`` that wants a gradient."""
        super().__init__()
        self.model = nn.Module()
        self.terms = nn.ModuleDict({"network": network})
        self.method = AllAtOneRate()

    @property
    def network(self) -> nn.Module:
        """What trains."""
        return self.terms["network"]

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the parameters that train, by name."""
        return {name: p for name, p in self.terms.named_parameters() if p.requires_grad}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network."""
        return self.network(*args, **kwargs)


class AllAtOneRate:
    """The rule of plain training: one group, and no gradient but the loss's."""

    def parameter_groups(self, adapter: Whole, lr: float) -> list[dict[str, Any]]:
        """Return all parameters as one group."""
        return [{"params": list(adapter.trainable().values()), "lr": lr}]

    def add_gradient(self, adapter: Whole, lr: float) -> None:
        """Add nothing."""
