"""Files written by earlier versions stay readable, number by number; see write.py for how they came to be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from dtheta.core.block import Block
from dtheta.core.change import Dense, New
from dtheta.core.combination import Scaled, Sum
from dtheta.core.files import FORMAT, check, load, read_header
from dtheta.core.lowrank import LowRank
from dtheta.core.new_lowrank import NewLowRank
from dtheta.core.rows import Rows
from dtheta.core.spectral import Spectral
from dtheta.core.stacked import Stacked
from tests.golden.write import FOLDER, base, every_kind, main, new_kinds, stacked_kinds, ternary_kinds

VERSION_1 = FOLDER / "version-1.delta"
DIGEST_TERNARY = "b896555220fd63969384c09bfd8101dd058e204fe3e000fcf1f44c7a4759dfdd"
DIGEST_NEW = "bd8552dd5d953b475fef85c9641623b1e5dab2e696626167f877bb982b0ca859"
DIGEST_STACKED = "6a6a95c7d0651e9a21c1c8f470c443643ba5a0e1f4472d31ee26e238087ac88c"
DIGEST_1 = "94de6090fd2cbfb1efd9af1a09fb94878c0cf98f05246476864a397a7f37bf27"


def test_version_1_is_read_to_the_last_bit() -> None:
    delta, expected = load(VERSION_1, base()), every_kind()
    assert check(VERSION_1).digest == delta.digest == expected.digest == DIGEST_1
    assert list(delta) == list(expected)
    for name, change in expected.changes.items():
        assert type(delta[name]) is type(change) and delta[name].meta() == change.meta()
        assert torch.equal(delta[name].dense(), change.dense()) and delta[name].dtype == change.dtype
    assert delta.base == expected.base
    assert delta.provenance.to_dict() == expected.provenance.to_dict()


def test_ternary_kinds_of_version_1_are_read_to_the_last_bit(tmp_path: Path) -> None:
    path = FOLDER / "version-1-ternary.delta"
    delta, expected = load(path), ternary_kinds()
    assert check(path).digest == delta.digest == expected.digest == DIGEST_TERNARY
    for name, change in expected.changes.items():
        assert type(delta[name]) is type(change) and delta[name].meta() == change.meta()
        assert torch.equal(delta[name].dense(), change.dense())
    assert expected.save(tmp_path / "a.delta").read_bytes() == path.read_bytes()


def test_ternary_kinds_hold_these_numbers() -> None:
    """Written out, so that neither the writer nor the hash behind it has to be believed."""
    delta = load(FOLDER / "version-1-ternary.delta")
    sparse = delta["sparse"].dense().flatten()
    expected = torch.zeros(70_000)
    expected[::997], expected[5::7919] = 0.375, -0.375
    assert torch.equal(sparse, expected)
    assert not delta["empty"].dense().any() and delta["dense"].dense().abs().max() == 2.0


def test_new_kinds_of_version_1_are_read_to_the_last_bit(tmp_path: Path) -> None:
    path = FOLDER / "version-1-new.delta"
    delta, expected = load(path), new_kinds()
    assert check(path).digest == delta.digest == expected.digest == DIGEST_NEW
    assert [type(change) for change in delta.changes.values()] == [New, NewLowRank, NewLowRank]
    assert delta["prompt.input.offset"].dense()[0].tolist() == [1.671875, -2.109375, 1.078125]
    assert delta["prompt.input.offset.last"].dense()[0].tolist() == [-2.591796875, 4.658203125, -4.412109375]
    assert expected.save(tmp_path / "a.delta").read_bytes() == path.read_bytes()


def test_stacks_of_version_1_are_read_to_the_last_bit(tmp_path: Path) -> None:
    path = FOLDER / "version-1-stacked.delta"
    delta, expected = load(path), stacked_kinds()
    assert check(path).digest == delta.digest == expected.digest == DIGEST_STACKED
    assert [type(change) for change in delta.changes.values()] == [Stacked, Scaled]
    assert delta["experts.down"].dense()[0, 0].tolist() == [2.625, 0.546875, 3.9375, 1.859375, 3.5]
    slice_3 = [-0.3623046875, -1.353515625, 0.9296875, 0.423828125, -0.1025390625]
    assert delta["experts.up"].dense()[2, 3].tolist() == slice_3
    assert expected.save(tmp_path / "a.delta").read_bytes() == path.read_bytes()


def test_version_1_holds_these_numbers() -> None:
    """Written out, so that neither the writer nor the hash behind it has to be believed."""
    delta = load(VERSION_1, base())
    kinds = [Dense, LowRank, LowRank, Rows, Spectral, Block, Sum, Dense, New]
    assert [type(delta[name]) for name in delta] == kinds
    assert delta["dense"].dense().tolist() == [[-0.5, 1.375, 0.75], [-1.875, 0.0, -0.125]]
    assert delta["plain"].dense()[0].tolist() == [0.421875, -0.1875, -0.8125]
    assert delta["core"].dense()[0].tolist() == [[-1.953125, -2.5625], [0.0234375, 2.7734375]]
    assert delta["rows"].dense().tolist() == [
        [0.0, 0.0],
        [-0.5, 0.625],
        [0.0, 0.0],
        [0.0, 0.0],
        [-1.625, -0.875],
        [0.0, 0.0],
    ]
    assert torch.equal(delta["spectral"].dense(), torch.diag(torch.tensor([0.5, -0.25, 0.125])))
    assert torch.equal(delta["fused"].dense()[3:6], torch.diag(torch.tensor([1.0, 0.5, 0.0])))
    assert not delta["fused"].dense()[:3].any() and not delta["fused"].dense()[6:].any()
    assert delta["sum"].dense().tolist() == [
        [0.2109375, -0.09375, -1.78125],
        [-0.1484375, -0.34375, 1.125],
        [0.1015625, -0.21875, -0.0625],
        [0.2890625, -0.03125, 0.71875],
    ]
    assert delta["counter"].dense().item() == 3.0
    assert delta["prompt"].dense().tolist() == [[-1.125, -1.5, 1.625], [-0.625, 1.0, 1.625]]
    assert delta.provenance.settings == {"select": "*", "unicode": "Ω — ü"} and delta.provenance.seed == 7
    assert delta.provenance.created == "2026-01-01T00:00:00+00:00" and delta.provenance.parents == ["0" * 64]


def test_todays_writer_writes_the_same_file(tmp_path: Path) -> None:
    assert FORMAT == 1, "a new version of the format needs a golden file of its own, and this test goes"
    assert every_kind().save(tmp_path / "a.delta").read_bytes() == VERSION_1.read_bytes()


def test_header_without_tensors(tmp_path: Path) -> None:
    header = read_header(VERSION_1)
    assert header.version == 1 and header.changes["core"] == {
        "kind": "low-rank",
        "shape": [4, 2, 2],
        "rank": 2,
        "core": True,
    }
    assert header.changes["sum"]["terms"][1]["term"]["kind"] == "block"
    shutil.copy(VERSION_1, tmp_path / "another name")
    assert read_header(tmp_path / "another name").digest == header.digest


def test_golden_files_are_never_written_again() -> None:
    before = VERSION_1.read_bytes()
    with pytest.raises(SystemExit, match="never written again"):
        main()
    assert VERSION_1.read_bytes() == before
