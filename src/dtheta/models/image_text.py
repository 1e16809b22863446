"""Models with an image and a text tower, seen alike (``towers``), and the zero-shot classifier on top of one.

    image_BE = normalize(image tower(pixel_values))
    text_CE  = normalize(mean over templates of normalize(text tower(template with the class name)))
    logits_BC = scale image_BE text_CE^T

Read are ``DualEncoder``, transformers' CLIPModel and SiglipModel, and open_clip's models. Nothing is drawn and no
parameter is added: the classes are texts, so the untrained classifier is the model itself.

Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1. Shape legend: B images, C classes, K templates a class,
T tokens, E joint features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.modes import kept_modes
from dtheta.errors import ConfigError, UnsupportedLayer
from dtheta.models.class_prompts import class_prompts
from dtheta.models.classifier import Prediction, class_loss, class_names


class ImageText(Protocol):
    """Two towers into one space; features have no unit length yet."""

    positions: int | None
    """How many tokens the text tower can take; None where the model does not say."""
    fixed_length: bool
    """Whether every text must be padded to ``positions``, because the tower pools at its last position."""
    pooled_token: int | None
    """The id of the token at which the text tower pools, which every text must hold; None where it needs none."""

    def image_features(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """Return the features of images."""
        ...

    def text_features(
        self, input_ids: Int[Tensor, "C T"], attention_mask: Int[Tensor, "C T"] | None
    ) -> Float[Tensor, "C E"]:
        """Return the features of texts."""
        ...

    def scale(self) -> Float[Tensor, ""]:
        """Return the factor on cosines."""
        ...


class _Transformers:
    """``DualEncoder`` and what transformers' dual encoders have in common."""

    def __init__(self, model: Any) -> None:
        config = model.text_config if hasattr(model, "text_config") else model.config.text_config
        self.model = model
        self.positions: int | None = getattr(config, "max_position_embeddings", None)
        self.fixed_length = str(config.model_type).startswith("siglip")
        # a CLIP with end token 2 comes from before transformers looked for it: it pools at the largest id instead
        clip = config.model_type == "clip_text_model" and config.eos_token_id != 2
        self.pooled_token: int | None = config.eos_token_id if clip else None

    def image_features(self, pixel_values: Tensor) -> Tensor:
        return _pooled(self.model.get_image_features(pixel_values=pixel_values))

    def text_features(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        # SigLIP was trained with its padding seen
        seen = None if self.fixed_length else attention_mask
        return _pooled(self.model.get_text_features(input_ids=input_ids, attention_mask=seen))

    def scale(self) -> Tensor:
        return self.model.logit_scale.exp()


class _OpenClip:
    """open_clip's models, whose text tower sees no mask: padding comes after the end of the text."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.fixed_length = True
        self.pooled_token: int | None = None
        self.positions: int | None = getattr(model, "context_length", None)

    def image_features(self, pixel_values: Tensor) -> Tensor:
        return self.model.encode_image(pixel_values)

    def text_features(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return self.model.encode_text(input_ids)

    def scale(self) -> Tensor:
        return self.model.logit_scale.exp()


def towers(model: nn.Module) -> ImageText:
    """Return the two towers of a model, which stay its own modules.

    Args:
        model: a ``DualEncoder``, a transformers model with ``get_image_features``, or an open_clip model.

    Raises:
        UnsupportedLayer: a model without both towers.
    """
    if hasattr(model, "get_image_features") and hasattr(model, "get_text_features"):
        return _Transformers(model)
    if hasattr(model, "encode_image") and hasattr(model, "encode_text"):
        return _OpenClip(model)
    raise UnsupportedLayer(
        f"{type(model).__name__} has no image and text tower in one space; expected load_model('dual'), a transformers "
        "CLIPModel or SiglipModel, or an open_clip model"
    )


class ImageTextClassifier(nn.Module):
    """An image classifier whose classes are texts; the model's parameters are named ``model.*``, there are no others.

    Attributes:
        model: the model, not a copy.
        classes: their names.
        templates: texts with ``{}`` in the place of a name.
        input_ids: prompts (C K, T), all templates of the first class first; a buffer, no part of the state dict.
        attention_mask: 1 at their real tokens; such a buffer too.
    """

    input_ids: Tensor
    attention_mask: Tensor

    def __init__(
        self, model: nn.Module, classes: Sequence[str], templates: Sequence[str], input_ids: Tensor, mask: Tensor
    ) -> None:
        """Build from tokenized prompts; ``image_text_classifier`` makes them.

        Raises:
            ConfigError: there is not one prompt for each class in each template, or the mask is of another shape.
        """
        super().__init__()
        wanted = len(classes) * len(templates)
        if input_ids.ndim != 2 or len(input_ids) != wanted or mask.shape != input_ids.shape:
            raise ConfigError(
                f"{len(classes)} classes in {len(templates)} templates need {wanted} prompts, ids and mask "
                f"({wanted}, tokens); found ids {tuple(input_ids.shape)} and a mask {tuple(mask.shape)}"
            )
        self.model = model
        self.classes = tuple(classes)
        self.templates = tuple(templates)
        self.register_buffer("input_ids", input_ids, persistent=False)
        self.register_buffer("attention_mask", mask, persistent=False)
        self._frozen_CE: Tensor | None = None

    def forward(
        self,
        pixel_values: Float[Tensor, "B 3 H W"] | None = None,
        labels: Tensor | None = None,
        image_features: Float[Tensor, "B E"] | None = None,
    ) -> Prediction:
        """Return the logits, and the mean cross-entropy where ``labels`` are given.

        Args:
            pixel_values: images, scaled as ``load_pixels`` of the model says.
            labels: class ids (B,), or rows (B, C) of weights, such as 1 at each label of an image and 0 elsewhere:
                each row is divided by its sum.
            image_features: what ``image_features`` returned earlier, in place of the images.

        Raises:
            ConfigError: neither or both of images and features, or labels of another form.
        """
        if pixel_values is not None and image_features is None:
            image_features = self.image_features(pixel_values)
        elif image_features is None or pixel_values is not None:
            raise ConfigError("expected either pixel_values or image_features, and not both")
        logits_BC = cosine_logits(image_features, self.text_features(), towers(self.model).scale())
        return Prediction(None if labels is None else label_loss(logits_BC, labels), logits_BC)

    def image_features(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """Return the image tower's features, which ``forward`` also takes in place of images."""
        return towers(self.model).image_features(pixel_values)

    def text_features(self) -> Float[Tensor, "C E"]:
        """Return one unit vector a class; inside ``frozen_text`` the one computed at its beginning."""
        if self._frozen_CE is not None:
            return self._frozen_CE
        prompts_PE = towers(self.model).text_features(self.input_ids, self.attention_mask)
        return averaged(prompts_PE, len(self.templates))

    @contextmanager
    def frozen_text(self) -> Iterator[None]:
        """Compute the class vectors once, in eval mode and without gradient, and use them until the block ends.

        What changes in the text tower meanwhile is not seen: for evaluation, and for training the image tower alone.
        """
        before = self._frozen_CE
        with kept_modes(self.model), torch.no_grad():
            frozen_CE = self.text_features()
        self._frozen_CE = frozen_CE
        try:
            yield
        finally:
            self._frozen_CE = before


def image_text_classifier(
    model: nn.Module, tokenizer: Any, classes: Sequence[str], template: str | Sequence[str] = "a photo of a {}."
) -> ImageTextClassifier:
    """Return a zero-shot image classifier; the model's own modules are used, not copied.

    Args:
        model: what ``towers`` takes.
        tokenizer: of the model: ``load_tokenizer``'s, or open_clip's.
        classes: at least two different names.
        template: a text with ``{}`` where the name goes, or several, whose unit vectors are averaged.

    Raises:
        ConfigError: wrong classes or templates, or a prompt that is longer than the text tower can take.
        UnsupportedLayer: a model without an image and a text tower.
    """
    names = class_names([classes] if isinstance(classes, str) else classes)
    templates = (template,) if isinstance(template, str) else tuple(template)
    ids, mask = class_prompts(towers(model), tokenizer, names, templates)
    place = next(model.parameters()).device
    return ImageTextClassifier(model, names, templates, ids.to(place), mask.to(place)).train(model.training)


def averaged(prompts_PE: Float[Tensor, "P E"], templates: int) -> Float[Tensor, "C E"]:
    """Return the unit vector of each class from those of its prompts, which follow one another."""
    unit_CKE = F.normalize(prompts_PE, dim=-1).unflatten(0, (-1, templates))
    return F.normalize(unit_CKE.mean(1), dim=-1) if templates > 1 else unit_CKE[:, 0]


def cosine_logits(
    image_BE: Float[Tensor, "B E"], text_CE: Float[Tensor, "*B C E"], scale: Float[Tensor, ""]
) -> Float[Tensor, "B C"]:
    """Return scaled cosines; ``text_CE`` may have class vectors of its own for every image, (B, C, E)."""
    image_BE, text_CE = F.normalize(image_BE, dim=-1), F.normalize(text_CE, dim=-1).to(image_BE.dtype)
    return scale * (image_BE @ text_CE.T if text_CE.ndim == 2 else torch.einsum("be,bce->bc", image_BE, text_CE))


def label_loss(logits_BC: Float[Tensor, "B C"], labels: Tensor) -> Float[Tensor, ""]:
    """Return the mean cross-entropy against class ids (B,) or rows of weights (B, C), each divided by its sum.

    Raises:
        ConfigError: labels of another shape, a row without any label, or a class that there is not.
    """
    if not isinstance(labels, Tensor) or not labels.is_floating_point():
        return class_loss(logits_BC, labels)
    if labels.shape != logits_BC.shape:
        raise ConfigError(
            f"labels of floating point must be rows of one weight a class, {tuple(logits_BC.shape)}, "
            f"found {tuple(labels.shape)}; class ids must be whole numbers"
        )
    sums_B1 = labels.sum(1, keepdim=True)
    if not bool((sums_B1 > 0).all() & (labels >= 0).all()):
        raise ConfigError(
            "every row of labels must have a weight above 0 for some class, and none below 0; drop images without a "
            "label"
        )
    return F.cross_entropy(logits_BC.float(), (labels / sums_B1).float())


def _pooled(output: Any) -> Tensor:
    """The projected embedding: transformers 5 returns it as an output's ``pooler_output``, others as it is."""
    return output if isinstance(output, Tensor) else output.pooler_output
