"""The verdict and the findings follow the data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dtheta.report.measure import TOKEN_LOSS
from dtheta.report.results import AdaptResults, MethodResult, TaskResult
from dtheta.report.verdict import final_loss, findings, gain_of, verdict
from dtheta.score import Interval
from tests.unit.report.examples import interval, results


def method(name: str, accuracy: float, half: float = 0.01, loss: float = 0.2, **more) -> MethodResult:
    return MethodResult(
        name, interval(accuracy, half), ((tuple((float(s), loss) for s in range(10))),), 10, 100, 1.0, **more
    )


def job(*tasks: tuple[str, float, list[MethodResult]]) -> AdaptResults:
    found = tuple(TaskResult(n, 100, 100, interval(frozen, 0.01), tuple(methods), 2) for n, frozen, methods in tasks)
    return AdaptResults("MiniLM", 1000, 4000, found)


def plain(text: str) -> str:
    return text.replace("\u202f", " ").replace("−", "-")


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            job(("BBC", 0.90, [method("LoRA", 0.94), method("PiSSA", 0.95)])),
            "On BBC, MiniLM with PiSSA reaches 95.0 % accuracy, 5.0 points better than the frozen encoder's 90.0 "
            "(gain +3.0 to +7.0).",
        ),
        (
            job(("BBC", 0.90, [method("LoRA", 0.91)])),
            "On BBC, MiniLM with LoRA reaches 91.0 % accuracy, not clearly different from the frozen encoder's 90.0 "
            "(+1.0 points, -1.0 to +3.0).",
        ),
        (
            job(("BBC", 0.90, [method("LoRA", 0.80)])),
            "On BBC, MiniLM with LoRA reaches 80.0 % accuracy, 10.0 points worse than the frozen encoder's 90.0 "
            "(gain -12.0 to -8.0).",
        ),
        (
            job(("BBC", 0.9, [method("LoRA", 0.95)]), ("R8", 0.8, [method("SORSA", 0.9)])),
            "Adapting MiniLM clearly beats the frozen encoder on all 2 tasks: +5.0 points of accuracy on BBC (LoRA) "
            "and +10.0 on R8 (SORSA).",
        ),
        (
            job(*((n, f, [method("LoRA", a)]) for n, f, a in (("a", 0.9, 0.95), ("b", 0.8, 0.81), ("c", 0.8, 0.7)))),
            "Adapting MiniLM clearly beats the frozen encoder on 1 of 3 tasks: +5.0 points of accuracy on a (LoRA); no "
            "clear difference on b (+1.0, LoRA); worse on c (-10.0, LoRA).",
        ),
        (
            job(("a", 0.9, [method("LoRA", 0.91)]), ("b", 0.8, [method("LoRA", 0.80)])),
            "Adapting MiniLM does not clearly beat the frozen encoder on any of 2 tasks; the largest gain is "
            "+1.0 points on a (LoRA, -1.0 to +3.0).",
        ),
    ],
)  # fmt: skip
def test_verdict(found: AdaptResults, sentence: str) -> None:
    assert plain(verdict(found)) == sentence


def test_a_paired_gain_is_preferred_to_two_intervals() -> None:
    found = job(("a", 0.9, [method("LoRA", 0.92, gain=Interval(0.02, 0.01, 0.03))]))
    (task,) = found.tasks
    assert gain_of(found, task, task.methods[0]).interval.low == 0.01
    alone = gain_of(found, task, replace(task.methods[0], gain=None))
    assert alone.interval.low == pytest.approx(0.92 - 0.01 - 0.91) and alone.sign == 0


def test_a_lower_loss_is_a_gain() -> None:
    lower = replace(job(("notes", 3.4, [method("PiSSA", 3.0), method("LoRA", 3.2)])), measure=TOKEN_LOSS)
    assert plain(verdict(lower)) == (
        "On notes, MiniLM with PiSSA reaches a loss of 3.000 nats a token, 0.400 nats a token better than the "
        "unadapted model's 3.400 (gain +0.380 to +0.420)."
    )
    higher = replace(job(("notes", 3.0, [method("LoRA", 3.4)])), measure=TOKEN_LOSS)
    assert "worse than the unadapted model" in verdict(higher)
    assert said(lower, "PiSSA beats the unadapted model")[0] == "holds"


def said(found: AdaptResults, start: str) -> tuple[str, str]:
    finding = next(f for f in findings(found) if f.text.startswith(start))
    return finding.outcome, finding.label


def test_accuracy_findings_count_tasks() -> None:
    both = job(("a", 0.9, [method("LoRA", 0.95)]), ("b", 0.8, [method("LoRA", 0.9)]))
    one = job(("a", 0.9, [method("LoRA", 0.95)]), ("b", 0.8, [method("LoRA", 0.8)]))
    worse = job(("a", 0.9, [method("LoRA", 0.95)]), ("b", 0.8, [method("LoRA", 0.7)]))
    assert said(both, "LoRA beats") == ("holds", "holds on all 2")
    assert said(one, "LoRA beats") == ("partly", "clear on 1 of 2")
    assert said(worse, "LoRA beats") == ("fails", "fails on 1 of 2")


def test_loss_order_needs_both_methods_and_follows_the_sign() -> None:
    lower = job(("a", 0.9, [method("LoRA", 0.9, loss=0.3), method("PiSSA", 0.9, loss=0.2)]))
    higher = job(("a", 0.9, [method("LoRA", 0.9, loss=0.2), method("PiSSA", 0.9, loss=0.3)]))
    assert said(twice(lower), "PiSSA's training loss") == ("holds", "holds")
    assert said(twice(higher), "PiSSA's training loss") == ("fails", "does not hold")
    assert not [f for f in findings(job(("a", 0.9, [method("PiSSA", 0.9)]))) if "training loss" in f.text]


def twice(found: AdaptResults) -> AdaptResults:
    """The same job with two seeds, whose losses differ a little."""
    tasks = [replace(t, methods=tuple(replace(m, losses=two_of(m)) for m in t.methods)) for t in found.tasks]
    return replace(found, tasks=tuple(tasks))


def two_of(method: MethodResult) -> tuple:
    (curve,) = method.losses
    return (curve, tuple((step, loss + 0.001) for step, loss in curve))


def test_one_run_of_each_shows_no_order_of_methods() -> None:
    lower = job(("a", 0.9, [method("LoRA", 0.9, loss=0.3), method("PiSSA", 0.9, loss=0.2999)]))
    assert said(lower, "PiSSA's training loss") == ("unclear", "one run each")
    uneven = twice(lower).tasks[0].methods
    mixed = job(("a", 0.9, [uneven[0], lower.tasks[0].methods[1]]))
    (found,) = [f for f in findings(mixed) if "training loss" in f.text]
    assert found.outcome == "unclear" and "not paired, so no interval" in found.text


def test_runs_of_other_lengths_have_no_order() -> None:
    lora, pissa = method("LoRA", 0.9), method("PiSSA", 0.9)
    longer = replace(pissa, losses=(tuple((float(step), 0.1) for step in range(30)),))
    assert not [f for f in findings(job(("a", 0.9, [lora, longer]))) if "training loss" in f.text]


def test_methods_that_share_no_task_have_no_order() -> None:
    found = job(("BBC", 0.9, [method("PiSSA", 0.9)]), ("R8", 0.9, [method("LoRA", 0.9)]))
    assert len(findings(found)) == 2  # each against the baseline, and nothing of one against the other


def test_the_seeds_of_a_loss_order_are_those_of_its_two_methods() -> None:
    curves = tuple(tuple((float(s), loss) for s in range(10)) for loss in (0.2, 0.21, 0.19))
    higher = tuple(tuple((step, 2 * loss) for step, loss in curve) for curve in curves)
    pair = [replace(method("PiSSA", 0.9), losses=curves), replace(method("LoRA", 0.9), losses=higher)]
    (found,) = [f for f in findings(job(("BBC", 0.9, [*pair, method("SORSA", 0.9)]))) if f.text.startswith("PiSSA's")]
    assert "paired over 3 seeds" in found.text and found.outcome == "holds"


def test_loss_order_over_seeds_can_be_undecided() -> None:
    flat = lambda *levels: tuple(tuple((float(s), level) for s in range(10)) for level in levels)  # noqa: E731
    lora = replace(method("LoRA", 0.9), losses=flat(0.30, 0.31, 0.29))
    clear = replace(method("PiSSA", 0.9), losses=flat(0.20, 0.22, 0.19))
    noisy = replace(method("PiSSA", 0.9), losses=flat(0.20, 0.45, 0.19))
    assert said(job(("a", 0.9, [lora, clear])), "PiSSA's training loss")[0] == "holds"
    assert said(job(("a", 0.9, [lora, noisy])), "PiSSA's training loss")[0] == "unclear"


def test_orthonormality_is_judged_against_a_control() -> None:
    kept = replace(method("SORSA", 0.9), orthogonality=(((0.0, 0.0), (9.0, 0.1)),))
    control = replace(method("SORSA, gamma 0", 0.9), orthogonality=(((0.0, 0.0), (9.0, 0.8)),))
    assert said(job(("a", 0.9, [kept, control])), "SORSA keeps")[0] == "holds"
    assert not [f for f in findings(job(("a", 0.9, [kept]))) if f.text.startswith("SORSA keeps")]


def test_final_loss_is_the_mean_of_the_last_fifth() -> None:
    assert final_loss(tuple((float(s), float(s)) for s in range(10))) == 8.5
    assert final_loss(((0.0, 3.0),)) == 3.0


def test_the_made_up_job_is_mixed() -> None:
    assert "2 of 3 tasks" in verdict(results()) and "no clear difference on sentiment" in verdict(results())
