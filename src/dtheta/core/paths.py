"""Paths as users write them: ``~`` and ``~user`` in front stand for a home folder."""

from __future__ import annotations

import os
from pathlib import Path

from dtheta.errors import ConfigError


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with the home folder in place of a leading ``~`` or ``~user``; ``./~name`` is a file of that name.

    Raises:
        ConfigError: If there is no such user, or nothing tells where the home folder is.
    """
    text = os.fspath(path)
    found = Path(text)
    if not text.startswith("~"):
        # pathlib drops "./", after which the name would be taken for a user's
        return found.absolute() if found.parts[:1] and found.parts[0].startswith("~") else found
    try:
        return found.expanduser()
    except RuntimeError:
        raise ConfigError(f"there is no home of the user in {text!r}; a file called so is ./{text}") from None
