"""The loop on real adapters of tiny models: what it computes, what it leaves alone, what it refuses."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import dtheta
from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.sorsa import SORSA
from dtheta.errors import ConfigError, NonFinite, OutputError, UnsupportedLayer
from dtheta.fit.loop import fit
from dtheta.fit.record import Record
from dtheta.fit.run import Step
from dtheta.fit.schedule import factor
from tests.unit.fit.models import Shift, bits, endless, regression, same, sentences, squared, values


def _lora(model: nn.Module, **changes: Any) -> Any:
    return attach(model, LoRA(rank=2, **changes), "*.weight")


def test_training_lowers_the_loss_and_leaves_every_bit_of_the_base(tiny_llama: nn.Module) -> None:
    before = bits(tiny_llama)
    adapter = attach(tiny_llama, PiSSA(rank=4))
    record = fit(adapter, sentences(8), steps=30, lr=1e-2)
    assert record.losses[-1][1] < record.losses[0][1] - 0.1
    assert [step for step, _ in record.losses] == list(range(1, 31))
    assert all(p.grad is None for p in adapter.parameters())
    adapter.detach()
    assert bits(tiny_llama) == before


def test_the_package_name_is_the_function(tiny_mlp: nn.Module) -> None:
    record = dtheta.fit(_lora(tiny_mlp), regression(4), steps=1, loss=squared)
    assert record.steps == 1


def test_a_run_is_the_loop_written_by_hand(tiny_mlp: nn.Module) -> None:
    data, steps = regression(4, 4, 3), 7
    ours = _lora(tiny_mlp)
    record = fit(ours, data, steps=steps, loss=squared, lr=3e-2, warmup=2, clip=0.1, weight_decay=0.01)
    trained = values(ours)
    ours.detach()
    theirs = _lora(tiny_mlp)
    parameters = list(theirs.trainable().values())
    optimizer = torch.optim.AdamW(parameters, lr=3e-2, weight_decay=0.01, fused=True)
    for step in range(steps):
        loss = squared(theirs, data[step % 3])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.param_groups[0]["lr"] = 3e-2 * factor(step, steps, 2, "cosine")
        optimizer.step()
        optimizer.zero_grad()
        assert record.losses[step] == (step + 1, loss.item())
    assert same(trained, values(theirs))


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
def test_accumulated_ragged_batches_are_one_large_batch(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    parts = sentences(4, 3, 1, ignored=5)
    large = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    results = []
    for data, accumulation in ((parts, 3), ([large], 1)):
        adapter = attach(model, LoRA(rank=4))
        record = fit(adapter, data, steps=4, lr=1e-2, accumulation=accumulation)
        results.append(([loss for _, loss in record.losses], values(adapter)))
        adapter.detach()
    assert results[0][0] == pytest.approx(results[1][0], abs=2e-6)
    for key, value in results[0][1].items():
        assert torch.allclose(value, results[1][1][key], atol=2e-6), key


def test_a_count_of_ones_own_weighs_the_batches(tiny_mlp: nn.Module) -> None:
    data = regression(4, 4)
    record = fit(
        Shift(tiny_mlp, 8), data, steps=1, loss=squared, accumulation=2, count=lambda b: 3 if b is data[0] else 1
    )
    first, second = (float(squared(tiny_mlp, batch)) for batch in data)
    assert record.losses[0][1] == pytest.approx((3 * first + second) / 4)


def test_the_method_adds_its_gradient_once_a_step_after_clipping_at_the_highest_rate(tiny_mlp: nn.Module) -> None:
    adapter = Shift(tiny_mlp, 8)
    fit(adapter, regression(4), steps=5, loss=squared, accumulation=3, clip=1e-3, lr=0.02, warmup=0.5)
    assert [lr for lr, _ in adapter.method.calls] == [0.02] * 5
    assert [norm for _, norm in adapter.method.calls] == pytest.approx([1e-3] * 5, rel=1e-3)


def test_sorsa_stays_nearer_to_orthonormal_with_its_term(tiny_llama: nn.Module) -> None:
    from dtheta.adapt.sorsa import orthonormality

    found = []
    for gamma in (0.0, 0.05):
        adapter = attach(tiny_llama, SORSA(rank=4, gamma=gamma))
        fit(adapter, sentences(4, 4), steps=12, lr=1e-2, accumulation=2)
        found.append(orthonormality(adapter))
        adapter.detach()
    assert found[1] < 0.6 * found[0]


def test_callers_generators_and_modes_come_back(tiny_bert: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.5), nn.Linear(8, 8)).train()
    model[1].eval()
    adapter = attach(model, LoRA(rank=2), "*.weight")
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = random.random(), np.random.rand(), torch.rand(3)  # noqa: NPY002
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    fit(adapter, regression(4), steps=3, loss=squared, eval=regression(4))
    found = random.random(), np.random.rand(), torch.rand(3)  # noqa: NPY002
    assert found[:2] == expected[:2]
    assert torch.equal(found[2], expected[2])
    assert [m.training for m in model] == [True, False, True]
    assert model.training


def test_the_seed_decides_the_bits_whatever_ran_before(tiny_mlp: nn.Module) -> None:
    found = []
    for seed in (0, 0, 1):
        adapter = attach(tiny_mlp, LoRA(rank=2, dropout=0.5), "*.weight")
        torch.rand(5)
        fit(adapter, TensorDataset(*(torch.cat(t) for t in zip(*regression(9), strict=True))), steps=6, seed=seed,
            batch_size=2, loss=squared)  # fmt: skip
        found.append(values(adapter))
        adapter.detach()
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_evaluating_in_between_changes_no_bit_of_training(tiny_mlp: nn.Module) -> None:
    found = []
    for extra in ({}, {"eval": regression(5), "eval_every": 1}):
        adapter = attach(tiny_mlp, LoRA(rank=2, dropout=0.5), "*.weight")
        record = fit(adapter, regression(4), steps=5, loss=squared, **extra)
        found.append(record.losses)
        adapter.detach()
    assert found[0] == found[1]


def test_batch_norm_keeps_its_statistics(tiny_mlp: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)).train()
    before = bits(model)
    adapter = attach(model, LoRA(rank=2), "0.weight|2.weight")
    fit(adapter, regression(4), steps=3, loss=squared)
    adapter.detach()
    assert bits(model) == before
    assert model[1].training


class Counting(nn.Module):
    """Counts its own calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 8)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


