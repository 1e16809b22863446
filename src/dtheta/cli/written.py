"""Written: ``NAME(field=value, ...)`` on the command line, and the same as a table in YAML.

    --codec "ternary(density=0.02)"                            codec: {name: ternary, density: 0.02}
    --channel "quantum(kilometers=20, eavesdropper=intercept-resend(share=0.2))"
    --method "LoRA(rank=8) on @attention#4-5"                  method: {name: LoRA, rank: 8, select: "@attention#4-5"}
    --privacy "clip=1, noise=0.5"                              privacy: {clip: 1, noise: 0.5}

Fields are those of the Python class, and their types decide how a value is read (values.py). Where an option has one
kind alone, its name may be left out. Names are found whether they are written top-k, TopK or top_k. A text may stand in
quotes, as in Python, and must where it holds a comma, a bracket or blanks at its ends.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from dtheta.cli.values import read_value
from dtheta.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from dtheta.adapt.method import Method

T = TypeVar("T")
_FORM = re.compile(
    r"\s*(?P<name>[\w-]+)\s*(?:\((?P<fields>.*)\))?(?:\s+on\s+(?P<select>\S.*?))?\s*", re.DOTALL
)  # fmt: skip
_BRACKETS = {"(": 1, "[": 1, ")": -1, "]": -1}
_QUOTES = ("'", '"')
_MARKS = re.compile(r"[()\[\],=]")
_PLAIN = ("yes", "true", "on")


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written: a name, the text of every field, and what stands behind ``on``."""

    name: str
    fields: Mapping[str, str]
    select: str | None = None


def parsed(text: str, where: str, such_as: str, implied: str | None = None) -> Written:
    """Return what a text says.

    Args:
        text: As it was written.
        where: The option, for the message.
        such_as: An example, likewise.
        implied: The name where none is written: for options that have one kind alone.

    Raises:
        ConfigError: If it is not of the form, or gives a field twice.
    """
    if implied is not None and "=" in text.partition("(")[0]:
        return Written(implied, _fields(text, where, such_as))
    found = _FORM.fullmatch(text)
    if found is None:
        raise _malformed(text, where, such_as)
    name = implied if implied is not None and found["name"].lower() in _PLAIN else found["name"]
    return Written(name, _fields(found["fields"] or "", where, such_as), found["select"])


def _malformed(text: str, where: str, such_as: str) -> ConfigError:
    return ConfigError(f"{where} {text!r} is not of the form NAME(field=value, ...), such as {such_as!r}")


def _fields(text: str, where: str, such_as: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for piece in _pieces(text, where, such_as):
        name, equals, value = (part.strip() for part in piece.partition("="))
        if not equals or not name or not value:
            raise _malformed(text, where, such_as)
        if name in found:
            raise ConfigError(f"{where} gives {name} twice: {text!r}")
        found[name] = value
    return found


def _pieces(text: str, where: str, such_as: str) -> list[str]:
    """Cut at the commas that stand in no brackets and no quotes, which open where a value begins."""
    pieces, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES and pieces[-1].rstrip()[-1:] in ("", "=", "[", "(", ","):
            quote = letter
        else:
            depth += _BRACKETS.get(letter, 0)
        if letter == "," and depth == 0 and not quote:
            pieces.append("")
        else:
            pieces[-1] += letter
        if depth < 0:
            raise _malformed(text, where, such_as)
    if depth or quote:
        raise _malformed(text, where, such_as)
    return [piece for piece in pieces if piece.strip()]


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] in _QUOTES and text[0] == text[-1] else text


def text_of(value: Any, where: str) -> str:
    """Return a table of YAML as one writes it on the command line.

    Raises:
        ConfigError: For a text in it that holds brackets, a comma or an equals sign.
    """
    if isinstance(value, Mapping):
        table = {str(key): inner for key, inner in value.items()}
        name, select = table.pop("name", None), table.pop("select", None)
        inside = ", ".join(f"{key}={text_of(inner, where)}" for key, inner in table.items())
        if name is None:
            return inside
        return (f"{name}({inside})" if inside else str(name)) + ("" if select is None else f" on {select}")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(text_of(item, where) for item in value)}]"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and _MARKS.search(value) and not _FORM.fullmatch(value):
        raise ConfigError(f"{where}: {value!r} holds a bracket, a comma or an equals sign; write it as a table")
    return str(value)


