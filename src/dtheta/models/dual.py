"""A dual encoder from two pretrained towers, joined in closed form: images and texts in one space, no CLIP needed.

    f_BE = image(pixel_values)                         EfficientNet-Lite0, pooled features, E = 1280
    t_CD = normalize(mean over tokens of text(ids))    BERT (all-MiniLM-L6-v2), D = 384
    image features = f_BE - image_mean_E
    text features  = t_CD A_DE - mean_D A_DE           text_projection: weight A^T, the mean folded into its bias
    logits_BC      = exp(logit_scale) cos(image features, text features)

A comes from ``models.dual_join``: ridge regression from the embeddings of the 1000 ImageNet class names to the rows of
EfficientNet's classifier. Nothing was trained on pairs of images and texts, so it knows much less than a CLIP.
image_mean is zero; ``centered`` sets it to the mean of images like those to come, worth more than any constant: of 600
test images of Fashion-MNIST, inverted, 25.8 % are right without it and 33.8 % with the mean of 150 training images.

Shape legend: B images, C texts, T tokens, D text features, E joint features.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.output import write_folder
from dtheta.errors import FormatError, NonFinite
from dtheta.models.classifier import masked_mean
from dtheta.models.efficientnet import FEATURES, EfficientNetLite0

MODEL_TYPE = "dtheta-dual"  # in config.json
_SCALE = 1 / 0.07  # CLIP's start, Radford et al. 2021 (arXiv 2103.00020), section 2.5
_BATCH = 32  # images at a time
_WEIGHTS = "model.safetensors"


class DualEncoder(nn.Module):
    """The two towers; parameters are named ``image.*``, ``text.*``, ``text_projection.*`` and ``logit_scale``."""

    image_mean: Tensor

    def __init__(self, text_config: Any) -> None:
        """Build with random weights; ``text_config`` is a transformers ``BertConfig``."""
        from transformers import BertModel

        super().__init__()
        self.text_config = text_config
        self.image = EfficientNetLite0()
        self.text = BertModel(text_config, add_pooling_layer=False)
        self.text_projection = nn.Linear(text_config.hidden_size, FEATURES)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(_SCALE)))
        self.register_buffer("image_mean", torch.zeros(FEATURES))

    def get_image_features(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """Return the centered features of images of any size, scaled as ``load_pixels("dual")`` scales; no unit length.

        Args:
            pixel_values: images.
        """
        return self.image(pixel_values) - self.image_mean

    def centered(self, pixel_values: Float[Tensor, "N 3 H W"]) -> DualEncoder:
        """Return a copy whose ``image_mean`` is the mean of unlabeled images; this model stays as it is.

        Args:
            pixel_values: some hundred images of the kind to be classified, from all of its classes alike.

        Raises:
            NonFinite: If their mean is NaN or infinite, as that of no images is.
        """
        copied = copy.deepcopy(self)
        with torch.no_grad():
            mean_E = torch.cat([self.image(part) for part in pixel_values.split(_BATCH)]).mean(0)
        if not bool(torch.isfinite(mean_E).all()):
            raise NonFinite(
                f"the mean of the features of {len(pixel_values)} images is NaN or infinite, and those of every image "
                "would be; give at least one image, of finite pixels"
            )
        copied.image_mean.copy_(mean_E)
        return copied

    def get_text_features(
        self,
        input_ids: Int[Tensor, "C T"] | None = None,
        attention_mask: Int[Tensor, "C T"] | None = None,
        inputs_embeds: Float[Tensor, "C T D"] | None = None,
    ) -> Float[Tensor, "C E"]:
        """Return the features of texts in the joint space; not of unit length.

        Args:
            input_ids: token ids; or give ``inputs_embeds`` instead.
            attention_mask: 1 at real tokens, 0 at padding; None means no padding.
            inputs_embeds: token embeddings in place of ids, as prompt methods make them.
        """
        given = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        unit_CD = self.embed_text(attention_mask=attention_mask, **given)
        return self.text_projection(unit_CD.to(self.text_projection.weight.dtype))

    def embed_text(self, attention_mask: Tensor | None = None, **given: Any) -> Float[Tensor, "C D"]:
        """Return the text tower's own unit embeddings, before the projection; arguments are the tower's."""
        hidden_CTD = self.text(attention_mask=attention_mask, **given).last_hidden_state
        mask_CT = hidden_CTD.new_ones(hidden_CTD.shape[:2]) if attention_mask is None else attention_mask
        return F.normalize(masked_mean(hidden_CTD, mask_CT), dim=1)

    def forward(
        self,
        pixel_values: Float[Tensor, "B 3 H W"],
        input_ids: Int[Tensor, "C T"],
        attention_mask: Int[Tensor, "C T"] | None = None,
    ) -> Float[Tensor, "B C"]:
        """Return the logits of every text for every image: cosines times ``exp(logit_scale)``."""
        image_BE = F.normalize(self.get_image_features(pixel_values), dim=1)
        text_CE = F.normalize(self.get_text_features(input_ids, attention_mask), dim=1)
        return self.logit_scale.exp() * image_BE @ text_CE.T

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``, which ``load_model(folder)`` reads again; no tokenizer.

        Raises:
            OutputError: it cannot be written, or the folder exists and is not empty.
        """
        with write_folder(folder) as aside:
            write_dual(self, aside)


def write_dual(model: DualEncoder, folder: Path) -> None:
    """Write the files of a dual encoder into an existing folder."""
    from safetensors.torch import save_file

    config = {
        "model_type": MODEL_TYPE,
        "architectures": [DualEncoder.__name__],
        "text_config": model.text_config.to_diff_dict(),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    (folder / _WEIGHTS).chmod((folder / "config.json").stat().st_mode)  # safetensors makes private files


def is_dual(folder: Path) -> bool:
    """Tell whether the folder's ``config.json`` is that of a dual encoder."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, RecursionError):
        return False  # transformers says what is wrong with it
    return isinstance(config, dict) and config.get("model_type") == MODEL_TYPE


def read_dual(folder: Path, dtype: torch.dtype) -> DualEncoder:
    """Return the dual encoder of a folder, in training mode as modules are made.

    Raises:
        FormatError: the files are missing, damaged, or hold other tensors than a dual encoder's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import BertConfig

    try:
        config = json.loads((folder / "config.json").read_text())
        model = unset(BertConfig(**config["text_config"]))
        model.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise FormatError(f"the dual encoder in {folder} cannot be read: {reason}") from error
    return model.to(dtype)


def unset(text_config: Any) -> DualEncoder:
    """Return a dual encoder whose weights are still to be loaded; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        return DualEncoder(text_config)
