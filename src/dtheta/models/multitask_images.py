"""Several image tasks on one image-text model: one row of logits over all their classes.

    logits_BK = [ scale cos(f(x_b), g(class c of task t)) ]     tasks one after the other, K = sum_t C_t
    union     -log softmax over all K classes [label]            MVLPT as released (Shen et al. 2022, arXiv 2211.11720)
    per-task  the same, with -inf at the classes of other tasks: each image is told apart within its own task only

The released code also has a per-task mode, but it multiplies foreign logits by 0, which leaves their exponentials in
the sum; here they are gone. Classes of the same name in two tasks (digits "3" of two data sets) have the same text and
so the same logit: the union loss cannot tell them apart, and asks the prompt to; the per-task loss does not.

Whatever moves the shared model, a prompt above all, moves all tasks. Labels are those of the union label space, in
which class c of task t is ``starts[t] + c`` (``data.mixture`` makes such batches); they say which task an image is of.

Shape legend: B images, C classes of one task, K classes of all, E features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dtheta.errors import ConfigError, did_you_mean
from dtheta.models.classifier import Prediction, class_loss
from dtheta.models.image_text import ImageTextClassifier, towers
from dtheta.score.tasks import TaskAccuracy, foreign

TaskLoss = Literal["union", "per-task"]


class MultiTaskImages(nn.Module):
    """Image-text classifiers of several tasks that share one model; the modules are used, not copied.

    Attributes:
        model: The shared model; its parameters are named ``model.*``, as in each classifier.
        tasks: The classifiers by the task's name; no submodules, that would give every parameter a second name.
        sizes: Number of classes of each task.
        loss: "union" or "per-task".
    """

    def __init__(self, tasks: Mapping[str, ImageTextClassifier], loss: TaskLoss = "union") -> None:
        """Join classifiers.

        Raises:
            ConfigError: There is none, they do not hold the very same model, or the loss is another.
        """
        super().__init__()
        nets = list(tasks.values())
        if not nets or any(net.model is not nets[0].model for net in nets):
            raise ConfigError("expected one or more image-text classifiers that are built on one model object")
        if loss not in get_args(TaskLoss):
            raise ConfigError(f"loss must be one of {', '.join(get_args(TaskLoss))}, got {loss!r}")
        self.model = nets[0].model
        self.tasks = dict(tasks)
        self.sizes = tuple(len(net.classes) for net in nets)
        self.loss: TaskLoss = loss
        self.train(self.model.training)

    def forward(
        self,
        pixel_values: Float[Tensor, "B 3 H W"] | None = None,
        labels: Int[Tensor, " B"] | None = None,
        image_features: Float[Tensor, "B E"] | None = None,
    ) -> Prediction:
        """Return the logits (B, K) of all classes, and the mean loss where ``labels`` are given.

        Args:
            pixel_values: Images as the model takes them; or give ``image_features`` instead.
            labels: In the union label space.
            image_features: Computed before, where nothing that trains moves them.

        Raises:
            ConfigError: Neither or both of images and features, or labels that are no class ids of these tasks.
        """
        if (pixel_values is None) == (image_features is None):
            raise ConfigError("expected either pixel_values or image_features, and not both")
        if pixel_values is not None:
            image_features = towers(self.model).image_features(pixel_values)
        rows = [net(image_features=image_features).logits for net in self.tasks.values()]
        logits_BK = torch.cat(rows, dim=-1)
        return Prediction(None if labels is None else self._loss(logits_BK.float(), labels), logits_BK)

    def _loss(self, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        if labels_B.is_floating_point():  # rows of weights, which a classifier of one task takes
            raise ConfigError("several tasks at once take one class id an image, in the union label space")
        if self.loss == "per-task":
            logits_BK = logits_BK.masked_fill(foreign(labels_B, self.sizes), -torch.inf)
        return class_loss(logits_BK, labels_B)

    def accuracy(self, task: str | None = None) -> TaskAccuracy:
        """Return the metric that chooses a checkpoint: the mean over tasks of accuracy, or that of one task.

        Raises:
            ConfigError: There is no such task.
        """
        names = list(self.tasks)
        if task is not None and task not in names:
            raise ConfigError(f"there is no task {task!r}{did_you_mean(task, names)}")
        return TaskAccuracy(self.sizes, None if task is None else names.index(task))

    @contextmanager
    def frozen_text(self) -> Iterator[None]:
        """Compute the text features of all tasks once for a block, in which nothing that moves them may train."""
        with ExitStack() as stack:
            for net in self.tasks.values():
                stack.enter_context(net.frozen_text())
            yield

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> MultiTaskImages:
        """Move the classifiers' own buffers too, which are no buffers of this module."""
        super()._apply(fn, recurse)
        for net in self.tasks.values():
            for name, buffer in net.named_buffers(recurse=False):
                setattr(net, name, fn(buffer))
        return self
