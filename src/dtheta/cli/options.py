"""Options: the frozen dataclass of a verb is its command line and its configuration file.

    defaults  <  --config FILE.yaml  <  flags

A field annotated with ``Flag`` is a flag (``n_train`` is ``--n-train``), one with ``Place`` a value by its place. The
three sources are read by the same rules (values.py). Unknown names are refused, and the nearest known one is named.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from dtheta.cli.values import read_value
from dtheta.cli.written import flat
from dtheta.core.yamlfile import read_yaml
from dtheta.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Flag:
    """Says that a field is a flag: its help, and what the help calls its value."""

    text: str
    name: str = ""


@dataclass(frozen=True)
class Place(Flag):
    """Says that a field is given by its place on the command line and not by a flag."""


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """What every verb takes."""

    json: Annotated[bool, Flag("print the result as JSON on stdout; all else goes to stderr")] = False
    quiet: Annotated[bool, Flag("print nothing but the result")] = False
    dry_run: Annotated[bool, Flag("say what would be read and written, the memory and the time, and stop")] = False
    seed: Annotated[int, Flag("key of every random draw")] = 0
    config: Annotated[Path | None, Flag("a YAML file of these options; flags win over it", "FILE")] = None

    def resolved(self) -> dict[str, Any]:
        """Return what a result should remember: every option that says what is computed, as plain values."""
        aside = {f.name for f in dataclasses.fields(CommonOptions)}
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in aside}
        return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """Return an option's value as JSON keeps it; of a path only the name: where a file lay is its owner's business."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.name if isinstance(value, Path) else value


O = TypeVar("O", bound=CommonOptions)  # the verb's own Options


@dataclass(frozen=True)
class Field:
    """One option of a verb: name in Python, type, default (``MISSING`` if it must be given), and what is said of it."""

    name: str
    kind: Any
    default: Any
    said: Flag

    @property
    def placed(self) -> bool:
        """Whether it is given by its place."""
        return isinstance(self.said, Place)

    @property
    def many(self) -> bool:
        """Whether it may be given several times."""
        return get_origin(self.kind) is tuple

    @property
    def called(self) -> str:
        """The name by which a user knows it."""
        if self.placed:
            return self.said.name or self.name.upper()
        return "--" + self.name.rstrip("_").replace("_", "-")  # for_ is --for: a keyword can be no field

    def flag(self, value: Any) -> str:
        """Return the name with which a value is given: a switch that is turned off has one of its own."""
        return f"--no-{self.called[2:]}" if value is False else self.called


def fields_of(kind: type[CommonOptions]) -> dict[str, Field]:
    """Return the options that a verb takes, by name, its own first."""
    hints = get_type_hints(kind, include_extras=True)
    common = {f.name for f in dataclasses.fields(CommonOptions)}
    found = {}
    for f in sorted(dataclasses.fields(kind), key=lambda f: f.name in common):
        plain, said = get_args(hints[f.name])
        found[f.name] = Field(f.name, plain, f.default, said)
    return found


def parse(kind: type[O], arguments: Sequence[str], verb: str, about: str) -> O | None:
    """Return the options that a command line means, or None when it asked for help, which is then printed.

    Raises:
        ConfigError: For an unknown option, a value that cannot be meant, or one that is missing.
    """
    fields = fields_of(kind)
    if {"-h", "--help"} & set(arguments):
        from dtheta.cli.help import help_text

        print(help_text(list(fields.values()), verb, about), end="")
        return None
    given = _flags(fields, arguments)
    values = {n: read_value(v, fields[n].kind, fields[n].called) for n, v in given.items() if v is not None}
    if "config" in values:
        values = _from_file(values["config"], fields) | values
    for f in fields.values():
        if f.name not in values and f.default is MISSING:
            raise ConfigError(f"{f.called} is missing; 'dtheta {verb} --help' shows how to call it")
    return kind(**values)


