"""A server killed at any point goes on from its last round, and ends with the bits of one that was not."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.core import output
from dtheta.errors import ConfigError, FormatError
from dtheta.federate import loop, state
from dtheta.federate.asynchronous import Asynchronous
from dtheta.federate.engine import InProcess
from dtheta.federate.federate import federate
from dtheta.federate.server.adaptive import FedAdam
from dtheta.federate.server.optimizer import FedAvgM
from tests.unit.federate.parties import bits, clients, loss_of, model, server


class Killed(BaseException):
    """Stands for the end of the process."""


def _run(folder: Path | None, optimizer: Any = None, **settings: Any) -> Any:
    net = model()
    parties = clients(net, 3, steps=1)
    made = server(net, optimizer=optimizer or FedAvgM(momentum=0.5))
    given = {"rounds": 4, "codec": "ternary", "downlink": "ternary", "sample": 0.75, "dropout": 0.1}
    return federate(made, parties, folder=folder, evaluate=loss_of(parties), **given | settings)


def _told(found: Any) -> list[Any]:
    return [dataclasses.replace(row, seconds=0.0) for row in found.history]


def _same(a: Any, b: Any) -> bool:
    return bits(a.delta) == bits(b.delta) and _told(a) == _told(b)


class Countdown:
    """Stands in place of a function, and kills at its n-th call, before it or after it."""

    def __init__(self, real: Any, calls: int, after: bool) -> None:
        self.real, self.calls, self.after = real, calls, after

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls -= 1
        if self.calls == 0 and not self.after:
            raise Killed
        found = self.real(*args, **kwargs)
        if self.calls == 0:
            raise Killed
        return found


PLACES = {
    "before a file": (output.os, "replace"),
    "in the history": (state.os, "fsync"),
    "while training": (InProcess, "_respond"),
    "while stepping": (loop.Loop, "_step"),
    "while removing": (Path, "unlink"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("calls", [1, 6])
def test_killed_anywhere_and_resumed_is_bit_identical(tmp_path, monkeypatch, place, calls):
    straight = _run(None)
    owner, name = place
    for after in (False, True):  # killed twice, at other points
        real = getattr(owner, name)
        count = Countdown(real, calls, after)
        with monkeypatch.context() as patch:
            patch.setattr(
                owner, name, lambda *given, count=count, **named: count(*given, **named)
            )  # to be a method too
            try:
                _run(tmp_path / "f", resume=True)
            except Killed:
                assert count.calls <= 0
    assert _same(_run(tmp_path / "f", resume=True), straight)
    lines = (tmp_path / "f" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": FedAdam(), "codec": "dense", "downlink": None},
        {"asynchronous": Asynchronous(spread=1.0), "rounds": 6},
        {"asynchronous": Asynchronous(buffer=2), "codec": "sign"},
    ],
    ids=["adam", "asynchronous", "buffered"],
)
def test_every_round_can_be_the_last_before_a_resume(tmp_path, settings):
    straight = _run(None, **settings)
    rounds = settings.get("rounds", 4)
    for number in range(1, rounds + 1):  # a run of one more round each time
        found = _run(tmp_path / "f", resume=True, **settings | {"rounds": number})
    assert bits(found.delta) == bits(straight.delta)
    keep = lambda rows: [dataclasses.replace(r, scores={}) for r in rows]  # noqa: E731 - the last round is always judged
    assert keep(_told(found)) == keep(_told(straight))


_SCRIPT = """
import sys
from pathlib import Path
from tests.unit.federate.test_resume import _run
_run(Path(sys.argv[1]), resume=True, rounds=40)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_is_resumed(tmp_path):
    environment = os.environ | {"PYTHONPATH": "src:.", "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "f"
    for rounds in (2, 5):
        process = subprocess.Popen([sys.executable, "-c", _SCRIPT, str(folder)], env=environment)
        history = folder / "history.jsonl"
        while process.poll() is None and (not history.exists() or history.read_text().count("\n") < rounds):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = _run(folder, resume=True, rounds=8)
    done = len(found.history)
    assert done >= 5
    assert bits(found.delta) == bits(_run(None, rounds=done).delta)


def test_a_finished_run_returns_what_it_was_and_can_be_prolonged(tmp_path):
    first = _run(tmp_path / "f")
    assert _same(_run(tmp_path / "f", resume=True), first)
    assert _same(_run(tmp_path / "f", resume=True, rounds=6), _run(None, rounds=6))
    with pytest.raises(ConfigError, match=r"holds 6 rounds, and rounds is 3.*give rounds=6"):
        _run(tmp_path / "f", resume=True, rounds=3)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"codec": "sign"}, "codec.name was 'ternary' and is 'sign'"),
        ({"sample": 1.0}, "sample was 0.75 and is 1.0"),
        ({"optimizer": FedAvgM(momentum=0.6)}, "server.optimizer.momentum was 0.5 and is 0.6"),
        ({"asynchronous": Asynchronous()}, "asynchronous"),
    ],
)
def test_another_configuration_is_refused(tmp_path, changes, what):
    _run(tmp_path / "f", rounds=1)
    with pytest.raises(ConfigError, match=what):
        _run(tmp_path / "f", resume=True, **changes)


