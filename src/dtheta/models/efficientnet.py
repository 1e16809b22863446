"""EfficientNet-Lite0: a convolutional network from an image to one pooled vector of 1280 features.

    stem     3x3 convolution, stride 2, 32 channels
    block    expand (1x1) -> depthwise (k x k, stride s) -> project (1x1); plus its input where the shapes agree
    head     1x1 convolution to 1280 channels, then the mean over all positions

A batch norm follows every convolution and ReLU6 all but the projections; Lite leaves out squeeze-and-excitation and
keeps stem and head as they are at every width. Padding is TensorFlow's "same", which puts the odd pixel of a stride of
2 at the right and below. Batch norms always use their stored statistics, in training as well: these belong to the base.

Sources: Tan and Le 2019 (arXiv 1905.11946), table 1; Sandler et al. 2018 (arXiv 1801.04381) for the block; TensorFlow's
announcement of EfficientNet-Lite for what Lite changes. Shape legend: B images, C channels, H and W pixels, E features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 1280  # E

_STEM = 32
_EPS = 1e-3  # TensorFlow's, not PyTorch's 1e-5
# expansion, kernel, stride of the first block, channels, blocks
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class FrozenBatchNorm(nn.Module):
    """Batch norm by stored mean and variance; weight and bias are parameters, the statistics never change."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        """Build for ``channels`` channels, as the identity up to eps."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the images normalized channel by channel."""
        return F.batch_norm(x_BCHW, self.running_mean, self.running_var, self.weight, self.bias, eps=_EPS)


class Block(nn.Module):
    """Inverted residual block with a depthwise convolution; parameters as in the published state dict."""

    def __init__(self, inner: int, expansion: int, kernel: int, stride: int, outer: int) -> None:
        """Build from ``inner`` to ``outer`` channels, ``expansion`` times as many in between."""
        super().__init__()
        wide = inner * expansion
        self.residual = stride == 1 and inner == outer
        if expansion > 1:
            self.expand_conv = nn.Conv2d(inner, wide, 1, bias=False)
            self.bn0 = FrozenBatchNorm(wide)
        self.depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self.bn1 = FrozenBatchNorm(wide)
        self.project_conv = nn.Conv2d(wide, outer, 1, bias=False)
        self.bn2 = FrozenBatchNorm(outer)
        self.expands = expansion > 1

    def forward(self, x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return the block's output, ``ceil(H / stride)`` pixels high."""
        y_BCHW = F.relu6(self.bn0(self.expand_conv(x_BCHW))) if self.expands else x_BCHW
        y_BCHW = F.relu6(self.bn1(self.depthwise_conv(pad_same(y_BCHW, self.depthwise_conv))))
        y_BCHW = self.bn2(self.project_conv(y_BCHW))
        return x_BCHW + y_BCHW if self.residual else y_BCHW


class EfficientNetLite0(nn.Module):
    """The feature extractor, without the classifier on top: 3.4 M parameters, any image size."""

    def __init__(self) -> None:
        """Build the network with PyTorch's random weights."""
        super().__init__()
        self.conv_stem = nn.Conv2d(3, _STEM, 3, stride=2, bias=False)
        self.bn0 = FrozenBatchNorm(_STEM)
        self.blocks = nn.ModuleList(_blocks())
        self.conv_head = nn.Conv2d(_STAGES[-1][3], FEATURES, 1, bias=False)
        self.bn1 = FrozenBatchNorm(FEATURES)

    def forward(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1280"]:
        """Return the pooled features of images scaled as ``(byte - 127) / 128``; made for 224 x 224, any size runs."""
        x_BCHW = pixel_values.contiguous(memory_format=torch.channels_last)  # nearly twice as fast on CPUs
        x_BCHW = F.relu6(self.bn0(self.conv_stem(pad_same(x_BCHW, self.conv_stem))))
        for block in self.blocks:
            x_BCHW = block(x_BCHW)
        return F.relu6(self.bn1(self.conv_head(x_BCHW))).mean((2, 3))


def _blocks() -> list[Block]:
    blocks, inner = [], _STEM
    for expansion, kernel, first_stride, outer, depth in _STAGES:
        for index in range(depth):
            blocks.append(Block(inner, expansion, kernel, first_stride if index == 0 else 1, outer))
            inner = outer
    return blocks


def pad_same(x_BCHW: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return the images padded with zeros so that ``conv`` gives ``ceil(size / stride)`` pixels, as TensorFlow pads."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    edges = []
    for size in (x_BCHW.shape[3], x_BCHW.shape[2]):  # F.pad counts from the last dimension
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        edges += [total // 2, total - total // 2]
    return F.pad(x_BCHW, edges)


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the published EfficientNet-Lite0 state dict under our names, without the classifier (``_fc``).

    There every attribute starts with an underscore, and norms count the batches they have seen; nothing else differs.
    """
    renamed = {re.sub(r"(^|\.)_", r"\1", name): tensor for name, tensor in state.items()}
    return {n: t for n, t in renamed.items() if not n.startswith("fc.") and not n.endswith("num_batches_tracked")}
