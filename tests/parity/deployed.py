"""A Flower deployment on loopback: a SuperLink, SuperNodes, and runs of an app; all ended together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_END = "Finished task"  # what the SuperLink says of a run
_PROJECT = """
[project]
name = "federation"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "app:server_side"
clientapp = "app:client_side"
[tool.flwr.app.config]
rounds = 3
codec = "ternary"
timeout = 0.0
out = ""
"""


class Deployment:
    """A SuperLink on a free port, with SuperNodes that join it."""

    def __init__(self, folder: Path, app: Path, **environment: str) -> None:
        self.folder, self._started = folder, list[subprocess.Popen[bytes]]()
        self._app = folder / "app"
        self._app.mkdir()
        shutil.copy(app, self._app / "app.py")
        (self._app / "pyproject.toml").write_text(_PROJECT)
        self._link = f"127.0.0.1:{free_port()}"
        home = folder / "home"
        home.mkdir()
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{self._link}"\ninsecure = true\n'
        )
        bin = str(Path(sys.executable).parent)
        self.environment = os.environ | environment | {
            "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1", "OMP_NUM_THREADS": "1",
            "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip

    def __enter__(self) -> Deployment:
        host, port = self._link.split(":")
        self._start("superlink", "flower-superlink", "--insecure", "--host", host, "--port", port,
                    "--disable-runtime-dependency-installation")  # fmt: skip
        wait_for(lambda: listens(int(port)), 60, "the SuperLink")
        return self

    def __exit__(self, *_: object) -> None:
        for one in reversed(self._started):
            kill(one)

    def node(self, i: int, **config: Any) -> subprocess.Popen[bytes]:
        """Start a SuperNode in a process group of its own."""
        given = " ".join(f"{key}={json.dumps(value)}" for key, value in ({"partition-id": i} | config).items())
        return self._start(f"node-{i}", "flower-supernode", "--insecure", "--superlink", self._link,
                           "--host", "127.0.0.1", "--port", str(free_port()), "--node-config", given)  # fmt: skip

    def run(self, out: Path, **config: Any) -> None:
        """Hand in a run; it writes ``out`` at its end."""
        self._ended = self._link_log().count(_END)
        given = " ".join(f"{key}={json.dumps(value)}" for key, value in ({"out": str(out)} | config).items())
        subprocess.run(
            ["flwr", "run", str(self._app), "here", "--run-config", given],
            check=True, timeout=120, env=self.environment, capture_output=True,
        )  # fmt: skip

    def result(self, out: Path, seconds: float) -> dict[str, Any]:
        """Wait until a run has ended, and return what it wrote."""
        try:
            wait_for(lambda: self._link_log().count(_END) > self._ended, seconds, "end of the run")
            assert out.exists(), "the run failed"
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"{error}; its logs:\n{self.logs()}") from None
        return json.loads(out.read_text())

    def _link_log(self) -> str:
        return (self.folder / "superlink.log").read_text()

    def logs(self) -> str:
        return "\n".join(f"{p.name}: {p.read_text()[-2000:]}" for p in sorted(self.folder.glob("*.log")))

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            started = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        self._started.append(started)
        return started


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, without a word to anyone."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(found: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} after {seconds:g} s")
        time.sleep(0.2)
