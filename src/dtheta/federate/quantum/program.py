"""The program model: the operator of the fixed chip, as a parameterized state that a server prepares.

    |o(t)> = Layers(t)|0>           2n qubits: RY and RZ on each, a ring of CNOTs; RY alone makes O real
    f_M(t) = <y|M|y>                y the amplitudes of success on |x>; f_I = p, the success probability
    z      = f_M / f_I              what is seen after success, for M diagonal in the row register

f_M is an expectation in the program state, so the shift rule holds for it, and for z the quotient rule:

    df/dt_j = (f(t + pi/2 e_j) - f(t - pi/2 e_j)) / 2,      dz = (f_I df_M - f_M df_I) / f_I^2

Daskin 2024 (arXiv 2401.13421) leaves ansatz, observable and loss open; these are our choices.

Shape legend: B rows, N = 2^n, P angles, K observables, C classes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from dtheta.core.arguments import whole
from dtheta.core.seeds import generator, uniform
from dtheta.errors import ConfigError
from dtheta.federate.quantum.chip import Success, amplitudes, outcomes, success
from dtheta.federate.quantum.classifier import affine, wide
from dtheta.federate.quantum.encode import amplitude, amplitude_qubits
from dtheta.federate.quantum.layers import Layers
from dtheta.federate.quantum.shift import parameter_shift
from dtheta.federate.quantum.statevector import State, signs, zero_state
from dtheta.models.classifier import Prediction

_LEAST = 1e-12  # class probability below which a logit stays where it is, and success below which there is none


def program_circuit(qubits: int, layers: int, real: bool = False) -> Layers:
    """Return the circuit of |o(t)> for data of ``qubits`` qubits: P = 4 n L angles, half for a real operator."""
    return Layers(2 * qubits, layers, "Y" if real else "YZ")


def program_of(circuit: Layers, angles: Float[Tensor, "L 2*n R"]) -> Complex[Tensor, " N*N"]:
    """Return |o(t)>."""
    return circuit(angles, zero_state(circuit.qubits, 1, angles.dtype.to_complex(), angles.device))[0]


def values(
    program: Complex[Tensor, "... N*N"], psi: State, observables: Float[Tensor, "K N"]
) -> Float[Tensor, "... K B"]:
    """Return f of every observable, not divided by the success probability.

    Args:
        program: |o>, one or several.
        psi: data states.
        observables: their values at every row.
    """
    y = outcomes(program, psi)
    return observables.to(y) @ y.mT


def classes_of_rows(classes: int, qubits: int) -> Float[Tensor, "C N"]:
    """Return the projectors of the classes: those on the first ceil(log2 C) qubits of the row register.

    Raises:
        ConfigError: The register is too small.
    """
    used = (classes - 1).bit_length()
    if used > qubits:
        raise ConfigError(f"{classes} classes take {used} qubits of the row register; it has {qubits}")
    rows = torch.arange(2**qubits) >> (qubits - used)
    return (rows == torch.arange(classes)[:, None]).float()


def normalized(f: Tensor, p: Tensor) -> Tensor:
    """Return f / p, what is seen after success; 0 where the chip never succeeds."""
    return f / p.clamp_min(_LEAST)


def quotient(f: Tensor, p: Tensor, df: Tensor, dp: Tensor) -> Tensor:
    """Return the derivative of f / p, as ``normalized`` has it."""
    return (df - normalized(f, p) * dp * (p > _LEAST)) / p.clamp_min(_LEAST)


class ProgramClassifier(nn.Module):
    """A classifier whose parameters are a program: ``angles`` (L, 2n, R), and ``head.*`` of an affine head.

    Attributes:
        circuit: of the program state.
        observables: their values at every row (K, N): projectors of the classes, or Z of every row qubit.
    """

    observables: Tensor

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        layers: int = 3,
        qubits: int | None = None,
        real: bool = False,
        head: Literal["affine", "projectors"] = "projectors",
        constant: bool = False,
        seed: int = 0,
    ) -> None:
        """Draw angles uniform in [0, 2 pi).

        Args:
            features: N at most.
            classes: C, 2 or more.
            layers: L.
            qubits: n, of the data; the fewest that hold a row if None. The program has 2n.
            real: RY alone.
            head: logits are log f_c / f_I of "projectors", or "affine" in <Z> of the row qubits.
            constant: append a feature 1 to every row.
            seed: of the angles and the head.

        Raises:
            ConfigError: A number that cannot be meant, or more classes than rows.
        """
        super().__init__()
        fewest = amplitude_qubits(whole(features, "features", least=1), constant)
        self.qubits = fewest if qubits is None else whole(qubits, "qubits", least=fewest)
        self.circuit = program_circuit(self.qubits, layers, real)
        self.constant, self.classes = constant, whole(classes, "classes", least=2)
        if head not in ("affine", "projectors"):
            raise ConfigError(f"head is {head!r}; expected 'affine' or 'projectors'")
        plain = head == "projectors"
        observables = classes_of_rows(classes, self.qubits) if plain else signs(self.qubits).clone()
        self.register_buffer("observables", observables, persistent=False)
        drawn = uniform(self.circuit.shape, 0.0, 1.0, generator(seed, "quantum/program"))
        self.angles = nn.Parameter(2 * math.pi * drawn)
        self.head = None if plain else affine(self.qubits, classes, seed)

    def forward(self, x: Float[Tensor, "B F"], labels: Int[Tensor, " B"] | None = None) -> Prediction:
        """Return the logits, and the mean cross-entropy where ``labels`` are given.

        A row at which the chip never succeeds says nothing: its z is 0.
        """
        f, p = self.values(self.angles, x).split([len(self.observables), 1])
        logits = self.logits(normalized(f, p))
        return Prediction(None if labels is None else nn.functional.cross_entropy(logits, labels), logits)

    def states(self, x: Float[Tensor, "B F"]) -> State:
        """Return rows as data states."""
        return amplitude(x.to(wide(self.angles).dtype), self.qubits, self.constant)

    def values(self, angles: Tensor, x: Float[Tensor, "B F"]) -> Float[Tensor, "K+1 B"]:
        """Return f of every observable and, last, the success probability f_I."""
        both = torch.cat([self.observables, torch.ones_like(self.observables[:1])])
        return values(program_of(self.circuit, wide(angles)), self.states(x), both)

    def logits(self, z: Float[Tensor, "K B"]) -> Float[Tensor, "B C"]:
        """Return the logits of normalized observables."""
        return z.mT.clamp_min(_LEAST).log() if self.head is None else self.head(z.mT.to(self.head.weight.dtype))

    @torch.no_grad()
    def success(self, x: Float[Tensor, "B F"]) -> Success:
        """Return what the chip holds after a success, its probability, and the shots that one takes."""
        return success(amplitudes(program_of(self.circuit, wide(self.angles)), self.states(x)))

    def shift_gradient(self, x: Float[Tensor, "B F"], labels: Int[Tensor, " B"]) -> Float[Tensor, "L 2*n R"]:
        """Return the gradient of the loss by the angles from shifted programs alone: shift, quotient and chain rule."""
        derivatives = parameter_shift(lambda angles: self.values(angles, x), self.angles)
        with torch.no_grad():
            f, p = self.values(self.angles, x).split([len(self.observables), 1])
        z = normalized(f, p).requires_grad_()
        (chain,) = torch.autograd.grad(nn.functional.cross_entropy(self.logits(z), labels), z)
        dz = quotient(f, p, derivatives[:, :-1], derivatives[:, -1:])
        return (chain * dz).sum((1, 2)).view(self.circuit.shape)
