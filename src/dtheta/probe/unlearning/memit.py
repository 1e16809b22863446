"""MEMIT turned to forgetting: the down-projections of a few layers are edited so that a concept's facts end in nothing.

    z* = z + delta            the stream after the last of the layers, so that the answer is gone (displacement.py)
    R  = (z* - z) / n         what is still missing at a layer, over the n layers left; read again after each edit
    dW = R [ (lambda C + K K^T)^-1 K ]^T          K: the facts' keys at that layer, C: second moments of keys (keys.py)

The solution is the least squares one between moving the facts and leaving alone what the layer reads elsewhere; its
rank is the number of facts. Sources: Meng et al. 2023 (MEMIT, arXiv 2210.07229); "empty" and "max-entropy" as in
ConceptVectors (arXiv 2406.11614), whose code takes the softmax twice.

Shape legend: F facts, N neurons of a layer, D features of the stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import Tensor, nn

from dtheta.core.apply import applied
from dtheta.core.arguments import positive, whole
from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.provenance import Provenance
from dtheta.core.seeds import generator, permutation
from dtheta.errors import ConfigError
from dtheta.probe.decoder import Decoder, ValueMatrix, open_decoder
from dtheta.probe.encoded import Encoded
from dtheta.probe.examples import reach, text_examples
from dtheta.probe.unlearning.displacement import Search, Target, displacements, objective_of
from dtheta.probe.unlearning.edit import Edit, best
from dtheta.probe.unlearning.keys import Prompt, check_residual, prompts_of, read, second_moments, solved
from dtheta.probe.unlearning.stream import layer_module
from dtheta.probe.unlearning.task import Task
from dtheta.probe.unlearning.train import Training
from dtheta.probe.value_vector import ValueVector

Place = Literal["name", "prompt"]


@dataclass(frozen=True)
class Memit(Edit):
    """Edit the down-projections so that the concept's questions have no answer.

    Attributes:
        target: What is left in the answer's place: "empty", the end of the text, or "max-entropy", anything.
        layers: Which are edited; None for the ``depth`` up to the one that holds most of the concept's value vectors.
        depth: How many, where they are found.
        places: Whose keys are taken, tried in this order: of the last token of the concept's name ("name"), where it
            can still be heard, that is not in the model's last layer, or of the prompt ("prompt").
        strengths: Multiples of the edit, the weakest first, until one reaches the goal or breaks too much of the rest.
        weight: Of what the layers read elsewhere against the facts; at 1 the value of an ordinary key moves half way.
        ridge: What is added to the diagonal of its second moments, over their mean.
        texts: Read for the second moments beside the sequences to retain.
        search: How the displacements are looked for.
    """

    target: Target = "empty"
    layers: tuple[int, ...] | None = None
    depth: int = 4
    places: tuple[Place, ...] = get_args(Place)
    strengths: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    weight: float = 1.0
    ridge: float = 0.01
    texts: tuple[str, ...] = ()
    search: Search = field(default_factory=Search)

    heeds = ("goal",)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: If a name is unknown, a number is not positive, or there is nothing to try.
        """
        if self.target not in get_args(Target):
            raise ConfigError(f"target={self.target!r}: expected one of {', '.join(map(repr, get_args(Target)))}")
        if not self.places or not set(self.places) <= set(get_args(Place)):
            raise ConfigError(f"places={self.places!r}: expected some of {', '.join(map(repr, get_args(Place)))}")
        if not self.strengths or self.layers == ():
            raise ConfigError("Memit: no strengths or no layers were given; expected at least one")
        whole(self.depth, "depth", least=1)
        for what, value in (("weight", self.weight), ("ridge", self.ridge), *(("strength", s) for s in self.strengths)):
            positive(value, what)

    @property
    def located(self) -> bool:
        """Where the layers are given, value vectors tell it nothing."""
        return self.layers is None

    def to_dict(self) -> dict[str, Any]:
        """Return name and settings; of the texts how many there were."""
        return {**super().to_dict(), "texts": len(self.texts)}

    def delta(self, task: Task, training: Training, vectors: Sequence[ValueVector], quiet: bool) -> Delta:
        """Return the edit of the best place and strength.

        Raises:
            ConfigError: For a layer that the model does not have, or a tokenizer without an end of text.
            UnsupportedLayer: If a norm or a factor stands between down-projection and stream.
            NotConverged: If the second moments are singular.
            NonFinite: If a search leaves all bounds.
        """
        decoder = open_decoder(task.model)
        layers = self._layers(decoder, vectors)
        check_residual(task.model, decoder, layers, _others(task, 1)[0])
        texts = text_examples(task.tokenizer, self.texts, min(128, reach(task.model))) if self.texts else []
        moments = second_moments(task.model, decoder, layers, [*task.retain, *texts])
        return best(task, self._tried(task, decoder, moments))

    def _tried(self, task: Task, decoder: Decoder, moments: Mapping[int, Tensor]) -> Iterator[Delta]:
        """Yield the edits until one has reached the goal, at each place until one breaks too much of the rest."""
        for facts in self._facts(task, decoder, list(moments)):
            edit = self._edit(task, decoder, moments, facts)
            for strength in sorted(self.strengths):
                yield strength * edit
                if task.watch.reached():
                    return
                if task.watch.seen[-1].unrelated < task.watch.keep:
                    break

    def _layers(self, decoder: Decoder, vectors: Sequence[ValueVector]) -> list[int]:
        """Return the layers in order."""
        if self.layers is not None:
            for layer in self.layers:
                if layer not in decoder.matrices:
                    first, last = decoder.layers[0], decoder.layers[-1]
                    raise ConfigError(f"Memit: layer {layer}; the model has layers {first} to {last}")
            return sorted(set(self.layers))
        [(top, _)] = Counter(vector.layer for vector in vectors).most_common(1)
        return [layer for layer in decoder.layers if top - self.depth < layer <= top]

    def _facts(self, task: Task, decoder: Decoder, layers: Sequence[int]) -> Iterator[list[Prompt]]:
        """Yield the facts' prompts with each kind of place that makes a difference."""
        heard = layers[-1] != decoder.layers[-1]  # above the last layer no token reads another one
        seen: list[list[Prompt]] = []
        for place in self.places:
            name = task.concept if place == "name" and heard else None
            facts = prompts_of(task.tokenizer, task.watch.target, name)
            if facts not in seen:
                seen.append(facts)
                yield facts

    def _edit(self, task: Task, decoder: Decoder, moments: Mapping[int, Tensor], facts: Sequence[Prompt]) -> Delta:
        """Return the edit at full strength."""
        model, layers = task.model, list(moments)
        block = layer_module(model, decoder, layers[-1], "Memit")
        z_FD = read(model, decoder, layers, facts)[1]
        objective = objective_of(self.target, task.tokenizer)
        delta_FD = displacements(model, block, facts, _others(task, len(facts)), z_FD, objective, self.search)
        return edited(model, decoder, moments, facts, z_FD + delta_FD, self.weight, self.ridge)


