"""The scan against a plain product and a sort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dtheta.errors import ConfigError
from dtheta.probe import scan as module
from dtheta.probe.decoder import open_decoder
from dtheta.probe.scan import scan
from dtheta.probe.value_vector import ValueVector
from tests.unit.probe.decoders import DECODERS, N, V, llama


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("norm", ["folded", "raw"])
def test_it_is_the_product_sorted(kind: str, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 7 * V)  # several blocks a layer, the last one smaller
    model = DECODERS[kind]()
    found, decoder = scan(model, top=9, norm=norm), open_decoder(model)  # type: ignore[arg-type]
    assert len(found) == 3 * N
    for layer in found.layers:
        z = decoder.values(layer.layer) @ decoder.readout(norm).T  # type: ignore[arg-type]
        for side, sign in enumerate((1, -1)):
            best = (sign * z).topk(9)
            assert np.array_equal(layer.tokens_SNK[side], best.indices.int().numpy())
            assert np.allclose(layer.logits_SNK[side], best.values, atol=1e-5)
        assert np.allclose(layer.mean_N, z.mean(1), atol=1e-5)
        assert np.allclose(layer.std_N, z.std(1, correction=0), rtol=1e-4)
        peak = ((-z).topk(5).values.mean(1) + z.mean(1)) / z.std(1, correction=0)
        assert np.allclose(layer.peak_SN(5)[1], peak, rtol=1e-3)


def test_some_layers_and_some_tokens() -> None:
    model, ids = llama(), [3, 40, 7, 7, 12]
    found, full = scan(model, top=2, layers=[2], tokens=ids), scan(model, top=V)
    assert [layer.layer for layer in found.layers] == [2] and found.vocabulary == 4
    for column in range(N):
        vector = ValueVector(2, column, -1)
        assert list(found.tokens(vector)) == [token for token in full.tokens(vector) if token in ids][:2]


def test_ranked_is_by_peak_within_bounds() -> None:
    found = scan(llama(), top=10)
    ranked = found.ranked(10**6, 1.6, 2.0)
    peaks = [found.peak(vector) for vector in ranked]
    assert peaks == sorted(peaks, reverse=True) and all(1.6 <= peak <= 2.0 for peak in peaks)
    every = {(l, c, s) for l in range(3) for c in range(N) for s in (1, -1)}
    assert set(ranked) == {v for v in every if 1.6 <= found.peak(ValueVector(*v)) <= 2.0}
    assert found.ranked(3, 1.6, 2.0) == ranked[:3]


def test_weak_vectors_of_each_layer_can_be_left_out() -> None:
    found = scan(llama(), top=10)
    strong = found.ranked(10**6, quantile=0.3)
    means = {
        (layer.layer, c, 1 - 2 * s): layer.logits_SNK[s, c].mean()
        for layer in found.layers
        for s in (0, 1)
        for c in range(N)
    }
    for layer in range(3):
        mine = [mean for (l, _, _), mean in means.items() if l == layer]
        kept = {vector for vector in strong if vector.layer == layer}
        assert kept == {v for v, mean in means.items() if v[0] == layer and mean >= np.quantile(mine, 0.3)}
    assert len(strong) == 3 * 33  # of 48 each
    assert set(strong) < set(found.ranked(10**6))
    for quantile in (-0.1, 1.0, "half"):
        with pytest.raises(ConfigError, match="quantile"):
            found.ranked(3, quantile=quantile)  # type: ignore[arg-type]


def test_a_folder_is_scanned_as_the_model_is(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    for a, b in zip(scan(model, top=5).layers, scan(tmp_path, top=5).layers, strict=True):
        assert np.array_equal(a.tokens_SNK, b.tokens_SNK) and np.array_equal(a.logits_SNK, b.logits_SNK)


def test_half_precision_is_read_in_float32() -> None:
    model = llama().to(torch.bfloat16)
    z = open_decoder(model).values(0) @ open_decoder(model).readout().T
    assert z.dtype == torch.float32
    assert np.array_equal(scan(model, top=4, layers=[0]).layers[0].tokens_SNK[0], z.topk(4).indices.int().numpy())


def test_bad_input() -> None:
    model = llama()
    with pytest.raises(ConfigError, match="top=51: 50 tokens are read"):
        scan(model, top=51)
    with pytest.raises(ConfigError, match=r"ids from 0 to 49 .*found 3 to 50.*belong together"):
        scan(model, top=1, tokens=[3, 50])
    with pytest.raises(ConfigError, match="layer 3"):
        scan(model, layers=[3])
    found = scan(model, layers=[1], top=3)
    with pytest.raises(ConfigError, match=r"0/1/\+: layers \[1\] were scanned"):
        found.tokens(ValueVector(0, 1))
    with pytest.raises(ConfigError, match="columns 0 to 23"):
        found.peak(ValueVector(1, 24))


@pytest.mark.parametrize("text", ["29/864/-", "0/3/+", "12/1"])
def test_an_address_reads_back(text: str) -> None:
    vector = ValueVector.parse(text)
    assert ValueVector.parse(str(vector)) == vector
    assert str(vector).startswith(text)


@pytest.mark.parametrize("text", ["", "29", "29/-", "a/1/+", "1/2/*", "-1/2/+"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="layer/column/side"):
        ValueVector.parse(text)


def test_what_is_no_text_is_no_address() -> None:
    with pytest.raises(ConfigError, match="layer/column/side"):
        ValueVector.parse(3)  # type: ignore[arg-type]


def test_a_layer_counts_once_and_some_vectors_are_ranked() -> None:
    model = llama()
    found = scan(model, top=3, layers=[1, 1])
    assert len(found) == len(scan(model, top=3, layers=[1]))
    with pytest.raises(ConfigError, match="count is -1"):
        found.ranked(-1)


@pytest.mark.parametrize("top", [1, 9])
def test_what_runs_on_an_accelerator_gives_what_the_host_gives(top: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    expected = scan(model, top=top, tokens=range(0, V, 2))
    monkeypatch.setattr(module, "_extremes", module._device_extremes)
    monkeypatch.setattr(module, "_BLOCK", 7 * V)
    found = scan(model, top=top, tokens=range(0, V, 2), device="cpu")
    for ours, host in zip(found.layers, expected.layers, strict=True):
        for part in ("tokens_SNK", "logits_SNK", "mean_N", "std_N"):
            mine, theirs = getattr(ours, part), getattr(host, part)
            assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
            assert np.allclose(mine, theirs, rtol=1e-5, atol=1e-6)  # no two logits of a row are equal here
