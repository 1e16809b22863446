"""Inserted networks on the command line: adapt, apply, show; no merge has a place for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dtheta.core.files import load
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]
SNNK = ("SNNK", "features=4", "snnk.relu,m4,seed0.psi")
HOULSBY = ("Houlsby", "size=2", "houlsby.gelu.up")


@pytest.mark.parametrize(("method", "field", "name"), [SNNK, HOULSBY])
def test_a_network_is_trained_applied_and_shown(
    dtheta: Run, folders: dict[str, Path], table: Path, method: str, field: str, name: str
) -> None:
    done = dtheta(
        "adapt", "--model", folders["bert"], "--data", table, "--method", method.lower(), "--set", field, "--steps", 2,
        "--max-length", 16, "--select", "*.output.dense#0", "--out", "n.delta",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = [n for n in load("n.delta").new if n.endswith(name)]
    assert found == [f"encoder.encoder.layer.0.{part}.dropout.{name}" for part in ("attention.output", "output")]
    done = dtheta("apply", "n.delta", "--model", folders["bert"], "--text", "a text", "--json")
    assert done.code == 0, done.err
    done = dtheta("show", "n.delta")
    assert found[0] in done.out.replace("\n", "")
    done = dtheta("merge", folders["bert"], "n.delta", "--out", "merged")
    assert (done.code, Path("merged").exists()) == (1, False)
    assert "is a new vector, for which a merged model has no place" in done.err


def test_a_field_that_it_does_not_have_is_told(dtheta: Run, folders: dict[str, Path], table: Path) -> None:
    done = dtheta("adapt", "--model", folders["bert"], "--data", table, "--method", "SNNK", "--rank", 4)
    assert done.code == 2
    assert "SNNK has no field 'rank'" in done.err
