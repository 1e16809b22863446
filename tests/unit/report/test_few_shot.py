"""Few-shot curves: gathered from single runs, drawn with intervals against zero-shot, and said in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dtheta.errors import ConfigError, FormatError
from dtheta.report import (
    IMAGE_ACCURACY,
    AdaptResults,
    FewShotMethod,
    FewShotResults,
    FewShotTask,
    Reference,
    ShotScore,
    TaskResult,
    few_shot_of,
    few_shot_page,
    few_shot_report,
)
from dtheta.score import mean_interval, wilson
from tests.unit.report.examples import method_result
from tests.unit.report.reading import charts, hovers, read

SHOTS = (1, 2, 4, 8, 16)


def curve(name: str, start: float, gained: float, draws: int = 5) -> FewShotMethod:
    points = []
    for i, shots in enumerate(SHOTS):
        each = tuple(start + gained * i / 4 + 0.01 * (d - draws // 2) for d in range(draws))
        points.append(ShotScore(shots, mean_interval(each), each, seconds=2.0 + shots))
    return FewShotMethod(name, tuple(points), parameters=9_216)


def many(tasks: int = 2) -> FewShotResults:
    methods = (curve("CLIPSVD", 0.5, 0.3), curve("CoOp", 0.45, 0.2), curve("LoRA", 0.5, 0.25))
    probes = (curve("linear probe", 0.4, 0.35), curve("raw pixels", 0.2, 0.3))
    found = tuple(FewShotTask(f"task {i}", 10, 500, wilson(185, 500), (*methods, *probes)) for i in range(tasks))
    return FewShotResults("dual", found, {"seeds": "0, 1, 2, 3, 4"}, note="A trial.")


def run(shots: int | None, accuracy: float, method: str = "CLIPSVD", seed: int = 0) -> AdaptResults:
    found = method_result(method, "task", 1.0, accuracy, 0.4, 1, 12)
    probe = Reference("linear probe", wilson(round(100 * accuracy) - 10, 100))
    task = TaskResult("task", 40, 100, wilson(40, 100), (found,), 4, shots, (probe,))
    return AdaptResults("dual", 10**6, 4 * 10**6, (task,), IMAGE_ACCURACY, {"base": "b", "seed": str(seed)})


def test_the_page_has_a_curve_a_method_and_every_number() -> None:
    page = few_shot_page(many())
    html = page.html()
    read(html)
    drawn = charts(html)
    wanted = [f"task {i}: 10 classes, 500 test images" for i in (0, 1)]
    assert [svg.findtext("title") for svg in drawn] == wanted
    assert len(hovers(drawn[0])) == len(SHOTS)
    assert hovers(drawn[0])[0].startswith("shots 1\nCLIPSVD 50 (")
    assert "zero-shot 37 (" in hovers(drawn[0])[4] and "linear probe 75" in hovers(drawn[0])[4]
    series = {group.get("data-series") for group in drawn[0].iter("g")}
    assert series >= {"CLIPSVD", "CoOp", "LoRA", "linear probe", "raw pixels", "zero-shot"}
    assert "Student t over draws" in html and "9,216" in html and "18\u202fs" in html
    assert page.verdict.startswith(
        "A trial. On task 0, 16 shots a class take CLIPSVD to 80.0\u202f%, clearly above the zero-shot 37.0\u202f%; "
        "next is "
    )


def test_single_runs_are_gathered_into_curves() -> None:
    found = few_shot_of([run(4, 0.7), run(1, 0.5), run(4, 0.6, "LoRA")])
    (task,) = found.tasks
    assert task.shots == (1, 4)
    assert [method.name for method in task.methods] == ["CLIPSVD", "LoRA", "linear probe"]
    assert [point.score.estimate for point in task.methods[0].points] == pytest.approx([0.5, 0.7], abs=0.01)
    assert task.methods[0].points[0].score.method == "wilson" and not task.methods[0].points[0].draws
    assert task.methods[1].at(1) is None and task.methods[1].at(4) is not None
    html = few_shot_page(found).html()
    read(html)
    assert "Wilson over the test images" in html


def test_runs_of_several_draws_become_one_point() -> None:
    found = few_shot_of([run(2, 0.5, seed=0), run(2, 0.54, seed=1), run(2, 0.58, seed=2)])
    point = found.tasks[0].methods[0].points[0]
    assert point.draws == (0.5, 0.54, 0.58) and point.score == mean_interval(point.draws)
    assert found.provenance["seed"] == "0, 1, 2"
    read(few_shot_page(found).html())  # one number of shots has an axis too


def test_a_reference_of_several_methods_counts_once_a_draw() -> None:
    runs = [run(2, accuracy, name, seed) for seed, accuracy in ((0, 0.5), (1, 0.54)) for name in ("CLIPSVD", "LoRA")]
    (probe,) = (method for method in few_shot_of(runs).tasks[0].methods if method.name == "linear probe")
    assert probe.points[0].draws == (0.4, 0.44) and probe.points[0].score == mean_interval((0.4, 0.44))
    tied = few_shot_of([*runs, run(2, 0.5, seed=2)])
    assert tied.tasks[0].methods[-1].points[0].draws == (0.4, 0.44, 0.4)  # another draw of the same score does count


def test_runs_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="took all training examples"):
        few_shot_of([run(4, 0.7), run(None, 0.8)])
    other = run(4, 0.7)
    with pytest.raises(ConfigError, match="different bases"):
        few_shot_of([run(1, 0.5), replace(other, provenance={"base": "c"})])
    moved = replace(other, tasks=(replace(other.tasks[0], baseline=wilson(41, 100)),))
    with pytest.raises(ConfigError, match="differ in their test images"):
        few_shot_of([run(1, 0.5), moved])
    task = other.tasks[0]
    tuned = tuple(replace(method, settings={**method.settings, "learning rate": "7"}) for method in task.methods)
    faster = replace(other, tasks=(replace(task, methods=tuned),))
    with pytest.raises(ConfigError, match=r"CLIPSVD on .* at 4 shots differ in learning rate"):
        few_shot_of([other, faster])


def test_it_is_read_back_and_written_whole(tmp_path: Path) -> None:
    path = many().save(tmp_path / "few.json")
    assert FewShotResults.load(path) == many()
    assert few_shot_report(many(), tmp_path / "few.html").stat().st_size < 150_000
    with pytest.raises(FormatError):
        AdaptResults.load(path)


@pytest.mark.parametrize("shots", [(), (2, 1), (1, 1)])
def test_points_must_be_in_order(shots: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="increasing"):
        FewShotMethod("m", tuple(ShotScore(k, wilson(1, 2)) for k in shots))


def test_a_score_without_shots_is_refused() -> None:
    with pytest.raises(ConfigError, match="shots must be at least 1"):
        ShotScore(0, wilson(1, 2))
    with pytest.raises(ConfigError, match="at least one task"):
        FewShotResults("m", ())


def test_a_run_that_is_given_twice_is_no_second_draw() -> None:
    """Counted as two, it would narrow the interval over draws."""
    runs = [run(2, 0.5, seed=0), run(2, 0.5, seed=0), run(2, 0.54, seed=1)]
    with pytest.raises(ConfigError, match=r"two of the runs of CLIPSVD on .* at 2 shots have the seed 0"):
        few_shot_of(runs)
