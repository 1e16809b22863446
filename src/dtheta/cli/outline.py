"""Outline: a model's modules and shapes without its weights, to check a recipe against before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.errors import FormatError

if TYPE_CHECKING:
    from torch import nn


def outline(folder: Path) -> nn.Module:
    """Return the network that a Hugging Face folder describes, on the meta device: it has shapes and no numbers.

    Raises:
        ConfigError: If the folder holds no configuration.
        FormatError: If the configuration cannot be read.
        UnsupportedLayer: If transformers does not have the architecture.
    """
    import torch
    import transformers

    from dtheta.errors import UnsupportedLayer
    from dtheta.models.dual import is_dual, unset
    from dtheta.models.zoo import model_folder, require_text

    require_text("transformers")
    folder = model_folder(folder)
    if is_dual(folder):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            return unset(transformers.BertConfig(**config["text_config"])).eval()
    try:
        config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise FormatError(f"{folder / 'config.json'} cannot be read: {str(error).splitlines()[0]}") from error
    names = config.architectures or []
    if names and not hasattr(transformers, names[0]):
        raise UnsupportedLayer(f"{folder / 'config.json'} names {names[0]!r}, which this transformers does not have")
    with torch.device("meta"):
        if names:
            return getattr(transformers, names[0])(config).eval()
        return transformers.AutoModel.from_config(config).eval()