def flat(value: Any, many: bool, where: str, part: bool = False) -> Any:
    """Return a value of a YAML file with its tables as text.

    Args:
        value: Of an option.
        many: Whether the option may be given several times; a table without a name is then FIELD=VALUE, one by one.
        where: The option, for messages.
        part: Whether a part is described, so that ``yes`` takes it as it is and ``no`` leaves it out.

    Raises:
        ConfigError: As ``text_of``.
    """
    if part and isinstance(value, bool):
        return "yes" if value else None
    if isinstance(value, Mapping):
        return [f"{k}={v}" for k, v in value.items()] if many and "name" not in value else text_of(value, where)
    if isinstance(value, list):
        return [text_of(item, where) if isinstance(item, Mapping) else item for item in value]
    return value


def built(text: str, known: Mapping[str, Callable[..., T]], where: str, such_as: str, implied: str | None = None) -> T:
    """Return what a text describes.

    Args:
        text: As it was written.
        known: Dataclasses and functions by name; of a function, the keyword-only parameters are the fields.
        where: The option, for messages.
        such_as: An example, likewise.
        implied: The name where none is written.

    Raises:
        ConfigError: If it is not of the form, names what is not known, or gives a value that cannot be meant.
    """
    return call(parsed(text, where, such_as, implied), known, where)()


def call(found: Written, known: Mapping[str, Callable[..., T]], where: str) -> Callable[..., T]:
    """Return a known function or class with the fields that were written bound; errors are those of ``built``."""
    if found.select is not None:
        raise ConfigError(f"{where}: 'on {found.select}' goes with methods alone")
    target = known[nearest(found.name, known, where)]
    hints, parameters = _hints(target), _parameters(target)
    for name in found.fields:
        if name not in parameters:
            has = f"it has {', '.join(parameters)}" if parameters else "it has none"
            raise ConfigError(f"{where}: {found.name} has no field {name!r} ({has}){did_you_mean(name, parameters)}")
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in found.fields:
            raise ConfigError(f"{where}: {found.name} needs {name}, as in {found.name}({name}=...)")
    values = {n: _value(v, hints[n], known, f"{where}: {found.name}'s {n}") for n, v in found.fields.items()}
    return partial(target, **values)


def nearest(name: str, known: Mapping[str, Any], where: str) -> str:
    """Return the known name that one means, whatever its case and hyphens.

    Raises:
        ConfigError: Naming those that are known.
    """
    for one in known:
        if _letters(one) == _letters(name):
            return one
    raise ConfigError(f"{where}: there is no {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")


def _letters(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


def named(classes: Sequence[type[T]]) -> dict[str, type[T]]:
    """Return classes by what they are called: their ``name``, or that of the class."""
    return {one.__dict__.get("name", one.__name__): one for one in classes}


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    every = inspect.signature(target).parameters.values()
    kinds = {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    wanted = kinds if inspect.isclass(target) else {inspect.Parameter.KEYWORD_ONLY}
    return {one.name: one for one in every if one.kind in wanted and one.name != "seed"}


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(target)


def _value(text: str, kind: Any, known: Mapping[str, Any], where: str) -> Any:
    options = get_args(kind) or (kind,)
    nested = [one for one in options if inspect.isclass(one) and _is_part(one, known)]
    if nested:
        if NoneType in options and text.lower() in ("none", "null"):
            return None
        classes = [one for one in known.values() if inspect.isclass(one) and issubclass(one, tuple(nested))] or nested
        return built(text, named(classes), where, _such_as(classes))
    return plain_value(text, kind, where)


def plain_value(text: str, kind: Any, where: str) -> Any:
    """Return a value by its type; several stand in brackets, as in [1, 2].

    Raises:
        ConfigError: If it cannot be meant.
    """
    if text.startswith("[") and text.endswith("]"):
        return read_value([_unquoted(one.strip()) for one in _pieces(text[1:-1], where, "[1, 2]")], kind, where)
    return read_value(_unquoted(text), kind, where)


def _is_part(kind: type, known: Mapping[str, Any]) -> bool:
    """Tell whether a type is one that is written by name and fields."""
    above = any(inspect.isclass(one) and issubclass(one, kind) for one in known.values()) and kind is not object
    return dataclasses.is_dataclass(kind) or above


def _such_as(classes: Sequence[type]) -> str:
    return f"{next(iter(named(classes)))}(...)"


def written_method(text: str, where: str = "--method") -> tuple[Method, str | None]:
    """Return the method and selection of ``NAME(field=value, ...) on SELECT``.

    Raises:
        ConfigError: If it is not of that form, or for an unknown method or field.
    """
    from dtheta.cli.adapt import build_method

    try:
        found = parsed(text, where, "LoRA(rank=8) on @attention#4-5")
    except ConfigError as error:
        raise ConfigError(f"{error}; 'dtheta methods' lists the names and fields") from None
    fields = tuple(f"{name}={value}" for name, value in found.fields.items())
    return build_method(found.name, None, None, fields), found.select
