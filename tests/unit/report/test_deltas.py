"""The report of delta files, from files on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import Fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.provenance import Provenance
from dtheta.core.spectral import Spectral
from dtheta.errors import ConfigError, DthetaError
from dtheta.report import delta_page, delta_report, survey, survey_of
from dtheta.report.deltas import delta_verdict
from tests.unit.report.reading import charts, hovers, read

NAMES = [f"encoder.layer.{b}.{role}.weight" for b in range(3) for role in ("query", "value")]


def low_rank(seed: int, base: str = "ab" * 32, method: str = "PiSSA") -> Delta:
    generator = torch.Generator().manual_seed(seed)
    changes = {
        name: LowRank(torch.randn(8, 2, generator=generator), torch.randn(2, 6, generator=generator)) for name in NAMES
    }
    made = Provenance("train", {"name": method, "rank": 2, "alpha": None}, settings={"steps": 5}, seed=seed)
    return Delta(changes, Fingerprint(dict.fromkeys(NAMES, base), base), made)


def test_one_file(tmp_path: Path) -> None:
    delta = low_rank(0)
    path = delta.save(tmp_path / "news.delta")
    html = delta_report([path], tmp_path / "report.html").read_text(encoding="utf-8")
    read(html)
    text = html.replace("\u202f", " ")
    assert "<h1>news</h1>" in html and "A PiSSA delta of the base <code>abababababab</code>" in html
    assert "rank 2, alpha none" in text and delta.digest in text and "6 tensors of 288 weights" in text
    (chart,) = charts(html)
    assert len(hovers(chart)) == 6 and f"norm of the change {delta[NAMES[0]].norm():.4g}"[:24] in "".join(hovers(chart))


def test_several_show_their_cosines(tmp_path: Path) -> None:
    a, b = low_rank(0), low_rank(1, method="LoRA")
    paths = [d.save(tmp_path / f"{n}.delta") for n, d in (("a", a), ("b", b), ("a-turned", -a))]
    found = survey(paths)
    assert found.cosines[0][1] == pytest.approx(a.cosine(b)) and found.cosines[0][2] == pytest.approx(-1)
    assert found.cosines[0][0] == 1.0 and not found.notes
    html = delta_page(found).html()
    read(html)
    cosines = hovers(charts(html)[0])
    assert len(cosines) == 9 and "a, a-turned\ncosine −1" in cosines
    assert "3 deltas of one base; the most alike are" in html


def test_other_bases_and_zero_have_no_angle() -> None:
    zero = 0.0 * low_rank(0)
    found = survey_of([("a", low_rank(0), 1), ("b", low_rank(1, "cd" * 32), 1), ("z", zero, 1)])
    assert found.cosines[0][1] is None and found.cosines[0][2] is None and found.cosines[2][2] is None
    assert found.notes == ("different bases: a and b, b and z", "one is zero: a and z", "zero: z")
    html = delta_page(found).html()
    read(html)
    assert "Empty cells have no angle: different bases: a and b" in html and "2 bases" in html


def test_deltas_of_one_name_have_the_angles_of_their_own() -> None:
    a, b = low_rank(0), low_rank(1)
    found = survey_of([("a", a, 1), ("a", b, 1)])
    assert found.cosines[0][1] == pytest.approx(a.cosine(b)) and found.cosines[1][1] == pytest.approx(1)


def test_unlike_deltas_are_not_called_alike() -> None:
    n = torch.eye(4)
    fingerprint = Fingerprint({"w": "ab"}, "ab")
    ends = [Delta({"w": Dense(row[:, None] @ row[None])}, fingerprint) for row in (n[0], n[1])]
    assert "no two point in a like direction" in delta_verdict(survey_of([("a", ends[0], 1), ("b", ends[1], 1)]))


def test_a_delta_that_names_no_base_and_no_blocks() -> None:
    found = survey_of([("prompt", Delta({"prompt": Dense(torch.ones(4, 3)), "head": Dense(torch.ones(2))}), 80)])
    html = delta_page(found).html()
    read(html)
    assert "A delta of a base that it does not name" in html and hovers(charts(html)[0]) == [
        "prompt 3.464",
        "head 1.414",
    ]


def test_shifts_of_singular_values_without_their_base_still_have_a_norm() -> None:
    base = Fingerprint({"w": "ab"}, "ab")
    shifted = Delta({"w": Spectral(torch.tensor([3.0, 4.0]), (6, 5))}, base)
    low = Delta({"w": LowRank(torch.ones(6, 1), torch.ones(1, 5))}, base)
    found = survey_of([("clip", shifted, 80), ("lora", low, 80)])
    assert found.deltas[0].norm == 5.0 and found.deltas[0].changes[0].rank == 2
    assert found.cosines[0] == (1.0, None) and "clip and lora" in found.notes[0]
    read(delta_page(found).html())


def test_files_of_one_name_keep_their_folders(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    paths = [low_rank(i).save(tmp_path / folder / "news.delta") for i, folder in enumerate(("x", "y"))]
    assert [d.name.rsplit("/", 2)[-2:] for d in survey(paths).deltas] == [["x", "news"], ["y", "news"]]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        survey([])
    (tmp_path / "no.delta").write_bytes(b"not a delta")
    with pytest.raises(DthetaError):
        delta_report([tmp_path / "no.delta"], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_deltas_that_share_nothing_and_name_other_bases_have_no_angle() -> None:
    """Their inner product is zero whatever they hold; one base with two parts of it has a right angle."""
    one = Delta({"a": Dense(torch.ones(3))}, Fingerprint({"a": "d"}, "r"))
    foreign = Delta({"b": Dense(torch.ones(3))}, Fingerprint({"b": "d"}, "s"))
    own = replace(foreign, base=Fingerprint({"b": "d"}, "r"))
    assert survey_of([("one", one, 1), ("foreign", foreign, 1)]).cosines[0][1] is None
    assert survey_of([("one", one, 1), ("own", own, 1)]).cosines[0][1] == 0
