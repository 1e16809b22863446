"""EfficientNet-Lite0 against a plain forward pass from its state dict, and its statistics, which nothing may change."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from dtheta.models.efficientnet import (
    EfficientNetLite0,
    FrozenBatchNorm,
    from_published,
    pad_same,
)

# expansion, kernel, stride, channels of all sixteen blocks, written out
BLOCKS = [
    (1, 3, 1, 16), (6, 3, 2, 24), (6, 3, 1, 24), (6, 5, 2, 40), (6, 5, 1, 40), (6, 3, 2, 80), (6, 3, 1, 80),
    (6, 3, 1, 80), (6, 5, 1, 112), (6, 5, 1, 112), (6, 5, 1, 112), (6, 5, 2, 192), (6, 5, 1, 192), (6, 5, 1, 192),
    (6, 5, 1, 192), (6, 3, 1, 320),
]  # fmt: skip


@pytest.fixture
def network():
    """A network whose norms do something."""
    generator = torch.Generator().manual_seed(0)
    network = EfficientNetLite0()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, FrozenBatchNorm):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(generator=generator)
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
        for name, parameter in network.named_parameters():
            if parameter.ndim == 4:
                fan = parameter[0].numel()
                parameter.normal_(0, (1 / fan) ** 0.5, generator=generator)
                assert name.endswith(".weight")
    return network


def _conv(x, weight, stride, groups=1):
    """Zeros around, more at the end: as many output pixels as the input has, divided by the stride, rounded up."""
    kernel = weight.shape[-1]
    pads = []
    for size in (x.shape[3], x.shape[2]):
        needed = max(0, (math.ceil(size / stride) - 1) * stride + kernel - size)
        pads += [math.floor(needed / 2), math.ceil(needed / 2)]
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)


def _norm(state, name, x):
    mean, var, weight, bias = (
        state[f"{name}.{part}"].reshape(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-3).sqrt() * weight + bias


def _plain(state, x):
    x = _norm(state, "bn0", _conv(x, state["conv_stem.weight"], 2)).clamp(0, 6)
    for index, (expansion, _, stride, outer) in enumerate(BLOCKS):
        at, before = f"blocks.{index}", x
        if expansion > 1:
            x = _norm(state, f"{at}.bn0", _conv(x, state[f"{at}.expand_conv.weight"], 1)).clamp(0, 6)
        depthwise = state[f"{at}.depthwise_conv.weight"]
        x = _norm(state, f"{at}.bn1", _conv(x, depthwise, stride, groups=len(depthwise))).clamp(0, 6)
        x = _norm(state, f"{at}.bn2", _conv(x, state[f"{at}.project_conv.weight"], 1))
        x = x + before if before.shape == x.shape and stride == 1 and before.shape[1] == outer else x
    x = _norm(state, "bn1", _conv(x, state["conv_head.weight"], 1)).clamp(0, 6)
    return x.flatten(2).mean(2)


@pytest.mark.parametrize("size", [(32, 32), (45, 33)])
def test_features_are_those_of_the_plain_forward_pass(network, size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, plain = network(x), _plain(network.state_dict(), x)
    assert found.shape == (2, 1280)
    assert found.std() > 0.01
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)


def test_architecture(network):
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_371_008
    shapes = [tuple(block.depthwise_conv.weight.shape) for block in network.blocks]
    outs = [block.project_conv.out_channels for block in network.blocks]
    inner = [32, *outs[:-1]]
    assert outs == [outer for *_, outer in BLOCKS]
    assert shapes == [(e * c, 1, k, k) for (e, k, _, _), c in zip(BLOCKS, inner, strict=True)]


@pytest.mark.parametrize(("size", "kernel", "stride"), [(7, 3, 2), (8, 3, 2), (8, 5, 2), (9, 5, 1), (1, 5, 2)])
def test_padding_gives_the_size_divided_by_the_stride(size, kernel, stride):
    conv = torch.nn.Conv2d(1, 1, kernel, stride, bias=False)
    torch.nn.init.ones_(conv.weight)
    image = torch.arange(1.0, size * size + 1).reshape(1, 1, size, size)
    padded = pad_same(image, conv)
    assert conv(padded).shape[2:] == (math.ceil(size / stride),) * 2
    nonzero = padded[0, 0].nonzero()
    before, after = nonzero.min(0).values, torch.tensor(padded.shape[2:]) - 1 - nonzero.max(0).values
    assert ((after - before >= 0) & (after - before <= 1)).all()  # the odd one at the right and below


def test_training_changes_no_statistics_but_norms_learn(network):
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        evaluated = network.eval()(x)
    trained = network.train()(x)
    torch.testing.assert_close(trained, evaluated)
    trained.sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_published_names():
    published = {
        "_conv_stem.weight": torch.ones(1),
        "_blocks.3._bn0.running_var": torch.ones(2),
        "_blocks.3._bn0.num_batches_tracked": torch.tensor(9),
        "_fc.weight": torch.ones(3),
    }
    assert set(from_published(published)) == {"conv_stem.weight", "blocks.3.bn0.running_var"}
