"""Systems are run one after the other; what is kept is not run again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dtheta.errors import ConfigError
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.markdown import markdown
from dtheta.reproduce.reproduce import reproduce
from dtheta.reproduce.systems import SYSTEMS, system_called

Made = list[tuple[str, int]]
DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_has_its_file_and_page(name: str) -> None:
    file = system_called(name)
    assert callable(file.rows) and file.SYSTEM.title
    assert re.search(r"\d{4}", file.SYSTEM.paper), "the paper has a year"
    assert (DOCS / file.SYSTEM.page).is_file()


def test_a_reproduction_counts_its_outcomes(planted: Made) -> None:
    seen: list[str] = []
    done = reproduce(fast=True, note=seen.append)
    assert [row.outcome for row in done.systems[0].rows] == [
        "not shown", "not shown", "holds", "not shown", "not testable here",
    ]  # fmt: skip  # three numbers, 2 +- 2.5
    assert planted == [("fast", 0), ("fast", 1), ("fast", 2)]
    assert seen[0] == "planted: draw, a, seed 0"
    assert done.count("holds") == 1
    record = json.loads(json.dumps(done.to_dict(), allow_nan=False))
    assert record["size"] == "fast" and len(record["systems"][0]["rows"]) == 5
    more = reproduce()
    assert [row.outcome for row in more.systems[0].rows][:2] == ["holds", "does not hold"]  # five numbers


def test_what_is_kept_is_not_run_again_and_sizes_stay_apart(planted: Made, tmp_path: Path) -> None:
    reproduce(fast=True, seeds=2, folder=tmp_path)
    reproduce(fast=True, seeds=3, folder=tmp_path)
    assert planted == [("fast", 0), ("fast", 1), ("fast", 2)]
    reproduce(seeds=1, folder=tmp_path)
    assert planted[3:] == [("full", 0)]


def test_a_run_from_the_file_counts_with_the_time_that_it_took(tmp_path: Path) -> None:
    def busy() -> dict[str, int]:
        return {"a": sum(i * i for i in range(300_000))}

    first, again = (Lab("planted", folder=tmp_path) for _ in range(2))
    took = first.run("draw", "a", 0, busy)["cpu_seconds"]
    first.run("draw", "a", 0, busy)
    assert took > 0 and first.kept_seconds == 0
    for _ in range(2):
        assert again.run("draw", "a", 0, busy)["cpu_seconds"] == again.kept_seconds == took


def test_the_command_says_how_it_is_run_again(planted: Made) -> None:
    done = reproduce(fast=True, seeds=2)
    assert done.command == "dtheta reproduce all --fast --seeds 2" and done.to_dict()["seeds"] == 2
    assert done.command in markdown(done)
    assert reproduce(seeds=1).command == "dtheta reproduce all --seeds 1"


def test_an_unknown_name_is_refused_before_anything_is_run(planted: Made) -> None:
    with pytest.raises(ConfigError, match=r"there is no system 'plant'.*planted"):
        reproduce(["planted", "plant"])
    assert not planted


def test_seeds_must_be_a_count() -> None:
    with pytest.raises(ConfigError, match="seeds"):
        Lab("planted", seeds=0)
