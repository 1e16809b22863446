"""YAML files, read as plain values: no key twice, and no more values than a person would write.

yaml's safe loader makes no objects and runs no code. Two things remain: of two entries of one name it takes the last
silently, and a few lines of aliases of aliases stand for billions of values, which whoever walks them never ends with.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dtheta.errors import ConfigError

_LARGEST = 1 << 20  # bytes
_MOST = 100_000  # values, with aliases written out
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_LONGEST = 1000  # characters of a number; yaml's time to read one to the base 60 grows with their square


def read_yaml(path: str | os.PathLike[str], what: str) -> Any:
    """Return the content of a YAML file; None where it is empty.

    Args:
        path: The file, UTF-8.
        what: What it is to be, for the message, such as "configuration".

    Raises:
        ConfigError: If it cannot be read, is larger than a megabyte, is not YAML, has a key twice or a value inside
            itself, or stands for too many values.
    """
    import yaml

    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{path} has {path.stat().st_size:,} bytes; that is no {what}")
        text = path.read_text(encoding="utf-8")
        _check(yaml.compose(text, Loader=yaml.SafeLoader), path)
        return yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror or error}") from error
    # ValueError: a date that the calendar does not have; the others: what yaml meets in values tagged as what they are
    # not, such as "!!int ''", or in numbers to the base 60 that no float holds
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def _check(root: Any, path: Path) -> None:
    """Raise where a table has a key twice, a value is inside itself, or aliases written out make too many values."""
    import yaml

    counts: dict[int, int] = {}  # of nodes, each looked at once, however many aliases it has

    def count(node: Any) -> int:
        if id(node) in counts:
            if not counts[id(node)]:
                line = node.start_mark.line + 1
                raise ConfigError(f"{path}, line {line}: a value is inside itself by an alias; write it plainly")
            return counts[id(node)]
        counts[id(node)] = 0  # as long as what is inside of it is counted
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and len(node.value) > _LONGEST:
            raise ConfigError(f"{path}, line {node.start_mark.line + 1}: a number of {len(node.value):,} characters")
        inner: list[Any] = []
        if isinstance(node, yaml.MappingNode):
            _require_distinct_keys(node, path)
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        counts[id(node)] = total = 1 + sum(map(count, inner))
        if total > _MOST:
            raise ConfigError(
                f"{path} stands for more than {_MOST:,} values, its aliases written out; write it plainly"
            )
        return total

    count(root)


def _require_distinct_keys(table: Any, path: Path) -> None:
    seen: set[str] = set()
    for key, _ in table.value:
        if isinstance(key.value, str) and key.value in seen:
            raise ConfigError(f"{path}, line {key.start_mark.line + 1}: the key {key.value!r} occurs twice")
        if isinstance(key.value, str):
            seen.add(key.value)
