"""One captured pass for all methods: inputs a and gradients g of each layer, and from them whatever is trained there.

    K_method = sum over sites and trained factors of J J^T,   J from (a, g) by the term itself (``Term.tangents``)
    s = sign(J^T r)     the first step of Adam for the residual r = Y - f0;  |J^T r|_1 and J s bound its rate

Coefficients of deltas have the derivatives <J, tau>, one for each parameter of each delta. Large models are gone
through some sites at a time, so that what is held stays within ``BUDGET``.

Shape legend: n examples of a half, O directions of the logits, T tokens, d1 and d2 widths in and out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.adapt.term import SpectralTerm, Term
from dtheta.core.seeds import generator, normal
from dtheta.core.selection import Site, layer_index
from dtheta.core.tangents import Direct, Outer, Tangent
from dtheta.errors import ConfigError, DthetaError, UnsupportedLayer
from dtheta.kernels.capture import Captured, capture, tangents
from dtheta.kernels.outputs import Function
from dtheta.kernels.passes import Study
from dtheta.scout.candidates import Candidate
from dtheta.scout.examples import Examples
from dtheta.scout.head import moved

BUDGET = 2 << 30  # bytes of captured inputs and gradients
SIGNED = 32  # examples by which the first step of Adam is judged
_WIDTH = 64  # random features that stand for a wide layer's inputs; the kernel adds up many layers and tokens


@dataclass(frozen=True, eq=False)
class Glance:
    """Examples that are looked at with one head.

    Attributes:
        function: (model, batch) -> outputs (n, O).
        index: Which of all examples.
        residual: r (n, O), what the head leaves unexplained along the directions.
    """

    function: Function
    index: Tensor
    residual: Tensor


@dataclass(eq=False)
class Derivatives:
    """What the derivatives of one method say about one half.

    Attributes:
        residual: r (n, O).
        kernels: Kernel (n, n) by layer, float64, the mean over directions.
        moves: Kernel (n, n) of all layers per squared displacement of the weights, or None.
        slope: |J^T r|_1 over the first ``SIGNED`` examples.
        signed: J s (SIGNED, O) of the same, float64.
        count: Entries that train.
        failure: Why there are none, if so.
    """

    residual: Tensor
    kernels: dict[str, Tensor] = field(default_factory=dict)
    moves: Tensor | None = None
    slope: float = 0.0
    signed: Tensor | None = None
    count: int = 0
    failure: DthetaError | None = None

    def kernel(self) -> Tensor | None:
        """Return the kernel of all layers, or None where there is none."""
        return torch.stack(list(self.kernels.values())).sum(0) if self.kernels else None

    def add(self, piece: Piece, layer: str) -> None:
        """Add what a trained factor says."""
        self.kernels[layer] = self.kernels[layer] + piece.kernel if layer in self.kernels else piece.kernel
        moves = piece.kernel / piece.unit if piece.unit > 0 else torch.zeros_like(piece.kernel)
        self.moves = moves if self.moves is None else self.moves + moves
        self.slope += piece.slope
        self.signed = piece.signed if self.signed is None else self.signed + piece.signed
        self.count += piece.count


@dataclass(frozen=True, eq=False)
class Piece:
    """What the derivatives by one trained factor say; fields are those of ``Derivatives``.

    Attributes:
        unit: u = E |dW|^2 / |d theta|^2, the squared displacement of the weight by a move of the factor.
    """

    kernel: Tensor
    slope: float
    signed: Tensor
    count: int
    unit: float


def piece_of(tangent: Tangent, residual_NO: Tensor, unit: float = 1.0) -> Piece:
    """Return what the derivatives by one factor say, given the residual r (n, O)."""
    some = tangent.examples_of(0, SIGNED)
    gradient = some.accumulate(residual_NO[:SIGNED])
    signed = some.dot(gradient.sign()).double().cpu()
    kernel = sketched(tangent).gram(outputs="mean").double().cpu()
    return Piece(kernel, float(gradient.abs().double().sum()), signed, tangent.size, unit)


def sketched(tangent: Tangent) -> Tangent:
    """Return a tangent whose wide inputs are projected to ``_WIDTH`` random features: the same kernel on average."""
    if not isinstance(tangent, Outer) or tangent.inputs.shape[1] == 1:
        return tangent
    if min(tangent.inputs.shape[2], tangent.gradients.shape[3]) <= 2 * _WIDTH:
        return tangent
    width = tangent.inputs.shape[2]
    drawn = normal((width, _WIDTH), 1.0, generator(0, f"scout/sketch/{width}")) / _WIDTH**0.5
    return Outer(tangent.inputs @ drawn.to(tangent.inputs), tangent.gradients)


def layer_of(site: Site) -> str:
    """Return the number of a site's layer as text, or "other"."""
    index = layer_index(site.name)
    return "other" if index is None else str(index)


