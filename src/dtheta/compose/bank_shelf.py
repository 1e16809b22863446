"""Shelf: the experts of a bank by name, of which those used last are in memory, and no more bytes than a cap allows.

An expert that has a file is read when it is first asked for, and forgotten when others need its place: the one asked
for longest ago goes first. What it will take is known from the header of its file, so place is made before it is read.
An expert without a file stays: there would be nowhere to get it from again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dtheta.core.change import Shape, matrix_shape
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import Fingerprint
from dtheta.core.header import Opened, open_delta
from dtheta.core.kinds import NEW_KINDS
from dtheta.errors import ConfigError, UnknownParameter, UnsupportedLayer, did_you_mean


@dataclass(eq=False)
class Expert:
    """One expert.

    Attributes:
        name: In the bank.
        shapes: Of the parameters that it changes, by name.
        base: Of the network it was made on.
        nbytes: Bytes that it takes in memory.
        delta: The change, while it is there.
        path: Its file, from which it can be read again; None for one that came without.
        digest: Identity of what the file held when it was added.
        sound: Whether base plus expert is known to be finite.
        by_row: Whether rows of a batch can pass their own copy of it; None if that was not asked yet.
    """

    name: str
    shapes: Mapping[str, Shape]
    base: Fingerprint
    nbytes: int
    delta: Delta | None = None
    path: Path | None = None
    digest: str = ""
    sound: bool = False
    by_row: bool | None = None


def from_delta(name: str, delta: Delta) -> Expert:
    """Return an expert that stays in memory.

    Raises:
        UnsupportedLayer: If the delta brings new vectors.
    """
    _refuse_new(name, list(delta.new))
    shapes = {parameter: tuple(change.shape) for parameter, change in delta.changes.items()}
    return Expert(name, shapes, delta.base, resident(delta), delta)


def from_file(name: str, path: Path) -> Expert:
    """Return an expert of which only the header was read.

    Raises:
        ConfigError, FormatError: As ``core.header.read_header``.
        UnsupportedLayer: If the delta brings new vectors.
    """
    opened = open_delta(path)
    changes = opened.header.changes
    _refuse_new(name, [parameter for parameter, meta in changes.items() if meta["kind"] in NEW_KINDS])
    shapes = {parameter: tuple(meta["shape"]) for parameter, meta in changes.items()}
    return Expert(name, shapes, opened.header.base, _expected(opened), None, path, opened.header.digest)


def _refuse_new(name: str, new: list[str]) -> None:
    if new:
        raise UnsupportedLayer(
            f"expert {name!r} brings a vector that the base does not have, {new[0]!r}, so the base cannot show it; add "
            "the rest of it: delta.restrict(pattern)"
        )


def resident(delta: Delta) -> int:
    """Return the bytes of all tensors of a delta, singular vectors included."""
    found: dict[int, Tensor] = {}

    def seen(tensor: Tensor) -> Tensor:
        found[id(tensor)] = tensor
        return tensor

    for change in delta.changes.values():
        change.map(seen)
    return sum(tensor.nbytes for tensor in found.values())


def _expected(opened: Opened) -> int:
    """Return the bytes that a delta will take in memory, from its header: coded signs become planes."""
    parts = {stored: stored.rpartition(":")[2].rpartition(".")[2] for stored in opened.file.entries}
    plain = sum(entry.nbytes for stored, entry in opened.file.entries.items() if parts[stored] != "code")
    return plain + sum(_planes(meta) for meta in opened.header.changes.values())


def _planes(meta: Any) -> int:
    """Return the bytes of all bit planes in a change of this description."""
    if isinstance(meta, Mapping):
        if meta.get("kind") == "ternary":
            rows, columns = matrix_shape(meta["shape"])
            return 2 * ((rows * columns + 7) // 8)
        return sum(_planes(inner) for inner in meta.values())
    return sum(_planes(inner) for inner in meta) if isinstance(meta, list) else 0


class Shelf:
    """Experts by name.

    Attributes:
        capacity: Bytes that all experts in memory may take together; None for no limit.
    """

    def __init__(self, capacity: int | None, read: Callable[[Expert], Delta]) -> None:
        """Make an empty shelf; ``read`` returns the delta of an expert from its file.

        Raises:
            ConfigError: If the capacity is no number of bytes.
        """
        if capacity is not None and (type(capacity) is not int or capacity < 0):
            raise ConfigError(f"capacity_bytes is {capacity!r}; expected a number of bytes, or None for no limit")
        self.capacity = capacity
        self._read = read
        self._experts: OrderedDict[str, Expert] = OrderedDict()  # the one asked for last at the end
        self._names: dict[str, None] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names))

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    @property
    def loaded(self) -> list[Expert]:
        """The experts in memory, the one asked for longest ago first."""
        # taken as a list at once: other threads may ask for experts while one looks
        return [expert for expert in list(self._experts.values()) if expert.delta is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of the experts in memory."""
        return sum(expert.nbytes for expert in self.loaded)

    def put(self, expert: Expert) -> None:
        """Add an expert under a new name; one that is in memory already makes its place at once.

        Raises:
            ConfigError: If the cap cannot hold it.
        """
        self._make_room([expert], only_check=expert.delta is None)
        self._names[expert.name] = None
        self._experts[expert.name] = expert

    def remove(self, name: str) -> None:
        """Forget an expert."""
        del self._experts[self[name].name], self._names[name]

    def __getitem__(self, name: str) -> Expert:
        """Return what is known of an expert, in memory or not.

        Raises:
            UnknownParameter: If there is none of that name.
        """
        if name not in self._names:
            raise UnknownParameter(f"the bank has no expert {name!r}{did_you_mean(str(name), self._names)}")
        return self._experts[name]

    def take(self, names: Iterable[str]) -> dict[str, Delta]:
        """Return experts by name, reading those that are not in memory.

        Raises:
            UnknownParameter: If there is none of a name.
            ConfigError: If the cap cannot hold them together, or a file was replaced since it was added.
        """
        wanted = [self[name] for name in dict.fromkeys(names)]
        self._make_room(wanted)
        found = {}
        for expert in wanted:
            self._experts.move_to_end(expert.name)
            if expert.delta is None:
                expert.delta = self._read(expert)
                expert.nbytes = resident(expert.delta)  # more than was expected where singular vectors came to it
                self._make_room(wanted)
            found[expert.name] = expert.delta
        return found

    def _make_room(self, wanted: list[Expert], only_check: bool = False) -> None:
        """Forget experts, the one asked for longest ago first, until the wanted ones fit beside the others."""
        if self.capacity is None:
            return
        others = [expert for expert in self.loaded if expert not in wanted]
        used = sum(expert.nbytes for expert in [*others, *wanted])
        least = used - sum(expert.nbytes for expert in others if expert.path is not None)
        if least > self.capacity:
            raise ConfigError(
                f"{', '.join(repr(e.name) for e in wanted[:3])}{', ...' if len(wanted) > 3 else ''}: the experts that "
                f"have to be in memory together take {least:,} bytes, the bank holds {self.capacity:,}; raise "
                "capacity_bytes, ask for fewer at once, or add experts by path: those without a file are never dropped"
            )
        for expert in [] if only_check else others:
            if used > self.capacity and expert.path is not None:
                expert.delta = None
                used -= expert.nbytes
