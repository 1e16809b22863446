"""The public names, the laziness of their import, and the error tree."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import dtheta
from dtheta import errors


def test_every_public_name_loads_and_has_a_docstring() -> None:
    for name in dtheta.__all__:
        value = getattr(dtheta, name)
        assert name == "__version__" or (value.__doc__ or "").strip(), name


def test_the_lazy_table_and_the_list_of_names_agree() -> None:
    eager = {n for n in dtheta.__all__ if n in vars(errors) or n == "__version__"}
    assert set(dtheta.__all__) == eager | set(dtheta._LAZY)


def test_the_parts_of_a_federation_load_from_its_package_which_can_be_called() -> None:
    from dtheta import federate as package_or_function
    from dtheta.federate import Krum, Quantum, Ternary, dirichlet

    assert callable(package_or_function)
    assert all((part.__doc__ or "").strip() for part in (Krum, Quantum, Ternary, dirichlet))
    with pytest.raises(AttributeError, match="no attribute 'Krumm'"):
        sys.modules["dtheta.federate"].Krumm  # noqa: B018


@pytest.mark.parametrize("package", ["dtheta.ensemble", "dtheta.federate", "dtheta.probe"])
def test_no_name_that_is_loaded_on_first_use_is_that_of_a_file(package: str) -> None:
    """Importing the file would bind the module where the function should be."""
    module = importlib.import_module(package)
    files = {file.name for file in pkgutil.iter_modules(module.__path__)}
    assert files and not files & set(module._LAZY)


def test_importing_dtheta_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, dtheta; print([m for m in ('torch', 'numpy', 'transformers', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'atach'"):
        dtheta.atach  # noqa: B018


def test_the_error_tree_in_the_docstring_is_the_error_tree() -> None:
    tree = {n: c for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, errors.DthetaError)}
    assert all(name in (errors.__doc__ or "") for name in tree)
    assert {name: c.exit_code for name, c in tree.items() if c.exit_code != 1} == {"BaseMismatch": 3, "ConfigError": 2}


def test_did_you_mean_names_the_nearest() -> None:
    assert errors.did_you_mean("qurey", ["query", "value"]) == "; did you mean 'query'?"
    assert errors.did_you_mean("zzz", ["query"]) == ""
