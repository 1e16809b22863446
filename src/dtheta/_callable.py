"""What packages are beside folders of files: some can be called, some load their names on first use.

``dtheta.fit`` is both the public function and the folder that it lives in. Importing any file of a package binds the
package's name in its parent, where the public function of that name should be. So the package is made to act as the
function under either meaning.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """A package with a function of its own name in the file ``_function_file``."""

    _function_file: str

    def _function(self) -> Any:
        return getattr(import_module(f"{self.__name__}.{self._function_file}"), self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function()(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())


def make_callable(package: str, file: str) -> None:
    """Let a package, such as "dtheta.fit", be called: as the function ``fit`` of its file ``file``."""
    module: Any = sys.modules[package]
    module.__class__ = _CallablePackage
    module._function_file = file


def lazy(package: str, table: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's ``__getattr__``; ``table`` holds the module that each name comes from."""

    def load(name: str) -> Any:
        if name not in table:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(table[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return load