def edited(
    model: nn.Module,
    decoder: Decoder,
    moments: Mapping[int, Tensor],
    facts: Sequence[Prompt],
    wanted_FD: Tensor,
    weight: float,
    ridge: float,
) -> Delta:
    """Return the delta that brings the stream after the last layer to what is wanted at the facts' places.

    Args:
        model: The decoder; it is not written to.
        decoder: How it is laid out.
        moments: C of the layers to edit, in order.
        facts: Prompts and places.
        wanted_FD: z*.
        weight: As for ``Memit``.
        ridge: As for ``Memit``.
    """
    base, layers = fingerprint(model), list(moments)
    delta = Delta({}, base.restrict({}))
    for i, layer in enumerate(layers):
        with applied(model, delta):
            keys, z_FD = read(model, decoder, layers[i:], facts)
        missing_FD = (wanted_FD - z_FD) / (len(layers) - i)
        matrix = decoder.matrices[layer]
        adjoint_NF = solved(moments[layer], keys[layer], weight, ridge)
        changes = {**delta.changes, matrix.name: _product(matrix, missing_FD, adjoint_NF)}
        delta = Delta(changes, base.restrict(changes), Provenance("memit", settings={"layers": layers}))
    return delta


def _product(matrix: ValueMatrix, residual_FD: Tensor, adjoint_NF: Tensor) -> Change:
    """Return R adj^T in the layout of the matrix."""
    residual_FD, adjoint_NF = residual_FD.float().cpu(), adjoint_NF.float()
    if matrix.rows:
        return LowRank(adjoint_NF, residual_FD)
    return LowRank(residual_FD.T.contiguous(), adjoint_NF.T.contiguous())


def _others(task: Task, count: int) -> list[Prompt]:
    """Return as many prompts about other things, in a keyed order, each with the place of its last token."""
    order = permutation(len(task.retain), generator(task.seed, "probe/memit")).tolist()
    rows = [task.retain[order[i % len(order)]] for i in range(count)]
    return [Prompt(ids, len(ids) - 1) for ids in map(_prompt, rows)]


def _prompt(row: Encoded) -> list[int]:
    return row.ids[: row.start] if row.start > 1 else row.ids  # a document counts from its second token on
