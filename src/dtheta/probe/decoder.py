"""What probing reads of a decoder: the MLP value vectors of each layer, the unembedding, the gain of the final norm.

    model       any transformers-like decoder in memory
    checkpoint  a folder of safetensors, of which one tensor is in memory at a time

Both are read by the names of their tensors. A value vector is a column of the down-projection where the layer is a
Linear (Llama, Qwen, Gemma, OLMo, NeoX, OPT), a row where it is a Conv1D (GPT-2): the side that is as long as a row of
the unembedding. A bias is no value vector.

The final norm stands between the residual stream and the unembedding E. Its direction-dependent part is linear:

    RMSNorm      logits of v ~ E diag(g) v
    LayerNorm    logits of v ~ E diag(g) (v - mean(v))

"folded" reads through that matrix, "raw" through E alone, as the code of ConceptVectors does (arXiv 2406.11614). The
norm's bias adds the same to every vector and is left out; a soft cap of the logits (Gemma 2) changes no order. Where a
norm stands between the down-projection and the stream as well (Gemma 2 and 3, OLMo 2, see ``norms``), "folded" takes in
its gain p: E diag(g) diag(p) v.

Shape legend: V tokens, D features of the stream, N neurons.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dtheta.core.checkpoint_folder import configuration, ties_embeddings
from dtheta.core.checkpoints import Checkpoint, open_checkpoint
from dtheta.core.tensors import base_tensors, canonical_names
from dtheta.errors import ConfigError, NonFinite, UnsupportedLayer
from dtheta.probe.norms import final_norm, norm_behind

Norm = Literal["folded", "raw"]

_HOST = torch.device("cpu")
_DOWN = re.compile(
    r"(?P<stack>(?:.*\.)?(?:layers|h|blocks))\.(?P<layer>\d+)\."
    r"(?:mlp\.(?:down_proj|c_proj|dense_4h_to_h|fc_out|fc2)|ff_out|fc2)\.weight"
)
_EXPERTS = re.compile(r"\.experts?\b|block_sparse_moe|shared_expert|\.router\.|\.moe\.")
_HEADS = ("lm_head.weight", "embed_out.weight", "transformer.ff_out.weight", "output_projection.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_ROWS = ("gpt2", "imagegpt", "openai-gpt")  # where N = D says nothing: these store Conv1D


@dataclass(frozen=True)
class ValueMatrix:
    """The tensor that holds the value vectors of one layer.

    Attributes:
        layer: Layer, from 0.
        name: Name of the tensor.
        rows: Whether its rows are the value vectors; its columns else.
        count: N, how many there are.
        gain: Name of the weight of the norm between them and the stream, or None where there is none.
    """

    layer: int
    name: str
    rows: bool
    count: int
    gain: str | None = None


@dataclass(frozen=True, eq=False)
class Decoder:
    """A decoder as probing reads it; made by ``open_decoder``. Nothing is copied and nothing written.

    Attributes:
        tensors: Tensors by name, of a model in memory or of a checkpoint on disk.
        matrices: Where the value vectors are, by layer.
        unembedding: Name of E (V, D).
        tied: Whether E is the input embedding as well.
        gain: Name of the final norm's weight, or None where it has none.
        offset: What is added to that weight, and to those behind the MLPs: 1 in Gemma, else 0.
        centered: Whether the final norm takes the mean away.
        device: Where values and readout are returned; the host by default, wherever the model is.
    """

    tensors: Mapping[str, Tensor]
    matrices: Mapping[int, ValueMatrix]
    unembedding: str
    tied: bool
    gain: str | None
    offset: float
    centered: bool
    device: torch.device = _HOST

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have value vectors, in order."""
        return tuple(self.matrices)

    def values(self, layer: int) -> Tensor:
        """Return the value vectors of a layer, float32 (N, D); a copy, or a view that must not be written to.

        Raises:
            ConfigError: If there is no such layer.
            NonFinite: If they hold NaN or infinity.
        """
        if layer not in self.matrices:
            raise ConfigError(f"layer {layer}: the model has MLP layers {self.layers[0]} to {self.layers[-1]}")
        matrix = self.matrices[layer]
        stored = _readable(self.tensors[matrix.name], matrix.name, self.device)
        return stored if matrix.rows else stored.T

    def written(self, layer: int, values_ND: Tensor, norm: Norm = "folded") -> Tensor:
        """Return directions of a layer's value vectors as its stream gets them, float32 (..., D).

        With "folded" the gain of a norm between the down-projection and the stream is multiplied in, where there is
        one; else they are returned as they are.

        Raises:
            NonFinite: If that gain holds NaN or infinity.
        """
        gain = self.matrices[layer].gain
        if norm == "raw" or gain is None:
            return values_ND
        return values_ND * (_readable(self.tensors[gain], gain, self.device) + self.offset)

    def value(self, layer: int, column: int) -> Tensor:
        """Return one value vector (D,), float32, or float64 where it is stored so; a copy.

        Raises:
            NonFinite: If it holds NaN or infinity.
        """
        matrix = self.matrices[layer]
        stored = self.tensors[matrix.name].detach()
        v_D = stored[column] if matrix.rows else stored[:, column]
        checked = _readable(v_D, matrix.name, self.device)  # a copy of a few numbers, not of the matrix
        return (v_D.to(self.device) if v_D.dtype == torch.float64 else checked).clone()

    def readout(self, norm: Norm = "folded") -> Tensor:
        """Return the matrix that values are read through, float32 (V, D): E, or E with the final norm folded in.

        Raises:
            ConfigError: For another ``norm``.
            NonFinite: If a tensor holds NaN or infinity.
        """
        if norm not in get_args(Norm):
            raise ConfigError(f"norm={norm!r}: expected one of {', '.join(map(repr, get_args(Norm)))}")
        stored = self.tensors[self.unembedding]
        unembedding = _readable(stored, self.unembedding, self.device)
        if norm == "raw" or (self.gain is None and not self.centered):
            return unembedding
        if unembedding.data_ptr() == stored.data_ptr():
            unembedding = unembedding.clone()  # else it is a copy already, which may be the largest thing in memory
        if self.gain is not None:
            unembedding *= _readable(self.tensors[self.gain], self.gain, self.device) + self.offset
        if self.centered:
            unembedding -= unembedding.mean(dim=1, keepdim=True)
        return unembedding


