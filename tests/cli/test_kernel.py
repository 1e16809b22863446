"""``dtheta kernel``: its figures against plain formulas on the kernel it writes, its page, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import Outcome, sentences, write_table

Run = Callable[..., Outcome]
GIVEN = ("--model", "bert", "--data", "reviews.csv", "--max-length", 16, "--examples", 30)


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


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("--method", "LoRA", "--delta", "x.delta"), 2, "one of them"),
        (("--method", "Lora2"), 2, "unknown method"),
        (("--method", "LoRA on nothing"), 1, "nothing"),
        (("--method", "LoRA(rank=99)"), 2, "rank 99 does not fit"),
        (("--method", "PromptTuning on @attention"), 2, "nothing to select"),
        (("--delta", "none.delta"), 2, "none.delta"),
        (("--delta", "l.delta"), 2, "no text classifier"),
        (("--delta", "x.delta", "--model", "llama"), 3, "another base"),
        (("--delta", "x.delta", "--data", "three.csv"), 3, "tells 2 classes apart, and three has 3"),
        (("--delta", "x.delta", "--data", "others.csv"), 2, "tells bad, good apart, and others has dull, fine"),
        (("--max-length", 99), 2, "--max-length 99 must lie between 1 and 32"),
        (("--data", "fashion"), 2, "pictures"),
        (("--data", "one.csv"), 1, "at least two classes"),
        (("--out", "reviews.csv"), 1, "reviews.csv"),
    ],
)
def test_bad_input_is_refused_by_a_dry_run_too(
    dtheta: Run, stocked: Path, dry: tuple[str, ...], given: tuple[object, ...], code: int, said: str
) -> None:
    write_table(stocked / "one.csv", [(text, "good") for text, _ in sentences(40)])
    write_table(stocked / "others.csv", [(text, ("fine", "dull")[i % 2]) for i, (text, _) in enumerate(sentences(60))])
    write_table(stocked / "three.csv", [(text, str(i % 3)) for i, (text, _) in enumerate(sentences(60))])
    before = sorted(path.name for path in stocked.iterdir())
    done = dtheta("kernel", *GIVEN, *given, *dry)
    assert (done.code, done.out) == (code, "") and said in done.err, done.err
    assert sorted(path.name for path in stocked.iterdir()) == before


@pytest.mark.parametrize("trains", [(), ("--delta", "x.delta"), ("--method", "SNNK")])
def test_a_dry_run_loads_no_weights_and_writes_nothing(
    dtheta: Run, stocked: Path, trains: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtheta.models.load.load_model", lambda *_: pytest.fail("it loaded weights"))
    done = dtheta("kernel", *GIVEN, *trains, "--out", "k.safetensors", "--dry-run", "--json")
    assert done.code == 0 and done.json["writes"] == {"k.safetensors": 16 * 30**2}
    assert not Path("k.safetensors").exists()
