"""Partitions: which client holds which examples.

    iid         the examples in a keyed order, dealt out evenly
    dirichlet   of every class c, shares p_c ~ Dirichlet(alpha, ..., alpha) over the clients
    shards      the examples sorted by class, cut into K s pieces, s of them to each of K clients

The smaller alpha, the fewer classes a client sees; alpha to infinity is iid in proportions (Hsu, Qi and Brown 2019,
arXiv 1909.06335). Shards are those of McMahan et al. 2017, arXiv 1602.05629. A part is in ascending order, and all
parts together are every example once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dtheta.core.arguments import number, whole
from dtheta.core.seeds import key
from dtheta.data.text import keyed_order
from dtheta.errors import ConfigError

_TRIES = 100


def iid(examples: int | Sequence[int] | Tensor, clients: int, *, seed: int = 0) -> list[Tensor]:
    """Return the indices of each client's examples, (n_k,) int64, with n_k equal up to one.

    Args:
        examples: Their number, or their labels.
        clients: K.
        seed: Of the order.

    Raises:
        ConfigError: For more clients than examples.
    """
    count = whole(examples, "examples") if not _is_list(examples) else len(_labels(examples))  # type: ignore[arg-type]
    _require(count, clients, 1)
    order = keyed_order(count, seed, "partition/iid")
    return [_part(order[k::clients]) for k in range(clients)]


def dirichlet(
    labels: Sequence[int] | Tensor, clients: int, *, alpha: float = 0.5, least: int = 1, seed: int = 0
) -> list[Tensor]:
    """Return the indices of each client's examples, with Dirichlet shares of every class.

    Shares are drawn anew, by key, until every client has ``least`` examples.

    Args:
        labels: Class of every example (N,).
        clients: K.
        alpha: Concentration, above zero.
        least: Examples that every client must have.
        seed: Of order and shares.

    Raises:
        ConfigError: If 100 draws leave a client with fewer examples; take a larger alpha or fewer clients.
    """
    classes = _labels(labels)
    if number(alpha, "alpha") <= 0:
        raise ConfigError(f"alpha is {alpha!r}; expected a number above zero")
    _require(len(classes), clients, whole(least, "least", least=1))
    for attempt in range(_TRIES):
        draws = np.random.default_rng(key(seed, "partition/dirichlet", attempt))
        parts: list[list[int]] = [[] for _ in range(clients)]
        for c in np.unique(classes):
            members = draws.permutation(np.flatnonzero(classes == c))
            shares = draws.dirichlet(np.full(clients, float(alpha)))
            cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(int)
            for part, piece in zip(parts, np.split(members, cuts), strict=True):
                part.extend(piece.tolist())
        if min(map(len, parts)) >= least:
            return [_part(part) for part in parts]
    raise ConfigError(
        f"{_TRIES} draws of Dirichlet({alpha}) shares of {len(classes)} examples left one of {clients} clients with "
        f"fewer than {least}; take a larger alpha, or fewer clients"
    )


def shards(labels: Sequence[int] | Tensor, clients: int, *, each: int = 2, seed: int = 0) -> list[Tensor]:
    """Return the indices of each client's examples: ``each`` pieces of the examples sorted by class.

    Args:
        labels: Class of every example (N,).
        clients: K.
        each: Pieces a client, s.
        seed: Of the order within classes, and of who gets which piece.

    Raises:
        ConfigError: For more pieces than examples.
    """
    classes = _labels(labels)
    _require(len(classes), clients, whole(each, "each", least=1))
    order = sorted(keyed_order(len(classes), seed, "partition/shards"), key=lambda i: classes[i])
    pieces = np.array_split(np.asarray(order), clients * each)
    dealt = keyed_order(len(pieces), seed, "partition/deal")
    return [_part(i for p in dealt[k * each : (k + 1) * each] for i in pieces[p]) for k in range(clients)]


def _is_list(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) or (isinstance(value, Sequence) and not isinstance(value, str))


def _labels(labels: Sequence[int] | Tensor) -> np.ndarray:
    found = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ConfigError(f"labels are {found.dtype} of shape {found.shape}; expected one whole number an example")
    return found


def _require(examples: int, clients: int, each: int) -> None:
    whole(clients, "clients", least=1)
    if examples < clients * each:
        raise ConfigError(f"{examples} examples for {clients} clients, {each} each at least; take fewer clients")


def _part(indices: Any) -> Tensor:
    return torch.tensor(sorted(int(i) for i in indices), dtype=torch.int64)
