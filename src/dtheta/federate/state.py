"""State: all that a federation needs to go on bit by bit, in a folder that is whole at every moment.

    state.json            the last round's: configuration, versions, who knows what, and the names of the other files
    history.jsonl         a line a round
    lock                  held by the process that runs (lock.py)
    global-V.delta        the global delta as of version V, and earlier ones that clients may build upon
    update-V.bin          the update that led to version V, as it travels
    optimizer-*.delta, feedback-*.delta, residual-*.delta, pending-*.bin

Files are written under new names and never changed; then ``state.json`` is replaced as a whole, and what it no longer
names is removed. So a server killed at any point leaves the state of its last round. Nothing random is in it: every
draw is keyed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import nn

from dtheta.core.delta import Delta
from dtheta.core.files import load as load_delta
from dtheta.core.output import write_file
from dtheta.core.tensorfile import encode, parse_json
from dtheta.errors import ConfigError, FormatError, OutputError
from dtheta.federate.history import Round
from dtheta.federate.lock import LOCK
from dtheta.federate.message import Failure, Reply, Task, message
from dtheta.federate.party import with_basis
from dtheta.federate.payload import Payload
from dtheta.federate.server.downlink import Downlink, Version
from dtheta.federate.server.optimizer import State as OptimizerState

NAME, HISTORY, FORMAT = "state.json", "history.jsonl", 2
_KEPT = ("global-*.delta", "update-*.bin", "optimizer-*.delta", "feedback-*.delta", "residual-*.delta", "pending-*.bin")


@dataclass(frozen=True)
class Pending:
    """An answer that is under way.

    Attributes:
        arrival: Simulated time at which it arrives.
        task: What it answers, without its payloads.
        answer: The answer, as it left the channel.
    """

    arrival: float
    task: Task
    answer: Reply | Failure


@dataclass
class State:
    """How far a federation is."""

    downlink: Downlink
    optimizer: OptimizerState = field(default_factory=dict)
    pending: list[Pending] = field(default_factory=list)
    history: list[Round] = field(default_factory=list)
    clock: float = 0.0
    written: dict[str, tuple[Any, str]] = field(default_factory=dict)  # what lies in which file already
    sums: dict[str, int] = field(default_factory=dict)  # CRC-32 of files without one of their own
    length: int = 0  # bytes of the history that count
    history_sum: int = 0  # CRC-32 of these bytes


@dataclass(frozen=True)
class Found:
    """What a folder holds."""

    state: State
    config: Mapping[str, Any]
    residuals: Mapping[str, Delta]
    known: list[tuple[int, Delta]]


def others(folder: Path) -> list[Path]:
    """Return what lies in a folder and is no part of a federation, nor of one that was being written."""
    known = (NAME, HISTORY, LOCK, *_KEPT, "*.part")
    return [path for path in folder.iterdir() if not any(map(path.match, known))]


def check_new(folder: Path) -> None:
    """Check that a folder holds no federation.

    Raises:
        ConfigError: If it holds one already.
    """
    if (folder / NAME).exists():
        raise ConfigError(f"{folder} holds a federation; resume=True goes on with it, another folder starts anew")


def save(folder: Path, state: State, config: Mapping[str, Any], residuals: Mapping[str, Delta]) -> None:
    """Write the state after a round.

    Raises:
        OutputError: If it cannot be written; the folder then holds the round before.
    """
    names = _write_parts(folder, state, config["names"], residuals)
    _append(folder / HISTORY, state)
    down = state.downlink
    record = {
        "format": FORMAT,
        "rounds": len(state.history),
        "length": state.length,
        "history_sum": state.history_sum,
        "sums": state.sums,
        "clock": state.clock,
        "versions": [[v.number, v.digest, _counts(v.update)] for v in down.versions],
        "known": down.known,
        "pending": [one.arrival for one in state.pending],
        "files": names,
        "config": config,
    }
    with write_file(folder / NAME) as handle:
        handle.write(encode({"sum": zlib.crc32(encode(record)), **record}))
    named = {name for part in names.values() for name in part.values()}
    for pattern in _KEPT:
        for path in folder.glob(pattern):
            if path.name not in named:
                path.unlink(missing_ok=True)


def _write_parts(
    folder: Path, state: State, clients: list[str], residuals: Mapping[str, Delta]
) -> dict[str, dict[str, str]]:
    """Write what is not in a file yet; return the files' names by part and key."""
    before, state.written = state.written, {}
    sums = state.sums = dict[str, int]()
    round, down = len(state.history), state.downlink

    def kept(label: str, value: Any, suffix: str) -> str:
        found = before.get(label)
        name = found[1] if found is not None and found[0] is value else f"{label}{suffix}"
        if found is None or found[0] is not value:
            _write(folder / name, value)
        state.written[label] = (value, name)
        return name

    def summed(label: str, value: Any, data: bytes) -> str:
        name = kept(label, value, ".bin")
        sums[name] = zlib.crc32(data)
        return name

    versions = [v for v in down.versions if v.digest]
    globals_ = {}
    for v in versions:
        label = f"global-{v.number}"
        value = down.delta if v is down.current else before[label][0]
        globals_[str(v.number)] = kept(label, value, ".delta")
    left = down.feedback.state()
    place = {name: i for i, name in enumerate(clients)}
    return {
        "global": globals_,
        "update": {
            str(v.number): summed(f"update-{v.number}", v.update.data, v.update.data)
            for v in down.versions
            if v.update is not None
        },
        "optimizer": {key: kept(f"optimizer-{key}", d, f"-{round}.delta") for key, d in state.optimizer.items()},
        "feedback": {} if left is None else {"": kept("feedback", left, f"-{round}.delta")},
        "residual": {n: kept(f"residual-{place[n]}", d, f"-{round}.delta") for n, d in residuals.items()},
        "pending": {
            str(i): summed(f"pending-{place[one.task.client]}-{one.task.round}", one, _framed(one))
            for i, one in enumerate(state.pending)
        },
    }


