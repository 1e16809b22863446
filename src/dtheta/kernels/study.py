"""Study: three examples tell how a model uses what moves, before all examples are spent on it.

1. The outputs of the first example alone and among three are the same: examples do not mix, nothing is drawn.
2. The derivative by every watched result is zero at the other examples: where the examples are in it (``layouts``).
3. A random combination of the examples' tangents equals autograd's gradient of it: nothing is left out, nothing
   counted twice.

What fails the second or the third has no structure here, and goes by per-example derivatives; the plan says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.core.tangents import Direct, Outer
from dtheta.errors import UnsupportedLayer
from dtheta.fit.batch import taken
from dtheta.kernels.assemble import Placed, gradients_of, tangents_of, windowed
from dtheta.kernels.forms import Lookup, Scaled
from dtheta.kernels.groups import footprint
from dtheta.kernels.layouts import Layout, find_layout
from dtheta.kernels.outputs import probe_of, pseudo
from dtheta.kernels.passes import Problem, Study, Use, appearances, forward, found_at
from dtheta.kernels.subject import Target
from dtheta.kernels.watch import Call

#: Where each source is used, as (call, part), in order: what ``passes.appearances`` returns.
Appearances: TypeAlias = Mapping[str, Sequence[tuple[int, int]]]
_PROBES = 3
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3, torch.float16: 0.1, torch.bfloat16: 0.2}


def study(problem: Problem, batch: Any) -> Study:
    """Find out how a model uses what moves; see the module's docstring.

    Raises:
        UnsupportedLayer: If the outputs of an example depend on the others, or are drawn at random.
    """
    probe = probe_of(batch)
    f, calls = forward(problem, probe, _PROBES)
    require_apart(problem, batch, f)
    weights = torch.randn(f.shape[1], generator=generator(0, "tangent study"), dtype=torch.float64).to(f)
    gradients = [_gradients(f[n] @ weights, calls) for n in range(_PROBES)]
    layouts = [find_layout([g[i] for g in gradients]) for i in range(len(calls))]
    unseen = frozenset(i for i in range(len(calls)) if not any(bool(g[i].any()) for g in gradients))
    seen = appearances(calls)
    resolution = _Resolution(calls, seen, layouts, unseen)
    uses: dict[str, list[Use]] = {}
    reasons: dict[str, str] = {}
    for target in problem.targets:
        found = resolution.of(target)
        if isinstance(found, str):
            reasons[target.key] = found
        else:
            uses[target.key] = found
    summed = [torch.stack([g[i] for g in gradients]).sum(0) for i in range(len(calls))]
    placed, unequal = _compared(problem, f, weights, calls, seen, uses, summed)
    reasons |= unequal
    uses = {key: found for key, found in uses.items() if key not in reasons}
    blind = frozenset((source, k) for source, places in seen.items() for k, (i, _) in enumerate(places) if i in unseen)
    return Study(
        uses=uses,
        reasons=reasons,
        names={source: [calls[i].name for i, _ in places] for source, places in seen.items()},
        unseen=blind,
        outputs=f.shape[1],
        footprints={key: footprint([one.tangent for one in placed[key]], _PROBES) for key in uses},
        activations=sum(g.numel() * g.element_size() for g in summed) / _PROBES,
        pairs=_pairs(problem, calls, seen, uses, placed),
    )


def require_apart(problem: Problem, batch: Any, f: Tensor) -> None:
    """Raise unless the first row of f (N, O) is what the first example alone gives.

    Raises:
        UnsupportedLayer: If it is not.
    """
    with torch.no_grad():
        found = problem.function(problem.model, taken(batch, slice(0, 1)))
    single = found.detach().reshape(1, -1)
    if problem.reduced:
        single = pseudo(single)
    difference = float((single - f[:1].detach()).abs().max())
    if not difference <= _TOLERANCE.get(f.dtype, 1e-3) * (1e-3 + float(f.detach().abs().max())):
        raise UnsupportedLayer(
            f"the outputs of the first example change by {difference:.2g} with the examples beside it, or from one "
            "call to the next: a layer mixes the batch (such as a normalization over it) or draws at random; such "
            "outputs have no derivatives of their own"
        )


def _gradients(value: Tensor, calls: Sequence[Call]) -> list[Tensor]:
    found = torch.autograd.grad(value, [call.edge for call in calls], retain_graph=True, allow_unused=True)
    return [value.new_zeros(c.shape) if g is None else g for c, g in zip(calls, found, strict=True)]


class _Resolution:
    """Which calls stand for a target's uses."""

    def __init__(
        self, calls: Sequence[Call], seen: Appearances, layouts: Sequence[Layout | None], unseen: frozenset[int]
    ) -> None:
        self.calls, self.seen, self.layouts, self.unseen = calls, seen, layouts, unseen
        # what was made for each example anew is used there, whatever it goes into
        self.makings = {i for i, call in enumerate(calls) if call.making and self._per_example(i)}

    def _per_example(self, i: int) -> bool:
        layout, origin = self.layouts[i], self.calls[i].parts[0].origin
        copied = origin.elements is not None or origin.rows is not None
        return copied and i not in self.unseen and layout == Layout(0)

    def of(self, target: Target) -> list[Use] | str:
        """Return the uses of a target, or why they are not known."""
        found: list[Use] = []
        for number, (i, j) in enumerate(self.seen.get(target.source, [])):
            call = self.calls[i]
            covered = self.makings & set(call.parts[j].origin.chain)
            if covered or (call.making and i not in self.makings):
                continue
            if why := self._why_not(i, j):
                return why
            layout = self.layouts[i]
            assert layout is not None
            found.append(Use(number, layout))
        return found

    def _why_not(self, i: int, j: int) -> str:
        call, layout = self.calls[i], self.layouts[i]
        part = call.parts[j]
        if part.form is None:
            return f"there is no rule for {call.name}"
        if layout is None:
            return f"the examples are not in one place in the result of {call.name}"
        if isinstance(part.form, Scaled) and not part.form.fits(layout, len(call.shape)):
            return f"{call.name} gives every example entries of its own"
        if isinstance(part.form, Lookup) and not layout.fits(part.form.index.shape, _PROBES):
            return f"the examples are not in one place in the index of {call.name}"
        return ""


