"""scan: every MLP value vector of a decoder read through the unembedding, exactly, in bounded memory.

    z_lj = E v_lj        for all layers l and neurons j;  of each z the K largest and K smallest entries are kept

One layer's vectors are in memory at a time, and of their products a block of rows, so that the time is that of the bare
matrix products and the memory that of E. E may be restricted to the tokens that occur in a corpus, which saves in
proportion. Means and standard deviations of z over the tokens come in closed form, from the mean and the Gram matrix of
the rows of E:

    mean z = v . mean(E),     var z = v' (E'E / V) v - (mean z)^2

On an accelerator torch chooses the K largest, which leaves open in which order equal entries come; on the host the
lowest token comes first. Products are float32, unless torch is told that they may be coarser there
(``torch.set_float32_matmul_precision``).

Source: ConceptVectors (arXiv 2406.11614), section 3; it reads +v with K = 200, here the other side is read in the same
pass. Shape legend: L layers, N neurons, S = 2 sides (+v, -v), K tokens kept, V tokens, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dtheta.core.arguments import number, whole
from dtheta.core.compiled import loops
from dtheta.errors import ConfigError
from dtheta.probe.decoder import Decoder, Norm, open_decoder
from dtheta.probe.value_vector import ValueVector

_BLOCK = 16 * 2**20  # entries of the products that are in memory at a time: 64 MiB
_DEVICE_BLOCK = 256 * 2**20  # the same on an accelerator: 1 GiB
PEAK = 10  # tokens whose mean makes the peak


@dataclass(frozen=True, eq=False)
class LayerScan:
    """What the value vectors of one layer promote and suppress.

    Attributes:
        layer: Layer, from 0.
        tokens_SNK: Ids of the most promoted tokens, int32; side 0 of +v, side 1 of -v.
        logits_SNK: Their logits on that side, float32, falling.
        mean_N: Mean of z over all tokens read, float32.
        std_N: Standard deviation of z.
    """

    layer: int
    tokens_SNK: NDArray[np.int32]
    logits_SNK: NDArray[np.float32]
    mean_N: NDArray[np.float32]
    std_N: NDArray[np.float32]

    def peak_SN(self, count: int = PEAK) -> NDArray[np.float32]:
        """Return how far the best tokens stand out: the mean of their logits as a z-score within the vector."""
        side_S1 = np.array([[1.0], [-1.0]], np.float32)
        best_SN = self.logits_SNK[:, :, :count].mean(axis=2)
        return (best_SN - side_S1 * self.mean_N) / np.maximum(self.std_N, np.finfo(np.float32).tiny)

    def strong(self, quantile: float) -> Iterator[tuple[int, int, float]]:
        """Yield (side, column, peak) of the vectors whose mean logit is not below that quantile of the layer's."""
        mean_SN, peak_SN = self.logits_SNK.mean(axis=2), self.peak_SN()
        for side, column in zip(*np.nonzero(mean_SN >= np.quantile(mean_SN, quantile)), strict=True):
            yield int(side), int(column), float(peak_SN[side, column])


