"""CoCoOp's forward: the context moves with the image, so the text tower runs once for every image.

    context = U + W_up relu(W_down f + b_down) + b_up       f image features of unit length, hidden E / 16

Zhou et al. 2022, arXiv 2203.05557. Shape legend: B images, C classes, E joint features, d features of a text embedding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.adapt.prompts.image_names import META
from dtheta.adapt.prompts.tower_bundle import TowerBundle
from dtheta.adapt.prompts.towers import Towers
from dtheta.errors import ShapeMismatch
from dtheta.models.classifier import Prediction
from dtheta.models.image_text import cosine_logits, label_loss
from dtheta.models.image_text import towers as image_text_towers


class ConditionalForward:
    """The forward of an ImageTextClassifier with contexts that depend on the image."""

    is_dtheta_term = True

    def __init__(self, found: Towers, bundle: TowerBundle) -> None:
        self.classifier: Any = found.need_classifier()
        self.bundle = bundle
        self.inner: Callable[..., Any] | None = self.classifier.__dict__.get("forward")
        self.__signature__ = inspect.signature(type(self.classifier).forward.__get__(self.classifier))
        self.classifier.__dict__["forward"] = self

    def __call__(
        self, pixel_values: Tensor | None = None, labels: Tensor | None = None, image_features: Tensor | None = None
    ) -> Any:
        """Return logits (B, C), and the mean cross-entropy where there are labels; see ``ImageTextClassifier``."""
        if not self.bundle.conditional or (pixel_values is None) == (image_features is None):
            return self._plain(pixel_values=pixel_values, labels=labels, image_features=image_features)
        features = self.classifier.image_features(pixel_values) if image_features is None else image_features
        texts = torch.stack([self._texts(feature) for feature in features])
        logits = cosine_logits(features, texts, image_text_towers(self.classifier.model).scale())
        return Prediction(None if labels is None else label_loss(logits, labels), logits)

    def remove(self) -> None:
        """Give the classifier its own forward back."""
        del self.classifier.__dict__["forward"]
        if self.inner is not None:
            self.classifier.__dict__["forward"] = self.inner

    def _texts(self, feature: Tensor) -> Tensor:
        """Return one unit vector a class (C, E) for one image (E,)."""
        self.bundle.image = F.normalize(feature.float(), dim=-1)
        try:
            return self.classifier.text_features()
        finally:
            self.bundle.image = None

    def _plain(self, **given: Any) -> Any:
        return self.inner(**given) if self.inner else type(self.classifier).forward(self.classifier, **given)


def require_meta(found: Towers, shapes: Mapping[str, tuple[int, ...]], context: bool) -> None:
    """Raise unless shapes hold a context and one whole network for a model.

    Raises:
        ShapeMismatch: Naming the part.
        UnsupportedLayer: If the model is in no ImageTextClassifier.
    """
    found.need_classifier()
    hidden, width = shapes.get(f"{META}down.bias", (0,))[0], found.text.width
    expected = {
        "down.weight": (hidden, found.joint),
        "down.bias": (hidden,),
        "up.weight": (width, hidden),
        "up.bias": (width,),
    }
    parts = {name.removeprefix(META): shape for name, shape in shapes.items() if name.startswith(META)}
    for part in {**expected, **parts}:
        if parts.get(part) != expected.get(part) or not context:
            raise ShapeMismatch(
                f"{META}{part}: expected a context and a network whose {part} is {expected.get(part, 'absent')}, found "
                f"{parts.get(part, 'none')}; it was made for another model, or a part of the delta is missing"
            )
