"""The names of terms: a site's key as torch takes it for a submodule, and back.

    a.b.weight -> a/b/weight        a/b.weight -> a%2Fb/weight        keys -> %6Beys

torch keeps the dot for itself, so it is written as a slash; what a slash or a percent sign would make ambiguous, and
what would hide an attribute of ``nn.ModuleDict``, is written with percent signs, as in web addresses. Different keys
never get one name.
"""

from __future__ import annotations

from urllib.parse import unquote

from torch import nn

_EMPTY = nn.ModuleDict()


def module_name(key: str) -> str:
    """Return the name under which a site's term is a submodule."""
    name = key.replace("%", "%25").replace("/", "%2F").replace(".", "/")
    return f"%{ord(name[0]):02X}{name[1:]}" if hasattr(_EMPTY, name) else name


def parameter_name(name: str) -> str:
    """Return the name of a term's parameter, ``MODULE.FACTOR``, as site and factor."""
    module, _, factor = name.partition(".")
    return f"{unquote(module.replace('/', '.'))}.{factor}"