@dataclass(frozen=True, eq=False)
class Scan:
    """The value vectors of a decoder through its unembedding; made by ``scan``.

    Attributes:
        layers: One entry for each layer that was read.
        top: K, tokens kept on each side.
        norm: Whether the final norm was folded in.
        vocabulary: How many tokens were read.
    """

    layers: tuple[LayerScan, ...]
    top: int
    norm: Norm
    vocabulary: int

    def __len__(self) -> int:
        return sum(layer.tokens_SNK.shape[1] for layer in self.layers)

    def tokens(self, vector: ValueVector) -> NDArray[np.int32]:
        """Return the ids of the tokens that one side of a vector promotes most, (K,).

        Raises:
            ConfigError: If its layer or column was not scanned.
        """
        layer = self._layer(vector)
        return layer.tokens_SNK[0 if vector.sign > 0 else 1, vector.column]

    def peak(self, vector: ValueVector) -> float:
        """Return how far its best ten tokens stand out, as a z-score within the vector."""
        return float(self._layer(vector).peak_SN()[0 if vector.sign > 0 else 1, vector.column])

    def ranked(self, count: int, low: float = 0.0, high: float = np.inf, *, quantile: float = 0.0) -> list[ValueVector]:
        """Return the vectors with the highest peaks between ``low`` and ``high``, the highest first.

        In SmolLM2 peaks above 12 are function words and spellings of one word, and those near the median noise.

        Args:
            count: How many.
            low: Least peak.
            high: Greatest peak.
            quantile: Share of each layer's vectors, by the mean logit of the tokens kept, that are left out as weak;
                ConceptVectors (arXiv 2406.11614) leaves out about 0.3.

        Raises:
            ConfigError: For a count below 1, or a quantile outside [0, 1).
        """
        if not 0.0 <= number(quantile, "quantile") < 1.0:
            raise ConfigError(f"quantile is {quantile}; expected a share from 0 to below 1")
        found = [
            (float(-peak), ValueVector(layer.layer, int(column), 1 - 2 * side))
            for layer in self.layers
            for side, column, peak in layer.strong(quantile)
            if low <= peak <= high
        ]
        return [vector for _, vector in sorted(found)[: whole(count, "count", least=1)]]

    def _layer(self, vector: ValueVector) -> LayerScan:
        for layer in self.layers:
            if layer.layer == vector.layer:
                if not 0 <= vector.column < layer.tokens_SNK.shape[1]:
                    raise ConfigError(
                        f"{vector}: layer {vector.layer} has columns 0 to {layer.tokens_SNK.shape[1] - 1}"
                    )
                return layer
        raise ConfigError(f"{vector}: layers {[layer.layer for layer in self.layers]} were scanned")


