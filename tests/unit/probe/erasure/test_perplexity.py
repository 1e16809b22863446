"""Perplexity against transformers' own loss, one text at a time."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.core.apply import applied
from dtheta.errors import ConfigError
from dtheta.probe.erasure.perplexity import Texts, perplexity_change
from tests.unit.probe.erasure.examined import TEXTS, ruined, subject_of
from tests.unit.probe.planted import Words, network


def plain_loss(model: torch.nn.Module, text: str) -> tuple[float, int]:
    ids = torch.tensor([Words()(text)["input_ids"]])
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1), ids.shape[1] - 1


def test_it_is_that_of_the_texts_one_by_one() -> None:
    model = network()
    texts = Texts(subject_of(model), [*TEXTS, "capital of"])
    rows = [plain_loss(model, text) for text in (*TEXTS, "capital of")]
    before = texts.losses()
    assert before.tolist() == pytest.approx([loss for loss, _ in rows], rel=1e-5)
    with applied(model, ruined(model)):
        after = texts.losses()
    found = perplexity_change(texts, before, after)
    assert (found.texts, found.tokens) == (5, sum(tokens for _, tokens in rows))
    assert found.before == pytest.approx(math.exp(sum(loss for loss, _ in rows) / found.tokens), rel=1e-5)
    assert found.ratio is not None and found.ratio.estimate == pytest.approx(found.after / found.before)
    assert found.ratio.low <= found.ratio.estimate <= found.ratio.high


def test_a_long_text_is_cut_and_stays_one_text() -> None:
    model = network()
    texts = Texts(subject_of(model), [" ".join([TEXTS[0]] * 6)], length=10)
    assert len(texts.rows) == 3 and texts.losses().shape == (1,) and float(texts.tokens) == 9 * 3
    found = perplexity_change(texts, texts.losses(), texts.losses())
    assert found.ratio is None and found.before == found.after


def test_a_ruined_model_has_a_finite_perplexity() -> None:
    texts = Texts(subject_of(network()), TEXTS)
    found = perplexity_change(texts, texts.losses(), texts.losses() + 1e5)
    assert math.isfinite(found.after) and found.ratio is not None and math.isfinite(found.ratio.high)


def test_a_text_of_one_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="two tokens"):
        Texts(subject_of(network()), ["capital"])


def test_a_text_is_cut_to_what_the_model_reads() -> None:
    model = network()
    model.config.max_position_embeddings = 12
    examined = subject_of(model)
    texts = Texts(examined, ["capital of japan is japcapi " * 6])
    assert max(len(row.ids) for row in texts.rows) == 12 and bool(texts.losses().isfinite().all())
