"""What can be replaced in a model, and with how many inputs and how much memory: shapes alone are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dtheta.core.mlps import Mlp, find_mlps
from dtheta.errors import ConfigError
from dtheta.kernels.replace import require_enough, require_width
from dtheta.kernels.ridge import require_memory

if TYPE_CHECKING:
    from torch import nn

    from dtheta.cli.compress import Options
    from dtheta.core.header import Header
    from dtheta.data.batches import Batch

_DECOMPOSED = 6  # matrices of the size of the sums that are held while they are decomposed, about


def replaceable(model: nn.Module, options: Options, header: Header | None) -> list[Mlp]:
    """Return the MLPs that would be replaced.

    Args:
        model: The model, or its outline.
        options: Of the verb; the width is given.
        header: Of the delta to judge by.

    Raises:
        ConfigError, UnsupportedLayer: As ``replace_mlps``; if the delta to judge by moves an MLP that is replaced.
    """
    mlps = find_mlps(model, options.select)
    require_width(mlps, _width(options), options.variant)
    if header is None:
        return mlps
    touched = {name.removeprefix("encoder.") for name in header.changes}
    inner = getattr(model, "base_model_prefix", "") + "."
    for mlp in mlps:
        moved = [n for n in mlp.parameters if n in touched or n.removeprefix(inner) in touched]
        if moved:
            raise ConfigError(
                f"{header.path} moves {moved[0]}, a weight of an MLP that would be replaced, so its training would be "
                "lost: train with --select '@attention', leave that MLP out with --select, or write the merged model "
                "with 'dtheta merge' and compress that"
            )
    return mlps


def require_inputs(mlps: Sequence[Mlp], batches: Sequence[Batch], options: Options) -> None:
    """Raise unless there are inputs enough to fit to, and memory for the sums of the fits.

    Raises:
        ConfigError: Naming the MLP, or the width.
    """
    inputs = sum(batch["input_ids"].numel() for batch in batches)  # padding among them: no MLP gets more
    for mlp in mlps:
        require_enough(mlp, inputs, _width(options), options.variant, options.skip)
    require_memory(_summed(mlps, options))


def fit_memory(mlps: Sequence[Mlp], options: Options) -> int:
    """Return about how many bytes a fit takes beside the model: float64 matrices of what is summed."""
    return _DECOMPOSED * 8 * _summed(mlps, options) ** 2


def _summed(mlps: Sequence[Mlp], options: Options) -> int:
    """Return over how many features the largest sums of a fit run: drawn ones or all neurons, and inputs."""
    random = options.variant == "random"
    return max((_width(options) + options.skip * m.inputs if random else m.hidden + m.inputs for m in mlps), default=0)


def _width(options: Options) -> int:
    assert options.width is not None, "it was checked"
    return options.width