def test_a_model_that_writes_to_itself_is_refused() -> None:
    with pytest.raises(UnsupportedLayer, match="calls: the model wrote to it"):
        fit(attach(Counting(), LoRA(rank=2)), regression(4), steps=3, loss=squared)


class Bypass(nn.Module):
    """Hands the weight of its second layer to a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.first(x), self.second.weight)


def test_a_parameter_that_no_gradient_reaches_is_named() -> None:
    adapter = attach(Bypass(), LoRA(rank=2), "*.weight")
    before = values(adapter)
    with pytest.raises(ConfigError, match=r"no gradient reached second\.weight\.left \(2 of 4"):
        fit(adapter, regression(4), steps=3, loss=squared)
    assert same(values(adapter), before)
    assert all(p.grad is None for p in adapter.parameters())
    assert fit(adapter, regression(4), steps=3, loss=squared, allow_unused=True).steps == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_before_the_update(
    tiny_mlp: nn.Module, tmp_path: Path, bad: float
) -> None:
    data = regression(4, 4, 4)
    data[2] = (data[2][0], data[2][1] * bad)
    adapter = _lora(tiny_mlp)
    seen: list[dict[str, Tensor]] = []
    with pytest.raises(NonFinite, match=r"step 3: .* after step 2, and .*last.safetensors holds the run up to step 2"):
        fit(adapter, data, steps=5, loss=squared, checkpoint=tmp_path, checkpoint_every=1,
            callbacks=[lambda s: seen.append(values(s.adapter))])  # fmt: skip
    assert same(values(adapter), seen[1])
    assert (tmp_path / "last.safetensors").exists()


@pytest.mark.parametrize("extra", [{}, {"eval": regression(4)}])
def test_terms_that_the_last_update_ruined_are_noticed(
    tiny_mlp: nn.Module, tmp_path: Path, extra: dict[str, Any]
) -> None:
    with pytest.raises(NonFinite, match=r"step 1: its update made terms NaN or infinite.*there is no checkpoint"):
        fit(_lora(tiny_mlp), regression(4), steps=1, loss=squared, lr=3e38, warmup=0, checkpoint=tmp_path, **extra)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stops", [True, False])
def test_a_checkpoint_never_holds_ruined_terms(tiny_mlp: nn.Module, tmp_path: Path, stops: bool) -> None:
    def ruin(step: Step) -> bool:
        if step.step == 3:
            with torch.no_grad():
                next(iter(step.adapter.trainable().values())).fill_(math.inf)
        return stops and step.step == 3

    with pytest.raises(NonFinite, match="holds the run up to step 2"):
        fit(_lora(tiny_mlp), regression(4), steps=9, loss=squared, checkpoint=tmp_path, checkpoint_every=2,
            callbacks=[ruin])  # fmt: skip


def test_a_gradient_that_is_no_number_ends_the_run_too(tiny_mlp: nn.Module) -> None:
    def loss(model: Any, batch: Any) -> Tensor:
        return torch.sqrt((model(batch[0]) * 0.0).sum())

    with pytest.raises(NonFinite, match=r"step 1: the gradient's norm is nan.*there is no checkpoint"):
        fit(_lora(tiny_mlp), regression(4), steps=2, loss=loss)


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (lambda m, b: m(b[0]), "scalar tensor, got \\(4, 8\\)"),
        (lambda m, b: 1.0, "scalar tensor, got float"),
        (lambda m, b: m(b[0]).detach().mean(), "does not depend on any trainable"),
        (None, "a batch is a tuple"),
    ],
)
def test_a_loss_that_cannot_train_is_refused(tiny_mlp: nn.Module, loss: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        fit(_lora(tiny_mlp), regression(4), steps=1, loss=loss)


def test_a_model_without_loss_is_refused(tiny_llama: nn.Module) -> None:
    with pytest.raises(ConfigError, match="no loss for a batch of input_ids"):
        fit(attach(tiny_llama, LoRA(rank=2)), [{"input_ids": torch.zeros(1, 3, dtype=torch.long)}], steps=1)


def test_labels_that_all_are_ignored_are_refused(tiny_llama: nn.Module) -> None:
    batch = {"input_ids": torch.zeros(1, 3, dtype=torch.long), "labels": torch.full((1, 3), -100)}
    with pytest.raises(ConfigError, match="step 1: nothing in its batches counts"):
        fit(attach(tiny_llama, LoRA(rank=2)), [batch], steps=1)
    record = fit(attach(tiny_llama, LoRA(rank=2)), [batch, *sentences(2)], steps=1, accumulation=2)
    assert math.isfinite(record.losses[0][1])


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"metric": squared}, "need evaluation data"), ({"patience": 2}, "need evaluation data"),
        ({"resume": True}, "checkpoint="), ({"checkpoint_every": 2}, "checkpoint="), ({"steps": 0}, "steps"),
        ({"eval": []}, "evaluation data has no batch"), ({"lr": "1e-3"}, "lr must be a positive number, got '1e-3'"),
        ({"lr": None}, "lr must be a positive number, got None"), ({"lr": True}, "lr must be .* got True"),
        ({"clip": "1"}, "clip must be a positive number, got '1'"), ({"warmup": "0.1"}, "warmup must be .* got '0.1'"),
        ({"weight_decay": None}, "weight_decay must be .* got None"), ({"seed": "a"}, "seed must be .* got 'a'"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"), ({"allow_unused": "no"}, "allow_unused must be True"),
        ({"callbacks": [print, 3]}, r"callbacks\[1\] must be a function .* got 3"),
        ({"callbacks": print}, "callbacks must be a list of functions"), ({"loss": 3}, "loss must be a function"),
        ({"loss": nn.CrossEntropyLoss()}, r"loss must be .*CrossEntropyLoss takes outputs and targets; .*loss=lambda"),
        ({"count": 3}, "count must be a function"), ({"collate": 3}, "collate must be a function"),
        ({"metric": 3, "eval": regression(4)}, "metric must be a dtheta.score metric or a function .* got 3"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_meant_are_refused(tiny_mlp: nn.Module, arguments: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        fit(_lora(tiny_mlp), regression(4), **{"steps": 1, "loss": squared, **arguments})


def test_a_metric_that_brings_its_own_data_needs_no_other(tiny_mlp: nn.Module) -> None:
    adapter, held = _lora(tiny_mlp), regression(4)[0]
    seen: list[float] = []

    def fits(model: Any) -> float:
        seen.append(-float(squared(model, held).detach()))
        return seen[-1]

    record = fit(adapter, regression(4), steps=4, loss=squared, lr=0.05, metric=fits, eval_every=2)
    assert [e.step for e in record.evals] == [0, 2, 4]
    assert [dict(e.scores) for e in record.evals] == [{"fits": value} for value in seen]
    assert record.best is not None
    assert record.best.scores["fits"] == max(seen) == -float(squared(adapter, held).detach())
    assert Record.from_dict(json.loads(record.to_json())) == record


def test_of_equal_scores_without_a_loss_the_first_is_kept(tiny_mlp: nn.Module) -> None:
    record = fit(_lora(tiny_mlp), regression(4), steps=3, loss=squared, metric=lambda model: 1.0, eval_every=1)
    assert record.best is not None
    assert record.best.step == 0


@pytest.mark.parametrize("value", [None, "0.5", torch.zeros(2), {}])
def test_a_metric_that_returns_no_number_is_refused(tiny_mlp: nn.Module, value: Any) -> None:
    def mine(model: Any, batches: Any) -> Any:
        return value

    with pytest.raises(ConfigError, match="the metric mine must return one number, got"):
        fit(_lora(tiny_mlp), regression(4), steps=1, loss=squared, eval=regression(4), metric=mine)


def test_a_detached_adapter_is_refused(tiny_mlp: nn.Module) -> None:
    adapter = _lora(tiny_mlp)
    adapter.detach()
    with pytest.raises(ConfigError, match="this adapter is detached"):
        fit(adapter, regression(4), steps=1, loss=squared)


def test_callbacks_may_be_an_iterator(tiny_mlp: nn.Module) -> None:
    seen: list[int] = []
    calls: Any = iter([lambda step: seen.append(step.step)])
    fit(_lora(tiny_mlp), regression(4), steps=3, loss=squared, callbacks=calls)
    assert seen == [1, 2, 3]


def test_nothing_to_train_is_refused(tiny_mlp: nn.Module) -> None:
    adapter = _lora(tiny_mlp)
    adapter.terms.requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing trains"):
        fit(adapter, regression(4), steps=1, loss=squared)


def test_an_iterator_may_be_endless_and_may_not_be_short(tiny_mlp: nn.Module) -> None:
    assert fit(_lora(tiny_mlp), endless(regression(4)), steps=3, loss=squared).steps == 3
    with pytest.raises(ConfigError, match="ended after 2 batches"):
        fit(_lora(tiny_mlp), iter(regression(4, 4)), steps=3, loss=squared)


def test_callbacks_see_every_step_and_can_end_the_run(tiny_mlp: nn.Module) -> None:
    seen: list[Step] = []

    def watch(step: Step) -> bool:
        seen.append(step)
        return step.step == 4

    record = fit(_lora(tiny_mlp), regression(4), steps=9, loss=squared, eval=regression(4), eval_every=2,
                 callbacks=[watch])  # fmt: skip
    assert (record.stop, record.steps) == ("callback", 4)
    assert [(s.step, s.loss) for s in seen] == record.losses
    assert [s.scores is not None for s in seen] == [False, True, False, True]
    assert all(s.gradient_norm > 0 for s in seen)


def test_the_log_has_a_line_for_all_that_happened(tiny_mlp: nn.Module, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.jsonl"
    record = fit(_lora(tiny_mlp), regression(4), steps=4, loss=squared, eval=regression(4), eval_every=2, log=log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "eval", *"step step eval step step eval end".split()]
    steps = [line for line in lines if line["event"] == "step"]
    assert [(line["step"], line["loss"]) for line in steps] == record.losses
    assert [(line["step"], line["lr"]) for line in steps] == record.lr
    assert all({"gradient_norm", "seconds"} <= line.keys() for line in steps)
    assert lines[0]["config"]["settings"]["steps"] == 4
    assert lines[-1]["stop"] == "steps"


def test_nothing_is_printed_without_a_terminal(tiny_mlp: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    fit(_lora(tiny_mlp), regression(4), steps=2, loss=squared)
    assert capfd.readouterr() == ("", "")


def test_a_log_or_folder_that_cannot_be_written_is_one_clear_error(tiny_mlp: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for place in ({"log": file / "run.jsonl"}, {"checkpoint": file / "folder"}):
        with pytest.raises(OutputError):
            fit(_lora(tiny_mlp), regression(4), steps=2, loss=squared, **place)


def test_the_state_that_another_loop_left_in_accelerate_is_put_back(tiny_mlp: nn.Module) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)  # of a Trainer that ran in this process
    GradientState._reset_state()
    theirs = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=4)
    fit(_lora(tiny_mlp), regression(4), steps=1, loss=squared)
    assert theirs.mixed_precision == "bf16"
    assert theirs.gradient_accumulation_steps == 4
    theirs.state._reset_state()
    theirs.gradient_state._reset_state()


def test_a_loss_of_torch_may_be_made_one_of_model_and_batch(tiny_mlp: nn.Module) -> None:
    class Mine(nn.MSELoss):
        def forward(self, model: Any, batch: Any) -> Any:  # type: ignore[override]
            return squared(model, batch)

    assert len(fit(_lora(tiny_mlp), regression(4), steps=1, loss=Mine()).losses) == 1


def test_a_model_in_place_of_an_adapter_is_refused(tiny_mlp: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"fit trains an adapter, found Sequential; dt\.attach\(model"):
        fit(tiny_mlp, regression(4), steps=1, loss=squared)
