"""The help of a verb: made from its fields, so that it cannot be stale, and the same whatever Python runs it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import MISSING

from dtheta.cli.options import CommonOptions, Field, fields_of
from dtheta.cli.values import kind_name
from dtheta.cli.verbs import ACTIONS

_LEFT, _WIDTH = 28, 100


def help_text(fields: Sequence[Field], verb: str, about: str) -> str:
    """Return the help of one verb; the first line of ``about`` is its title, the rest its explanation."""
    shared = fields_of(CommonOptions)
    places = [f for f in fields if f.placed]
    own = [f for f in fields if not f.placed and f.name not in shared]
    common = [f for f in fields if f.name in shared]
    title, _, body = about.partition("\n")
    lines = [f"usage: dtheta {verb} {' '.join([*map(_usage, places), '[options]'])}", "", title.strip()]
    if body.strip():
        lines += ["", *body.strip("\n").splitlines()]
    for name, group in (("arguments", places), ("options", own), ("common to all verbs", common)):
        if group:
            lines += ["", f"{name}:", *(line for f in group for line in _entry(f))]
    return "\n".join([*lines, "  -h, --help                show this and stop", ""])


def _usage(f: Field) -> str:
    name = f.called + ("..." if f.many else "")
    return name if f.default is MISSING else f"[{name}]"


def _entry(f: Field) -> list[str]:
    value = f.said.name or kind_name(f.kind)
    left = "  " + (f.called if f.placed else f"{f.called} {value}".rstrip())
    right = textwrap.wrap(f.said.text + _default(f), _WIDTH - _LEFT, break_on_hyphens=False)
    pad = " " * _LEFT
    if len(left) > _LEFT - 2:
        return [left, *(pad + line for line in right)]
    return [f"{left:<{_LEFT}}{right[0]}", *(pad + line for line in right[1:])]


def _default(f: Field) -> str:
    """Return the default as the help shows it; a switch is off, and what is worked out when absent says so itself."""
    if f.default is MISSING:
        return "" if f.placed else " (must be given)"
    silent = f.default is None or f.default is False or f.default == ()
    shown = ", ".join(map(str, f.default)) if isinstance(f.default, tuple) else f.default
    return "" if silent else f" (default: {shown})"


def actions_text(verb: str, about: str) -> str:
    """Return the help of a verb that does several things; ``about`` as in ``help_text``."""
    title, _, body = about.partition("\n")
    usage = f"usage: dtheta {verb} {'|'.join(ACTIONS[verb])} [options]"
    return "\n".join([usage, "", title.strip(), "", *body.strip("\n").splitlines(), ""])
