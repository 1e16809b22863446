"""Which family a model is of, and where virtual tokens enter it.

    decoder          Llama, GPT-2, ...    in front of the text        forward of the model below the head
    encoder          BERT, MiniLM, ...    after [CLS]                 forward of the model below the head
    encoder-decoder  T5, ...              in front of the source      forwards of the encoder and of the decoder

Told by the configuration and the auto classes of transformers, never by the name of a class.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from dtheta.core.tensors import shared
from dtheta.errors import ShapeMismatch, UnsupportedLayer

Kind = Literal["decoder", "encoder", "encoder-decoder"]
_POSITIONS = ("wpe", "position_embeddings", "embed_positions")


@dataclass(frozen=True, eq=False)
class Family:
    """A text model of transformers, seen from where prompts enter it.

    Attributes:
        kind: Its family.
        outer: The whole model, whose ``generate`` users call.
        core: The module whose input is widened.
        decoder: The module that reads what ``core`` made, of an encoder-decoder.
        embedding: The input embedding.
        width: d, its features.
        after: Real tokens that stay before the virtual ones: 1 where a text begins with [CLS].
        first: The position of a text's first token.
        limit: Positions that the model has; None where they are computed.
    """

    kind: Kind
    outer: nn.Module
    core: nn.Module
    decoder: nn.Module | None
    embedding: nn.Module
    width: int
    after: int
    first: int
    limit: int | None

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.core.config  # type: ignore[return-value]


def family(model: nn.Module) -> Family:
    """Return the family of a model, or of the first text model of transformers in it.

    Raises:
        UnsupportedLayer: If there is none, or it has no input for embeddings.
    """
    outer = _text_model(model)
    config: Any = outer.config
    if getattr(config, "is_encoder_decoder", False):
        kind, core, decoder = "encoder-decoder", outer.get_encoder(), outer.get_decoder()  # type: ignore[operator]
    else:
        kind, decoder = "encoder" if _sees_both_sides(config) else "decoder", None
        core = _innermost(outer) if kind == "decoder" else outer.base_model
    assert isinstance(core, nn.Module)
    if "inputs_embeds" not in inspect.signature(core.forward).parameters:
        raise UnsupportedLayer(f"{type(core).__name__} has no inputs_embeds, by which a prompt could enter it")
    embedding: Any = getattr(core, "get_input_embeddings", lambda: None)()
    if not isinstance(getattr(embedding, "weight", None), nn.Parameter) or embedding.weight.ndim != 2:
        raise UnsupportedLayer(f"{type(core).__name__} has no plain input embedding beside which a prompt could stand")
    table = _position_table(core, embedding)
    first = 0 if table is None or table.padding_idx is None else table.padding_idx + 1  # RoBERTa's
    limit = None if table is None else table.num_embeddings - first - int(getattr(table, "offset", 0))
    after = int(kind == "encoder" and _has_cls(config))
    return Family(kind, outer, core, decoder, embedding, embedding.weight.shape[1], after, first, limit)  # type: ignore[arg-type]


def require_room(found: Family, length: int) -> None:
    """Raise unless a model has positions left beside so many virtual tokens.

    Raises:
        ShapeMismatch: If it has none.
    """
    if found.limit is not None and length >= found.limit:
        raise ShapeMismatch(
            f"{length} virtual tokens leave no position for a text: {type(found.core).__name__} has {found.limit}; "
            "choose a smaller length"
        )


def _text_model(model: nn.Module) -> Any:
    """Return the outermost model of transformers."""
    loaded = sys.modules.get("transformers.modeling_utils")  # else no module can be one of its models
    kind = getattr(loaded, "PreTrainedModel", ())
    tops = outermost(model, kind)
    if len(tops) > 1:
        raise UnsupportedLayer(
            f"{type(model).__name__} holds {len(tops)} models of transformers ({type(tops[0]).__name__}, "
            f"{type(tops[1]).__name__}, ...), and a prompt is for one; attach to that one"
        )
    found = tops[0] if tops else None
    if found is None:
        raise UnsupportedLayer(
            f"{type(model).__name__} holds no text model of transformers; a prompt is put beside the input embeddings "
            "of one. To move parameters of any module use LoRA, PiSSA, ..."
        )
    config: Any = found.config
    if any(hasattr(config, name) for name in ("vision_config", "audio_config")) or config.model_type in ("vit", "clip"):
        raise UnsupportedLayer(
            f"{type(found).__name__} reads more than text, and prompts are for text models; attach to its text model"
        )
    return found


def name_of(model: nn.Module, embedding: nn.Module) -> str:
    """Return the name of an embedding's weight among a model's tensors."""
    holders = shared(model).items()
    return next(n for n, held in holders if any(o.module is embedding and o.attribute == "weight" for o, _ in held))


def outermost(module: nn.Module, kind: Any) -> list[nn.Module]:
    """Return the modules of a kind that are in no other of that kind."""
    if isinstance(module, kind):
        return [module]
    found = [top for child in module.children() for top in outermost(child, kind)]
    return list(dict.fromkeys(found))


def _innermost(outer: Any) -> nn.Module:
    """Return the module that embeds the text of a decoder; the heads of some models call it past their base model."""
    core: Any = outer.base_model
    for _ in range(2):
        inner = core.get_decoder() if hasattr(core, "get_decoder") else core
        if not isinstance(inner, nn.Module) or "inputs_embeds" not in inspect.signature(inner.forward).parameters:
            break
        core = inner
    return core


def _sees_both_sides(config: Any) -> bool:
    """Tell whether a model's tokens attend to those after them."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if getattr(config, "is_decoder", False):
        return False
    return config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or _has_cls(config)


def _has_cls(config: Any) -> bool:
    """Tell whether texts begin with a token that stands for all of them, as where masked tokens are predicted."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and config.model_type not in ("t5", "mt5")


def _position_table(core: nn.Module, embedding: nn.Module) -> nn.Embedding | None:
    """Return the table of learned positions."""
    for name, module in core.named_modules():
        if isinstance(module, nn.Embedding) and module is not embedding and name.rpartition(".")[2] in _POSITIONS:
            return module
    return None
