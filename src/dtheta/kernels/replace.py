"""Replace MLPs of a model by smaller functions, fitted in closed form to what they do on real inputs.

    sequential    each MLP is fitted on the inputs that come when those before it are replaced already
    independent   each on the inputs of the model as it was

One pass over the calibration batches for every MLP, which ends there; memory is that of one batch and of the sums of
one MLP. What stands in is a delta of new vectors (``core.replaced``): the model is not changed, nothing is renamed, and
the delta can be attached, detached, saved and trained further like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dtheta.core.apply import originals
from dtheta.core.arguments import number, whole
from dtheta.core.change import Change, New
from dtheta.core.delta import Delta
from dtheta.core.features.code import code_of
from dtheta.core.fingerprint import fingerprint
from dtheta.core.mlps import Mlp, find_mlps
from dtheta.core.provenance import Provenance
from dtheta.core.replaced import SEAL, replaced_name, seal_of
from dtheta.core.replaced_forward import standing_in
from dtheta.core.seeds import generator, normal
from dtheta.core.tensors import attached_to, base_tensors
from dtheta.data.text import keyed_order
from dtheta.errors import ConfigError, UnsupportedLayer
from dtheta.kernels.feed_forward import FeedForward
from dtheta.kernels.fit_mlp import VARIANTS, FittedMLP, Variant, fit_mlp
from dtheta.kernels.latency import latency
from dtheta.kernels.mlp_inputs import Run, mlp_inputs, outputs, run_batch, times_run
from dtheta.kernels.replacement import Cost, Replaced, Replacement
from dtheta.kernels.snnk import SNNKLayer

OPERATION = "snnk-replace"
SIZES = (1, 32, 256)


def replace_mlps(
    model: nn.Module,
    batches: Iterable[Any],
    width: int,
    *,
    select: str | None = None,
    variant: Variant = "own-neurons",
    skip: bool = True,
    sequential: bool = True,
    ridge: float | None = None,
    held_out: float | Iterable[Any] = 0.2,
    sizes: Sequence[int] = SIZES,
    seed: int = 0,
    run: Run = run_batch,
    begin: Callable[[str], None] = lambda name: None,
) -> Replacement:
    """Replace MLPs by smaller functions, and measure what that loses and gains.

    Args:
        model: Any module; not changed. Adapters may be on it, but not on the MLPs.
        batches: What it is run on to calibrate: mappings that it takes by name, or tensors. Read several times,
            so kept; memory beyond that does not grow with them.
        width: Neurons, random features, or rank; see ``variant``.
        select: Which MLPs; see ``find_mlps``. All by default.
        variant: "own-neurons", some of the MLP's own, chosen for its output; "own-random", drawn; "random", random
            features; "low-rank", its matrices cut to a rank.
        skip: Whether a linear path stands beside; no matter for low rank.
        sequential: Whether later MLPs are fitted on the inputs that come when earlier ones are replaced.
        ridge: Penalty of the fits; None chooses it by generalized cross-validation.
        held_out: Share of the batches to measure errors on, drawn by the seed; or batches.
        sizes: Batch sizes at which to measure latency, in inputs of the MLP (tokens).
        seed: Key of every random draw.
        run: (model, batch) -> output: how a batch is run.
        begin: Called with the name of each MLP before it is fitted.

    Raises:
        UnsupportedLayer: If there is no MLP, none is selected, or an adapter is on one.
        ConfigError: For a width that an MLP does not have, or no memory holds, or too few batches or inputs.
        NonFinite, NotConverged: As ``fit_mlp``.
    """
    mlps = find_mlps(model, select)
    require_width(mlps, width, variant)
    _require_plain(mlps)
    fitted_on, measured_on = _split(list(batches), held_out, seed)
    placed: list[tuple[Mlp, nn.Module]] = []
    found = []
    for mlp, times in zip(mlps, times_run(model, mlps, fitted_on[0], run), strict=True):
        begin(mlp.name)
        earlier = list(placed) if sequential else []

        def inputs(of: Sequence[Any], mlp: Mlp = mlp, earlier: Any = earlier, times: int = times) -> Iterable[Tensor]:
            return mlp_inputs(model, mlp, of, earlier, run, max(1, times))

        block = FeedForward.of(mlp.up, mlp.down, mlp.activation, mlp.gate)
        fit = fit_mlp(
            block, inputs(fitted_on), width, variant=variant, skip=skip, ridge=ridge,
            seed=seed, held_out=inputs(measured_on),
        )  # fmt: skip
        require_enough(mlp, fit.examples, width, variant, skip)
        placed.append((mlp, fit.module))
        found.append(fit)
    output_error = _output_error(model, placed, measured_on, run)
    costs = _costs(mlps, [fit.module for fit in found], sizes)
    rows = tuple(_row(*each) for each in zip(mlps, found, costs, strict=True))
    settings = {"variant": variant, "width": width, "skip": skip, "sequential": sequential, "select": select}
    return Replacement(_delta(model, placed, settings, seed), rows, output_error)


def require_width(mlps: Sequence[Mlp], width: int, variant: str) -> None:
    """Raise unless every MLP can be replaced in this way, as far as shapes tell.

    Raises:
        ConfigError: Naming the MLP.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"variant is {variant!r}; expected one of {', '.join(VARIANTS)}")
    whole(width, "width", 1)
    for mlp in mlps:
        most = {"own-neurons": mlp.hidden, "own-random": mlp.hidden}.get(variant)
        most = min(mlp.inputs, mlp.hidden, mlp.outputs) if variant == "low-rank" else most
        if most is not None and width > most:
            what = f"rank {most} of its matrices" if variant == "low-rank" else f"{most} neurons that it has"
            raise ConfigError(f"{mlp.name or 'the model'}: width={width} is more than the {what}; choose a smaller one")


