"""The import arrows of the tree run one way.

errors <- core <- (fit, models, data, score) <- verbs <- (scout, probe, federate) <- reproduce <- (report, cli)
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dtheta

ROOT = Path(dtheta.__file__).parent
SHARED = {"fit", "models", "data", "score"}
VERBS = {"adapt", "compress", "compose", "kernels", "ensemble"}
ABOVE = {"scout", "probe", "federate"}
TOP = {"report", "cli"}
PLAIN = {"_version", "_callable"}
#: What each layer may import beside itself.
ALLOWED = (
    {"errors": set(), "_version": set(), "core": {"errors"}}
    | {name: {"errors", "core", *SHARED, *PLAIN} for name in (*SHARED, *VERBS)}
    | {"scout": {"errors", "core", *SHARED, "adapt", "kernels", *PLAIN}}
    | {"probe": {"errors", "core", *SHARED, "adapt", *PLAIN}}
    | {"federate": {"errors", "core", *SHARED, "adapt", "compress", *PLAIN}}
    | {"reproduce": {"errors", "core", *SHARED, *VERBS, *ABOVE, *PLAIN}}
    | {"report": {"errors", "core", *SHARED, *ABOVE, "reproduce", *PLAIN}}
    | {"cli": {"errors", "core", *SHARED, *VERBS, *ABOVE, "reproduce", *TOP, *PLAIN}}
)
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT)


def _imported(path: Path) -> set[str]:
    """Return the layers of dtheta that a file imports, at the top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("dtheta.")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_from_layers_below_its_own(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    assert layer in ALLOWED, f"{layer} is not a layer of the design"
    above = _imported(path) - ALLOWED[layer] - {layer}
    assert not above, f"{path.relative_to(ROOT)} reaches up or sideways into {sorted(above)}"


def test_the_walk_sees_imports_inside_functions(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from dtheta.cli.main import main\n    import dtheta.adapt.lora\n")
    assert _imported(file) == {"cli", "adapt"}
