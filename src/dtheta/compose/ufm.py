"""UFM: unsupervised FixMatch, as aTLAS (arXiv 2407.02880) describes it, for adaptation without labels.

    trusted    of the examples that are predicted as a class, the min(N / C, 100) that the model is surest of, with that
               prediction as their label; estimated anew before every epoch
    loss       CE on the trusted quarter of a batch
               + mean over the rest with max s > w of -sum_c s_c log p_c(strong view),
                 s_c = p_c(weak view)^a / sum_c' p_c'(weak view)^a,   a = 1/2
    w          0.9 at the first step, 1 after the last

The exponent 1/2 flattens the pseudo-labels (sharpening would be 2), so few pass; it is a parameter. Where none passes,
the second term is zero. The released code is another method: every example gets its first arg-max as a label for good,
the exponent is a factor that cancels, the threshold is fixed, and a batch in which none passes divides by zero.

Shape legend: N examples, C classes, B of a batch, R of them not trusted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.compose.pool import Pool, Predict, View, logits_of
from dtheta.core.seeds import generator

LARGEST = 100  # trusted examples of a class


class Mixed(NamedTuple):
    """A batch: trusted examples with their labels, others, and the threshold w of the step."""

    trusted: Tensor
    labels: Tensor
    others: Tensor
    threshold: float


@dataclass(eq=False)
class Mixture:
    """The batches of an epoch; going through them begins with an estimate of what can be trusted.

    Attributes:
        pool: The examples.
        predict: (model, batch) -> logits.
        size: Examples a batch, a quarter of them trusted.
        seed: Key of the order.
        epochs: How many there will be, for the threshold.
        model: What shows the current weights; set when it is known.
    """

    pool: Pool
    predict: Predict
    size: int
    seed: int
    epochs: int
    model: Any = None
    epoch: int = field(default=0, init=False)

    def __len__(self) -> int:
        return -(-len(self.pool) // max(1, self.size - self.trusted_size))

    @property
    def trusted_size(self) -> int:
        """Trusted examples of a batch: a quarter, one at least."""
        return max(1, self.size // 4)

    def __iter__(self) -> Iterator[Mixed]:
        sure, labels = trusted(self.predict, self.model, self.pool, self.size)
        others = _without(self.pool.order(self.seed, self.epoch), sure)
        first, total = self.epoch * len(self), self.epochs * len(self)
        self.epoch += 1
        for step in range(len(self)):
            draw = generator(self.seed, "atlas/trusted", first + step)
            taken = torch.randint(len(sure), (self.trusted_size,), generator=draw, device="cpu")
            rest = others.split(max(1, self.size - self.trusted_size)) if len(others) else [others]
            w = 0.9 + 0.1 * (first + step) / total
            yield Mixed(sure[taken], labels[taken], rest[step % len(rest)], w)


@torch.no_grad()
def trusted(predict: Predict, model: Any, pool: Pool, size: int) -> tuple[Tensor, Tensor]:
    """Return the numbers of the trusted examples, in order, and their labels; of equally sure ones the first."""
    chances_NC = torch.cat([logits_of(predict, model, b).softmax(1).cpu() for b in pool.batches(size)])
    n, classes = chances_NC.shape
    count = max(1, min(n // classes, LARGEST))
    sureness, labels = chances_NC.max(1)
    order = sureness.sort(descending=True, stable=True).indices
    sure = torch.cat([order[labels[order] == c][:count] for c in range(classes)]).sort().values
    return sure, labels[sure]


def _without(order: Tensor, taken: Tensor) -> Tensor:
    return order[~torch.isin(order, taken)]


def ufm_loss(
    predict: Predict, model: Any, pool: Pool, mixed: Mixed, weak: View, strong: View, exponent: float
) -> Tensor:
    """Return the loss of a batch; see the module's docstring."""
    known = logits_of(predict, model, weak(pool[mixed.trusted]))
    loss = F.cross_entropy(known, mixed.labels.to(known.device))
    if not mixed.others.numel():
        return loss
    examples = pool[mixed.others]
    with torch.no_grad():
        target_RC = pseudo_labels(logits_of(predict, model, weak(examples)), exponent)
    return loss + consistency(target_RC, logits_of(predict, model, strong(examples)), mixed.threshold)


def pseudo_labels(logits_RC: Tensor, exponent: float) -> Tensor:
    """Return the chances to a power, normalized: flatter below 1, sharper above."""
    return (exponent * logits_RC.log_softmax(1)).softmax(1)


def consistency(target_RC: Tensor, logits_RC: Tensor, threshold: float) -> Tensor:
    """Return the mean cross-entropy over the rows whose target is surer than the threshold; 0 where there is none."""
    sure_R = (target_RC.amax(1) > threshold).to(logits_RC)
    losses_R = -(target_RC * logits_RC.log_softmax(1)).sum(1)
    return (losses_R * sure_R).sum() / sure_R.sum().clamp(min=1.0)
