"""The head: found, and solved, since derivatives behind a head of zeros, or a random one, say nothing.

    U, c = argmin sum_i -log softmax(U h_i + c)[y_i] + |U|^2 / (2 C)        C = 0.1, as ``adapt_classifier`` starts

h are the features that go into the head of the model. Each half of the examples is looked at with the head of the other
half.

Shape legend: N examples, E features, C classes, O directions of the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.logistic import logistic_regression
from dtheta.core.modes import kept_modes
from dtheta.core.seeds import generator, normal
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch, did_you_mean
from dtheta.kernels.outputs import logits
from dtheta.scout.examples import Examples

HEAD_C = 0.1  # weaker than the best regression: a head that fits everything leaves the network little to learn
_USUAL = ("head", "classifier", "score", "fc", "lm_head")


@dataclass(frozen=True, eq=False)
class LinearHead:
    """The last layer of a model: its name and module."""

    name: str
    module: nn.Linear


def head_of(model: nn.Module, name: str | None) -> LinearHead:
    """Return the head of a model: the linear layer of that name, or of a usual one.

    Raises:
        ConfigError: If there is none.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    for one in (name,) if name is not None else _USUAL:
        if one in layers:
            return LinearHead(one, layers[one])
    known = f"its linear layers are {', '.join(list(layers)[-5:])}" if layers else "it has no linear layer"
    near = did_you_mean(name, layers) if name else ""
    raise ConfigError(
        f"the model has no head {name or ' or '.join(_USUAL)!r}{near}; scouting starts from a linear layer that makes "
        f"the logits: head=...; {known}. dt.classifier(model, classes) puts one on an encoder"
    )


@contextmanager
def features_seen(head: LinearHead) -> Iterator[list[Tensor]]:
    """Run a block that keeps what goes into the head."""
    seen: list[Tensor] = []
    hook = head.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()


@torch.no_grad()
def features_of(model: nn.Module, head: LinearHead, examples: Examples, chunk: int) -> Tensor:
    """Return what goes into the head (N, E), float64 on the CPU.

    Raises:
        ShapeMismatch: If it is not one vector an example.
        NonFinite: If it holds NaN or infinity.
    """
    device, found = head.module.weight.device, []
    with kept_modes(model), features_seen(head) as seen:
        for index in torch.arange(len(examples)).split(chunk):
            logits(model, moved(examples.of(index), device))
            found.append(_checked(seen, len(index)).double().cpu())
            seen.clear()
    features = torch.cat(found)
    if not bool(torch.isfinite(features).all()):
        raise NonFinite("the features of the model hold NaN or infinity; its weights or an example are damaged")
    return features


def _checked(seen: list[Tensor], count: int) -> Tensor:
    if len(seen) != 1 or seen[0].ndim != 2 or len(seen[0]) != count:
        shapes = [tuple(t.shape) for t in seen]
        raise ShapeMismatch(
            f"the head took {shapes} for {count} examples; expected one vector an example, ({count}, features), once"
        )
    return seen[0]


@dataclass(frozen=True, eq=False)
class Start:
    """Where one half begins, given the other half's head.

    Attributes:
        weight: U (C, E), float64.
        outputs: f0 (n, C), the probabilities of the half's examples, float64.
    """

    weight: Tensor
    outputs: Tensor


def starts(features: Tensor, examples: Examples) -> list[Start]:
    """Return for each half what the head of the other one says of it."""
    found = []
    for mine, other in (examples.halves, examples.halves[::-1]):
        head = logistic_regression(features[other], examples.labels[other], examples.classes, HEAD_C)
        found.append(Start(head.weight, head.logits(features[mine]).softmax(1)))
    return found


def head_kernel(features: Tensor) -> Tensor:
    """Return the tangent kernel of the head's weight and bias, h . h' + 1."""
    return features @ features.mT + 1.0


def directions(classes: int, count: int, seed: int) -> Tensor:
    """Return orthonormal directions (O, C) of the logits that change the probabilities: orthogonal to all ones.

    All C - 1 of them where ``count`` allows; else drawn by the seed, so that the mean over them is an unbiased estimate
    of the mean over all.
    """
    drawn = normal((classes, min(count, classes - 1)), 1.0, generator(seed, "scout/directions"))
    drawn = drawn.double() - drawn.double().mean(0)
    return torch.linalg.qr(drawn).Q.mT.contiguous()


def projected(head: LinearHead, weight_CE: Tensor, directions_OC: Tensor) -> Callable[[Any, Any], Tensor]:
    """Return the function (model, batch) -> (N, O): a head (C, E), along directions of the logits."""
    weight = (directions_OC @ weight_CE).to(head.module.weight.device, head.module.weight.dtype)

    def function(model: Any, batch: Any) -> Tensor:
        with features_seen(head) as seen:
            logits(model, batch)
        return F.linear(seen[0], weight.to(seen[0].dtype))

    return function


def moved(batch: Any, device: torch.device) -> Any:
    """Return a batch on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {name: moved(value, device) for name, value in batch.items()}
    return tuple(moved(value, device) for value in batch) if isinstance(batch, (tuple, list)) else batch
