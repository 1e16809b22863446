"""Guided by coverage, look for damaged files that one reader neither reads nor refuses; `fuzz` starts this.

An input is one byte, which chooses a file of the reader's folder, and what this file holds. Inputs are changed in two
ways: by libFuzzer, and by `mutations`, which know JSON and what damage looks like.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris  # pyright: ignore[reportMissingModuleSource]  # in .venv-fuzz alone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# Not the kernels, which numba compiles: they are imported later.
with atheris.instrument_imports(include=["dtheta"]):  # pyright: ignore[reportAttributeAccessIssue]  # not in its stub
    from tests.hardening.attempt import read_or_refused
    from tests.hardening.readers import READERS

from tests.hardening.mutations import damaged, twisted_text

_OURS = 0.2  # share of the changes that `mutations` make; they take longer than libFuzzer's
_UNHEALTHY = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]  # no matter here
_ANEW = 0.1  # share of the inputs made of a valid file; of several that reach the same, libFuzzer keeps only one


def fuzz(name: str, kept: Path, options: list[str]) -> None:
    """Fuzz a reader until the time is over or something is found, which ends the process.

    Args:
        name: The reader.
        kept: Where inputs that reached new branches are, from earlier runs too, and where a finding goes.
        options: Of libFuzzer; a file among them is read, and nothing else.
    """
    reader, folder = READERS[name], Path(tempfile.mkdtemp())
    reader.make(folder)
    reader.read(folder)  # what is imported or made on first use is there
    files = sorted({*reader.json, *reader.other})
    valid = [bytes([i]) + (folder / file).read_bytes() for i, file in enumerate(files)]
    for i, content in enumerate(valid):
        (kept / f"valid-{i}").write_bytes(content)

    def attempt(data: bytes) -> None:
        if data:
            read_or_refused(reader, folder, folder / files[data[0] % len(files)], data[1:], traced=False)

    ours = [f"-max_len={2 * max(map(len, valid)) + 20_000}", f"-artifact_prefix={kept}/"]
    inputs = [] if any(not option.startswith("-") for option in options) else [str(kept)]
    mutator = _mutator(valid, [file in reader.json for file in files])
    atheris.Setup([sys.argv[0], *ours, "-print_final_stats=1", *options, *inputs], attempt, custom_mutator=mutator)
    atheris.Fuzz()


def _mutator(valid: list[bytes], json: list[bool]) -> Callable[[bytes, int, int], bytes]:
    """Return what makes one input of another, from the inputs that are valid and which of the files hold JSON."""
    before, after = b"", b""  # `fuzz_one_input` neither takes nor returns them

    @settings(database=None, deadline=None, suppress_health_check=_UNHEALTHY)
    @given(source=st.data())
    def change(source: st.DataObject) -> None:
        nonlocal after
        twist = json[before[0] % len(json)] and source.draw(st.sampled_from([True, True, False]))
        with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError):  # it is no JSON any more
            after = before[:1] + source.draw((twisted_text if twist else damaged)(before[1:]))

    def mutated(data: bytes, longest: int, seed: int) -> bytes:
        nonlocal before, after
        draws = random.Random(seed)
        before, after = data if data and draws.random() > _ANEW else draws.choice(valid), b""
        if draws.random() < _OURS:
            change.hypothesis.fuzz_one_input(draws.randbytes(1000))  # type: ignore[attr-defined]
        return after[:longest] or atheris.Mutate(before, longest)

    return mutated


if __name__ == "__main__":
    fuzz(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