def _require_plain(mlps: Sequence[Mlp]) -> None:
    """Raise where an adapter is on an MLP: what is fitted are the weights below it."""
    for mlp in mlps:
        if held := [layer for layer in mlp.layers if attached_to(layer)]:
            raise UnsupportedLayer(
                f"{mlp.name or 'the model'}: an adapter is on {type(held[0]).__name__} layers of this MLP; merge its "
                "delta and replace the MLPs of that, or leave this MLP out of select"
            )


def _split(batches: list[Any], held_out: float | Iterable[Any], seed: int) -> tuple[list[Any], list[Any]]:
    """Return the batches to fit on, and those to measure on."""
    if not isinstance(held_out, (int, float)):
        measured = list(held_out)
    else:
        if not 0.0 < number(held_out, "held_out") < 1.0:
            raise ConfigError(f"held_out={held_out} must lie between 0 and 1, both excluded, or be batches")
        order = keyed_order(len(batches), seed, "replace/held-out")
        count = max(1, round(held_out * len(batches)))
        measured = [batches[i] for i in sorted(order[:count])]
        batches = [batches[i] for i in sorted(order[count:])]
    if not batches or not measured:
        raise ConfigError(
            f"too few batches: {len(batches)} to fit on and {len(measured)} to measure errors on; give at least two, "
            "or smaller ones"
        )
    return batches, measured


def require_enough(mlp: Mlp, examples: int, width: int, variant: str, skip: bool) -> None:
    """Raise where a fit has more unknowns than examples; low rank is not fitted to the outputs.

    Raises:
        ConfigError: Naming the MLP.
    """
    unknowns = width + (mlp.inputs if skip else 0)
    if variant != "low-rank" and examples <= unknowns:
        raise ConfigError(
            f"{mlp.name or 'the model'}: {examples} inputs (tokens) are too few: a fit of width={width} has {unknowns} "
            "weights for each output and needs more inputs, best ten times as many; give more data, or a smaller width"
        )


