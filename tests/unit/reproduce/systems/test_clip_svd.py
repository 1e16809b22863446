"""CLIP-SVD's rows with planted runs, and the measurements themselves on little."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dtheta.data.images import Images, ImageTask
from dtheta.reproduce.experiments import few_shot_problems
from dtheta.reproduce.experiments.few_shot_problems import FewShotProblems
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import clip_svd
from dtheta.reproduce.systems.clip_svd import OURS, Size, Study

TINY = Size(("bars",), (2,), ("bars",), 2, 8)


def planted(monkeypatch: pytest.MonkeyPatch, gain: float) -> dict[str, str]:
    """Return the outcomes where CLIP-SVD is ``gain`` points above the others in everything."""

    def kept(self: Lab, experiment: str, setting: str, seed: int, make: Any) -> dict[str, Any]:
        value = 60.0 + (gain + 0.1 * seed if OURS in setting else 0.0)
        error = 1e-7 if gain > 0 else 1.0
        return {
            "accuracy": value, "base": value, "new": value, "adapted": 60 + gain + 0.1 * seed, "zero-shot": 60.0,
            "percent": 0.0616, "error": error, "moved": 0.5,
        }  # fmt: skip

    monkeypatch.setattr(Lab, "run", kept)
    return {row.claim.name: row.outcome for row in clip_svd.rows(Lab("clip-svd", seeds=3))}


def test_outcomes_follow_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = planted(monkeypatch, 5.0), planted(monkeypatch, -5.0)
    assert len(good) == 3 * 3 + 5
    assert good.pop("0.04 % of the weights") == bad.pop("0.04 % of the weights") == "does not hold"
    assert set(good.values()) == {"holds"} and set(bad.values()) == {"does not hold"}


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four classes of bright bars in place of every task."""

    def images(each: int) -> Images:
        labels = torch.arange(4).repeat(each)
        pixels = torch.zeros(len(labels), 32, 32, dtype=torch.uint8)
        for i, label in enumerate(labels.tolist()):
            pixels[i, 8 * label : 8 * label + 8] = 200 + i
        return Images(pixels, labels)

    task = ImageTask("bars", ("top", "upper", "lower", "bottom"), images(14), images(4), "none", "made here")
    monkeypatch.setattr(few_shot_problems, "load_image_task", lambda name, n_test=None: task)
    for cached in ("_task", "_judged_on", "_posed", "_tuning"):
        getattr(few_shot_problems, cached).cache_clear()


@pytest.mark.usefixtures("bars")
def test_problems_hold_the_images_they_say() -> None:
    problems = FewShotProblems("miniclip", 16)
    assert len(problems.posed("bars", 2, 0).support.labels) == 8
    tuning = problems.tuning("bars")
    assert len(tuning.support.labels) == 4 * few_shot_problems.TUNE_SHOTS
    assert tuning.test.labels.bincount().tolist() == [few_shot_problems.TUNE_HELD] * 4
    first, second = (problems.half("bars", later, 2, 0) for later in (False, True))
    assert first.net.classes == ("top", "upper") and second.net.classes == ("lower", "bottom")
    assert set(second.test.labels.tolist()) == {0, 1}


@pytest.mark.usefixtures("bars")
def test_runs_measure_what_the_rows_take() -> None:
    study = Study(Lab("clip-svd", fast=True), TINY, FewShotProblems("miniclip", 16))
    assert all(0.0 <= study.few_shot("bars", method, 2, 0) <= 100.0 for method in (OURS, clip_svd.ZERO, "CoOp"))
    assert 0.0 <= study.harmonic("bars", OURS, 2, 0) <= 100.0
    row = clip_svd.folded(study)
    assert row.outcome == "holds"
    assert "by 0 " not in row.note and row.found is not None and row.found.estimate < 1e-5


@pytest.mark.usefixtures("bars")
def test_the_rate_is_the_best_of_three_on_images_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(Lab("clip-svd"), TINY, FewShotProblems("miniclip", 16))
    monkeypatch.setattr(Study, "trained", lambda self, posed, method, rate, draw: (-abs(rate - 0.1), None))
    assert study.rate("bars", OURS) == 0.1
    monkeypatch.setattr(Study, "trained", lambda self, posed, method, rate, draw: (50.0, None))
    assert study.rate("bars", "CoOp") == clip_svd.GRID["CoOp"][0]


def test_the_share_of_vit_b_16() -> None:
    assert clip_svd.share_of_vit() == pytest.approx(100 * 92_160 / 149_620_737)
