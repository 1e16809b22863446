"""Flower is optional: without it the engine says what to install, and nothing else needs it."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_without_flower_the_engine_says_what_to_install():
    said = run(
        "import sys; sys.modules['flwr'] = None\n"
        "import dtheta as dt\n"
        "try:\n    import dtheta.federate.flower\n"
        "except dt.errors.MissingExtra as error:\n    print(error)"
    )
    assert "pip install 'dtheta[federated]' in an environment of its own" in said


def test_a_federation_in_one_process_does_not_import_flower():
    assert run("import sys, dtheta, dtheta.federate.federate; print('flwr' in sys.modules)") == "False\n"
