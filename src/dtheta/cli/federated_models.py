"""The classifiers of rows of numbers that ``dtheta federate`` knows by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dtheta.cli.written import built, nearest, parsed

if TYPE_CHECKING:
    from torch import nn

    from dtheta.cli.federate import Options

_SUCH_AS = "quantum(layers=8)"
_RATES = {"quantum": 0.05, "program": 0.05, "mlp": 0.02, "linear": 0.05}  # with AdamW


def model_of(options: Options, features: int, classes: int, standardized: bool) -> nn.Module:
    """Return the classifier of rows that ``--model`` describes.

    Raises:
        ConfigError: If it cannot be meant, or does not fit the rows.
    """
    known = _Models(features, classes, standardized, options.seed).known()
    return built(options.model or "quantum", known, "--model", _SUCH_AS)


@dataclass(frozen=True)
class _Models:
    """The classifiers of rows; keyword-only arguments are the fields that a user may write."""

    features: int
    classes: int
    standardized: bool
    seed: int

    def known(self) -> dict[str, Callable[..., Any]]:
        """Return them by name."""
        return {"quantum": self.quantum, "program": self.program, "mlp": self.mlp, "linear": self.linear}

    def quantum(
        self, *, layers: int = 8, qubits: int | None = None, head: Literal["affine", "probability"] = "affine",
        constant: bool | None = None, noise: float = 0.0, shots: int | None = None,
    ) -> Any:  # fmt: skip
        """A variational circuit; ``constant`` appends a feature 1, by default to standardized rows."""
        from dtheta.federate.quantum.classifier import QuantumClassifier

        constant = self.standardized if constant is None else constant
        return QuantumClassifier(
            self.features, self.classes, layers=layers, qubits=qubits, head=head, constant=constant, noise=noise,
            shots=shots, seed=self.seed,
        )  # fmt: skip

    def program(
        self, *, layers: int = 3, qubits: int | None = None, real: bool = False,
        head: Literal["affine", "projectors"] = "projectors", constant: bool | None = None,
    ) -> Any:  # fmt: skip
        """A program for the fixed chip."""
        from dtheta.federate.quantum.program import ProgramClassifier

        constant = self.standardized if constant is None else constant
        return ProgramClassifier(
            self.features, self.classes, layers=layers, qubits=qubits, real=real, head=head, constant=constant,
            seed=self.seed,
        )  # fmt: skip

    def mlp(self, *, width: int = 16) -> Any:
        """One hidden layer."""
        from dtheta.models.perceptron import Perceptron

        return Perceptron(self.features, self.classes, width=width, seed=self.seed)

    def linear(self) -> Any:
        """Logistic regression."""
        from dtheta.models.perceptron import Perceptron

        return Perceptron(self.features, self.classes, width=None, seed=self.seed)


def is_of_rows(text: str) -> bool:
    """Tell whether a model that an option names is one of rows."""
    name = text.partition("(")[0].strip().lower()
    return name in _RATES


def rate_of(options: Options) -> float:
    """Return the learning rate of a classifier of rows where none is given."""
    name = parsed(options.model or "quantum", "--model", _SUCH_AS).name
    return _RATES[nearest(name, _RATES, "--model")]
