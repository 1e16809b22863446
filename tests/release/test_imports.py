"""What a start costs, counted in what it loads: seconds would depend on the machine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dtheta.cli.verbs import ACTIONS, VERBS
from tests.release.conftest import plain_environment

HEAVY = {
    "torch", "numpy", "numba", "transformers", "tokenizers", "accelerate", "safetensors", "jaxtyping", "rich", "jinja2",
    "yaml", "xxhash", "gguf", "PIL", "matplotlib", "xarray", "zarr", "pandas", "scipy", "sklearn", "peft", "flwr",
    "cryptography", "dp_accounting", "pennylane", "mkdocs",
}  # fmt: skip
CALLS = [*((verb,) for verb in VERBS), *((verb, action) for verb in ACTIONS for action in ACTIONS[verb])]
PROGRAM = """
import contextlib, io, json, sys
{imports}
seen = {{}}
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*words, "--help"]) == 0, words
    assert out.getvalue(), words
    seen[" ".join(words)] = sorted(sys.modules)
print(json.dumps({{"modules": sorted(sys.modules), "seen": seen}}))
"""


def loaded(imports: str, calls: list[tuple[str, ...]]) -> tuple[set[str], dict[str, set[str]]]:
    """Return the modules that a fresh interpreter has loaded at the end, and after the help of each call."""
    command = [sys.executable, "-c", PROGRAM.format(imports=imports), json.dumps(calls)]
    done = subprocess.run(command, env=plain_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return set(found["modules"]), {call: set(modules) for call, modules in found["seen"].items()}


def test_importing_dtheta_loads_nothing_but_itself_and_the_standard_library() -> None:
    modules, _ = loaded("import dtheta", [])
    assert {"dtheta", "dtheta.errors"} <= modules
    assert not modules & HEAVY
    assert len([name for name in modules if name.startswith("dtheta")]) <= 5


def test_the_list_of_verbs_loads_no_verb() -> None:
    modules, seen = loaded("from dtheta.cli.main import main", [()])
    assert not modules & HEAVY
    assert {name for name in seen[""] if name.startswith("dtheta.cli.")} == {"dtheta.cli.main", "dtheta.cli.verbs"}


@pytest.mark.parametrize("kind", ["verbs", "actions"])
def test_no_help_loads_a_heavy_package(kind: str) -> None:
    calls = [call for call in CALLS if (len(call) == 1) == (kind == "verbs")]
    assert calls
    _, seen = loaded("from dtheta.cli.main import main", calls)
    assert {call: sorted(modules & HEAVY) for call, modules in seen.items() if modules & HEAVY} == {}