def _write(path: Path, value: Any) -> None:
    if isinstance(value, Delta):
        value.save(path)
        return
    with write_file(path) as handle:
        handle.write(_framed(value) if isinstance(value, Pending) else value)


def _framed(one: Pending) -> bytes:
    task = one.task.to_bytes()
    return len(task).to_bytes(8, "little") + task + one.answer.to_bytes()


def _append(path: Path, state: State) -> None:
    """Write the last round's line behind the ones that count; what a killed server left behind them goes."""
    try:
        with path.open("r+b" if path.exists() else "wb") as handle:
            handle.truncate(state.length)
            handle.seek(state.length)
            line = (state.history[-1].to_json() + "\n").encode()
            handle.write(line)
            handle.flush()
            os.fsync(handle.fileno())
            state.length, state.history_sum = handle.tell(), zlib.crc32(line, state.history_sum)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _counts(payload: Payload | None) -> list[Any]:
    return [] if payload is None else [getattr(payload, f.name) for f in fields(Payload) if f.name != "data"]


def load(folder: Path, fresh: State, model: nn.Module) -> Found | None:
    """Return what a folder holds, or None where there is nothing.

    Args:
        folder: Where ``save`` wrote.
        fresh: The state before the first round.
        model: The base, for singular vectors.

    Raises:
        FormatError: If a file is damaged or missing.
    """
    path = folder / NAME
    if not path.exists():
        return None
    record = parse_json(path.read_bytes(), str(path))
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise FormatError(f"{path} is no state of a federation of format {FORMAT}")
    if record.pop("sum", None) != zlib.crc32(encode(record)):
        raise _damaged(path)
    try:
        return _found(folder, record, fresh, model)
    except (KeyError, TypeError, ValueError, IndexError, OSError, ConfigError) as error:
        raise FormatError(f"{folder}: the state of the federation is damaged: {error!r:.200}") from error


def _found(folder: Path, record: Mapping[str, Any], fresh: State, model: nn.Module) -> Found:
    files, written = record["files"], dict[str, tuple[Any, str]]()

    def delta(label: str, name: str) -> Delta:
        found = load_delta(folder / name)
        found = found if label.startswith("global") else with_basis(found, model)  # as it travels, without a basis
        written[label] = (found, name)
        return found

    def data(label: str, name: str) -> bytes:
        found = _read(folder / name, record["sums"][name])
        written[label] = (found, name)
        return found

    down = fresh.downlink
    known = [(int(n), delta(f"global-{n}", name)) for n, name in files["global"].items()]
    updates = {n: data(f"update-{n}", name) for n, name in files["update"].items()}
    down.versions = [
        Version(n, digest, Payload(updates[str(n)], *counts) if counts else None)
        for n, digest, counts in record["versions"]
    ]
    down.known = dict(record["known"])
    down.delta = next((d for n, d in known if n == down.current.number), down.delta)
    down.feedback.restore(next((delta("feedback", name) for name in files["feedback"].values()), None))
    optimizer = {key: delta(f"optimizer-{key}", name) for key, name in files["optimizer"].items()}
    clients = {name: i for i, name in enumerate(record["config"]["names"])}
    residuals = {n: delta(f"residual-{clients[n]}", name) for n, name in files["residual"].items()}
    pending = []
    for i, arrival in enumerate(record["pending"]):
        name = files["pending"][str(i)]
        one = _pending(float(arrival), _read(folder / name, record["sums"][name]))
        written[f"pending-{clients[one.task.client]}-{one.task.round}"] = (one, name)
        pending.append(one)
    lines = _read(folder / HISTORY, record["history_sum"], record["length"]).decode().splitlines()
    history = [Round.from_dict(parse_json(line, HISTORY)) for line in lines]
    if len(history) != record["rounds"]:
        raise FormatError(f"{folder / HISTORY} has {len(history)} rounds; expected {record['rounds']}")
    state = State(
        down, optimizer, pending, history, float(record["clock"]), written, length=record["length"],
        history_sum=record["history_sum"],
    )  # fmt: skip
    return Found(state, record["config"], residuals, known)


def _read(path: Path, sum: int, length: int | None = None) -> bytes:
    data = path.read_bytes()[:length]
    if zlib.crc32(data) != sum:
        raise _damaged(path)
    return data


def _damaged(path: Path) -> FormatError:
    return FormatError(
        f"{path} is damaged: its CRC-32 does not match; take the folder from a backup, or begin in another"
    )


def _pending(arrival: float, data: bytes) -> Pending:
    length = int.from_bytes(data[:8], "little")
    answer = message(data[8 + length :])
    if not isinstance(answer, (Reply, Failure)):
        raise FormatError("a file of an answer under way holds another message")
    return Pending(arrival, Task.from_bytes(data[8 : 8 + length]), answer)