class _Parser(argparse.ArgumentParser):
    """argparse for the splitting alone: its errors become ours."""

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        flag, _, rest = message.partition(": ")
        if rest == "expected one argument":  # argparse takes what begins with a dash for an option
            message = f"{message} after it; a value that begins with a dash is given as {flag}=-value"
        if rest.startswith("ignored explicit argument"):
            message = f"{flag} is a switch and takes no value, found {rest.removeprefix('ignored explicit argument ')}"
        raise ConfigError(message)


class Once(argparse.Action):
    """Store a value, and refuse a second one: the last of two would silently be taken."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Store it."""
        before = getattr(namespace, self.dest)
        if before is not None:
            self.refuse(option_string, before, values)
        setattr(namespace, self.dest, values)

    @staticmethod
    def refuse(name: str | None, first: str, second: str) -> None:
        """Raise the error of a second value."""
        raise ConfigError(f"{name} is given twice, {first!r} and {second!r}, and takes one value; keep one")


class _Switch(argparse.BooleanOptionalAction):
    """A switch that is not turned both on and off."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        super().__call__(parser, namespace, values, option_string)
        if before not in (None, getattr(namespace, self.dest)):
            raise ConfigError(f"{' and '.join(self.option_strings)} are both given; keep one of the two")


# A negative number in any form that float() reads; argparse knows those without an exponent only.
_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def _joined(fields: Mapping[str, Field], arguments: Sequence[str]) -> list[str]:
    """Return the arguments with negative numbers tied to the flags before them: ``--weight=-1e-3``."""
    flags = {f.called for f in fields.values() if not f.placed and f.kind is not bool}
    found: list[str] = []
    for text in arguments:
        if found and found[-1] in flags and _NEGATIVE.fullmatch(text):
            found[-1] += f"={text}"
        else:
            found.append(text)
    return found


def _flags(fields: Mapping[str, Field], arguments: Sequence[str]) -> dict[str, Any]:
    """Return the raw text of every field that the command line gives; None where it does not."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    for f in fields.values():
        if f.placed:
            parser.add_argument(f.name, nargs="*" if f.many else "?", default=None)
        elif f.kind is bool:
            parser.add_argument(f.called, dest=f.name, action=_Switch, default=None)
        else:
            parser.add_argument(f.called, dest=f.name, default=None, action="append" if f.many else Once)
    found, unknown = parser.parse_known_intermixed_args(_joined(fields, arguments))
    if unknown:
        flags = [text.partition("=")[0] for text in unknown if text.startswith("-")]
        if flags:
            near = did_you_mean(flags[0], [f.called for f in fields.values() if not f.placed])
            raise ConfigError(f"unknown option {flags[0]}{near}")
        again = [f.called for f in fields.values() if f.many and not f.placed and f.called in arguments]
        hint = f"; {again[-1]} takes one value, so give it again for each" if again else ""
        raise ConfigError(f"unexpected argument {unknown[0]!r}{hint}")
    return {name: value for name, value in vars(found).items() if value != []}


def _from_file(path: Path, fields: Mapping[str, Field]) -> dict[str, Any]:
    """Return the values of a YAML file: field names as keys, with ``_`` or ``-``."""
    values = {}
    for key, value in _document(path).items():
        name = str(key).replace("-", "_")
        name = f"{name}_" if f"{name}_" in fields else name
        if name not in fields or name == "config":
            raise ConfigError(f"{path}: unknown option {key!r}{did_you_mean(name, set(fields) - {'config'})}")
        if name in values:
            raise ConfigError(f"{path}: {key!r} gives a second value to {fields[name].called}; keep one of the two")
        value = flat(value, fields[name].many, f"{path}: {key}", fields[name].said.name == "PART")
        values[name] = read_value(value, fields[name].kind, f"{path}: {key}")
    return values


def _document(path: Path) -> Mapping[Any, Any]:
    document = read_yaml(path, "configuration")
    if not isinstance(document, Mapping):
        found = "nothing" if document is None else type(document).__name__
        raise ConfigError(f"{path} must hold option names and values, such as 'rank: 16'; found {found}")
    return document
