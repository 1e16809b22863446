"""The page of a federation: its numbers, its reference lines, who was left out, and that text is escaped."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from dtheta.core.delta import Delta
from dtheta.core.fingerprint import Fingerprint
from dtheta.errors import ConfigError
from dtheta.federate.baselines import Baseline
from dtheta.federate.federation import Federation
from dtheta.federate.history import Round
from dtheta.report.federated import Federated, Party
from dtheta.report.federation import federation_page, federation_report
from dtheta.report.federation_rounds import unit_of

EMPTY = Delta({}, Fingerprint({}))


def rounds(count: int = 4, **changed: Any) -> list[Round]:
    def row(i: int) -> Round:
        return Round(
            i, ["a", "b"], ["a"] if i == 2 else ["a", "b"], {"b": "died: <out of luck>"} if i == 2 else {}, None,
            2, 800_000 * i, 400_000, 0, {"accuracy": 0.5 + i / 10}, {"loss": 1 / i}, 0.1, 0.0, None, None, 0.5, 0.25,
        )  # fmt: skip

    return [dataclasses.replace(row(i), **changed) for i in range(1, count + 1)]


def found(history: list[Round] | None = None, config: dict[str, Any] | None = None, **given: Any) -> Federated:
    made = Federation(EMPTY, rounds() if history is None else history, {"names": ["a", "b"], **(config or {})}, 1000)
    return Federated(made, "quantum(layers=8)", "iris & co", **given)


def html(*args: Any, **given: Any) -> str:
    return federation_page(found(*args, **given)).html()


def points(page: str, title: str, series: str) -> list[tuple[float, float]]:
    """The values of a series as the hover text of a chart tells them."""
    chart = re.search(rf"<title>{title}</title>.*?</svg>", page, re.DOTALL)
    assert chart, title
    marks = re.findall(r"<title>([^<]*)</title>", chart[0])[1:]
    pairs = []
    for text in marks:
        first, *lines = text.split("\n")
        values = [line.removeprefix(series + " ") for line in lines if line.startswith(series + " ")]
        if values:
            pairs.append((float(first.split()[-1].replace(",", "")), float(values[0].replace(",", ""))))
    return pairs


def test_scores_by_round_and_by_what_was_sent_up_to_it() -> None:
    page = html()
    assert points(page, "Accuracy by round", "federated") == [(1, 60), (2, 70), (3, 80), (4, 90)]
    sent = points(page, "Accuracy by traffic", "federated")  # 0.1 megabytes a round up, growing, and 0.05 down
    assert sent == [(0.15, 60), (0.4, 70), (0.75, 80), (1.2, 90)]
    assert points(page, "Sent by round", "to the server") == [(1, 100), (2, 200), (3, 300), (4, 400)]


def test_the_first_sentence_and_escaping() -> None:
    page = html()
    assert "2 parties train one delta in 4 rounds: it reaches accuracy 90.0\u202f%" in page or "90.0" in page
    assert "iris &amp; co" in page and "&lt;out of luck&gt;" in page and "<out of luck>" not in page
    assert "raised an error, or its process ended" in page


def test_who_answered_is_printed_as_whole_numbers() -> None:
    drawn = re.search(r"<title>Who answered</title>.*?</svg>", html(), re.DOTALL)
    assert drawn is not None and ">1</text>" in drawn[0] and ">1.00<" not in drawn[0]


def ticks(page: str, title: str) -> list[str]:
    drawn = re.search(rf"<title>{title}</title>.*?</svg>", page, re.DOTALL)
    assert drawn is not None
    return re.findall(r"<text[^>]*>([\d.,]+)</text>", drawn[0])


def test_axes_of_rounds_are_whole_and_those_of_shares_end_at_100() -> None:
    page = html(rounds(12, scores={"accuracy": 1.0}))
    assert "150" not in ticks(page, "Accuracy by round") and "100" in ticks(page, "Accuracy by round")
    assert ticks(page, "Sent by round")[-3:] == ["0", "5", "10"]


def test_one_round_is_told_without_curves() -> None:
    page = html(rounds(1), test=100)
    assert "60.0" in page and "Who answered" in page and "Rounds as a table" in page
    assert "Accuracy by round" not in page and "Sent by round" not in page


def test_what_was_not_measured_is_not_said_to_be() -> None:
    page = html(rounds(3, scores={}))
    assert "was not measured" in page and "measured on test data" not in page


def baseline(name: str, accuracy: float) -> Baseline:
    return Baseline(name, 10, 20, {"accuracy": accuracy}, EMPTY)


def test_baselines_are_lines_and_sentences() -> None:
    given = {"centralized": baseline("centralized", 0.95), "alone": [baseline("a", 0.6), baseline("b", 0.5)]}
    page = html(test=1000, parties=[Party("a", 7, (3, 4)), Party("b", 9, (9, 0), True)], classes=("x", "y"), **given)
    assert points(page, "Accuracy by round", "centralized") == [(1, 95), (4, 95)]
    assert points(page, "Accuracy by round", "alone, mean") == [(1, 55), (4, 55)]
    assert "-5.0 points" in page.replace("\u2212", "-") and "+35.0 points" in page
    assert "b (lies)" in page and "1 party lied" in page and "overlap" not in page
    assert "Their intervals overlap" in html(test=10, **given)


def test_the_channel_and_the_privacy_have_sections_only_where_there_were_any() -> None:
    plain = html()
    assert "The channel" not in plain and "Privacy" not in plain and "Qubits by round" not in plain
    rows = rounds(qber=0.04, qubits=1000, epsilon=1.5)
    rows[1] = dataclasses.replace(rows[1], excluded={"b": "aborted: QBER 12 %"})
    page = html(rows, {"privacy": {"delta": 1e-5}}, threshold=0.11, error=0.01)
    assert points(page, "Errors of qubits", "no key above") == [(1, 11), (4, 11)]
    assert points(page, "Errors of qubits", "largest error rate of the round") == [(i, 4) for i in range(1, 5)]
    assert points(page, "Privacy spent", "epsilon") == [(i, 1.5) for i in range(1, 5)] and "at delta 1e-05" in page
    assert "the channel was given up" in page and "Qubits by round" in page


def test_rounds_that_did_not_count_and_scores_that_were_not_asked_for() -> None:
    page = html(rounds(scores={}, skipped="1 answers, 2 needed"))
    assert "was not measured" in page and "left the global delta as it was" in page and "Accuracy by round" not in page
    other = html(rounds(scores={"loss": 0.25}), measure="loss")
    assert "loss 0.25" in other and points(other, "Loss by round", "federated") == [(i, 0.25) for i in range(1, 5)]


def test_many_clients_are_not_drawn() -> None:
    names = [f"c{i}" for i in range(300)]
    page = html(rounds(asked=names, answered=names, excluded={}), {"names": names})
    assert "Who answered" not in page and "Nobody was excluded" in page


def test_a_federation_without_rounds_has_no_page() -> None:
    with pytest.raises(ConfigError):
        found([])


def test_it_is_written(tmp_path: Any) -> None:
    path = federation_report(found(settings={"rounds": "4"}), tmp_path / "page.html")
    assert (
        path.read_text() == federation_page(found(settings={"rounds": "4"})).html() and "Settings" in path.read_text()
    )


@pytest.mark.parametrize(
    ("most", "unit"), [(12, "bytes"), (1e3, "kilobytes"), (5e6, "megabytes"), (2e9, "gigabytes"), (0, "bytes")]
)
def test_units(most: float, unit: str) -> None:
    assert unit_of(most)[1] == unit
