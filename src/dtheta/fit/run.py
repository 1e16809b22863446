"""Run: a training run under way; its steps, evaluations and checkpoints, in the order that ``fit`` promises."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dtheta.core.seeds import key
from dtheta.errors import ConfigError
from dtheta.fit import checkpoint as checkpoints
from dtheta.fit.batch import share
from dtheta.fit.checkpoint import Checkpoint
from dtheta.fit.checks import (
    autocast,
    base_identity,
    check_finite,
    check_reached,
    check_terms,
    check_unwritten,
    versions,
)
from dtheta.fit.evaluate import Evaluator
from dtheta.fit.modes import eval_mode, train_mode
from dtheta.fit.objective import Objective, model_loss
from dtheta.fit.optimizer import clip, gradient_norm, made, parameter_groups, set_rate
from dtheta.fit.progress import Bar, Log
from dtheta.fit.randomness import seed_all
from dtheta.fit.record import Evaluation, Record
from dtheta.fit.schedule import factor
from dtheta.fit.settings import Settings
from dtheta.fit.sharded import copy_into, gathered, is_sharded, like, whole
from dtheta.fit.stream import Stream
from dtheta.fit.trainable import Batch, Loss
from dtheta.fit.world import World


@dataclass(frozen=True)
class Step:
    """What a callback sees after an optimizer step; ``scores`` is None where nothing was evaluated."""

    adapter: Any
    step: int
    loss: float
    lr: float
    gradient_norm: float
    seconds: float
    scores: Mapping[str, float] | None


#: Called after every optimizer step, on every process; returning True ends the run.
Callback: TypeAlias = Callable[[Step], bool | None]


class Run:
    """A training run: what it works on, how far it is, and what it writes."""

    def __init__(
        self,
        adapter: Any,
        stream: Stream,
        evaluator: Evaluator | None,
        loss: Loss | None,
        count: Callable[[Batch], int],
        settings: Settings,
        world: World,
        folder: Path | None,
    ) -> None:
        """Prepare the adapter for this world and make the optimizer; nothing is computed or written yet."""
        self.adapter, self.stream, self.evaluator, self.count = adapter, stream, evaluator, count
        self.settings, self.world = settings, world
        self.path = None if folder is None else folder / checkpoints.NAME
        self.config = self._config(loss)
        self.module = world.prepare(Objective(adapter, loss or model_loss))
        self.sharded = is_sharded(adapter)
        # kept by identity: the optimizer's parameters stay these, whatever a sharded module shows in between
        self.parameters: dict[str, nn.Parameter] = adapter.trainable()
        self.optimizer = made(parameter_groups(adapter, settings), settings)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=settings.precision == "fp16")
        self.optimizer.zero_grad(set_to_none=True)
        self.versions = {} if self.sharded else versions(adapter.model)
        self.record = Record(config=self.config)
        self.best: dict[str, Tensor] = {}
        self.saved: int | None = None
        self.log = Log(None, None)
        self.bar = Bar(0, 0, quiet=True)
        self.began = time.perf_counter()

    def _config(self, loss: Loss | None) -> dict[str, Any]:
        """Return what two runs must share to be one run."""
        config = {
            "settings": self.settings.to_dict(),
            "method": getattr(self.adapter.method, "to_dict", dict)(),
            "loss": "model" if loss is None else _name(loss),
            "metric": None if self.evaluator is None or self.evaluator.metric is None else _name(self.evaluator.metric),
            "evaluated": self.evaluator is not None,
            "processes": self.world.size,
            "device": self.world.device.type,
            "parameters": sum(p.numel() for p in self.adapter.trainable().values()),
        }
        if (self.path is not None or self.world.size > 1) and not is_sharded(self.adapter):
            config |= base_identity(self.adapter, self.world)
        return config

    def open(self, resume: bool, log: Path | None, quiet: bool) -> None:
        """Begin a checkpoint or load the one that is there; open log and bar.

        Raises:
            ConfigError: a checkpoint is there and nobody asked to go on with it, or it is of another run.
        """
        if self.path is not None:
            checkpoints.make_folder(self.path.parent)
            if self.path.exists() and not resume:
                raise ConfigError(
                    f"{self.path} is the checkpoint of an earlier run; resume=True goes on with it, another folder or "
                    "removing it starts anew"
                )
            if self.path.exists():
                self._restore(checkpoints.load(self.path), self.path)
        self.log = Log(log if self.world.main else None, self.saved)
        if self.saved is None:
            self.log.write("start", 0, config=self.config)
        self.bar = Bar(self.settings.steps, self.record.steps, quiet or not self.world.main)
        self.began = time.perf_counter() - self.record.seconds

    def close(self) -> None:
        """Leave the adapter without gradients, and close log and bar."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.sharded:
            self.world.settle(self.adapter)
        self.bar.close()
        self.log.close()

    def train(self, callbacks: Sequence[Callback]) -> Record:
        """Run to the end and return the record."""
        if not self.record.stop:
            if self.evaluator is not None and self.saved is None:
                self._evaluate(0)
            while not self.record.stop:
                self._advance(self.record.steps + 1, callbacks)
            self._check_base()
        if self.best:
            copy_into(self.parameters, self.best)
        self.log.write("end", self.record.steps, stop=self.record.stop, seconds=self.record.seconds)
        return self.record

    def _advance(self, step: int, callbacks: Sequence[Callback]) -> None:
        """Do one optimizer step and all that is due after it."""
        train_mode(self.adapter)
        loss, norm, rate = self._step(step)
        self.record.losses.append((step, loss))
        self.record.lr.append((step, rate))
        self.record = self.record.with_(steps=step, seconds=time.perf_counter() - self.began)
        self.log.write("step", step, loss=loss, lr=rate, gradient_norm=norm, seconds=self.record.seconds)
        self.bar.step(loss)
        last = step == self.settings.steps
        saves = self.path is not None and step % self.settings.checkpoint_interval == 0
        due = self.evaluator is not None and (last or step % self.settings.evaluation_interval == 0)
        if due or last or saves:  # what is kept is checked: the next step's loss would be too late
            self._check_terms(step)
        scores = self._evaluate(step) if due else None
        seen = Step(self.adapter, step, loss, rate, norm, self.record.seconds, scores)
        told = bool(callbacks) and self.world.any(any([callback(seen) is True for callback in callbacks]))
        stop = self._stop(last, told)
        if told:
            self._check_terms(step)
        self.record = self.record.with_(stop=stop, seconds=time.perf_counter() - self.began)
        if self.path is not None and (stop or saves):
            self._save(self.path)

    def _stop(self, last: bool, told: bool) -> str:
        """Return why the run ends here, or an empty string."""
        if last or told:
            return "steps" if last else "callback"
        patience = self.settings.patience
        return "patience" if patience is not None and self.record.stale() >= patience else ""

    def _step(self, step: int) -> tuple[float, float, float]:
        """Do one optimizer step; return its loss, the norm of its gradient before clipping, and its rate."""
        loss = self._backward(step)
        s = self.settings
        if step == 1 and not s.allow_unused:
            check_reached(self.parameters)
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.parameters.values())
        loss_value, norm_value = torch.stack([loss, norm.float().to(loss.device)]).tolist()  # the one wait of a step
        check_finite(step, loss_value, norm_value, self.scaler.is_enabled(), s.lr, self._kept())
        clip(self.parameters.values(), s.clip, norm_value)
        with gathered(self.adapter) if self.sharded else nullcontext():
            self.adapter.method.add_gradient(self.adapter, s.lr)
        rate = set_rate(self.optimizer, factor(step - 1, s.steps, s.warmup_steps, s.schedule))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if step == 1:
            self._check_base()
        return loss_value, norm_value, rate

    def _kept(self) -> str:
        """Say what is left of a run that ends here with an error."""
        return "there is no checkpoint" if self.saved is None else f"{self.path} holds the run up to step {self.saved}"

    def _check_terms(self, step: int) -> None:
        check_terms(step, self.parameters.values(), self.world, self.settings.lr, self._kept())

    def _backward(self, step: int) -> Tensor:
        """Accumulate the gradient of the mean loss over all items of a step; return that loss, in float32."""
        rank, size = self.world.rank, self.world.size
        parts = [share(self.stream.next(), rank, size) for _ in range(self.settings.accumulation)]
        counts = [self.count(batch) if mine else 0 for batch, mine in parts]
        total = self.world.total(sum(counts))
        if total == 0:
            raise ConfigError(f"step {step}: nothing in its batches counts for the loss (all labels are -100?)")
        seed_all(key(self.settings.seed, f"fit/{rank}", step), self.world.device)
        loss = torch.zeros((), dtype=torch.float32, device=self.world.device)
        for index, ((batch, _), count) in enumerate(zip(parts, counts, strict=True)):
            with ExitStack() as stack:
                if index < len(parts) - 1:
                    stack.enter_context(self.world.accumulating(self.module))
                with self._autocast():
                    value = self.module(self.world.to_device(batch))
                # gradients are averaged over processes, so each gives its part times their number
                self.scaler.scale(_weighted(value, count * size / total)).backward()
            loss += _weighted(value.detach().float(), count / total)
        return self.world.sum(loss)

    def _autocast(self) -> torch.autocast:
        return autocast(self.world.device, self.settings.precision)

    def _check_base(self) -> None:
        if not self.sharded:
            check_unwritten(self.adapter.model, self.versions)

    def _evaluate(self, step: int) -> Mapping[str, float]:
        """Score the terms as they are, and keep them if they are the best so far."""
        assert self.evaluator is not None, "called only with evaluation data"
        seed_all(key(self.settings.seed, "fit/eval", step), self.world.device)
        eval_mode(self.adapter)
        with self._autocast():
            found = Evaluation(step, self.evaluator.scores(self.adapter, self.sharded))
        if self.sharded:
            self.world.settle(self.adapter)
        metric, better = self.evaluator.deciding
        self.record = self.record.with_(metric=metric, better=better)
        self.record.evals.append(found)
        if self.record.improves(found.scores):
            self.record = self.record.with_(best=found)
            self.best = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.log.write("eval", step, **found.scores)
        self.bar.scores(found.scores)
        return found.scores

    def _save(self, path: Path) -> None:
        """Write the checkpoint: every process gathers, the first one writes."""
        names = {id(p): name for name, p in self.parameters.items()}
        parts = {
            "terms": checkpoints.term_tensors(self.adapter),
            "optimizer": checkpoints.optimizer_tensors(self.optimizer, names),
            "best": {name: whole(value) for name, value in self.best.items()},
        }
        tensors = {f"{part}/{name}": value for part, held in parts.items() for name, value in held.items()}
        state = {
            "record": self.record.to_dict(),
            "position": self.stream.position(),
            "scaler": self.scaler.state_dict(),
        }
        if self.world.main:
            checkpoints.save(path, Checkpoint(tensors, state))
        self.saved = self.record.steps
        self.world.wait()

    def _restore(self, found: Checkpoint, path: Path) -> None:
        """Become the run that wrote a checkpoint."""
        record = checkpoints.record_of(found, path)
        checkpoints.check_same_run(self.config, record.config, path)
        self.record, self.saved = record, record.steps
        checkpoints.load_terms(self.adapter, found.part("terms"), path)
        checkpoints.load_optimizer(self.optimizer, self.parameters, found.part("optimizer"), path)
        best = found.part("best")
        if best:
            checkpoints.check_names(self.parameters, best, path)
            self.best = {name: like(best[name], p) for name, p in self.parameters.items()}
        checkpoints.load_scaler(self.scaler, found, path)
        if not record.stop:
            self.stream.seek(checkpoints.position_of(found, path))


def _weighted(value: Tensor, weight: float) -> Tensor:
    """Return value * weight: exactly value for weight 1, and zero for weight 0 even where the value is NaN."""
    if weight == 0.0:
        return torch.where(torch.isfinite(value), value, torch.zeros_like(value)) * 0.0
    return value if weight == 1.0 else value * weight


def _name(thing: Any) -> str:
    """Return by what name a configuration knows a function or metric."""
    if hasattr(thing, "of_means"):
        return repr(thing)
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"
