"""What a delta is for, as its provenance has it: kinds of task, and the network that a task speaks of."""

from __future__ import annotations

from torch import nn

from dtheta.core.delta import Delta
from dtheta.errors import ConfigError
from dtheta.models.classifier import classifier

CLASSIFICATION, LANGUAGE = "text-classification", "language-modeling"


def task_model(delta: Delta, model: nn.Module) -> nn.Module:
    """Return the network that a delta is relative to: the classifier its task describes, or the model itself.

    Raises:
        ConfigError: If the task in the delta's provenance cannot be meant.
    """
    task = delta.provenance.task
    if task.get("kind") != CLASSIFICATION:
        return model
    classes = task.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ConfigError("the delta says that it is of a classifier, but not of which classes; it was edited")
    return classifier(model, classes, task.get("pooling"))
