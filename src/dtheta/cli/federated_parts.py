"""The parts of a federation, as options write them: ``NAME(field=value, ...)``, see written.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dtheta.cli.written import built, named, written_method
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.adapt.method import Method
    from dtheta.cli.federate import Options
    from dtheta.cli.federated import Kind
    from dtheta.federate.attack import Attack
    from dtheta.federate.server.server import Server

_METHOD = {"rows": "Full", "texts": "LoRA(rank=8)"}


@dataclass(frozen=True)
class Parts:
    """What the options describe.

    Attributes:
        method: What trains.
        select: Where; the method's default if None.
        settings: Arguments of ``dt.federate``.
        server: Optimizer and aggregate of the server.
        attack: What malicious clients do; None without.
    """

    method: Method
    select: str | None
    settings: Mapping[str, Any]
    server: Mapping[str, Any]
    attack: Attack | None

    @classmethod
    def of(cls, options: Options, kind: Kind) -> Parts:
        """Return the parts.

        Raises:
            ConfigError: For what cannot be meant.
        """
        method, select = written_method(options.method or _METHOD[kind])
        return cls(method, select, _settings(options), _server(options), _attack(options))

    def server_of(self, net: Any, select: str | None, also: str | None) -> Server:
        """Return the server of a model."""
        from dtheta.federate.server.server import Server

        return Server(net, self.method, select=select, also=also, **self.server)


def _settings(options: Options) -> dict[str, Any]:
    found = {
        "codec": _codec(options.codec, "--codec"),
        "downlink": None if options.downlink is None else _codec(options.downlink, "--downlink"),
        "channel": _channel(options),
        "asynchronous": _asynchronous(options),
        "privacy": _privacy(options),
    }
    for name in ("rounds", "sample", "dropout", "evaluate_every", "timeout", "min_clients", "patience", "seed"):
        found[name] = getattr(options, name)
    if options.secure is not None:
        from dtheta.federate.secure import Secure

        found["secure"] = built(options.secure, {"masks": Secure}, "--secure", "masks(scale=0.01)", "masks")
    return found


def _codec(text: str, flag: str) -> Any:
    from dtheta.federate.codecs.registry import CODECS

    return built(text, CODECS, flag, "ternary(density=0.02)")


def _channel(options: Options) -> Any:
    from dtheta.federate.channels import Classical, Quantum

    return built(options.channel, named([Classical, Quantum]), "--channel", "quantum(kilometers=20)")


def _asynchronous(options: Options) -> Any:
    from dtheta.federate.asynchronous import Asynchronous

    if options.asynchronous is None:
        return None
    return built(options.asynchronous, {"updates": Asynchronous}, "--asynchronous", "updates(buffer=2)", "updates")


def _privacy(options: Options) -> Any:
    if options.privacy is None:
        return None
    found = built(options.privacy, {"gaussian": gaussian}, "--privacy", "clip=1, noise=0.5", "gaussian")
    return found(options.rounds, options.sample)


def gaussian(
    *, clip: float, noise: float | None = None, epsilon: float | None = None, delta: float = 1e-5,
    draws: Literal["keyed", "system"] = "keyed",
) -> Callable[[int, float], Any]:  # fmt: skip
    """Return the privacy of so many rounds and such a sample: by its noise, or the least noise for an epsilon."""
    from dtheta.federate.privacy import Privacy

    if (noise is None) == (epsilon is None):
        raise ConfigError("--privacy takes noise=... or epsilon=..., one of the two")
    if noise is not None:
        return lambda rounds, sample: Privacy(clip, noise, delta, draws)
    assert epsilon is not None
    return lambda rounds, sample: Privacy.for_epsilon(epsilon, clip, rounds, sample, delta, draws=draws)


def _server(options: Options) -> dict[str, Any]:
    from dtheta.federate.server.adaptive import FedAdagrad, FedAdam, FedYogi
    from dtheta.federate.server.aggregate import Mean, NormClip
    from dtheta.federate.server.coordinatewise import Median, TrimmedMean
    from dtheta.federate.server.krum import Krum
    from dtheta.federate.server.optimizer import FedAvg, FedAvgM

    optimizers = named([FedAvg, FedAvgM, FedAdam, FedAdagrad, FedYogi])
    aggregates = named([Mean, TrimmedMean, Median, Krum, NormClip])
    return {
        "optimizer": built(options.server, optimizers, "--server", "FedAdam(lr=0.01)"),
        "aggregate": built(options.aggregate, aggregates, "--aggregate", "TrimmedMean(share=0.2)"),
    }


def _attack(options: Options) -> Any:
    from dtheta.federate.attack import Noise, Scaling, SignFlip

    if options.attack is None:
        return None
    return built(
        options.attack, {"sign-flip": SignFlip, "scaling": Scaling, "noise": Noise}, "--attack", "sign-flip(clients=2)"
    )
