"""The twelve systems: each is the file named here, imported when it is run.

A file has ``SYSTEM`` (what it is) and ``rows(lab)``, which runs the experiments and yields a row a claim.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from dtheta.errors import ConfigError, did_you_mean
from dtheta.reproduce.claim import Row
from dtheta.reproduce.lab import Lab

SYSTEMS = {
    "pissa": "pissa",
    "sorsa": "sorsa",
    "clip-svd": "clip_svd",
    "dept": "dept",
    "mvlpt": "mvlpt",
    "snnk": "snnk",
    "compeft": "compeft",
    "atlas": "atlas",
    "ntk": "ntk",
    "concept-vectors": "concept_vectors",
    "huge-ensembles": "huge_ensembles",
    "quantum-federated": "quantum_federated",
}


@dataclass(frozen=True)
class System:
    """A published system.

    Attributes:
        title: Its name.
        paper: Authors, year and where.
        page: File under docs/ that tells how to use it here.
    """

    title: str
    paper: str
    page: str


class Experiments(Protocol):
    """The file of a system."""

    SYSTEM: System

    def rows(self, lab: Lab) -> Iterator[Row]:
        """Run the experiments, and yield a row a claim."""
        ...


def require_system(name: str) -> str:
    """Return the name of a system.

    Raises:
        ConfigError: For a name that is none, with the nearest one.
    """
    if name not in SYSTEMS:
        raise ConfigError(
            f"there is no system {name!r}{did_you_mean(name, SYSTEMS)}; expected all, or one of {', '.join(SYSTEMS)}"
        )
    return name


def system_called(name: str) -> Experiments:
    """Return the file of a system.

    Raises:
        As ``require_system``.
    """
    return cast(Experiments, import_module(f"dtheta.reproduce.systems.{SYSTEMS[require_system(name)]}"))