def test_other_clients_or_another_base_are_refused(tmp_path):
    net = model()
    federate(server(net), clients(net), rounds=1, folder=tmp_path / "f")
    for parties, base, what in (
        (clients(net, 3), net, "names was"),
        (clients(net, lr=0.5), net, "clients.c0.lr was 0.05 and is 0.5"),
        (clients(other := model(1)), other, "frame was"),
    ):
        with pytest.raises(ConfigError, match=what):
            federate(server(base), parties, rounds=2, folder=tmp_path / "f", resume=True)


def test_a_federation_is_not_overwritten_unasked(tmp_path):
    _run(tmp_path / "f", rounds=1)
    with pytest.raises(ConfigError, match="resume=True goes on with it"):
        _run(tmp_path / "f")


def test_the_folder_holds_no_more_than_it_names(tmp_path):
    _run(tmp_path / "f", rounds=4)
    record = json.loads((tmp_path / "f" / "state.json").read_text())
    named = {name for part in record["files"].values() for name in part.values()}
    assert {p.name for p in (tmp_path / "f").iterdir()} == named | {"state.json", "history.jsonl", "lock"}


@pytest.mark.parametrize("damage", ["state", "global", "residual", "history", "update"])
def test_a_damaged_folder_is_a_format_error(tmp_path, damage):
    _run(tmp_path / "f", rounds=3)
    if damage in ("state", "history"):
        path = tmp_path / "f" / ("state.json" if damage == "state" else "history.jsonl")
        path.write_bytes(path.read_bytes()[:-9])
    else:
        next((tmp_path / "f").glob(f"{damage}-*")).unlink()
    with pytest.raises(FormatError):
        _run(tmp_path / "f", resume=True)


@pytest.mark.parametrize("part", ["state.json", "history.jsonl", "update", "pending", "residual"])
def test_a_flipped_bit_is_a_format_error(tmp_path, part):
    settings = {"asynchronous": Asynchronous(), "dropout": 0.0}
    _run(tmp_path / "f", rounds=2, **settings)
    path = next(p for p in (tmp_path / "f").iterdir() if p.name.startswith(part))
    data = path.read_bytes()
    for at in range(len(data) // 9, len(data), len(data) // 4):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(FormatError):
            _run(tmp_path / "f", rounds=3, resume=True, **settings)
    path.write_bytes(data)
    assert len(_run(tmp_path / "f", rounds=3, resume=True, **settings).history) == 3


_HOLDS = """
import fcntl, sys
with open(sys.argv[1], "ab") as handle:
    fcntl.lockf(handle, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_run_in_one_folder(tmp_path):
    (tmp_path / "f").mkdir()
    command = [sys.executable, "-c", _HOLDS, str(tmp_path / "f" / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="another process runs a federation in"):
            _run(tmp_path / "f", rounds=1, resume=True)
        assert {p.name for p in (tmp_path / "f").iterdir()} == {"lock"}
        other.kill()
    assert len(_run(tmp_path / "f", rounds=1, resume=True).history) == 1


def test_spectral_deltas_resume_to_the_same_bits_and_come_out_with_their_basis(tmp_path):
    def run(rounds: int, folder: Path | None) -> Any:
        net = model()
        parties = clients(net, 3, method=CLIPSVD())
        return federate(
            server(net, CLIPSVD()), parties, rounds=rounds, codec="exact", folder=folder, resume=bool(folder)
        )

    straight = run(3, None)
    run(2, tmp_path / "f")
    found = run(3, tmp_path / "f")
    assert found.delta.digest == straight.delta.digest and _told(found) == _told(straight)
    assert bits(found.delta) == bits(straight.delta)  # dense without being bound first
