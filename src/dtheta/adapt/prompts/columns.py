"""Columns of a vision tower: vectors that stand behind [CLS] at the input of its layers (VPT).

    layer 0        [CLS ; V_0 ; patches]       put in behind the positions and the first norm
    layer i > 0    the same columns hold V_i from here, where the prompt has one

Pooling reads [CLS], and the columns are cut out of the states that come out. Several prompts stand one after another.

Shape legend: B images, T columns, n vectors, d features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dtheta.adapt.prompts.image_names import visual_name
from dtheta.adapt.prompts.layout import Layout
from dtheta.adapt.prompts.tower_bundle import TowerBundle
from dtheta.adapt.prompts.towers import VisionTower


class ColumnHooks:
    """The hooks on a vision tower; the vectors belong to their adapters."""

    is_dtheta_term = True

    def __init__(self, tower: VisionTower, bundle: TowerBundle) -> None:
        self.bundle = bundle
        self.handles = [
            tower.core.register_forward_pre_hook(self.enter),
            tower.entry.register_forward_hook(self.put_in),
            *(
                layer.register_forward_pre_hook(_LayerHook(self, index, tower.batch_first), with_kwargs=True)
                for index, layer in enumerate(tower.layers)
                if index
            ),
            tower.core.register_forward_hook(self.cut),
            tower.core.register_forward_hook(self.leave, always_call=True),
        ]

    def enter(self, module: nn.Module, args: Any) -> None:
        """Say that the tower begins."""
        self.bundle.enter()

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Say that the tower ended."""
        self.bundle.leave()

    def put_in(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        """Put the vectors of the first layer behind [CLS]."""
        found = [prompt.entering()[visual_name(0)] for prompt in self.bundle.counting() if prompt.columns]
        if not found:
            return None
        return torch.cat([output[:, :1], *(_expanded(v, output) for v in found), output[:, 1:]], 1)

    def replaced(self, layer: int, x: Tensor) -> Tensor:
        """Return states (B, T, d) whose columns of prompts hold the vectors of a layer."""
        prompts = [prompt for prompt in self.bundle.counting() if prompt.columns]
        if not any(visual_name(layer) in prompt.entering() for prompt in prompts):
            return x
        parts, at = [x[:, :1]], 1
        for prompt in prompts:
            own = prompt.entering().get(visual_name(layer))
            parts.append(x[:, at : at + prompt.columns] if own is None else _expanded(own, x))
            at += prompt.columns
        return torch.cat([*parts, x[:, at:]], 1)

    def cut(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Cut the columns out of the states that come out."""
        n = sum(prompt.columns for prompt in self.bundle.counting())
        first = output[0] if isinstance(output, tuple) else None  # where no named output was asked for
        states = getattr(output, "last_hidden_state", first)
        if not n or not isinstance(states, Tensor) or states.ndim != 3:  # towers of open_clip return pooled features
            return None
        return Layout(states.shape[1] - n, n, 1).cut_output(output)

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()


class _LayerHook:
    """Replaces the columns at the input of one layer, its first argument."""

    is_dtheta_term = True

    def __init__(self, hooks: ColumnHooks, layer: int, batch_first: bool) -> None:
        self.hooks = hooks
        self.layer = layer
        self.batch_first = batch_first

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the arguments with the columns replaced."""
        name = None if args else next(iter(kwargs))
        x: Tensor = args[0] if name is None else kwargs[name]
        found = self.hooks.replaced(self.layer, x if self.batch_first else x.transpose(0, 1))
        found = found if self.batch_first else found.transpose(0, 1)
        return ((found, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: found})


def _expanded(values: Tensor, like: Tensor) -> Tensor:
    """Return vectors (n, d) for every image (B, n, d)."""
    return values.to(like.device, like.dtype).expand(len(like), -1, -1)
