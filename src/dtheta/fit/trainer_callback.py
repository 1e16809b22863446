"""An adapter under ``transformers.Trainer``: a callback that lets it train there unchanged.

    args = TrainingArguments(..., label_names=["labels"])
    trainer = Trainer(model=adapter, args=args, train_dataset=data, callbacks=[trainer_callback(adapter)])

It adds the method's own gradient in ``on_pre_optimizer_step``, which the Trainer calls once an optimizer step, after
accumulation and clipping: the same place as in ``fit``, and SORSA's order. It also lets the adapter show its model's
signature, by which the Trainer chooses columns, and keeps the base out of the Trainer's checkpoints: it never changes,
and where weights are tied the Trainer could not write it.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import nn

from dtheta.errors import ConfigError, MissingExtra
from dtheta.fit.checks import check_unwritten, versions
from dtheta.fit.sharded import gathered, is_sharded

if TYPE_CHECKING:
    from transformers import TrainerCallback


class ModelForward:
    """Calls a model and has its signature."""

    def __init__(self, model: nn.Module) -> None:
        """Stand in for ``model.forward``."""
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model, hooks included."""
        return self.model(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.model.forward)


def trainer_callback(adapter: Any) -> TrainerCallback:
    """Return a ``transformers.TrainerCallback`` that carries an adapter through a Trainer's run.

    Make it before the Trainer. From then on ``adapter.forward`` has the model's signature; once training began, the
    adapter's state dict holds the terms only (except where FSDP shards it).

    Raises:
        MissingExtra: transformers is not installed.
        ConfigError: at the start of training: the Trainer trains another model, evaluates without label names, scales
            the loss (fp16) without clipping, or runs DeepSpeed or FSDP1, where no gradient is at hand to add to.
        UnsupportedLayer: after the first step: the model wrote to its own buffers (batch norm); ``fit`` prevents that.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise MissingExtra("trainer_callback needs transformers: pip install 'dtheta[text]'") from error
    if not isinstance(adapter.forward, ModelForward):
        adapter.forward = ModelForward(adapter.model)
        adapter.register_load_state_dict_post_hook(_allow_missing_base)

    class MethodGradient(TrainerCallback):
        """Adds the method's own gradient after clipping, before every optimizer step."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            _check(adapter, args, given.get("model"))
            self.sharded = is_sharded(adapter)
            self.versions = None if self.sharded else versions(adapter.model)
            if not self.sharded and not hasattr(self, "hook"):
                self.hook = adapter.register_state_dict_post_hook(_drop_base)

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            with gathered(adapter):
                adapter.method.add_gradient(adapter, args.learning_rate)

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if self.versions is not None:
                check_unwritten(adapter.model, self.versions)
                self.versions = None  # what writes at all does so in the first step

    return MethodGradient()


def _drop_base(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}model.")]:
        del state[name]


def _allow_missing_base(module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if not name.startswith("model.")]


def _check(adapter: Any, args: Any, model: Any) -> None:
    if model is not None and model is not adapter and getattr(model, "module", None) is not adapter:
        raise ConfigError("the Trainer trains another model; make it Trainer(model=adapter, ...) with this adapter")
    if str(args.eval_strategy).rpartition(".")[2].lower() != "no" and args.label_names is None:
        raise ConfigError("the Trainer would evaluate without a loss; give TrainingArguments(label_names=['labels'])")
    if args.fp16 and not args.max_grad_norm > 0:
        raise ConfigError("fp16 without clipping leaves the gradients scaled; set max_grad_norm, or use bf16")
    if args.deepspeed:
        raise ConfigError("the method's gradient cannot be added under DeepSpeed; use DDP or FSDP2")
    if args.fsdp and int((args.fsdp_config or {}).get("version", 2)) < 2:
        raise ConfigError("the method's gradient cannot be added under FSDP1, which flattens parameters; use FSDP2")
