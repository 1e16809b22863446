"""The pages of scouting and of tangent kernels: what they show, and numbers against plain sums."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dtheta.report.kernel_page import _likeness, kernel_page
from dtheta.report.scouted import scout_page
from dtheta.score.interval import wilson
from dtheta.scout.kernel_study import KernelStudy, figures
from dtheta.scout.scouting import Check, Proposal, Prospect, Scouting


def prospect(name: str, right: int, loss: float, shares: dict[str, float]) -> Prospect:
    accuracy = wilson(right, 50)
    return Prospect(
        name=name, method=None, select=None, parameters=1234, accuracy=accuracy, gain=accuracy, loss=loss,
        tuned_loss=loss, effective_dimension=12.5, alignment=0.25, learning_rate=1.5, sign_rate=3e-3,
        stopping_time=10.0, steps=20, sign_steps=7, strength=0.5, slope=0.1, shares=shares,
    )  # fmt: skip


def scouting(**changed: object) -> Scouting:
    rows = (prospect("A", 45, 0.1, {"0": 0.25, "1": 0.75}), prospect("B & <C>", 40, 0.2, {"1": 1.0}))
    check = Check("A", 8, 1e-3, 0.41, 0.95, 1.2, False, "do not believe it: over 8 steps of A ...")
    made = Scouting(
        rows=rows, refused=(), head=wilson(38, 50), proposal=Proposal("A", None, 8, ("0", "1"), 6e-4, 30),
        checks=(check,), examples=50, classes=2, outputs=1, seconds={"passes": 2.0}, seed=0,
    )  # fmt: skip
    return dataclasses.replace(made, **changed)


def test_the_page_of_a_scouting() -> None:
    html = scout_page(scouting(), "minilm", "bbc").html()
    assert "A is predicted to do best on bbc" in html and "90.0" in html and "76.0" in html
    assert "B &amp; &lt;C&gt;" in html and "<C>" not in html
    assert "do not believe it" in html and "6.0e-04" in html
    assert "No method was probed" in scout_page(scouting(checks=()), "minilm", "bbc").html()


def study(count: int = 12, classes: int = 3) -> KernelStudy:
    torch.manual_seed(0)
    labels = torch.arange(count) % classes
    features = torch.randn(count, 7, dtype=torch.float64) + 2 * torch.nn.functional.one_hot(labels, 7)
    kernel = features @ features.mT
    own = torch.ones_like(kernel)
    return KernelStudy(kernel, own, labels, figures(kernel, own, labels, classes, 1))


def test_the_page_of_a_kernel() -> None:
    html = kernel_page(study(), ("x", "y", "z"), "LoRA(rank=2)", "minilm", "bbc").html()
    assert "The tangent kernel of LoRA(rank=2)" in html and "Cosines between classes" in html and "When to stop" in html


def test_the_cosines_between_classes_leave_out_an_example_with_itself() -> None:
    found = study()
    cells = _likeness(found.kernel, found.labels, 4)
    length = found.kernel.diagonal().sqrt()
    for i in range(3):
        for j in range(3):
            pairs = [
                float(found.kernel[n, m] / length[n] / length[m])
                for n in range(12) for m in range(12)
                if n != m and found.labels[n] == i and found.labels[m] == j
            ]  # fmt: skip
            assert cells[i][j] == pytest.approx(sum(pairs) / len(pairs))
    assert cells[3] == [None] * 4 and cells[0][3] is None
