"""What comes into an MLP of a model while it runs on batches: one pass, one batch at a time, nothing kept.

The pass ends at the MLP, since nothing after it is needed. Padding is left out where a batch has an attention mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.mlps import Mlp
from dtheta.core.modes import kept_modes
from dtheta.core.replaced_forward import standing_in
from dtheta.errors import ConfigError, UnsupportedLayer
from dtheta.kernels.outputs import run_batch

#: (model, batch) -> anything: how a batch is run.
Run = Callable[[nn.Module, Any], Any]


class _Reached(Exception):
    """The input has come; the rest of the pass is not needed."""


def mlp_inputs(
    model: nn.Module,
    mlp: Mlp,
    batches: Iterable[Any],
    stand_ins: Sequence[tuple[Mlp, nn.Module]] = (),
    run: Run = run_batch,
) -> Iterator[Tensor]:
    """Yield the inputs of an MLP (N, d), a batch at a time, in eval mode.

    Args:
        model: Any module.
        mlp: One of ``find_mlps(model)``.
        batches: What the model is run on.
        stand_ins: MLPs that are replaced meanwhile, and by what.
        run: How a batch is run.

    Raises:
        UnsupportedLayer: If running the model does not run this MLP.
    """
    for batch in batches:
        with torch.no_grad(), kept_modes(model), standing_in(list(stand_ins)):
            found = _input_of(model, mlp, batch, run)
        yield _real(found, batch).reshape(-1, mlp.inputs)


def _input_of(model: nn.Module, mlp: Mlp, batch: Any, run: Run) -> Tensor:
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else next(iter(kwargs.values())))
        raise _Reached

    hook = mlp.entry.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        run(model, batch)
    except _Reached:
        return seen[0].detach()
    finally:
        hook.remove()
    raise UnsupportedLayer(
        f"{mlp.name or 'the model'}: running the model on a batch does not run this MLP; leave it out of select"
    )


def _real(x: Tensor, batch: Any) -> Tensor:
    """Return the inputs at real tokens, where the batch says which are."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if not isinstance(mask, Tensor) or x.ndim != 3 or mask.shape != x.shape[:2]:
        return x
    return x[mask.bool()]


def outputs(model: nn.Module, batches: Iterable[Any], run: Run = run_batch) -> Iterator[Tensor]:
    """Yield the output of a model (N, features) on batches, in eval mode: its logits, or its last hidden states.

    Raises:
        ConfigError: If it returns something else.
    """
    for batch in batches:
        with torch.no_grad(), kept_modes(model):
            found = run(model, batch)
        value = next((v for n in ("logits", "last_hidden_state") if (v := getattr(found, n, None)) is not None), found)
        if not isinstance(value, Tensor):
            raise ConfigError(
                f"the model returned a {type(value).__name__}; expected a tensor, logits or hidden states"
            )
        value = _real(value, batch)
        yield value.reshape(-1, value.shape[-1])
