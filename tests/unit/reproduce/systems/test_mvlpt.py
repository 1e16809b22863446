"""MVLPT's rows with planted runs, and the study and the measurements themselves on little."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dtheta.data.images import Images, ImageTask
from dtheta.reproduce.experiments import image_prompts
from dtheta.reproduce.experiments.image_prompts import ImagePrompts, Size
from dtheta.reproduce.experiments.prompt_study import LADDER, Study
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import mvlpt
from dtheta.reproduce.systems.mvlpt import InLab

TINY = Size(learn=3, validate=2, test=6, steps=2, source_steps=2, source_seeds=2, batch=4)


def planted(monkeypatch: pytest.MonkeyPatch, gain: float) -> dict[str, str]:
    """Return the outcomes where source prompts, kin and VPT are better by a gain."""

    def kept(self: Lab, experiment: str, setting: str, seed: int, make: Any) -> dict[str, Any]:
        kin = any(f"{target} CoOp from {near}," in setting for target, near, _ in mvlpt.PAIRS)
        value = 0.5 + (gain + 0.001 * seed) * (("multi" in setting) + ("VPT" in setting) + kin)
        return {"accuracy": value, "error": 0.0 if gain > 0 else 1.0}

    monkeypatch.setattr(Lab, "run", kept)
    return {row.claim.name: row.outcome for row in mvlpt.rows(Lab("mvlpt", seeds=3))}


def test_outcomes_follow_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = planted(monkeypatch, 0.05), planted(monkeypatch, -0.05)
    assert len(good) == 3 * 2 + 3
    assert set(good.values()) == {"holds"} and set(bad.values()) == {"does not hold"}


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ImagePrompts:
    """Two classes of bars in place of every task."""

    def images(each: int) -> Images:
        labels = torch.arange(2).repeat(each)
        pixels = torch.zeros(len(labels), 32, 32, dtype=torch.uint8)
        for i, label in enumerate(labels.tolist()):
            pixels[i, 16 * label : 16 * label + 16] = 200 + i
        return Images(pixels, labels)

    task = ImageTask("bars", ("top", "bottom"), images(8), images(5), "none", "made here")
    monkeypatch.setattr(image_prompts, "load_image_task", lambda name: replace(task, name=name))
    return ImagePrompts("miniclip", TINY, tmp_path)


def test_a_study_trains_from_every_start(prompts: ImagePrompts) -> None:
    lab = Lab("mvlpt", fast=True)
    study = Study(prompts, "CoOp", InLab(lab), ("a", "b", "c"), tunes=False)
    assert study.others("a") == ("b", "c")
    for kind in ("single", "multi", "b"):
        found = study.tested(kind, "a", 1, range(2))
        assert len(found) == 2 and all(0.0 <= value <= 1.0 for value in found)
    assert 0.0 <= study.fixed("untuned", "a") <= 1.0
    record = lab.run("test", "a CoOp from multi, 1 a class, lr 0.02", 1, lambda: pytest.fail("it is kept"))
    assert record["accuracy"] == study.tested("multi", "a", 1, [1])[0]
    names = sorted(path.name for path in prompts.folder.glob("*.delta"))
    assert len(names) == 4 and all("CoOp-b" in name for name in names)  # b+c and b, two seeds each


def test_the_start_is_the_mean_of_the_source_prompts(prompts: ImagePrompts) -> None:
    mean = prompts.averaged("CoOp", ("b",), 2e-2)
    parts = [prompts.source("CoOp", ("b",), seed, 2e-2) for seed in range(2)]
    (name,) = mean.changes
    expected = sum(part.changes[name].dense() for part in parts) / 2
    assert torch.allclose(mean.changes[name].dense(), torch.as_tensor(expected), atol=1e-6)


class Planted:
    """Accuracies that are best at one rate."""

    def __init__(self, best: float) -> None:
        self.best, self.asked = best, set[float]()

    def get(self, key: Any, make: Any) -> dict[str, Any]:
        self.asked.add(key[-1])
        return {"accuracy": 1.0 - abs(LADDER.index(key[-1]) - LADDER.index(self.best)) / 10}


def test_the_search_for_a_rate_goes_on_outwards(prompts: ImagePrompts) -> None:
    low, middle = Planted(LADDER[0]), Planted(LADDER[2])
    sources = ("fashion", "digits")
    assert Study(prompts, "CoOp", low, sources).rate("single", 1) == LADDER[0]
    assert Study(prompts, "CoOp", middle, sources).rate("single", 5) == LADDER[2]
    assert middle.asked == set(LADDER[1:4])


def test_vectors_that_differ_from_upts_are_seen(prompts: ImagePrompts, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mvlpt.folding_error(prompts, "a") < 1e-5
    attach = mvlpt.attach

    def halved(net: Any, source: Any) -> Any:
        adapter = attach(net, source)
        monkeypatch.setattr(adapter, "folded", lambda f=adapter.folded: 0.5 * f())
        return adapter

    monkeypatch.setattr(mvlpt, "attach", halved)
    assert mvlpt.folding_error(prompts, "a") > 1e-3
