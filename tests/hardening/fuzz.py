"""Fuzz readers in turn, guided by coverage, each in a process of its own: ``make fuzz READER=csv SECONDS=60``.

    python -m tests.hardening.fuzz [READER ...] [-max_total_time=SECONDS and other options of libFuzzer]

What reached new branches stays in ``.fuzz/READER``, where the next run begins. So does a finding, as ``crash-*``, which
``python -m tests.hardening.fuzz READER .fuzz/READER/crash-*`` reads again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

KEPT = Path(".fuzz")
_MEMORY = "/dev/shm"  # files there are on no disk


def fuzz(name: str, options: list[str]) -> bool:
    """Fuzz a reader, print what it came to, and tell whether nothing was found."""
    kept = KEPT / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_MEMORY if os.path.isdir(_MEMORY) else None) as scratch:
        child = subprocess.run(
            [sys.executable, "-m", "tests.hardening.guided", name, str(kept), *options],
            env={**os.environ, "TMPDIR": scratch}, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
    said = "\n".join(line for line in child.stderr.splitlines() if not line.startswith("INFO: Instrumenting"))
    reached = re.findall(r"cov: (\d+)", said)[-1:] or ["?"]
    counts = dict(re.findall(r"^stat::(\w+): +(\d+)", said, re.MULTILINE))
    inputs, rate = counts.get("number_of_executed_units", "?"), counts.get("average_exec_per_sec", "?")
    print(f"{name:10}  {inputs:>8} inputs  {rate:>5} a second  {reached[0]:>5} branches", flush=True)
    if child.returncode:
        print(child.stdout[-6000:], said[-2000:], sep="\n", flush=True)
    return child.returncode == 0


def main(arguments: list[str]) -> int:
    """Fuzz the named readers, or all of them; return the exit status."""
    options = [argument for argument in arguments if argument.startswith("-") or Path(argument).is_file()]
    names = [argument for argument in arguments if argument not in options]
    from tests.hardening.readers import READERS  # takes seconds

    if odd := [name for name in names if name not in READERS]:
        print(f"error: there is no reader {odd[0]!r}; there are {', '.join(READERS)}", file=sys.stderr)
        return 2
    return 0 if all([fuzz(name, options) for name in names or READERS]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