def open_decoder(source: nn.Module | str | Path) -> Decoder:
    """Read how a decoder is laid out.

    Args:
        source: A model in memory, or the folder (or file, or index) of a safetensors checkpoint, which is then read one
            tensor at a time.

    Raises:
        UnsupportedLayer: For a mixture of experts, a model without an unembedding, or one whose MLPs are not found.
        ConfigError, FormatError: If there is no readable checkpoint at the path.
    """
    if isinstance(source, nn.Module):
        return _decoder(_of_model(source))
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(f"a {type(source).__name__} was given; expected a model, or the folder of a checkpoint")
    checkpoint = open_checkpoint(source)
    return _decoder(_of_checkpoint(checkpoint))


@dataclass(frozen=True)
class _Source:
    """Tensors, their shapes and what the configuration says."""

    tensors: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    config: Any
    head: str | None
    what: str

    def says(self, key: str, default: Any = None) -> Any:
        return self.config.get(key, default) if isinstance(self.config, dict) else getattr(self.config, key, default)

    def ties(self) -> bool:
        return ties_embeddings({key: self.says(key) for key in ("tie_word_embeddings", "model_type")})


def _of_model(model: nn.Module) -> _Source:
    tensors, head = base_tensors(model), None
    output = getattr(model, "get_output_embeddings", lambda: None)()
    if output is not None:
        path = next(path for path, module in model.named_modules() if module is output)
        head = canonical_names(model)[f"{path}.weight"]
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    config = getattr(model, "config", {})
    return _Source(tensors, shapes, getattr(config, "text_config", None) or config, head, type(model).__name__)


