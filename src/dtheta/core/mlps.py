"""MLPs: the feed-forward parts of a network, by what they compute.

    plain    y = W2 f(W1 x + b1) + b2                    BERT, GPT-2, CLIP, ViT, T5, nn.Sequential(Linear, f, Linear)
    gated    y = W2 (f(Wg x + bg) * (W1 x + b1)) + b2    Llama, SmolLM2, T5 1.1

Found by their layers and shapes, not by the name of a class, and then run: a module counts as an MLP only if it gives
this y for numbers drawn at random. What stands around it (residual, LayerNorm, a last dropout) is no part of it.

    a module of its own     mlp(up, f, down)                    all of it in one forward
    two modules             intermediate(up, f), output(down)   BERT: the first computes, the second passes on
    a run of nn.Sequential  Linear, f, Linear                   likewise
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.modes import kept_modes
from dtheta.core.seeds import generator, normal
from dtheta.core.selection import layer_kind
from dtheta.core.selection import select as select_sites
from dtheta.core.tensors import Owner, canonical_names
from dtheta.errors import UnsupportedLayer, did_you_mean

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Mlp:
    """One MLP of a network, and where its input comes in and its output leaves.

    Attributes:
        name: The path of ``entry``: what results call this MLP.
        entry: The module whose input is x. Where ``passed`` is empty it returns y.
        passed: The modules after it, up to the one that returns y.
        up: W1 and b1, a linear layer (d to h).
        down: W2 and b2, a linear layer (h to D).
        activation: f, elementwise.
        gate: Wg and bg, a linear layer (d to h), or None.
        parameters: The names of the weights and biases of these layers among the model's tensors.
    """

    name: str
    entry: nn.Module
    passed: tuple[nn.Module, ...]
    up: nn.Module
    down: nn.Module
    activation: Activation
    gate: nn.Module | None
    parameters: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """The linear layers."""
        return (self.up, self.down) if self.gate is None else (self.gate, self.up, self.down)

    @property
    def inputs(self) -> int:
        """d, features of x."""
        return _shape(self.up)[0]

    @property
    def hidden(self) -> int:
        """h, neurons."""
        return _shape(self.up)[1]

    @property
    def outputs(self) -> int:
        """D, features of y."""
        return _shape(self.down)[1]

    def __call__(self, x: Tensor) -> Tensor:
        """Return y (..., D) for x (..., d)."""
        return self.down(self.neurons(x))

    def neurons(self, x: Tensor) -> Tensor:
        """Return the activations (..., h) of x (..., d)."""
        if self.gate is None:
            return self.activation(self.up(x))
        return self.activation(self.gate(x)) * self.up(x)


def find_mlps(model: nn.Module, select: str | None = None) -> list[Mlp]:
    """Return the MLPs of a model, in its order.

    Args:
        model: Any module.
        select: Which (see ``core.selection``): an MLP is taken where the weight of its first layer is, such as
            ``"@mlp#2-5"``, and by its own name; all by default. Those that share a layer are not found.

    Raises:
        UnsupportedLayer: If there is none, or none is selected.
        ConfigError, UnknownParameter: For a pattern that takes nothing at all.
    """
    paths, canonical = {id(module): path for path, module in model.named_modules()}, canonical_names(model)
    found = _unshared([_named(mlp, paths, canonical) for mlp in _every(model)])
    if not found:
        raise UnsupportedLayer(
            f"{type(model).__name__} has no MLP of the form W2 f(W1 x + b1) + b2, with or without a gate, whose layers "
            "are nn.Linear or Conv1D; in one of another form nothing can be replaced"
        )
    if select is None:
        return found
    names = {mlp.name for mlp in found}
    pattern = "|".join(f"{part}.*" if (part := p.strip()) in names and part else part for p in select.split("|"))
    taken = {site.name for site in select_sites(model, pattern)}
    chosen = [mlp for mlp in found if mlp.parameters[0] in taken]
    if not chosen:
        near = did_you_mean(select, names)
        raise UnsupportedLayer(f"the selection {select!r} takes no MLP{near}; there are {len(found)}: {_some(names)}")
    return chosen


def _some(names: set[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered) if len(ordered) < 4 else f"{ordered[0]}, {ordered[1]}, ..., {ordered[-1]}"


def _named(mlp: Mlp, paths: Mapping[int, str], canonical: Mapping[str, str]) -> Mlp:
    """Return an MLP with the names of its tensors, the weight of its first layer first."""
    held = [
        Owner(paths[id(layer)], layer, attribute).name
        for layer in (mlp.up, *(part for part in mlp.layers if part is not mlp.up))
        for attribute in ("weight", "bias")
        if getattr(layer, attribute, None) is not None
    ]
    return replace(mlp, parameters=tuple(dict.fromkeys(canonical[name] for name in held)))


def _unshared(found: Sequence[Mlp]) -> list[Mlp]:
    """Return the MLPs that no other shares a layer with; of overlapping runs the first."""
    taken: set[int] = set()
    kept = []
    for mlp in found:
        mine = {id(mlp.entry), *map(id, mlp.passed), *map(id, mlp.layers)}
        if not mine & taken:
            kept.append(mlp)
        taken |= mine
    return kept


def _every(model: nn.Module) -> Iterator[Mlp]:
    """Yield all candidates that compute what an MLP does."""
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for path, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            yield from _runs(path, module, places)
            continue
        for mlp in _parts(path, module):
            if places[id(mlp.entry)] == 1 and _computes(mlp):
                yield mlp
                break


def _parts(path: str, module: nn.Module) -> Iterator[Mlp]:
    """Yield the ways to read a module as an MLP: as one, or as two of its children."""
    children = dict(module.named_children())
    first, second = children.get("intermediate"), children.get("output")
    down: Any = getattr(second, "dense", None)
    if first is not None and _is_linear(down):
        ups = [child for child in first.children() if _is_linear(child)]
        for activation in _activations(first) if len(ups) == 1 else ():
            yield Mlp(f"{path}.intermediate".removeprefix("."), first, (down,), ups[0], down, activation, None)
        return
    linear = [child for child in children.values() if _is_linear(child)]
    if len(linear) not in (2, 3) or not all(_is_linear(c) or _is_plain(c) for c in children.values()):
        return
    for up, down, gate in _roles(linear):
        for activation in _activations(module):
            yield Mlp(path, module, (), up, down, activation, gate)


def _roles(linear: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, nn.Module, nn.Module | None]]:
    """Yield up, down and gate where the shapes allow it."""
    if len(linear) == 2:
        up, down = linear
        if _shape(up)[1] == _shape(down)[0]:
            yield up, down, None
        return
    for down in linear:
        gate, up = [layer for layer in linear if layer is not down]
        if _shape(gate) == _shape(up) and _shape(up)[1] == _shape(down)[0]:
            yield from ((up, down, gate), (gate, down, up))


def _runs(path: str, sequential: nn.Sequential, places: Counter[int]) -> Iterator[Mlp]:
    """Yield the runs Linear, f, Linear of a sequence, with dropout anywhere between, that is used nowhere else."""
    items = list(sequential.named_children())
    start = 0
    while start < len(items):
        run = _run(items[start:])
        if run is None or any(places[id(module)] > 1 for _, module in run):
            start += 1
            continue
        (name, up), *between, (_, down) = run
        activation = next(module for _, module in between if not isinstance(module, nn.modules.dropout._DropoutNd))
        passed = tuple(module for _, module in run[1:])
        function = copy(activation)  # what stands in for the run makes the module itself pass its input on
        yield Mlp(f"{path}.{name}".removeprefix("."), up, passed, up, down, function, None)
        start += len(run)


def _run(items: Sequence[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]] | None:
    """Return the run that begins here, or None."""
    if not _is_linear(items[0][1]):
        return None
    run, active = [items[0]], 0
    for item in items[1:]:
        run.append(item)
        if _is_linear(item[1]):
            fits = active == 1 and _shape(items[0][1])[1] == _shape(item[1])[0]
            return run if fits else None
        dropout = isinstance(item[1], nn.modules.dropout._DropoutNd)
        active += not dropout
        if not (dropout or (_is_plain(item[1]) and _is_elementwise(item[1], _shape(items[0][1])[1]))):
            return None
    return None


def _is_linear(module: object) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Module) or not isinstance(weight, Tensor):
        return False
    return layer_kind(Owner("", module, "weight"), weight) in ("linear", "transposed")


def _is_plain(module: nn.Module) -> bool:
    """Tell whether a module has no numbers of its own."""
    return next(module.parameters(), None) is None and next(module.buffers(), None) is None


def _shape(layer: nn.Module) -> tuple[int, int]:
    """Return inputs and outputs of a linear layer."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    rows, columns = weight.shape
    return (rows, columns) if layer_kind(Owner("", layer, "weight"), weight) == "transposed" else (columns, rows)


