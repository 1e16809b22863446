"""Checkpoints: a run killed at any step and resumed has the bits of one that was not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dtheta.adapt.attach import attach
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.lora import LoRA
from dtheta.adapt.sorsa import SORSA
from dtheta.errors import ConfigError, FormatError
from dtheta.fit.checkpoint import NAME, Checkpoint, load, save
from dtheta.fit.loop import fit
from dtheta.fit.run import Step
from tests.unit.fit.models import regression, same, squared, values


class Killed(Exception):
    """Stands for the end of the process."""


class Noisy(Dataset):
    """Nine rows, with noise from a global generator as augmentation."""

    def __init__(self) -> None:
        self.x, self.y = regression(9)[0]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[i] + random.random(), self.y[i] * torch.rand(())


def _model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 16), nn.Dropout(0.3), nn.Linear(16, 8))


def _adapter(method: Any) -> Any:
    return attach(_model(), method, "*.weight", also="2.bias")


def _train(method: Any = None, **changes: Any) -> tuple[Any, Any]:
    """A run with all that has a state: shuffling, augmentation, dropout, accumulation, evaluation, AdamW."""
    adapter = _adapter(method or LoRA(rank=2, dropout=0.2))
    settings = {
        "steps": 8, "lr": 5e-2, "loss": squared, "eval": regression(5), "eval_every": 3, "accumulation": 2, "seed": 3,
    } | changes  # fmt: skip
    return adapter, fit(adapter, DataLoader(Noisy(), 4, shuffle=True), **settings)


def _kill_at(step: int) -> Any:
    def kill(found: Step) -> None:
        if found.step == step:
            raise Killed

    return kill


def _kill(step: int, **changes: Any) -> None:
    with pytest.raises(Killed):
        _train(callbacks=[_kill_at(step)], **changes)


@pytest.mark.parametrize("killed", range(1, 9))
@pytest.mark.parametrize("every", [1, 3])
def test_killed_at_any_step_and_resumed_is_bit_identical(tmp_path: Path, killed: int, every: int) -> None:
    straight, record = _train()
    _kill(killed, checkpoint=tmp_path, checkpoint_every=every)
    resumed, again = _train(checkpoint=tmp_path, checkpoint_every=every, resume=True)
    assert same(values(resumed), values(straight))
    assert (again.losses, again.lr, again.evals, again.best) == (record.losses, record.lr, record.evals, record.best)
    assert (again.stop, again.steps) == ("steps", 8)


def _fits(model: Any) -> float:
    """A metric that brings its own data, and draws from a global generator."""
    return -float(squared(model, regression(5)[0])) - 1e-3 * float(torch.rand(()))


@pytest.mark.parametrize("killed", [1, 4, 7])
@pytest.mark.parametrize("every", [1, 3])
def test_a_metric_that_brings_its_own_data_resumes_to_the_bit(tmp_path: Path, killed: int, every: int) -> None:
    own = {"eval": None, "metric": _fits, "eval_every": 2}
    straight, record = _train(**own)
    _kill(killed, checkpoint=tmp_path, checkpoint_every=every, **own)
    resumed, again = _train(checkpoint=tmp_path, checkpoint_every=every, resume=True, **own)
    assert same(values(resumed), values(straight))
    assert (again.losses, again.evals, again.best) == (record.losses, record.evals, record.best)
    assert record.best is not None
    assert set(record.best.scores) == {"_fits"}


@pytest.mark.parametrize("method", [SORSA(rank=3, gamma=0.01), CLIPSVD()])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_methods_and_precisions_resume_to_the_bit(tmp_path: Path, method: Any, precision: str) -> None:
    settings = {"method": method, "precision": precision}
    straight, record = _train(**settings)
    _kill(5, checkpoint=tmp_path, checkpoint_every=2, **settings)
    resumed, again = _train(checkpoint=tmp_path, checkpoint_every=2, resume=True, **settings)
    assert same(values(resumed), values(straight))
    assert again.losses == record.losses


@pytest.mark.parametrize("killed", [2, 5])
def test_sgd_with_momentum_resumes_to_the_bit(tmp_path: Path, killed: int) -> None:
    sgd = {"optimizer": "sgd", "momentum": 0.9}
    straight, record = _train(**sgd)
    _kill(killed, checkpoint=tmp_path, checkpoint_every=1, **sgd)
    resumed, again = _train(checkpoint=tmp_path, checkpoint_every=1, resume=True, **sgd)
    assert same(values(resumed), values(straight)) and again.losses == record.losses


def test_killed_twice(tmp_path: Path) -> None:
    straight, _ = _train()
    settings = {"checkpoint": tmp_path, "checkpoint_every": 2}
    _kill(3, **settings)
    _kill(6, resume=True, **settings)
    assert same(values(_train(resume=True, **settings)[0]), values(straight))


def test_a_finished_run_resumes_to_its_record_and_its_best_terms(tmp_path: Path) -> None:
    adapter, record = _train(checkpoint=tmp_path)
    again, found = _train(checkpoint=tmp_path, resume=True)
    assert same(values(again), values(adapter))
    assert found == record


def test_resume_with_nothing_there_begins(tmp_path: Path) -> None:
    assert _train(checkpoint=tmp_path / "new" / "folder", resume=True)[1].steps == 8


def test_a_checkpoint_is_not_overwritten_unasked(tmp_path: Path) -> None:
    _train(checkpoint=tmp_path)
    with pytest.raises(ConfigError, match="resume=True goes on with it"):
        _train(checkpoint=tmp_path)


def test_the_log_of_a_resumed_run_is_that_of_a_straight_one(tmp_path: Path) -> None:
    def lines(name: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        return [{k: v for k, v in line.items() if k not in ("seconds", "config")} for line in found]

    _train(log=tmp_path / "straight.jsonl")
    _kill(5, log=tmp_path / "resumed.jsonl", checkpoint=tmp_path / "c", checkpoint_every=3)
    with (tmp_path / "resumed.jsonl").open("a") as handle:
        handle.write('{"event": "st')  # the line during which the process died
    _train(log=tmp_path / "resumed.jsonl", checkpoint=tmp_path / "c", checkpoint_every=3, resume=True)
    assert lines("resumed.jsonl") == lines("straight.jsonl")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"lr": 1e-3}, r"settings\.lr was 0\.05 and is 0\.001"), ({"steps": 9}, r"settings\.steps was 8 and is 9"),
        ({"seed": 4}, r"settings\.seed"), ({"method": LoRA(rank=2)}, r"method\.dropout was 0\.2 and is 0\.0"),
        ({"loss": lambda m, b: squared(m, b)}, "loss was 'tests.unit.fit.models.squared'"),
        ({"method": SORSA(rank=2), "precision": "bf16"}, r"method\.name was 'LoRA' and is 'SORSA'.*precision"),
    ],
)  # fmt: skip
def test_another_configuration_is_refused_and_named(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    _kill(4, checkpoint=tmp_path, checkpoint_every=2)
    with pytest.raises(ConfigError, match=what):
        _train(checkpoint=tmp_path, checkpoint_every=2, resume=True, **changes)


def test_another_base_or_other_data_are_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 4, "loss": squared, "checkpoint": tmp_path, "checkpoint_every": 1}
    data = regression(4, 4)
    with pytest.raises(Killed):
        fit(_adapter(LoRA(rank=2)), data, callbacks=[_kill_at(3)], **settings)
    with pytest.raises(ConfigError, match="batch 2 of epoch 0 is not the one"):
        fit(_adapter(LoRA(rank=2)), [data[0], regression(4, 4, 4)[2]], resume=True, **settings)
    other = _model()
    with torch.no_grad():
        other[0].weight[0, 0] += 1e-3
    with pytest.raises(ConfigError, match=r"base was '[0-9a-f]+' and is"):
        fit(attach(other, LoRA(rank=2), "*.weight", also="2.bias"), data, resume=True, **settings)


def test_data_that_changed_before_the_last_batch_is_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 6, "loss": squared, "checkpoint": tmp_path, "checkpoint_every": 1}
    data = regression(4, 4, 4, 4, 4, 4)
    with pytest.raises(Killed):
        fit(_adapter(LoRA(rank=2)), data, callbacks=[_kill_at(5)], **settings)
    other = [(x + 1, y) if i == 1 else (x, y) for i, (x, y) in enumerate(data)]
    with pytest.raises(ConfigError, match="batch 2 of epoch 0 is not the one"):
        fit(_adapter(LoRA(rank=2)), other, resume=True, **settings)
    assert fit(_adapter(LoRA(rank=2)), data, resume=True, **settings).steps == 6


@pytest.mark.parametrize("damage", ["cut", "metadata", "version", "empty", "position", "taken", "marks"])
def test_a_damaged_checkpoint_is_a_format_error(tmp_path: Path, damage: str) -> None:
    _kill(4, checkpoint=tmp_path, checkpoint_every=2)
    path = tmp_path / NAME
    content = path.read_bytes()
    changed = {
        "cut": content[:-5],
        "metadata": content.replace(b"dtheta.fit", b"dtheta.fat"),
        "version": content.replace(b'{\\"format\\": 2', b'{\\"format\\": 9'),
        "empty": b"",
        "position": content.replace(b'\\"position\\"', b'\\"pasition\\"'),
        "taken": content.replace(b'\\"taken\\": ', b'\\"taken\\":-'),
        "marks": content.replace(b'\\"marks\\"', b'\\"murks\\"'),
    }[damage]
    assert changed != content
    path.write_bytes(changed)
    with pytest.raises(FormatError):
        _train(checkpoint=tmp_path, checkpoint_every=2, resume=True)


@pytest.mark.parametrize("part", ["terms", "optimizer", "best"])
def test_a_checkpoint_of_another_dtype_is_refused(tmp_path: Path, part: str) -> None:
    _kill(4, checkpoint=tmp_path, checkpoint_every=2)
    found = load(tmp_path / NAME)
    wide = {n: t.double() if n.startswith(part) and t.ndim else t for n, t in found.tensors.items()}
    save(tmp_path / NAME, Checkpoint(wide, found.state))
    with pytest.raises(FormatError, match=r"of torch\.float64, expected .* of torch\.float32; go on with the version"):
        _train(checkpoint=tmp_path, checkpoint_every=2, resume=True)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dtheta.fit import checkpoint as checkpoints

    real, calls = checkpoints.data_of, []

    def fails_later(tensor: torch.Tensor) -> memoryview:
        calls.append(tensor)
        if len(calls) > 40:
            raise OSError(28, "No space left on device")
        return real(tensor)

    monkeypatch.setattr(checkpoints, "data_of", fails_later)
    from dtheta.errors import OutputError

    with pytest.raises(OutputError, match="No space left"):
        _train(checkpoint=tmp_path, checkpoint_every=1)
    assert [p.name for p in tmp_path.iterdir()] == [NAME]
    step = load(tmp_path / NAME).state["record"]["steps"]
    assert 1 <= step < 8
    monkeypatch.undo()
    resumed, _ = _train(checkpoint=tmp_path, checkpoint_every=1, resume=True)
    assert same(values(resumed), values(_train()[0]))