def _of_checkpoint(checkpoint: Checkpoint) -> _Source:
    config = configuration(checkpoint)
    config |= config.get("text_config") or {}
    return _Source(checkpoint, {n: checkpoint.info(n).shape for n in checkpoint}, config, None, str(checkpoint.path))


def _decoder(source: _Source) -> Decoder:
    if experts := next((name for name in source.shapes if _EXPERTS.search(name)), None):
        raise UnsupportedLayer(
            f"{source.what} is a mixture of experts ({experts}): which of its value vectors act depends on the "
            "routing, so a scan would not say what the model holds; probe a dense model"
        )
    unembedding, tied = _unembedding(source)
    stack, matrices = _matrices(source, unembedding)
    kind = str(source.says("model_type", ""))
    gain, offset, centered = final_norm(source.shapes, stack, source.shapes[unembedding][1], kind)
    return Decoder(source.tensors, matrices, unembedding, tied, gain, offset, centered)


def _unembedding(source: _Source) -> tuple[str, bool]:
    """Return the name of E and whether it is tied to the input embedding."""
    embedding = next((name for end in _EMBEDDINGS for name in source.shapes if name.endswith(end)), None)
    head = source.head or next((name for end in _HEADS for name in source.shapes if name.endswith(end)), None)
    if head is not None:
        return head, head == embedding
    if embedding is not None and source.ties():
        return embedding, True
    if embedding is not None and not source.config:
        raise UnsupportedLayer(
            f"{source.what} has {embedding} and no {_HEADS[0]}, and no config.json that says whether the two are one; "
            "put the model's own beside it"
        )
    raise UnsupportedLayer(
        f"{source.what} has no unembedding: no {_HEADS[0]} and no tied input embedding. Load the model with its "
        "language modeling head (its architecture ends in ForCausalLM)"
    )


def _matrices(source: _Source, unembedding: str) -> tuple[str, dict[int, ValueMatrix]]:
    """Return the name of the stack of layers, and where the value vectors of each are."""
    features, found, stacks = source.shapes[unembedding][1], {}, set()
    for name, shape in source.shapes.items():
        if (match := _DOWN.fullmatch(name)) and len(shape) == 2 and features in shape:
            square = shape[0] == shape[1]
            rows = str(source.says("model_type")) in _ROWS if square else shape[1] == features
            layer = int(match["layer"])
            stacks.add(match["stack"])
            gain = norm_behind(source.shapes, f"{match['stack']}.{layer}", features)
            found[layer] = ValueMatrix(layer, name, rows, shape[0] if rows else shape[1], gain)
    if not found or len(stacks) > 1:
        have = f"two stacks of layers ({', '.join(sorted(stacks))})" if found else "no MLP down-projections"
        raise UnsupportedLayer(
            f"{source.what} has {have} of {features} features; probing reads decoders laid out as Llama, GPT-2, OLMo, "
            "Qwen, Gemma, NeoX or OPT, with plain (not packed or quantized) weights"
        )
    return stacks.pop(), dict(sorted(found.items()))


def _readable(tensor: Tensor, name: str, device: torch.device) -> Tensor:
    """Return a tensor in float32 on a device, checked."""
    if not tensor.is_floating_point():
        raise UnsupportedLayer(f"{name} is stored as {tensor.dtype}, packed or quantized; probing reads plain weights")
    values = tensor.detach().to(device, torch.float32)
    if values.numel() and not all(bool(torch.isfinite(end)) for end in torch.aminmax(values)):  # makes no mask
        raise NonFinite(f"{name} holds NaN or infinity; the checkpoint is damaged or its training had diverged")
    return values
