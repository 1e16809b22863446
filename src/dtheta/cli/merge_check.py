"""``dtheta merge --check``: whether what was written gives the outputs of the base with the delta on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.errors import DthetaError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dtheta.adapt.adapter import Adapter
    from dtheta.cli.merge import Options
    from dtheta.core.delta import Delta

_TEXTS = ("The bank cut its forecast.", "A late goal won the match for the home side.", "i love this phone")
_TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 0.1, "float16": 0.02}  # of the largest logit
_SIDE = 64  # pixels of an image, where a model takes any


def require_texts(base: Path) -> None:
    """Raise, before anything is written, where the base has no tokenizer to read the texts of the check with.

    Raises:
        DthetaError: Saying what to do.
    """
    from dtheta.models.load import load_tokenizer

    try:
        load_tokenizer(base)
    except DthetaError as error:
        raise type(error)(f"--check runs the model on texts: {error}; or leave --check out") from None


def check_merge(options: Options, base: Path, delta: Delta) -> dict[str, float]:
    """Compare the outputs of what was written with those of the base with the delta attached.

    Raises:
        DthetaError: If they differ by more than rounding explains, or if what the delta moves is not moved at all.
    """
    import torch

    from dtheta.adapt.attach import attach
    from dtheta.adapt.tasks import task_model
    from dtheta.cli.head import load_merged
    from dtheta.cli.merge import parts
    from dtheta.core.interop import from_peft
    from dtheta.core.tensors import base_tensors
    from dtheta.models.load import load_model, load_tokenizer

    tokens = load_tokenizer(base)(list(_TEXTS), return_tensors="pt", padding=True, truncation=True, max_length=32)
    model = load_model(base)
    inner, with_head = parts(delta, set(base_tensors(model)))
    whole = with_head and options.format == "full"
    net, change = (task_model(delta, model), delta) if whole else (model, inner)
    plain = _outputs(net, tokens)
    wanted = _with(attach(net, change), tokens)
    if options.format == "full":
        found = _outputs(load_merged(options.out)[0], tokens)
    else:
        found = _with(attach(model, from_peft(options.out, model)), tokens)
    largest, difference = float(wanted.abs().max()), float((found - wanted).abs().max())
    moved = float((plain - wanted).abs().max())
    if difference > _TOLERANCE[options.dtype or "float32"] * largest:
        raise DthetaError(
            f"check failed: outputs of {options.out} differ from those of base and delta by {difference:.2e}, where "
            f"the largest is {largest:.3g}; the base's dtype may be too coarse for this delta (--dtype float32)"
        )
    if moved > 0 and torch.equal(plain, found):  # a delta may leave these texts alone, such as one of other words
        raise DthetaError(f"check failed: {options.out} gives the outputs of the base; the delta was lost in rounding")
    return {"difference": difference, "largest": largest, "moved": moved}


def _with(adapter: Adapter, tokens: Any) -> Tensor:
    try:
        return _outputs(adapter.model, tokens)
    finally:
        adapter.detach()


def _outputs(net: nn.Module, tokens: Any) -> Tensor:
    """Return logits where the network has any, else its last hidden states, at the real tokens."""
    import torch

    arguments = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    if hasattr(net, "get_image_features"):
        return _tower_outputs(net.eval(), arguments)
    with torch.no_grad():
        found = net.eval()(**arguments)
    values = found.logits if getattr(found, "logits", None) is not None else found.last_hidden_state
    values = values.float()
    return values if values.ndim == 2 else values[arguments["attention_mask"].bool()]


def _tower_outputs(net: nn.Module, tokens: Mapping[str, Tensor]) -> Tensor:
    """Return the unit features of the texts, and of two images of noise, by an image-text model."""
    import torch
    from torch.nn.functional import normalize

    from dtheta.core.seeds import generator
    from dtheta.models.image_text import towers

    tower, config = towers(net), getattr(net, "config", None)
    side = getattr(getattr(config, "vision_config", None), "image_size", _SIDE)
    images = torch.randn(2, 3, side, side, generator=generator(0, "merge/check"))
    with torch.no_grad():
        features = [tower.text_features(tokens["input_ids"], tokens["attention_mask"]), tower.image_features(images)]
    return torch.cat([normalize(each.float(), dim=1) for each in features])