def derivatives_of(
    model: nn.Module, examples: Examples, glances: Sequence[Glance], candidates: Sequence[Candidate], chunk: int
) -> list[dict[str, Derivatives]]:
    """Return the derivatives of every candidate that displaces weights: by glance, then by name.

    Args:
        model: The network.
        examples: All examples.
        glances: Which of them to look at together, and with which head.
        candidates: Those that are not attached.
        chunk: Examples a pass.
    """
    sites = {key: site for candidate in candidates for key, site in candidate.sites.items()}
    found = [{c.name: Derivatives(glance.residual) for c in candidates} for glance in glances]
    places = max(_places(examples.of(glance.index)) for glance in glances)
    groups = list(_groups(list(sites.values()), sum(len(g.index) for g in glances) * places, glances[0]))
    while groups:
        group = groups.pop()
        try:
            _sweep(model, examples, glances, candidates, found, group, chunk)
        except (UnsupportedLayer, ConfigError) as error:
            groups += _bisected(group)
            if len(group) == 1:
                _missed([(held[c.name], c) for held in found for c in candidates], group[0], error)
    return found


def _missed(held: Sequence[tuple[Derivatives, Candidate]], site: Site, error: DthetaError) -> None:
    """Say of those who train at a site why it fails; or, where no output depends on it, count what they train there."""
    for one, candidate in held:
        if site.key not in candidate.sites:
            continue
        if isinstance(error, UnsupportedLayer):
            one.failure = one.failure or error
        elif candidate.method is None:
            one.count += len(candidate.directions[site.key])
        else:
            one.count += sum(p.numel() for p in candidate.terms[site.key].parameters() if p.requires_grad)


def _sweep(
    model: nn.Module, examples: Examples, glances: Sequence[Glance], candidates: Sequence[Candidate],
    found: Sequence[Mapping[str, Derivatives]], group: Sequence[Site], chunk: int,
) -> None:  # fmt: skip
    """Add what the candidates train at some sites; nothing is added where something there cannot be captured."""
    seen = list[Captured]()
    for glance in glances:
        seen.append(_captured(model, examples, glance, group, chunk, seen[-1].study if seen else None))
    for site in group:
        for captured, held in zip(seen, found, strict=True):
            pair = captured.inputs.pop(site.key), captured.gradients.pop(site.key)
            for same in _alike(candidates, site):
                _add([held[candidate.name] for candidate in same], same[0], site, pair)


def _bisected(group: list[Site]) -> list[list[Site]]:
    """Return a group of sites as two, to find the ones that cannot be captured; none of a single one."""
    middle = len(group) // 2
    return [group[:middle], group[middle:]] if middle else []


def _alike(candidates: Sequence[Candidate], site: Site) -> list[list[Candidate]]:
    """Return the candidates at a site, those together that train the same there: one method in several selections."""
    groups: dict[Any, list[Candidate]] = {}
    for candidate in candidates:
        if site.key in candidate.sites:
            groups.setdefault(candidate.method or candidate.name, []).append(candidate)
    return list(groups.values())


