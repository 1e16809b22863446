"""Adapters under the real ``transformers.Trainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import Dataset

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.adapt.sorsa import SORSA, orthonormality
from dtheta.errors import ConfigError, UnsupportedLayer
from dtheta.fit.loop import fit
from dtheta.fit.trainer_callback import trainer_callback
from dtheta.models.classifier import classifier
from tests.unit.fit.models import bits, same, sentences, values


class Rows(Dataset):
    """Single rows with a column that the model does not take."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["input_ids"])

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: column[i] for name, column in self.batch.items()} | {"topic": torch.tensor(i)}


def _trainer(adapter: Any, data: dict[str, Tensor], folder: Path, **changes: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    settings = {
        "output_dir": str(folder), "max_steps": 6, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2, "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential",
        "save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True, "label_names": ["labels"],
    } | changes  # fmt: skip
    return Trainer(
        model=adapter, args=TrainingArguments(**settings), train_dataset=Rows(data), eval_dataset=Rows(data),
        callbacks=[trainer_callback(adapter)],
    )  # fmt: skip


@pytest.fixture
def data() -> dict[str, Tensor]:
    """Eight rows, of which the first one ignores labels."""
    return sentences(8, ignored=4)[0]


def test_sorsa_trains_to_what_fit_gives_on_the_same_batches(
    tiny_llama: nn.Module, data: dict[str, Tensor], tmp_path: Path
) -> None:
    before = bits(tiny_llama)
    adapter = attach(tiny_llama, SORSA(rank=4, gamma=0.02))
    result = _trainer(adapter, data, tmp_path).train()
    theirs = values(adapter)
    adapter.detach()
    assert bits(tiny_llama) == before
    ours = attach(tiny_llama, SORSA(rank=4, gamma=0.02))
    batches = [{name: column[i : i + 2] for name, column in data.items()} for i in range(0, 8, 2)]
    record = fit(ours, batches, steps=6, lr=1e-2, accumulation=2, schedule="constant", warmup=0)
    assert result.training_loss == pytest.approx(sum(loss for _, loss in record.losses) / 6, abs=1e-5)
    for name, value in values(ours).items():
        assert torch.allclose(value, theirs[name], atol=1e-5), name


def test_the_methods_gradient_comes_once_a_step_and_keeps_the_factors_orthonormal(
    tiny_llama: nn.Module, data: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    real = SORSA.add_gradient
    monkeypatch.setattr(SORSA, "add_gradient", lambda self, a, lr: (rates.append(lr), real(self, a, lr))[1])
    found = []
    for gamma in (0.05, 0.0):
        adapter = attach(tiny_llama, SORSA(rank=4, gamma=gamma))
        _trainer(adapter, data, tmp_path).train()
        found.append(orthonormality(adapter))
        adapter.detach()
    assert rates == [1e-2] * 12
    assert found[0] < 0.6 * found[1]


def test_checkpoints_hold_the_terms_only_and_resume_also_with_tied_weights(
    tiny_gpt2: nn.Module, data: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3}
    adapter = attach(tiny_gpt2, LoRA(rank=2))
    _trainer(adapter, data, tmp_path, **settings).train()
    straight = values(adapter)
    with safe_open(tmp_path / "checkpoint-6" / "model.safetensors", "pt") as file:
        assert {name.split(".")[0] for name in file.keys()} == {"terms"}
    adapter.detach()
    again = attach(tiny_gpt2, LoRA(rank=2))
    _trainer(again, data, tmp_path, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert same(values(again), straight)
    assert "missing keys" not in caplog.text


def test_a_classifier_trains_and_evaluates(tiny_bert: nn.Module, tmp_path: Path) -> None:
    adapter = attach(classifier(tiny_bert, 2), LoRA(rank=2), also="head.*")
    batch = sentences(8)[0]
    batch["labels"] = (batch["input_ids"][:, 0] < 32).long()
    trainer = _trainer(adapter, batch, tmp_path, eval_strategy="steps", eval_steps=3, max_steps=30)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before


class Normed(nn.Module):
    """A model with batch norm that returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(9, 4), nn.BatchNorm1d(4)

    def forward(self, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        output = self.norm(self.linear(input_ids.float()))
        return output.square().mean() + labels.float().mean(), output


def test_a_base_that_writes_to_itself_under_the_trainer_is_refused(data: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedLayer, match=r"norm\.\w+: the model wrote"):
        _trainer(attach(Normed(), LoRA(rank=2)), data, tmp_path).train()


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"eval_strategy": "steps", "eval_steps": 2, "label_names": None}, "label_names")],
)
def test_what_would_go_wrong_in_silence_is_refused(
    tiny_llama: nn.Module, data: dict[str, Tensor], tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        _trainer(attach(tiny_llama, LoRA(rank=2)), data, tmp_path, **changes).train()


def test_a_callback_of_another_adapter_is_refused(
    tiny_llama: nn.Module, data: dict[str, Tensor], tmp_path: Path
) -> None:
    trainer = _trainer(attach(tiny_llama, LoRA(rank=2)), data, tmp_path)
    trainer.add_callback(trainer_callback(attach(tiny_llama, LoRA(rank=2))))
    with pytest.raises(ConfigError, match="trains another model"):
        trainer.train()
