"""``dtheta kernel``: its figures against plain formulas on the kernel it writes, its page, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]
GIVEN = ("--model", "bert", "--data", "reviews.csv", "--max-length", 16, "--examples", 30)


@pytest.fixture
def here(dtheta: Run, folders: dict[str, Path], table: Path) -> Path:
    (table.parent / "bert").symlink_to(folders["bert"])
    return table.parent


def test_its_figures_are_those_of_the_kernel_it_writes(dtheta: Run, here: Path) -> None:
    arguments = ("--method", "LoRA(rank=2)", "--out", "k.safetensors", "--report", "k.html")
    done = dtheta("kernel", *GIVEN, *arguments, "--json")
    assert done.code == 0, done.err
    record, held = done.json, load_file("k.safetensors")
    K, own, labels = held["kernel"], held["head"], held["labels"]
    assert record["trains"] == "LoRA(rank=2)" and K.shape == own.shape == (30, 30) and len(labels) == 30
    values = torch.linalg.eigvalsh(K).flip(0)
    assert record["spectrum"] == pytest.approx((values[:10] / 30).clamp_min(0).tolist(), rel=1e-6, abs=1e-12)
    assert record["trace"] == pytest.approx(float(K.diagonal().mean()))
    both = torch.linalg.eigvalsh(K + own)
    assert record["learning_rate"] == pytest.approx(2 * 30 * 2 / float(both.max()), rel=1e-6)
    dimension = float((both / (both + record["penalty"])).sum())
    assert record["effective_dimension"] == pytest.approx(dimension, rel=1e-5)
    # accuracy by refits without each example
    Y = torch.nn.functional.one_hot(labels, 2).double()
    Y, G, right = Y - Y.mean(0), K + own, 0
    for i in range(30):
        rest = torch.arange(30) != i
        A = torch.linalg.solve(G[rest][:, rest] + record["penalty"] * torch.eye(29, dtype=G.dtype), Y[rest])
        right += int((G[i, rest] @ A).argmax() == labels[i])
    assert record["accuracy"]["estimate"] == pytest.approx(right / 30)
    assert "Cosines between classes" in Path("k.html").read_text()


def test_a_delta_that_would_train_on(dtheta: Run, here: Path) -> None:
    trained = ("--model", "bert", "--data", "reviews.csv", "--max-length", 16, "--rank", 2, "--steps", 3)
    assert dtheta("adapt", *trained, "--out", "a.delta").code == 0
    done = dtheta("kernel", *GIVEN, "--delta", "a.delta", "--json")
    assert done.code == 0, done.err
    assert done.json["trains"] == "a.delta" and done.json["trace"] > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--method", "LoRA", "--delta", "a.delta"), "one of them"),
        (("--method", "Lora2"), "unknown method"),
        (("--delta", "none.delta"), "none.delta"),
        (("--out", "reviews.csv"), "reviews.csv"),
        (("--data", "fashion"), "pictures"),
    ],
)
def test_bad_input_is_refused(dtheta: Run, here: Path, given: tuple[object, ...], said: str) -> None:
    done = dtheta("kernel", *GIVEN, *given)
    assert done.code != 0 and said in done.err and done.out == ""
    assert sorted(p.name for p in here.iterdir()) == ["bert", "reviews.csv"]


def test_a_dry_run_writes_nothing(dtheta: Run, here: Path) -> None:
    done = dtheta("kernel", *GIVEN, "--out", "k.safetensors", "--dry-run", "--json")
    assert done.code == 0 and done.json["writes"] == {"k.safetensors": 16 * 30**2}
    assert not Path("k.safetensors").exists()
