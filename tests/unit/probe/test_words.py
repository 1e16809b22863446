"""Words, lexicons, co-occurrence, the null and projections, each against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dtheta.errors import ConfigError
from dtheta.probe.cooccurrence import Cooccurrence
from dtheta.probe.decoder import open_decoder
from dtheta.probe.lexicon import distinct_words, lexicons, token_weights
from dtheta.probe.null import null_scan, p_values, shuffled
from dtheta.probe.projection import projections
from dtheta.probe.scan import LayerScan, Reader
from dtheta.probe.words import token_words, words
from tests.unit.probe.decoders import N, V, llama
from tests.unit.probe.planted import VOCABULARY, Words


def test_words_are_runs_of_letters_that_name_something() -> None:
    assert words("The Louvre, in PARIS: 2 museums; a café of it.") == ["louvre", "paris", "museums", "café"]


def test_tokens_stand_for_words_or_for_none() -> None:
    class Odd(Words):
        def batch_decode(self, rows: object, skip_special_tokens: bool = False) -> list[str]:
            return [" France", "FRANCE", "the", "x9", "ab", "�"] + [""] * (len(self) - 6)

    assert token_words(Odd(), len(VOCABULARY) + 2)[:6] == ["france", "france", "", "", "", ""]
    assert len(token_words(Odd(), len(VOCABULARY) + 2)) == len(VOCABULARY) + 2
    with pytest.raises(ConfigError, match="do not belong together"):
        token_words(Odd(), 10)


def npmi(texts: list[list[str]], a: str, b: str) -> float:
    """The definition, counting windows one by one."""
    n = len(texts)
    p = sum(a in t for t in texts) / n, sum(b in t for t in texts) / n
    both = sum(a in t and b in t for t in texts) / n
    if both in (0.0, 1.0):
        return both
    return max(0.0, min(1.0, math.log(both / (p[0] * p[1])) / -math.log(both)))


def test_npmi_is_that_of_all_pairs() -> None:
    draws, names = np.random.default_rng(0), ["paris", "france", "louvre", "tokyo", "japan"]
    windows = [[name for name in names if draws.random() < 0.4] + ["filler"] for _ in range(60)]
    found = Cooccurrence([" ".join(window) for window in windows], window=8)
    assert found.windows == 60 and "paris" in found and "rome" not in found
    for chosen in (names, names[:2], ["paris", "filler"]):
        pairs = [(a, b) for i, a in enumerate(chosen) for b in chosen[i + 1 :]]
        assert math.isclose(found.npmi(chosen), sum(npmi(windows, a, b) for a, b in pairs) / len(pairs), rel_tol=1e-9)
    assert found.npmi(["paris", "rome"]) == 0.0  # never seen
    assert found.npmi(["paris", "paris", ""]) == 0.0  # one word
    assert math.isclose(found.npmi(["paris", "france", "rome"]), found.npmi(["paris", "france"]) / 3)


def test_windows_do_not_reach_over_texts_and_hold_so_many_words() -> None:
    found = Cooccurrence(["paris france tokyo japan", "paris rome"], window=2)
    assert found.windows == 3
    assert found.npmi(["paris", "france"]) > 0 == found.npmi(["france", "tokyo"])
    with pytest.raises(ConfigError, match="1 windows of 32 words"):
        Cooccurrence(["paris"])


def test_only_words_that_were_asked_for_are_kept() -> None:
    found = Cooccurrence(["paris france", "tokyo japan"], vocabulary={"paris", "tokyo"})
    assert "paris" in found and "france" not in found and found.windows == 2


def test_a_lexicon_weighs_what_is_said_of_one_and_not_of_others() -> None:
    found = lexicons({"france": ["paris france city", "france wine city"], "japan": ["tokyo japan city"]})
    assert list(found["france"])[:3] == ["france", "paris", "wine"] and found["france"]["france"] == 1.0
    assert {"tokyo", "japan"} <= set(found["japan"]) and found["japan"].get("city", 0.0) < found["japan"]["tokyo"]
    assert len(lexicons({"a": ["alpha beta gamma"], "b": ["delta"]}, size=2)["a"]) == 2
    with pytest.raises(ConfigError, match="two or more"):
        lexicons({"a": ["alpha"]})
    with pytest.raises(ConfigError, match="'b' hold no word"):
        lexicons({"a": ["alpha"], "b": ["of the"]})


def test_a_projection_counts_each_word_once() -> None:
    of_tokens = ["paris", "paris", "rome", "", "wine"]
    words_V, kinds = distinct_words(of_tokens)
    assert words_V.tolist() == [0, 0, 1, -1, 2] and kinds == 3
    weights_CV = np.stack([token_weights({"paris": 1.0, "wine": 0.5}, of_tokens), token_weights({}, of_tokens)])
    tokens = np.array([[[0, 1, 4, 3], [2, 3, 3, 3]], [[4, 4, 4, 4], [1, 2, 0, 4]]], np.int32)  # S = 2, N = 2, K = 4
    nothing = np.zeros((2, 2, 4), np.float32)
    found = projections(LayerScan(0, tokens, nothing, nothing[0, :, 0], nothing[0, :, 0]), weights_CV, words_V, best=4)
    assert found[0].tolist() == [[1.5 / 4, 0.0], [0.5 / 4, 1.5 / 4]]
    assert not found[1].any()


def test_the_same_words_in_another_order_project_as_much() -> None:
    of_tokens = [f"word{chr(97 + i)}" for i in range(20)]
    weights_CV = np.linspace(0.1, 0.9, 20, dtype=np.float32)[None] ** 3
    draws = np.random.default_rng(0)
    tokens = np.stack([draws.permutation(20) for _ in range(100)]).reshape(2, 50, 20).astype(np.int32)
    nothing = np.zeros((2, 50, 20), np.float32)
    layer = LayerScan(0, tokens, nothing, nothing[0, :, 0], nothing[0, :, 0])
    assert len(np.unique(projections(layer, weights_CV, distinct_words(of_tokens)[0], best=20))) == 1


def test_the_null_has_the_features_of_value_vectors_and_nothing_else() -> None:
    decoder = open_decoder(llama())
    values = decoder.values(1)
    drawn = shuffled(values, 300, seed=0, index=1)
    for d in range(values.shape[1]):
        assert set(drawn[:, d].tolist()) <= set(values[:, d].tolist())
    rows = {tuple(row) for row in values.tolist()}
    assert not any(tuple(row) in rows for row in drawn.tolist())
    assert torch.equal(drawn, shuffled(values, 300, seed=0, index=1))
    found = null_scan(Reader(decoder, "folded", 5), 10)
    assert [layer.tokens_SNK.shape for layer in found] == [(2, 4, 5)] * 3
    assert all(layer.tokens_SNK.max() < V for layer in found) and N == 24


def test_p_values_are_never_zero() -> None:
    null = np.array([0.1, 0.2, 0.2, 0.4])
    assert np.allclose(p_values(np.array([0.5, 0.4, 0.2, 0.0]), null), [1 / 5, 2 / 5, 4 / 5, 1.0])
