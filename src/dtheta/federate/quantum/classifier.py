"""A classifier on a variational circuit: a row as amplitudes, entangling layers, class logits from <Z>.

    p_BD = outcomes of Layers(angles)|x_B>     mixed with uniform ones by noise, confused by read-out, counted by shots
    z_Bn = <Z_q> under p
    logits_BC = z W^T + b                      head "affine"
    logits_BC = log p_Bc                       head "probability": the first outcomes are the classes

It is a plain module: every method of ``dt.attach`` moves it, ``Full`` with a dense delta.

Shape legend: B rows, N features, n qubits, L layers, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dtheta.core.arguments import whole
from dtheta.core.seeds import generator, uniform
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.federate.quantum.encode import amplitude, amplitude_qubits
from dtheta.federate.quantum.layers import strongly_entangling
from dtheta.federate.quantum.measure import ReadOut, draw, probabilities, z_values
from dtheta.federate.quantum.noise import probability, twirl_outcomes
from dtheta.models.classifier import Prediction

Head = Literal["affine", "probability"]
_LEAST = 1e-12  # probability below which a logit stays where it is


class QuantumClassifier(nn.Module):
    """A variational classifier; parameters ``angles`` (L, n, 3), and ``head.*`` of the affine head.

    Attributes:
        circuit: the layers.
        shots: shots a row in every forward pass, None for exact values; may be set at any time.
        read_out: read-out errors, None for none.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        layers: int = 4,
        qubits: int | None = None,
        head: Head = "affine",
        constant: bool = False,
        noise: float = 0.0,
        shots: int | None = None,
        read_out: ReadOut | None = None,
        seed: int = 0,
    ) -> None:
        """Draw angles uniform in [0, 2 pi), and a head as ``nn.Linear`` draws it.

        Args:
            features: N.
            classes: C, 2 or more.
            layers: L, strongly entangling ones.
            qubits: n; the fewest that hold a row if None.
            head: "affine" on all <Z_q>, or "probability" of the first C outcomes.
            constant: append a feature 1 to every row, so that its length is seen.
            noise: strength of the depolarizing twirl of the register after every layer.
            shots: shots a row; None for exact values. A gradient is that of the exact value at the sampled point.
            read_out: read-out errors.
            seed: of the angles and the head.

        Raises:
            ConfigError: A number that cannot be meant, or fewer outcomes than classes.
        """
        super().__init__()
        fewest = amplitude_qubits(whole(features, "features", least=1), constant)
        self.circuit = strongly_entangling(fewest if qubits is None else qubits, layers)
        self.features, self.classes = features, whole(classes, "classes", least=2)
        self.constant, self.noise, self.read_out = constant, probability(noise, "noise"), read_out
        self.shots = shots if shots is None else whole(shots, "shots", least=1)
        self._check(fewest, head)
        drawn = uniform(self.circuit.shape, 0.0, 1.0, generator(seed, "quantum/angles"))
        self.angles = nn.Parameter(2 * math.pi * drawn)
        self.head = affine(self.circuit.qubits, classes, seed) if head == "affine" else None

    def _check(self, fewest: int, head: str) -> None:
        n = self.circuit.qubits
        if n < fewest:
            raise ConfigError(f"{self.features} features take {fewest} qubits; found qubits={n}")
        if head not in ("affine", "probability"):
            raise ConfigError(f"head is {head!r}; expected 'affine' or 'probability'")
        if head == "probability" and 2**n < self.classes:
            raise ConfigError(f"{n} qubits have {2**n} outcomes for {self.classes} classes; take more or head='affine'")

    def forward(self, x: Float[Tensor, "B N"], labels: Int[Tensor, " B"] | None = None) -> Prediction:
        """Return the logits, and the mean cross-entropy where ``labels`` are given.

        Shots are drawn from torch's generator, as those of dropout are; training keys it by step.
        """
        outcomes = self.outcomes(x)
        if self.shots is not None:
            source = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
            seen = draw(outcomes, self.shots, source).to(outcomes) / self.shots
            outcomes = outcomes + (seen - outcomes).detach()
        logits = self._logits(outcomes)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return Prediction(loss, logits)

    def outcomes(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "B 2**n"]:
        """Return the exact probability of everything that can be read.

        Raises:
            ShapeMismatch: A row has other than N features.
            NonFinite: The rows hold NaN or infinity.
        """
        if x.ndim == 2 and x.shape[1] != self.features:
            raise ShapeMismatch(f"the rows have {x.shape[1]} features; this classifier was made for {self.features}")
        angles = wide(self.angles)
        state = amplitude(x.to(angles.dtype), self.circuit.qubits, self.constant)
        found = twirl_outcomes(probabilities(self.circuit(angles, state)), self.noise, self.circuit.count)
        return found if self.read_out is None else self.read_out(found)

    def _logits(self, outcomes: Tensor) -> Tensor:
        if self.head is None:
            return outcomes[:, : self.classes].clamp_min(_LEAST).log()
        return self.head(z_values(outcomes).to(self.head.weight.dtype))

    def cost(self) -> Mapping[str, int]:
        """Return qubits, parameters, and gates that act on one or two qubits."""
        one = self.angles.numel()
        two = sum(len(wires) == 2 for _, wires in self.circuit.operations(self.angles.detach()))
        return {"qubits": self.circuit.qubits, "parameters": sum(p.numel() for p in self.parameters()),
                "rotations": one, "cnots": two}  # fmt: skip


def wide(angles: Tensor) -> Tensor:
    """Return angles in float32 at least: torch has no complex numbers to compute with below that."""
    return angles.to(torch.promote_types(angles.dtype, torch.float32))


def affine(qubits: int, classes: int, seed: int) -> nn.Linear:
    """Return a head whose weight and bias are uniform within 1/sqrt(n), drawn by key."""
    head = nn.Linear(qubits, classes)
    draws = generator(seed, "quantum/head")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_((2 * uniform(parameter.shape, 0.0, 1.0, draws) - 1) / math.sqrt(qubits))
    return head
