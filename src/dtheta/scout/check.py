"""When not to believe it: a few real steps, and how far the network leaves its linear model on the way.

    nonlinearity   |f(theta + d) - f(theta) - J d| / |f(theta + d) - f(theta)|,   J d by a central difference
    drift          the method's kernel before and after: CKA (direction) and the ratio of traces (speed)

d is what a few steps of AdamW with the model's own cross-entropy do, from a head that is solved on all examples, as in
``adapt_classifier``. The model is given back as it was.

Shape legend: m examples of the probe, C classes, O directions of the logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.attach import attach
from dtheta.core.logistic import logistic_regression
from dtheta.core.modes import kept_modes
from dtheta.data.text import keyed_order
from dtheta.errors import ConfigError
from dtheta.kernels.drift import kernel_drift, nonlinearity_index
from dtheta.kernels.outputs import Function, logits
from dtheta.scout.attached import tangents_in
from dtheta.scout.derivatives import sketched
from dtheta.scout.head import HEAD_C, features_of, moved, projected
from dtheta.scout.regression import tells_apart
from dtheta.scout.scene import Scene
from dtheta.scout.scouting import Check, Prospect

MOST_NONLINEAR, LEAST_CKA = 0.3, 0.8  # beyond these the linear model is not to be believed
_EXAMPLES = 32  # on which the network and its linear model are compared
_BATCH = 16
_REACH, _COARSE = 0.05, 0.5  # of d, for the central difference; where 0.05 d would be lost in the rounding of outputs


def checked(scene: Scene, row: Prospect, steps: int, rate: float) -> Check:
    """Train a method for a few steps, compare the network with its linear model, and take it off again.

    Raises:
        ConfigError: If the method is of deltas' coefficients, which nothing here trains.
    """
    if row.method is None:
        raise ConfigError(f"{row.name}: only methods are probed; the coefficients of deltas are linear in one pass")
    also = f"{scene.head.name}.*"
    adapter = attach(scene.net, row.method, row.select, also=also, seed=scene.seed)
    try:
        with scene.clock.part("check"), kept_modes(scene.net):
            weight = _start_head(adapter, scene)
            return _probe(adapter, scene, row.name, weight, steps, rate)
    finally:
        adapter.detach()


def _start_head(adapter: Adapter, scene: Scene) -> Tensor:
    """Let the head start at the regression on all examples; return its weight (C, E)."""
    features = features_of(adapter, scene.head, scene.examples, scene.chunk)
    found = logistic_regression(features, scene.examples.labels, scene.examples.classes, HEAD_C)
    module = scene.head.module
    with torch.no_grad():
        for name, value, base in (("weight", found.weight, module.weight), ("bias", found.bias, module.bias)):
            key = f"{scene.head.name}.{name}"
            if key in adapter.sites:
                (start,) = adapter.term(key).parameters()
                start.copy_((value.to(base) - base).reshape(start.shape))
    return found.weight


def _probe(adapter: Adapter, scene: Scene, name: str, weight: Tensor, steps: int, rate: float) -> Check:
    device = scene.head.module.weight.device
    some = torch.tensor(keyed_order(len(scene.examples), scene.seed, "scout/probe")[:_EXAMPLES])
    batch = moved(scene.examples.of(some), device)
    function = projected(scene.head, weight, scene.directions)
    trained = list(adapter.trainable().values())
    first, K_first = _outputs(adapter, batch), _kernel(adapter, function, batch, scene)
    before = [p.detach().clone() for p in trained]
    _train(adapter, scene, steps, rate)
    after = [p.detach().clone() for p in trained]
    last, K_last = _outputs(adapter, batch), _kernel(adapter, function, batch, scene)
    reach = _COARSE if torch.finfo(scene.head.module.weight.dtype).bits < 32 else _REACH
    ahead, behind = (_outputs_at(adapter, trained, before, after, sign * reach, batch) for sign in (1.0, -1.0))
    index = nonlinearity_index(first, last, (ahead - behind) / (2 * reach))
    return judged(name, steps, rate, index, *_drift(K_first, K_last))


def _drift(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Return CKA and the ratio of traces; where a kernel is one number for all pairs, their cosine as they are."""
    if tells_apart(before) and tells_apart(after):
        drift = kernel_drift(before, after)
        return drift.cka, drift.inflation
    sizes = torch.linalg.matrix_norm(before) * torch.linalg.matrix_norm(after)
    return float((before * after).sum() / sizes), float(after.trace() / before.trace())


def judged(name: str, steps: int, rate: float, index: float, cka: float, inflation: float) -> Check:
    """Return the check of these numbers, with its verdict."""
    believe = index <= MOST_NONLINEAR and cka >= LEAST_CKA
    how = "stays near its linear model" if believe else "leaves its linear model"
    told = (
        f"{'believe it' if believe else 'do not believe it'}: over {steps} steps of {name} at rate {rate:.1e} the "
        f"network {how}: nonlinearity {index:.2f} (at most {MOST_NONLINEAR}), kernel CKA {cka:.2f} (at least "
        f"{LEAST_CKA}), {inflation:.2f} times its size"
    )
    if not believe:
        told += "; train the two best candidates for a few steps before choosing"
    return Check(name, steps, rate, index, cka, inflation, believe, told)


def _train(adapter: Adapter, scene: Scene, steps: int, rate: float) -> None:
    """Take AdamW steps on the examples, in a keyed order, in eval mode."""
    optimizer = torch.optim.AdamW(adapter.trainable().values(), lr=rate, weight_decay=0.0)
    batches = _batches(scene, steps)
    with torch.enable_grad():
        for _ in range(steps):
            inputs, labels = next(batches)
            optimizer.zero_grad()
            F.cross_entropy(logits(adapter, inputs).float(), labels).backward()
            optimizer.step()
    optimizer.zero_grad()


def _batches(scene: Scene, steps: int) -> Iterator[tuple[object, Tensor]]:
    device, epoch = scene.head.module.weight.device, 0
    while True:
        order = torch.tensor(keyed_order(len(scene.examples), scene.seed, f"scout/order/{epoch}"))
        for index in order.split(_BATCH):
            yield moved(scene.examples.of(index), device), scene.examples.labels[index].to(device)
        epoch += 1


@torch.no_grad()
def _outputs(adapter: Adapter, batch: object) -> Tensor:
    return logits(adapter, batch).double().cpu()


def _outputs_at(
    adapter: Adapter, trained: Sequence[Tensor], before: Sequence[Tensor], after: Sequence[Tensor], share: float,
    batch: object,
) -> Tensor:  # fmt: skip
    """Return the outputs at before + share * (after - before)."""
    with _placed(trained, [b + share * (a - b) for a, b in zip(after, before, strict=True)]):
        return _outputs(adapter, batch)


@contextmanager
def _placed(trained: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    held = [p.detach().clone() for p in trained]
    try:
        _write(trained, values)
        yield
    finally:
        _write(trained, held)


@torch.no_grad()
def _write(trained: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(trained, values, strict=True):
        parameter.copy_(value)


def _kernel(adapter: Adapter, function: Function, batch: object, scene: Scene) -> Tensor:
    """Return the kernel (m, m) of what the method trains, without the head."""
    found, _ = tangents_in(adapter, function, batch, head=scene.head.name)
    return torch.stack([sketched(tangent).gram(outputs="mean").double().cpu() for tangent in found.values()]).sum(0)