def _add(held: Sequence[Derivatives], candidate: Candidate, site: Site, seen: tuple[Tensor, Tensor]) -> None:
    """Add what a candidate trains at a site; one that has no derivatives there fails as a whole, and says why."""
    sound = [one for one in held if one.failure is None]
    try:
        for tangent, unit in _parts(candidate, site, *seen) if sound else ():
            piece = piece_of(tangent, sound[0].residual.to(seen[1]), unit)
            for one in sound:
                one.add(piece, layer_of(site))
    except DthetaError as error:
        for one in sound:
            one.failure = error


def _parts(candidate: Candidate, site: Site, inputs: Tensor, gradients: Tensor) -> list[tuple[Tangent, float]]:
    """Return the tangents of what trains at a site, each with its unit of displacement."""
    if candidate.method is not None:
        term = candidate.terms[site.key]
        found = term.tangents(inputs, gradients, transposed=site.kind == "transposed")
        if site.key not in candidate.units:  # both halves ask
            candidate.units[site.key] = units_of(term)
        return list(zip(found, candidate.units[site.key], strict=True))
    (whole,) = tangents(site, inputs, gradients)
    directions = [change.matrix().to(gradients) for change in candidate.directions[site.key]]
    return [(Direct(whole.dot(tau).unsqueeze(-1)), float(tau.double().square().sum())) for tau in directions]


@torch.no_grad()
def units_of(term: Term) -> list[float]:
    """Return E |dW|^2 / |d theta|^2 of each factor that trains, by a random move; the term is as it was."""
    trained = [p for p in term.parameters() if p.requires_grad]
    if term.materialize or isinstance(term, SpectralTerm):  # the weight itself, or along an orthonormal basis
        return [1.0] * len(trained)
    found, before = [], term.matrix().clone()
    for i, factor in enumerate(trained):
        held = factor.clone()
        move = normal(factor.shape, 1.0, generator(0, "scout/unit", i)).to(factor)
        factor.add_(move)
        displaced = term.matrix() - before
        factor.copy_(held)
        found.append(float(displaced.double().square().sum() / move.double().square().sum()))
    return found


def _groups(sites: list[Site], places: int, glance: Glance) -> Iterator[list[Site]]:
    """Yield sites, so many at a time that what is captured of them at so many places stays within the budget."""
    outputs, held, size = glance.residual.shape[1], list[Site](), 0
    for site in sites:
        rows, columns = site.shape if site.is_matrix else (site.tensor.numel(), 0)
        own = 4 * places * (outputs * columns if site.kind == "embedding" else columns + outputs * rows)
        if held and size + own > BUDGET:
            yield held
            held, size = [], 0
        held.append(site)
        size += own
    if held:
        yield held


def _places(batch: object) -> int:
    """Return the number of tokens of an example, 1 for anything but ids."""
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    return ids.shape[1] if isinstance(ids, Tensor) and ids.ndim == 2 else 1


def _captured(
    model: nn.Module, examples: Examples, glance: Glance, sites: Sequence[Site], chunk: int, known: Study | None
) -> Captured:
    """Capture some examples after others, as one; places that an example does not have get zeros."""
    device, parts = sites[0].tensor.device, list[Captured]()
    for some in glance.index.split(chunk):
        batch = moved(examples.of(some), device)
        try:
            parts.append(capture(glance.function, model, sites, batch, known=known))
        except UnsupportedLayer:  # batches of another width may go another way; a study of their own tells
            parts.append(capture(glance.function, model, sites, batch))
        known = parts[-1].study
    inputs = {key: _stacked([part.inputs.pop(key) for part in parts], 1) for key in list(parts[0].inputs)}
    gradients = {key: _stacked([part.gradients.pop(key) for part in parts], 2) for key in list(parts[0].gradients)}
    return Captured(inputs, gradients, torch.cat([part.logits for part in parts]), parts[0].study)


def _stacked(parts: list[Tensor], axis: int) -> Tensor:
    """Return arrays one after the other along the examples, padded with zeros along the places."""
    most = max(part.shape[axis] for part in parts)
    return torch.cat([_padded(part, axis, most - part.shape[axis]) for part in parts])


def _padded(part: Tensor, axis: int, more: int) -> Tensor:
    return F.pad(part, [0, 0] * (part.ndim - 1 - axis) + [0, more]) if more else part