def _activations(module: nn.Module) -> Iterator[Any]:
    """Yield what may be the activation among a module's children and attributes."""
    dropout = nn.modules.dropout._DropoutNd
    for child in module.children():
        if _is_plain(child) and not isinstance(child, dropout):
            yield child
    for name, value in vars(module).items():
        if not name.startswith("_") and name != "forward" and callable(value) and not isinstance(value, type):
            yield value


def _is_elementwise(activation: Activation, width: int) -> bool:
    """Tell whether a function treats every feature by itself and alike."""
    x = normal((3, width), 1.0, generator(0, "mlp/elementwise"))
    other = torch.cat([x[:, :1], -2 * x[:, 1:]], 1)
    try:
        with torch.no_grad():
            y, flipped, others = activation(x), activation(x.flip(-1)), activation(other)
    except Exception:  # it takes other inputs
        return False
    if not isinstance(y, Tensor) or y.shape != x.shape:
        return False
    return torch.allclose(y.flip(-1), flipped) and torch.allclose(y[:, 0], others[:, 0])


def _computes(mlp: Mlp) -> bool:
    """Tell whether the modules compute what the MLP says, by running them on random numbers."""
    weight: Tensor = mlp.up.weight  # type: ignore[assignment]
    if not _is_elementwise(mlp.activation, 8):
        return False
    if weight.is_meta:
        return True
    x = normal((1, 3, mlp.inputs), 1.0, generator(0, "mlp/probe")).to(weight.device, weight.dtype)
    with torch.no_grad(), kept_modes(mlp.entry):
        try:
            found = type(mlp.entry).forward(mlp.entry, x)  # its own: the instance's may be one of ours
            wanted = mlp(x) if not mlp.passed else mlp.neurons(x)
        except Exception:  # a module that takes other inputs is no MLP
            return False
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        return False
    bound = 1e-4 if weight.dtype in (torch.float32, torch.float64) else 2e-2
    return bool((found - wanted).norm() <= bound * wanted.norm())