def _output_error(model: nn.Module, placed: list[tuple[Mlp, nn.Module]], batches: Sequence[Any], run: Run) -> float:
    """Return the relative squared error of the model's output; one batch's outputs are held at a time."""
    missed, squares, total, count = 0.0, 0.0, None, 0
    for batch in batches:
        (y,) = outputs(model, [batch], run)
        with standing_in(placed):
            (found,) = outputs(model, [batch], run)
        missed += float((y - found).double().square().sum())
        squares += float(y.double().square().sum())
        total = y.double().sum(0) if total is None else total + y.double().sum(0)
        count += len(y)
    assert total is not None, "there are batches"
    varying = squares - float(total.square().sum()) / count
    return missed / varying if varying > 0 else (0.0 if missed == 0 else math.inf)


def _costs(mlps: Sequence[Mlp], modules: Sequence[nn.Module], sizes: Sequence[int]) -> list[tuple[Cost, Cost]]:
    """Return the costs before and after of every MLP; those of one shape take as long, and are measured once."""
    measured: dict[Any, dict[int, dict[str, float]]] = {}
    found = []
    for mlp, module in zip(mlps, modules, strict=True):
        numbers = sum(p.numel() for layer in mlp.layers for p in layer.parameters())
        products = sum(math.prod(_weight(layer).shape) for layer in mlp.layers)
        kind = (mlp.inputs, mlp.hidden, mlp.outputs, mlp.gate is None, [tuple(p.shape) for p in module.parameters()])
        times = measured.setdefault(str(kind), {}) or _times(mlp, module, sizes, measured[str(kind)])
        before = Cost(numbers, 2 * products, {n: of["before"] for n, of in times.items()})
        after = Cost(_numbers(module), _flops(module), {n: of["after"] for n, of in times.items()})
        found.append((before, after))
    return found


def _times(mlp: Mlp, module: nn.Module, sizes: Sequence[int], into: dict[int, Any]) -> dict[int, dict[str, float]]:
    weight = _weight(mlp.up)
    for n in sizes:
        x = normal((n, mlp.inputs), 1.0, generator(0, "replace/latency")).to(weight.device, weight.dtype)
        into[n] = latency({"before": mlp, "after": module}, x)
    return into


def _weight(layer: nn.Module) -> Tensor:
    weight: Any = layer.weight
    return weight


def _numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _flops(module: nn.Module) -> int:
    """Return the flops of one input: every matrix, and the projection of random features, is multiplied once."""
    matrices = [t for t in (*module.parameters(), *module.buffers()) if t.ndim == 2 and t.is_floating_point()]
    return 2 * sum(t.numel() for t in matrices)


def _row(mlp: Mlp, fit: FittedMLP, costs: tuple[Cost, Cost]) -> Replaced:
    assert fit.error is not None, "it was given inputs to measure on"
    return Replaced(mlp.name, fit.error, fit.calibration_error, fit.ridge, fit.examples, *costs)


def _delta(model: nn.Module, placed: Sequence[tuple[Mlp, nn.Module]], settings: Mapping[str, Any], seed: int) -> Delta:
    changes: dict[str, Change] = {}
    for mlp, module in placed:
        parts = {part: values.detach().to("cpu").clone() for part, values in tensors_of(module).items()}
        for part, values in {SEAL: seal_of(parts), **parts}.items():
            changes[replaced_name(mlp.name, part)] = New(values)
    touched = [name for mlp, _ in placed for name in mlp.parameters]
    held = originals(model)
    base = fingerprint({name: held[name] for name in base_tensors(model)}).restrict(touched)
    return Delta(changes, base, Provenance(OPERATION, {}, [], {**settings, "mlps": [m.name for m, _ in placed]}, seed))


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of what stands in for an MLP, by the names of their parts in a delta."""
    found: dict[str, Tensor] = dict(module.named_parameters())
    if not isinstance(module, SNNKLayer):
        return found
    parts = {"psi": f"random.{code_of(module.features)}.psi", "skip": "skip.weight"}
    return {parts.get(name, f"random.{code_of(module.features)}.{name}"): values for name, values in found.items()}
