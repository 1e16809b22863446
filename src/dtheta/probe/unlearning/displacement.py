"""By how much the stream must move at one token so that the answer is gone: found by descent through the layers above.

    min over delta of  loss(logits | z + delta) + kl KL(original | other prompt, z' + delta) + decay |delta|^2/|z|^2
    |delta| <= clamp |z|

"empty" is the negative log-likelihood of the end of the text where the answer would begin, "max-entropy" the negative
entropy of the distribution there (of logits: the softmax is taken once). The same displacement in a prompt about
something else should change nothing: that keeps it to what is the concept's own. Steps are relative to the mean square
of z, so that they mean the same in every model. Source: Meng et al. 2022 (MEMIT), ConceptVectors (arXiv 2406.11614).

Shape legend: F facts, B of them at a time, T tokens, D features of the stream, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dtheta.core.arguments import number, positive, whole
from dtheta.core.modes import kept_modes
from dtheta.errors import ConfigError, NonFinite
from dtheta.probe.encoded import BATCH, Batch
from dtheta.probe.predictions import logits_at
from dtheta.probe.unlearning.keys import Prompt, padded

Target = Literal["empty", "max-entropy"]
Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Search:
    """How a displacement is looked for.

    Attributes:
        steps: Of Adam.
        lr: Their size, in root mean squares of z.
        kl: Weight of the divergence on another prompt; 0 does not look at any.
        decay: Weight of |delta|^2 / |z|^2.
        clamp: Longest displacement, in lengths of z.
    """

    steps: int = 25
    lr: float = 0.5
    kl: float = 0.0625
    decay: float = 1e-3
    clamp: float = 4.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: If steps, rate or clamp are not positive, or a weight is negative.
        """
        whole(self.steps, "steps", least=1)
        positive(self.lr, "lr")
        positive(self.clamp, "clamp")
        for name in ("kl", "decay"):
            if number(getattr(self, name), name) < 0:
                raise ConfigError(f"Search: {name} is {getattr(self, name)}; expected 0 or more")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""
        return asdict(self)


def objective_of(target: Target, tokenizer: Any) -> Objective:
    """Return the objective of logits (B, V), in nats (B,).

    Raises:
        ConfigError: If the tokenizer has no end of text to answer with.
    """
    if target == "max-entropy":
        return negative_entropy
    end = getattr(tokenizer, "eos_token_id", None)
    if end is None:
        raise ConfigError("the tokenizer has no end-of-text token for an empty answer; use target='max-entropy'")
    return lambda logits_BV: cross_entropy(logits_BV, torch.full_like(logits_BV[:, 0], end).long(), reduction="none")


def negative_entropy(logits_BV: Tensor) -> Tensor:
    """Return -H(softmax(logits)), in nats (B,)."""
    logp_BV = logits_BV.log_softmax(-1)
    return (logp_BV.exp() * logp_BV).sum(-1)


def displacements(
    model: nn.Module,
    block: nn.Module,
    facts: Sequence[Prompt],
    others: Sequence[Prompt],
    z_FD: Tensor,
    objective: Objective,
    search: Search,
) -> Tensor:
    """Return the displacement of the stream after a layer for each fact, float32 (F, D).

    Args:
        model: The decoder; neither its weights nor their gradients are written to.
        block: The layer.
        facts: Their prompts and places.
        others: As many prompts about other things.
        z_FD: The stream at the facts' places.
        objective: What is to become small.
        search: Settings.

    Raises:
        NonFinite: If the loss leaves all bounds.
    """
    found = []
    with kept_modes(model), torch.enable_grad():
        for start in range(0, len(facts), BATCH):
            cut = slice(start, start + BATCH)
            found.append(_found(model, block, padded(facts[cut]), padded(others[cut]), z_FD[cut], objective, search))
    return torch.cat(found)


_Padded = tuple[Batch, Tensor, Tensor]


def _found(
    model: nn.Module,
    block: nn.Module,
    facts: _Padded,
    others: _Padded,
    z_BD: Tensor,
    objective: Objective,
    search: Search,
) -> Tensor:
    """Return the displacements of one batch; facts do not mix, since Adam works on each number by itself."""
    unit_B1 = z_BD.square().mean(dim=1, keepdim=True).sqrt()
    u_BD = torch.zeros_like(z_BD).requires_grad_()
    longest = search.clamp * z_BD.shape[1] ** 0.5
    then_BV = _held(model, others)
    optimizer = torch.optim.Adam([u_BD], lr=search.lr)
    for _ in range(search.steps):
        loss = objective(_displaced(model, block, facts, unit_B1 * u_BD)) + search.decay * u_BD.square().mean(dim=1)
        if search.kl:
            now_BV = _displaced(model, block, others, unit_B1 * u_BD).log_softmax(-1)
            loss = loss + search.kl * (then_BV.exp() * (then_BV - now_BV)).sum(-1)
        if not bool(torch.isfinite(loss.detach()).all()):
            raise NonFinite("MEMIT: the loss of a displacement is NaN or infinite; a smaller lr or clamp helps")
        (u_BD.grad,) = torch.autograd.grad(loss.sum(), [u_BD])
        optimizer.step()
        with torch.no_grad():
            u_BD.mul_((longest / u_BD.norm(dim=1, keepdim=True)).clamp(max=1.0))
    return (unit_B1 * u_BD).detach()


def _held(model: nn.Module, prompts: _Padded) -> Tensor:
    """Return the original's log-probabilities after prompts, (B, V)."""
    with torch.no_grad():
        return _after(model, prompts).log_softmax(-1)


def _displaced(model: nn.Module, block: nn.Module, prompts: _Padded, delta_BD: Tensor) -> Tensor:
    with displaced(block, prompts[1], delta_BD):
        return _after(model, prompts)


def _after(model: Any, prompts: _Padded) -> Tensor:
    """Return the logits after the last token of each prompt, (B, V)."""
    batch, _, ends = prompts
    last_BT = torch.arange(batch["input_ids"].shape[1], device=ends.device) == ends[:, None]
    return logits_at(model, batch, last_BT, use_cache=False)


@contextmanager
def displaced(block: nn.Module, places: Tensor, delta_BD: Tensor) -> Iterator[None]:
    """Run a block in which a layer passes on its stream moved at one token of each row; gradients end at the move."""

    def hook(module: nn.Module, inputs: Any, out: Any) -> Any:
        stream = (out[0] if isinstance(out, tuple) else out).detach()
        rows = torch.arange(len(places))
        moved = stream.index_put((rows, places), delta_BD.to(stream.dtype), accumulate=True)
        return (moved, *out[1:]) if isinstance(out, tuple) else moved

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
