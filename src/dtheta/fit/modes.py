"""Train and eval mode: for the whole model, except where training would write to the base."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def train_mode(model: nn.Module) -> None:
    """Switch to training; norms that keep running statistics stay in eval mode, since those belong to the base."""
    if not model.training:
        model.train()
        for module in model.modules():
            if isinstance(module, _NormBase) and module.track_running_stats:
                module.eval()


def eval_mode(model: nn.Module) -> None:
    """Switch everything to evaluation."""
    if model.training:
        model.eval()
