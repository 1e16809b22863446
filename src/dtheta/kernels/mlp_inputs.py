"""What comes into an MLP of a model while it runs on batches: one pass, one batch at a time, nothing kept.

The pass ends at the MLP, since nothing after it is needed; at its last run, where a pass runs it several times. Padding
is left out where a batch has an attention mask: behind the decoder of an encoder-decoder that is its own mask.
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


def times_run(model: nn.Module, mlps: Sequence[Mlp], batch: Any, run: Run = run_batch) -> list[int]:
    """Return how often one pass runs each MLP: more than once where layers share it."""
    found = [0] * len(mlps)

    def count(i: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            found[i] += 1

        return hook

    hooks = [mlp.entry.register_forward_pre_hook(count(i)) for i, mlp in enumerate(mlps)]
    try:
        with torch.no_grad(), kept_modes(model):
            run(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def mlp_inputs(
    model: nn.Module,
    mlp: Mlp,
    batches: Iterable[Any],
    stand_ins: Sequence[tuple[Mlp, nn.Module]] = (),
    run: Run = run_batch,
    times: int = 1,
) -> Iterator[Tensor]:
    """Yield the inputs of an MLP (N, d), a batch at a time, in eval mode; those of several runs one after another.

    Args:
        model: Any module.
        mlp: One of ``find_mlps(model)``.
        batches: What the model is run on.
        stand_ins: MLPs that are replaced meanwhile, and by what.
        run: How a batch is run.
        times: How often a pass runs this MLP, as ``times_run`` tells.

    Raises:
        UnsupportedLayer: If running the model does not run this MLP.
    """
    for batch in batches:
        with torch.no_grad(), kept_modes(model), standing_in(list(stand_ins)):
            found = _inputs_of(model, mlp, batch, run, times)
        mask = _mask_name(model, mlp.name)
        yield torch.cat([_real(x, batch, mask).reshape(-1, mlp.inputs) for x in found])


def _inputs_of(model: nn.Module, mlp: Mlp, batch: Any, run: Run, times: int) -> list[Tensor]:
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else next(iter(kwargs.values()))).detach())
        if len(seen) == times:
            raise _Reached

    hook = mlp.entry.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        run(model, batch)
    except _Reached:
        pass
    finally:
        hook.remove()
    if seen:
        return seen
    raise UnsupportedLayer(
        f"{mlp.name or 'the model'}: running the model on a batch does not run this MLP; leave it out of select"
    )


def _mask_name(model: nn.Module, path: str) -> str:
    """Return the name of the mask of the tokens that go through a module."""
    both = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return "decoder_attention_mask" if both and "decoder" in path.split(".") else "attention_mask"


def _real(x: Tensor, batch: Any, name: str) -> Tensor:
    """Return the inputs at real tokens, where the batch says which are."""
    mask = batch.get(name) if isinstance(batch, Mapping) else None
    if not isinstance(mask, Tensor) or x.ndim != 3 or mask.shape != x.shape[:2]:
        return x
    return x[mask.bool()]


def outputs(model: nn.Module, batches: Iterable[Any], run: Run = run_batch) -> Iterator[Tensor]:
    """Yield the output of a model (N, features) on batches, in eval mode: its logits, or its last hidden states.

    One number an example, (N,), is one feature.

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
        value = value.unsqueeze(-1) if value.ndim < 2 else _real(value, batch, _mask_name(model, "decoder"))
        yield value.reshape(-1, value.shape[-1])