def scan(
    model: nn.Module | Decoder | str | Path,
    *,
    top: int = 50,
    layers: Sequence[int] | None = None,
    norm: Norm = "folded",
    tokens: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Read all value vectors of a decoder through its unembedding.

    Args:
        model: A decoder in memory, or the folder of a safetensors checkpoint, of which one layer is read at a time.
        top: K, tokens kept on each side.
        layers: Which layers; all by default. The paper leaves out the last ones; a small model keeps most of its clean
            vectors there.
        norm: "folded": through the final norm, as the network reads its stream; "raw": the unembedding alone.
        tokens: Ids of the tokens to read, such as those of a corpus; all by default.
        device: Where products are taken, such as "cuda"; the host by default.
        progress: Called with (layers done, layers in all).

    Returns:
        The ``Scan``, in host memory. It takes about 16 K bytes a vector; working memory is E in float32, one layer, and
        64 MiB of products (1 GiB on an accelerator, and what torch takes to choose among them).

    Raises:
        UnsupportedLayer: For a mixture of experts, a model without an unembedding, or one whose MLPs are not found.
        ConfigError: For layers or tokens that the model does not have, or a ``top`` beyond the tokens read.
        NonFinite: If a weight is NaN or infinite.
    """
    decoder = model if isinstance(model, Decoder) else open_decoder(model)
    if device is not None:
        decoder = replace(decoder, device=torch.device(device))
    chosen = decoder.layers if layers is None else tuple(dict.fromkeys(layers))
    reader = Reader(decoder, norm, top, tokens)
    found = []
    for done, layer in enumerate(chosen):
        found.append(reader.layer(layer, decoder.values(layer)))
        if progress is not None:
            progress(done + 1, len(chosen))
    return Scan(tuple(found), top, norm, len(reader.readout_VD))


def _read(decoder: Decoder, norm: Norm, tokens: Sequence[int] | None) -> tuple[Tensor, NDArray[np.int32] | None]:
    """Return the rows of the readout that are wanted, and their ids where they are not all."""
    readout_VD = decoder.readout(norm)
    if tokens is None:
        return readout_VD, None
    ids = np.unique(np.asarray(tokens, np.int64))
    if ids.size == 0 or ids[0] < 0 or ids[-1] >= len(readout_VD):
        found = f"{ids[0]} to {ids[-1]}" if ids.size else "none"
        raise ConfigError(
            f"tokens: ids from 0 to {len(readout_VD) - 1} are rows of the unembedding, found {found}; do the tokenizer "
            "and the model belong together?"
        )
    return readout_VD[torch.from_numpy(ids).to(readout_VD.device)], ids.astype(np.int32)


class Reader:
    """Reads directions of a decoder's layers as tokens, in buffers that are made once."""

    def __init__(self, decoder: Decoder, norm: Norm, top: int, tokens: Sequence[int] | None = None) -> None:
        self.decoder = decoder
        self.norm: Norm = norm
        readout_VD, ids_V = _read(decoder, norm, tokens)
        if whole(top, "top", least=1) > len(readout_VD):
            raise ConfigError(f"top={top}: {len(readout_VD)} tokens are read")
        self.readout_VD, self.ids_V, self.top = readout_VD, ids_V, top
        self.mean_D = readout_VD.mean(dim=0)
        self.covariance_DD = readout_VD.new_zeros(2 * (len(self.mean_D),))
        for part in readout_VD.split(4096):
            apart = part - self.mean_D
            self.covariance_DD.addmm_(apart.T, apart, alpha=1.0 / len(readout_VD))  # in place: D may be thousands
        on_host = readout_VD.device.type == "cpu"
        self.extremes = _extremes if on_host else _device_extremes
        entries = _BLOCK if on_host else _DEVICE_BLOCK
        self.products = readout_VD.new_empty(max(1, entries // len(readout_VD)), len(readout_VD))

    def layer(self, layer: int, values_ND: Tensor) -> LayerScan:
        """Read directions (N, D) of one layer, as its value vectors are stored."""
        count, values_ND = len(values_ND), self.decoder.written(layer, values_ND, self.norm)
        tokens_SNK = values_ND.new_empty((2, count, self.top), dtype=torch.int32)
        logits_SNK = values_ND.new_empty((2, count, self.top))
        for start in range(0, count, len(self.products)):
            rows = values_ND[start : start + len(self.products)]
            part = slice(start, start + len(rows))
            z = torch.mm(rows, self.readout_VD.T, out=self.products[: len(rows)])
            self.extremes(z, tokens_SNK[:, part], logits_SNK[:, part])
        variance_N = torch.einsum("nd,nd->n", values_ND @ self.covariance_DD, values_ND).clamp_min(0.0)
        moments = (values_ND @ self.mean_D, variance_N.sqrt())
        tokens, logits, mean_N, std_N = (x.cpu().numpy() for x in (tokens_SNK, logits_SNK, *moments))
        return LayerScan(layer, tokens if self.ids_V is None else self.ids_V[tokens], logits, mean_N, std_N)


def _extremes(z_RV: Tensor, tokens_SRK: Tensor, logits_SRK: Tensor) -> None:
    """Write the largest and smallest entries of each row, and where they are."""
    products, tokens = z_RV.numpy(), tokens_SRK.numpy()
    loops("extremes").extremes(products, tokens[0], tokens[1])
    for side, sign in enumerate((1.0, -1.0)):
        logits_SRK[side] = sign * torch.from_numpy(np.take_along_axis(products, tokens[side], axis=1))


def _device_extremes(z_RV: Tensor, tokens_SRK: Tensor, logits_SRK: Tensor) -> None:
    """Do what ``_extremes`` does on any device; equal entries stand in no certain order."""
    for side, sign in enumerate((1.0, -1.0)):
        found = z_RV.topk(tokens_SRK.shape[2], dim=1, largest=side == 0)
        tokens_SRK[side], logits_SRK[side] = found.indices, sign * found.values