def _compared(
    problem: Problem, f: Tensor, weights: Tensor, calls: Sequence[Call], seen: Appearances,
    uses: Mapping[str, Sequence[Use]], gradients: Sequence[Tensor],
) -> tuple[dict[str, list[Placed]], dict[str, str]]:  # fmt: skip
    """Return the tangents by target, and why some are not the gradients of autograd."""
    targets = [t for t in problem.targets if t.key in uses]
    placed: dict[str, list[Placed]] = {}
    reasons: dict[str, str] = {}
    rounds = [dict(enumerate(gradients))]
    places = {(t.source, use.number): use.layout for t in targets for use in uses[t.key]}
    at = {p: found_at(calls, seen[p[0]][p[1]], rounds, layout, _PROBES) for p, layout in places.items()}
    for target in targets:
        found = [at[target.source, u.number] for u in uses[target.key]]
        try:
            placed[target.key] = tangents_of(target, found, _PROBES, 1)
        except UnsupportedLayer as error:
            reasons[target.key] = str(error)
    weighed = torch.randn(_PROBES, 1, generator=generator(1, "tangent study"), dtype=torch.float64).to(f)
    checked = [target for target in targets if target.key not in reasons]
    return placed, reasons | _unlike((weighed.mT @ f @ weights)[0], weighed, checked, placed)


def _unlike(
    value: Tensor, weighed: Tensor, targets: Sequence[Target], placed: Mapping[str, Sequence[Placed]]
) -> dict[str, str]:
    """Compare a weighted sum of the examples' derivatives with autograd's; return what differs, with a reason."""
    moving = [p for target in targets for p in target.moving.values()]
    found = torch.autograd.grad(value, moving, retain_graph=True, allow_unused=True) if moving else ()
    wanted = iter([p.new_zeros(p.shape) if g is None else g for p, g in zip(moving, found, strict=True)])
    sizes: dict[str, tuple[float, float]] = {}
    for target in targets:
        gradients = [next(wanted).flatten() for _ in target.moving]
        gradients = gradients if target.term is not None else [windowed(target, gradients[0])]
        own = gradients_of(target, placed[target.key], weighed)
        error = max(float(torch.linalg.vector_norm(a.to(b) - b)) for a, b in zip(own, gradients, strict=True))
        sizes[target.key] = error, max(float(torch.linalg.vector_norm(g)) for g in gradients)
    tolerance = _TOLERANCE.get(value.dtype, 1e-3)
    # a derivative may be nothing but rounding, as by a scale behind which another normalization stands
    rounding = 100 * torch.finfo(value.dtype).eps * max(1.0, abs(float(value.detach())))
    floor = 1e-2 * max((size for _, size in sizes.values()), default=0.0) + rounding / tolerance
    return {
        key: f"its uses do not add up to its gradient (off by {error:.2g} of {size:.2g})"
        for key, (error, size) in sizes.items()
        if not error <= tolerance * (size + floor)
    }


def _pairs(
    problem: Problem,
    calls: Sequence[Call],
    seen: Appearances,
    uses: Mapping[str, Sequence[Use]],
    placed: Mapping[str, Sequence[Placed]],
) -> dict[str, str]:
    """Return biases by the weight beside them; see ``Study.pairs``."""
    weights, biases = dict[int, str](), dict[int, str]()
    for target in problem.targets:
        found = uses.get(target.key, [])
        if len(found) != 1 or target.term is not None or placed[target.key][0].elements is not None:
            continue
        call, tangent = seen[target.source][found[0].number][0], placed[target.key][0].tangent
        if calls[call].name == "linear":
            if isinstance(tangent, Outer) and tangent.inputs.shape[1] == 1 and not tangent.transposed:
                weights[call] = target.key
            elif isinstance(tangent, Direct):
                biases[call] = target.key
    return {weights[call]: key for call, key in biases.items() if call in weights}
