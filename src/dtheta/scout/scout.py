"""scout: which method will do best, predicted from tangent kernels before anything is trained.

    1. features of all examples; a head for each half, from the other half
    2. one pass a half: inputs and gradients of every layer that any method trains
    3. the kernel of each method from them; methods with vectors of their own take a pass each
    4. kernel regression beside the head, left-one-out: accuracy, loss, and what training would take
    5. a few real steps: does the network stay near its linear model?

Steps 1 to 4 cost a few passes over the examples, whatever the number of methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

from torch import nn

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.recipe import Recipe
from dtheta.core.arguments import whole
from dtheta.errors import ConfigError
from dtheta.models.classifier import classifier
from dtheta.scout.candidates import Entry, candidates_of, none_left
from dtheta.scout.check import checked
from dtheta.scout.examples import Examples, examples_of
from dtheta.scout.head import LinearHead, directions, head_of
from dtheta.scout.prospects import CAREFUL, Judged, head_alone, interval, judged, proposal
from dtheta.scout.scene import Clock, Scene
from dtheta.scout.scouting import Check, Prospect, Scouting

Probe = Literal["best", "all", "none"]


def scout(
    model: nn.Module,
    data: Any,
    methods: Iterable[Entry],
    *,
    outputs: int = 2,
    examples: int = 256,
    head: str | None = None,
    probe: Probe = "best",
    probe_steps: int = 8,
    chunk: int = 32,
    seed: int = 0,
) -> Scouting:
    """Predict how methods would do on a classification task, and rank them.

    Args:
        model: A classifier with a linear head, or a pretrained encoder or decoder, which gets one. Its head may be
            untrained: it is solved, not used. The model is as it was when this returns.
        data: Labeled training examples, whatever ``dt.fit`` takes: a DataLoader, a Dataset, or batches with ``labels``.
        methods: Methods to compare: ``dt.LoRA(rank=8)``, "BitFit", a pair (method, select), or a list of deltas whose
            coefficients would train.
        outputs: Directions of the logits whose derivatives are taken, one backward pass each; C - 1 are all.
        examples: How many to look at, at most.
        head: Name of the linear layer that makes the logits; None finds the usual ones.
        probe: Which methods take a few real steps to check the linear model: the "best", "all", or "none".
        probe_steps: How many steps.
        chunk: Examples a pass.
        seed: Of the methods' random starts, the directions, and the order of the data.

    Raises:
        ConfigError: For data without class labels, with one class or too few examples; an unknown method; a model
            without a linear head; or if no method can be scouted.
        NonFinite: If a feature or derivative is NaN or infinite.
        UnsupportedLayer: If the model mixes the examples of a batch.
    """
    _check(model, outputs, chunk, probe, probe_steps)
    net, last, found = _posed(model, data, examples, head, seed)
    candidates, refused = candidates_of(net, methods, last.name, seed)
    directions_OC = directions(found.classes, outputs, seed)
    scene = Scene(net, last, found, directions_OC, chunk, seed, Clock())
    view = scene.view(net)
    evidence, failed = scene.evidence(candidates, view)
    refused += failed
    if not evidence:
        raise none_left(refused)
    with scene.clock.part("regression"):
        alone = head_alone([scene.half(view, i) for i in (0, 1)])
        rows = judged(evidence, alone)
        proposed = proposal(rows, len(found))
    checks = _checks(scene, rows, probe, probe_steps)
    return Scouting(
        tuple(one.row for one in rows), tuple(refused), interval(alone), proposed, checks, len(found), found.classes,
        len(directions_OC), scene.clock.seconds, seed,
    )  # fmt: skip


def _check(model: nn.Module, outputs: int, chunk: int, probe: str, probe_steps: int) -> None:
    if isinstance(model, Adapter):
        raise ConfigError("scout the model, not its adapter: dt.scout(adapter.detach(), ...)")
    whole(outputs, "outputs", least=1)
    whole(chunk, "chunk", least=3)
    whole(probe_steps, "probe_steps", least=1)
    if probe not in get_args(Probe):
        raise ConfigError(f"probe is {probe!r}; expected one of {', '.join(map(repr, get_args(Probe)))}")


def _posed(
    model: nn.Module, data: Any, examples: int, head: str | None, seed: int
) -> tuple[nn.Module, LinearHead, Examples]:
    """Return the network with a head, the head, and the examples."""
    pretrained = head is None and isinstance(getattr(getattr(model, "config", None), "hidden_size", None), int)
    if pretrained and not _classifies(model):
        found = examples_of(data, examples, None, seed)
        net: nn.Module = classifier(model, found.classes)
        return net, head_of(net, None), found
    last = head_of(model, head)
    return model, last, examples_of(data, examples, last.module.out_features, seed)


def _classifies(model: nn.Module) -> bool:
    """Tell whether a model of transformers has a head for classes already."""
    return type(model).__name__.endswith("ForSequenceClassification")


def _checks(scene: Scene, rows: Sequence[Judged], probe: Probe, steps: int) -> tuple[Check, ...]:
    chosen = [one.row for one in rows if one.row.method is not None and one.row.sign_rate > 0]
    if probe == "none":
        return ()
    chosen = chosen[:1] if probe == "best" else chosen
    return tuple(checked(scene, row, steps, _rate(row)) for row in chosen)


def _rate(row: Prospect) -> float:
    """Return the rate of a probe: what the recipe trains at, and no more than what scouting proposes."""
    assert row.method is not None
    return min(Recipe(row.method).rate, CAREFUL * row.sign_rate)
