"""Constraints for pip that take every dependency at the lowest release that pyproject.toml allows.

    name>=X  ->  name==X

torch stays at the release of constraints.txt: the package index has lower ones only with CUDA, which is gigabytes.

    python scripts/lowest.py EXTRA ... > lowest.txt
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def lowest(project: dict, extras: list[str], fixed: str) -> list[str]:
    """Return the lines of the constraints, of the dependencies and of some extras.

    Raises:
        SystemExit: For a dependency whose bound has another form, which would be left free in silence.
    """
    kept = {line.split("==")[0] for line in fixed.splitlines() if "==" in line}
    wanted = [*project["dependencies"], *(need for extra in extras for need in project["optional-dependencies"][extra])]
    lines = []
    for need in wanted:
        found = re.fullmatch(r"([\w-]+)>=([\d.]+)", need)
        if found is None:
            sys.exit(f"{need}: expected name>=release")
        if found[1] not in kept:
            lines.append(f"{found[1]}=={found[2]}")
    return sorted(set(lines)) + [line for line in fixed.splitlines() if "==" in line]


if __name__ == "__main__":
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    print("\n".join(lowest(stated, sys.argv[1:], (ROOT / "constraints.txt").read_text())))
